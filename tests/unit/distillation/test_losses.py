"""The tensor functions a student is compared with its teacher by."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, mse_loss, softmax

from easynlp.distillation.losses import (
    attention_mse,
    hidden_mse,
    layer_map,
    logit_mse,
    relation_kl,
    soft_kl,
)
from easynlp.errors import ConfigError


def logits(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_soft_kl_is_the_textbook_formula_per_target():
    ours, theirs, t = logits(5, 3), logits(5, 3, seed=1), 4.0
    found = soft_kl(ours, theirs, t)
    for row in range(5):
        p, q = softmax(theirs[row] / t, -1), softmax(ours[row] / t, -1)
        wanted = t * t * sum(float(a * math.log(a / b)) for a, b in zip(p, q, strict=True))
        assert float(found[row]) == pytest.approx(wanted, rel=1e-4)


def test_soft_kl_does_not_see_a_constant_and_has_no_gradient_for_the_teacher():
    ours, theirs = logits(4, 3).requires_grad_(), logits(4, 3, seed=1).requires_grad_()
    loss = soft_kl(ours, theirs, 2.0)
    assert torch.allclose(loss, soft_kl(ours.log_softmax(-1), theirs + 7.0, 2.0), atol=1e-5)
    loss.sum().backward()
    assert ours.grad is not None
    assert theirs.grad is None


def test_soft_kl_towards_a_sure_teacher_is_cross_entropy():
    ours = logits(6, 4)
    target = torch.tensor([0, 1, 2, 3, 0, 1])
    sure = torch.full((6, 4), -1e4).scatter(1, target[:, None], 0.0)
    wanted = cross_entropy(ours, target, reduction="none")
    assert torch.allclose(soft_kl(ours, sure), wanted, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 5.0, 10.0])
def test_the_square_keeps_the_gradients_size_when_the_temperature_changes(temperature):
    ours = (0.01 * logits(8, 3)).requires_grad_()
    soft_kl(ours, 0.01 * logits(8, 3, seed=1), temperature).sum().backward()
    norm = ours.grad.norm()
    ours.grad = None
    soft_kl(ours, 0.01 * logits(8, 3, seed=1), 1.0).sum().backward()
    assert float(norm / ours.grad.norm()) == pytest.approx(1.0, abs=0.02)


def test_logit_mse_is_mse_of_centred_logits():
    ours, theirs = logits(5, 3), logits(5, 3, seed=1)
    centred = mse_loss(ours - ours.mean(-1, True), theirs - theirs.mean(-1, True))
    assert torch.allclose(logit_mse(ours, theirs + 3).mean(), centred, atol=1e-6)


def test_hidden_mse_is_a_mean_over_the_width():
    ours, theirs = logits(2, 3, 8), logits(2, 3, 8, seed=1)
    assert torch.allclose(hidden_mse(ours, theirs).mean(), mse_loss(ours, theirs))


def test_attention_of_padding_counts_neither_as_key_nor_as_query():
    valid = torch.tensor([[True, True, True, False]])
    ours, theirs = logits(1, 2, 4, 4).softmax(-1), logits(1, 2, 4, 4, seed=1).softmax(-1)
    short = attention_mse(ours[..., :3, :3], theirs[..., :3, :3], valid[:, :3])
    long = attention_mse(ours, theirs, valid)
    assert torch.allclose(long[:, :3], short, atol=1e-6)
    assert float(long[0, 3]) == 0.0
    assert float(attention_mse(ours, ours, valid).abs().max()) < 1e-6
    assert float(short.min()) > 0


def test_attention_with_other_heads_is_refused():
    with pytest.raises(ConfigError, match="heads must be as many; compare relations"):
        attention_mse(torch.ones(1, 2, 3, 3), torch.ones(1, 4, 3, 3), torch.ones(1, 3).bool())


def test_relations_bridge_widths_and_do_not_see_padding():
    valid = torch.tensor([[True, True, True, False]])
    ours, theirs = logits(1, 4, 8), logits(1, 4, 12, seed=1)
    found = relation_kl(ours, theirs, valid, 4)
    assert float(found[0, :3].min()) > 0
    assert float(found[0, 3]) == 0
    changed = ours.clone()
    changed[0, 3] = 9.0
    assert torch.allclose(relation_kl(changed, theirs, valid, 4), found)
    with pytest.raises(ConfigError, match="student's width 8 is not a multiple of heads=3"):
        relation_kl(ours, theirs, valid, 3)


def test_layer_maps():
    assert layer_map("uniform", 3, 12) == [(0, 3), (1, 7), (2, 11)]
    assert layer_map("uniform", 4, 4) == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert layer_map("last", 4, 12) == [(3, 11)]
    assert layer_map("top", 2, 6) == [(0, 4), (1, 5)]
    assert layer_map("bottom", 2, 6) == [(0, 0), (1, 1)]
    for wrong in ("0:12", "4:0", "first", "0", ""):
        with pytest.raises(ConfigError, match="layers 0 to 3 of the student, 0 to 11"):
            layer_map(wrong, 4, 12)


def test_uniform_maps_rise_and_end_at_the_teachers_top():
    """AdaBERT's release read probe m * (12 // (1 + l)), which never reached the teacher's last."""
    for theirs in range(1, 25):
        for ours in range(1, theirs + 1):
            pairs = layer_map("uniform", ours, theirs)
            assert [low for low, _ in pairs] == list(range(ours))
            assert pairs[-1][1] == theirs - 1
            highs = [high for _, high in pairs]
            assert highs == sorted(set(highs))


def test_a_weight_of_a_target_is_its_own():
    """EasyNLP's MetaKD averaged a batch before it weighed its rows."""
    ours, theirs = logits(3, 2), logits(3, 2, seed=1)
    weights = torch.tensor([0.0, 1.0, 3.0])
    each = soft_kl(ours, theirs)
    assert torch.allclose((weights * each).sum(), each[1] + 3 * each[2])
    assert not torch.allclose((weights * each).sum(), weights.mean() * each.sum(), rtol=1e-3)
