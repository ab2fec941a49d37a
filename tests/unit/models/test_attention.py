"""Plain attention for bf16 training: as near to exact as the fused one, and only where meant."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from easynlp.models import attention
from easynlp.models.attention import attend_plainly, quicken_attention


def exact(query, key, value, mask):
    out = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return out.transpose(1, 2)


def eager(query, key, value, mask):
    """What transformers' eager attention does, its softmax in fp32."""
    scores = torch.matmul(query, key.transpose(2, 3)) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores + torch.where(mask, 0.0, torch.finfo(scores.dtype).min).to(scores.dtype)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return torch.matmul(weights, value).transpose(1, 2)


def results(attention, inputs, mask, upstream):
    """Output and the three gradients."""
    given = [x.detach().clone().requires_grad_() for x in inputs]
    out = attention(*given, mask)
    out.backward(upstream)
    return [out.detach(), *(x.grad for x in given)]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", [(3, 4, 128, 64), (2, 8, 33, 32), (2, 3, 7, 26)])
def test_outputs_and_gradients_are_those_of_attention(shape, masked) -> None:
    """In fp64 exactly; in bf16 as near to it as transformers' own eager attention."""
    draw = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=draw).bfloat16() for _ in range(3)]
    upstream = torch.randn(shape[0], shape[2], shape[1], shape[3], generator=draw).bfloat16()
    seen = torch.arange(shape[2]) < torch.linspace(2, shape[2], shape[0]).long()[:, None]
    mask = seen[:, None, None, :].expand(-1, 1, shape[2], -1) if masked else None
    wide = [x.double() for x in inputs]
    goal = results(exact, wide, mask, upstream.double())
    for ours, true in zip(
        results(attend_plainly, wide, mask, upstream.double()), goal, strict=True
    ):
        torch.testing.assert_close(ours, true)

    def distances(function):
        found = results(function, inputs, mask, upstream)
        return [float((a - b).norm() / b.norm()) for a, b in zip(found, goal, strict=True)]

    for ours, theirs in zip(distances(attend_plainly), distances(eager), strict=True):
        assert ours < 1.5 * theirs < 0.01


def test_dropout_drops_that_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    one = torch.zeros(8, 4, 64, 64)
    value = torch.eye(64).expand(8, 4, 64, 64)
    weights = attend_plainly(one, one, value, dropout=0.25)
    assert float((weights == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert float(weights.sum(-1).mean()) == pytest.approx(1.0, abs=0.01)


def bert() -> BertForMaskedLM:
    torch.manual_seed(0)
    shape = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                       intermediate_size=64)  # fmt: skip
    return BertForMaskedLM(shape).eval()


def test_only_training_in_bf16_takes_the_plain_form(monkeypatch) -> None:
    calls = []
    plain = attention.attend_plainly
    monkeypatch.setattr(
        attention, "attend_plainly", lambda *given: calls.append(1) or plain(*given)
    )
    model = bert()
    settings = model.config.to_dict()
    ids = torch.arange(40).reshape(4, 10)
    padded = (torch.arange(10) < torch.tensor([3, 10, 5, 7])[:, None]).long()
    with torch.no_grad():
        before = model(input_ids=ids, attention_mask=padded).logits
    assert quicken_attention(model) == 1
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids, attention_mask=padded).logits, before)
        with torch.autocast("cpu", torch.bfloat16):
            model(input_ids=ids)
    model(input_ids=ids).logits.sum().backward()
    assert not calls
    with torch.autocast("cpu", torch.bfloat16):
        close = model(input_ids=ids, attention_mask=padded).logits
    assert len(calls) == 2
    seen = padded.bool()
    torch.testing.assert_close(close[seen].float(), before[seen], atol=0.03, rtol=0.03)
    assert model.config.to_dict() == settings


def test_causal_models_stay_causal() -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=2)).eval()
    ids = torch.arange(20).reshape(2, 10)
    quicken_attention(model)
    with torch.autocast("cpu", torch.bfloat16):
        whole = model(input_ids=ids).logits
        part = model(input_ids=ids[:, :6]).logits
    torch.testing.assert_close(whole[:, :6], part, atol=0.03, rtol=0.03)


def test_a_model_with_attention_of_its_choice_keeps_it() -> None:
    model = bert()
    model.set_attn_implementation("eager")
    assert quicken_attention(model) == 0
    assert model.config._attn_implementation == "eager"
