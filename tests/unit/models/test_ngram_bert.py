"""BERT with bigrams: what the vectors depend on, and that they outlive saving and cutting."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

from easynlp.models import ngram_bert
from easynlp.models.compact import save_compact, unpack
from easynlp.models.ngram_bert import NgramBertConfig, NgramBertModel, set_token_codes

PAD, CLS, SEP, MASK = 0, 2, 3, 4


@pytest.fixture
def config() -> NgramBertConfig:
    return NgramBertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32, ngram_buckets=97,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip


@pytest.fixture
def model(config: NgramBertConfig) -> NgramBertModel:
    torch.manual_seed(0)
    made = NgramBertModel(config).eval()
    # Large enough to be seen in the outputs.
    torch.nn.init.normal_(made.embeddings.ngram_embeddings.weight)
    return made


def reference(model: NgramBertModel, ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Each token's vector with its bigrams, and the bag, written as one would say it."""
    inner = model.embeddings
    codes = inner.token_codes.tolist()
    rows = [inner.word_embeddings.weight[i].clone() for i in ids]
    for at in range(len(ids) - 1):
        left, right = codes[ids[at]], codes[ids[at + 1]]
        if left and right:
            vector = inner.ngram_embeddings.weight[(left * 40503 + right) % 97]
            rows[at] += vector
            rows[at + 1] += vector
    bag = sum((row for row, i in zip(rows, ids, strict=True) if codes[i]), torch.zeros(16))
    return torch.stack(rows), bag


def test_each_token_has_its_bigrams_and_the_row_its_bag(model) -> None:
    ids = [CLS, 7, 8, 9, MASK, 8, 9, SEP]
    content, bag = model.embeddings.content_and_bag(torch.tensor([ids]))
    wanted, whole = reference(model, ids)
    torch.testing.assert_close(content[0], wanted)
    torch.testing.assert_close(bag[0], whole)


def test_the_first_token_starts_as_the_bag(model) -> None:
    rows = torch.tensor([[CLS, 7, 8, 9, SEP], [CLS, 9, 8, 7, SEP]])
    first = model.embeddings(rows)[:, 0]
    assert not torch.allclose(first[0], first[1])  # other bigrams, another bag
    with torch.no_grad():
        model.embeddings.bag_gain.zero_()
    first = model.embeddings(rows)[:, 0]
    torch.testing.assert_close(first[0], first[1])


def test_padding_and_neighbours_in_a_batch_change_nothing(model) -> None:
    short, long = [CLS, 7, 8, SEP], [CLS, 9, 10, 11, 12, 13, SEP]
    ids = torch.tensor([short + [PAD] * 3, long])
    together = model(ids, attention_mask=(ids != PAD).long())
    for row, alone in zip(range(2), (short, long), strict=True):
        single = model(torch.tensor([alone]))
        torch.testing.assert_close(
            together.last_hidden_state[row, : len(alone)], single.last_hidden_state[0]
        )
        torch.testing.assert_close(together.pooler_output[row], single.pooler_output[0])


def test_a_row_of_special_tokens_alone_is_finite(model) -> None:
    found = model(torch.tensor([[CLS, SEP]]))
    assert found.last_hidden_state.isfinite().all()


def test_saved_and_loaded_with_any_head(config, tmp_path: Path) -> None:
    made = AutoModelForMaskedLM.from_config(config).eval()
    names = [f"token {i}" for i in range(60)]
    set_token_codes(made, names, [0, 1, 2, 3, 4])
    assert (made.bert.embeddings.token_codes[5:] > 0).all()
    made.save_pretrained(tmp_path)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    ids = torch.tensor([[CLS, 7, MASK, 9, SEP]])
    torch.testing.assert_close(again(ids).logits, made(ids).logits)
    assert again.cls.predictions.decoder.weight is again.bert.embeddings.word_embeddings.weight
    other = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    for name, value in made.bert.embeddings.state_dict().items():
        torch.testing.assert_close(other.bert.embeddings.state_dict()[name], value)


def test_bags_start_at_the_given_gain_without_a_checkpoint(config) -> None:
    found = AutoModelForSequenceClassification.from_config(config).bert.embeddings
    torch.testing.assert_close(found.bag_gain, torch.full((16,), 0.1))
    assert found.token_codes.tolist() == [0] * 5 + list(range(5, 60))


@pytest.mark.slow
def test_loads_without_easynlp_from_the_code_saved_beside_it(config, tmp_path: Path) -> None:
    model = AutoModelForMaskedLM.from_config(config).eval()
    model.save_pretrained(tmp_path / "m")
    ids = [[CLS, 7, 8, MASK, SEP]]
    script = (
        "import sys, torch\n"
        "from transformers import AutoModel, AutoModelForMaskedLM\n"
        f"folder = {str(tmp_path / 'm')!r}\n"
        "AutoModel.from_pretrained(folder, trust_remote_code=True)\n"
        "model = AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True).eval()\n"
        "assert 'easynlp' not in sys.modules\n"
        f"print(model(torch.tensor({ids})).logits.sum().item())\n"
    )
    cache = {"HF_HOME": str(tmp_path / "hf"), "PATH": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=cache, check=False
    )
    assert done.returncode == 0, done.stderr
    given = float(done.stdout.strip().splitlines()[-1])
    assert given == pytest.approx(model(torch.tensor(ids)).logits.sum().item(), abs=1e-3)


@pytest.mark.parametrize("count", [70, 50])
def test_tokens_added_take_no_part_in_bigrams(config, tmp_path: Path, count: int) -> None:
    model = AutoModelForMaskedLM.from_config(config)
    before = model.bert.embeddings.token_codes.tolist()
    model.resize_token_embeddings(count)
    codes = model.bert.embeddings.token_codes.tolist()
    assert codes == (before + [0] * 10)[:count]
    model.save_pretrained(tmp_path)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    ids = torch.tensor([[CLS, 7, count - 1, 9, SEP]])
    torch.testing.assert_close(again(ids).logits, model.eval()(ids).logits)


def test_unpacking_puts_the_code_beside_the_weights(config, tmp_path: Path) -> None:
    model = AutoModelForMaskedLM.from_config(config).eval()
    model.save_pretrained(tmp_path / "plain")
    (tmp_path / "plain" / "ngram_bert.py").unlink()  # as in the package
    save_compact(tmp_path / "plain", tmp_path / "packed")
    folder = unpack(tmp_path / "packed", tmp_path / "unpacked")
    kept = model.bert.embeddings.token_codes
    again = AutoModelForMaskedLM.from_pretrained(folder)
    assert torch.equal(again.bert.embeddings.token_codes, kept)
    assert (folder / "ngram_bert.py").read_bytes() == Path(ngram_bert.__file__).read_bytes()
