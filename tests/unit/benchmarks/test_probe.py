"""Frozen vectors and the regression on them, against transformers and scikit-learn by hand."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from easynlp.benchmarks.contender import Budget
from easynlp.benchmarks.fewclue import Split
from easynlp.benchmarks.probe import Encoder, LinearProbe, pair_features
from easynlp.errors import ConfigError

TEXTS = ["房间很干净", "服务态度太差了，再也不来", "早餐", "房间很干净"]


@pytest.fixture
def pooled_folder(tiny_folder, tmp_path):
    """The tiny model with a pooler stored beside its masked-LM head."""
    folder = tmp_path / "pooled"
    shutil.copytree(tiny_folder, folder)
    state = load_file(folder / "model.safetensors")
    torch.manual_seed(3)
    state["bert.pooler.dense.weight"] = torch.randn(32, 32)
    state["bert.pooler.dense.bias"] = torch.randn(32)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_vectors_are_those_of_transformers_one_text_at_a_time(pooled_folder):
    encoder = Encoder(str(pooled_folder), 128)
    assert encoder.pooled
    found = encoder.vectors(TEXTS, batch_size=2)
    stock = AutoModel.from_pretrained(pooled_folder, dtype=torch.float32).eval()
    for text, (mean, first) in zip(TEXTS, found, strict=True):
        ids = torch.tensor([encoder.tokenizer.encode(text, max_length=128).ids.tolist()])
        with torch.inference_mode():
            output = stock(ids)
        np.testing.assert_allclose(mean, output.last_hidden_state[0].mean(0), atol=1e-5)
        np.testing.assert_allclose(first, output.pooler_output[0], atol=1e-5)


def test_a_pooler_that_was_never_trained_is_not_used(tiny_folder):
    encoder = Encoder(str(tiny_folder), 128)
    assert not encoder.pooled
    ids = torch.tensor([encoder.tokenizer.encode(TEXTS[0], max_length=128).ids.tolist()])
    with torch.inference_mode():
        hidden = encoder.model(ids).last_hidden_state
    np.testing.assert_allclose(encoder.vectors(TEXTS[:1])[0, 1], hidden[0, 0], atol=1e-5)


def test_random_weights_depend_on_the_seed_alone(tiny_folder):
    one, same, other = (Encoder(f"random:{tiny_folder}", 64, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.vectors(TEXTS), same.vectors(TEXTS))
    assert not np.allclose(one.vectors(TEXTS), other.vectors(TEXTS))


def test_a_text_is_computed_once(pooled_folder, monkeypatch):
    encoder = Encoder(str(pooled_folder), 128)
    first = encoder.vectors(TEXTS)
    monkeypatch.setattr(encoder, "model", None)
    np.testing.assert_array_equal(encoder.vectors(TEXTS[::-1]), first[::-1])


def test_pairs_give_four_blocks(pooled_folder):
    encoder = Encoder(str(pooled_folder), 128)
    u, v = encoder.vectors(["房间"])[:, 0], encoder.vectors(["早餐"])[:, 0]
    found = encoder.features([{"text": "房间", "text_b": "早餐"}])["mean"]
    np.testing.assert_array_equal(found, pair_features(u, v))
    assert found.shape == (1, 4 * 32)


def test_the_probe_learns_what_the_vectors_show(pooled_folder, tmp_path):
    pytest.importorskip("sklearn")
    rows = [("房间很干净", "Positive"), ("态度太差", "Negative")] * 4
    for name in ("train", "dev"):
        lines = (f'{{"text": "{text}", "label": "{label}"}}\n' for text, label in rows)
        (tmp_path / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    split = Split("eprstmt", "0", tmp_path / "train.jsonl", tmp_path / "dev.jsonl", tmp_path / "no")
    said = []
    learned = LinearProbe(f"probe:{pooled_folder}", Budget()).learn(split, 1, said.append)
    assert learned.dev_accuracy == 1.0
    assert learned.chosen["vector"] == "mean"  # both are right on dev: the first one
    answers = learned.predict([{"text": "态度太差"}, {"text": "房间很干净"}])
    assert [each["label"] for each in answers] == ["Negative", "Positive"]
    assert said


def test_a_probe_learns_on_from_unlabelled_text(pooled_folder, tmp_path):
    pytest.importorskip("sklearn")
    rows = [("房间很干净", "Positive"), ("态度太差", "Negative")] * 4
    for name in ("train", "dev"):
        lines = (f'{{"text": "{text}", "label": "{label}"}}\n' for text, label in rows)
        (tmp_path / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    pool = tuple({"text": f"{'干净' if i % 2 else '差'}{i}"} for i in range(40))
    plain = Split("eprstmt", "0", tmp_path / "train.jsonl", tmp_path / "dev.jsonl", tmp_path / "no")
    split = replace(plain, unlabelled=pool)
    asked = [{"text": "早餐"}, {"text": "很干净"}]
    scores, chosen = {}, {}
    for options in ("", ":pool=30", ":pool=30:placebo=random-pseudo-labels"):
        probe = LinearProbe(f"probe{options}@{pooled_folder}", Budget())
        assert probe.unlabelled == bool(options)
        learned = probe.learn(split, 1, lambda _: None)
        scores[options] = [each["scores"]["Positive"] for each in learned.predict(asked)]
        chosen[options] = learned.chosen
    assert len({tuple(each) for each in scores.values()}) == 3
    assert chosen[":pool=30"]["pool"] == 30
    without = LinearProbe(f"probe:pool=30@{pooled_folder}", Budget()).learn(plain, 1, str)
    assert [e["scores"]["Positive"] for e in without.predict(asked)] == scores[""]
    names = [f"probe:pool={n}{more}@{pooled_folder}" for n in (0, 1) for more in ("", ":names=efl")]
    assert len({LinearProbe(name, Budget()).identity() for name in names}) == 4
    for wrong, why in (("pool=-1", "0 or more"), ("placebo=random-pseudo-labels", "needs pool=N")):
        with pytest.raises(ConfigError, match=why):
            LinearProbe(f"probe:{wrong}@{pooled_folder}", Budget())
