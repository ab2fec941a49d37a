"""Several patterns: the arithmetic of the ensemble, and whole calls on a tiny model."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import easynlp
from easynlp.config import TrainConfig
from easynlp.errors import ConfigError, DataError, ModelError
from easynlp.fewshot.ipet import IpetOptions, draw_rows, ipet, soft_labels
from easynlp.fewshot.soft_classify import SoftClassify
from easynlp.tasks.text_classify import ClassifyConfig
from tests.conftest import REVIEWS, without_mask_head

PATTERNS = ("{text}，很[MASK]", "[MASK]，{text}")
WORDS = "好评=好;差评=差"


def write(path, rows):
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    return str(path)


@pytest.fixture
def config(tmp_path, tiny_folder):
    rows = [{"review": text, "class": label} for text, label in REVIEWS]
    dev = [{**row, "review": row["review"] + "1"} for row in rows]
    return TrainConfig(
        task="text_classify", train=write(tmp_path / "train.jsonl", rows), text="review",
        label="class", dev=write(tmp_path / "dev.jsonl", dev),
        output=str(tmp_path / "run"), model=str(tiny_folder), lr=5e-3, epochs=15, batch_size=8,
        precision="fp32",
    )  # fmt: skip


@pytest.fixture
def pool(tmp_path):
    texts = [f"{text}{i}" for i in range(2, 6) for text, _ in REVIEWS]
    # Rows of train, and one twice: they must not be learned from.
    texts += [REVIEWS[0][0], texts[0]]
    return write(tmp_path / "pool.jsonl", [{"review": text} for text in texts])


def test_scores_are_averaged_by_weight_and_softened():
    logs = np.log(np.array([[[0.8, 0.2]], [[0.4, 0.6]]]))
    found = soft_labels(logs, np.array([3.0, 1.0]), 2.0)
    mean = (3 * logs[0, 0] + logs[1, 0]) / 4 / 2
    np.testing.assert_allclose(found[0], np.exp(mean) / np.exp(mean).sum())
    equal = soft_labels(logs, np.zeros(2), 1.0)
    np.testing.assert_allclose(equal, soft_labels(logs, np.ones(2), 1.0))


def test_rows_are_drawn_for_each_label_by_their_probability():
    rng = np.random.default_rng(0)
    first = np.array([0.55] * 50 + [0.99] * 50 + [0.2] * 3)
    probs = np.stack([first, 1 - first], 1)
    picked = draw_rows(probs, [40, 10], rng)
    labels = [label for _, label in picked]
    assert (labels.count(0), labels.count(1)) == (40, 3)  # there are no more of the second
    rows = [row for row, label in picked if label == 0]
    assert len(set(rows)) == 40
    counts = np.zeros(100)
    for seed in range(200):
        for row, _ in draw_rows(probs[:100], [10, 0], np.random.default_rng(seed)):
            counts[row] += 1
    assert counts[50:].sum() / counts[:50].sum() == pytest.approx(0.99 / 0.55, rel=0.15)


def test_an_ensemble_becomes_one_classifier(config, pool, tmp_path):
    options = IpetOptions(patterns=PATTERNS, words=WORDS, unlabeled=pool, student_epochs=15)
    pipeline = ipet(config, options, ClassifyConfig(max_length=32))
    assert pipeline.task.name == "text_classify"
    answers = [each["label"] for each in easynlp.load(tmp_path / "run").predict([REVIEWS[0][0]])]
    assert answers == ["好评"]
    assert easynlp.evaluate(tmp_path / "run", config.dev)["accuracy"] >= 0.75
    report = json.loads((tmp_path / "run" / "ipet.json").read_text())
    assert report["pool"] == 32
    assert set(report["weights"]) == set(PATTERNS)
    assert [len(each) for each in report["generations"]] == [2]
    meta = json.loads((tmp_path / "run" / "easynlp.json").read_text())
    assert meta["task"] == "text_classify"
    lesson = [json.loads(line) for line in (tmp_path / "run/models/classifier.jsonl").open()]
    assert all(sum(row["scores"].values()) == pytest.approx(1) for row in lesson)


def test_generations_grow_and_a_stopped_call_goes_on(config, pool, tmp_path):
    options = IpetOptions(
        patterns=PATTERNS, words=WORDS, unlabeled=pool, generations=1, growth=2.0,
        weighting="dev", student_epochs=2,
    )  # fmt: skip
    ipet(config, options, ClassifyConfig(max_length=32))
    report = json.loads((tmp_path / "run" / "ipet.json").read_text())
    first, second = report["generations"]
    assert [each["rows"] for each in first] == [8, 8]
    assert all(8 < each["rows"] <= 16 for each in second)
    models = tmp_path / "run" / "models"
    lesson = [json.loads(line) for line in (models / "generation-1/0.jsonl").open()]
    assert [row["text"] for row in lesson[:8]] == [text for text, _ in REVIEWS]
    weights = models / "generation-0" / "0" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    final = (tmp_path / "run" / "model.safetensors").read_bytes()
    (models / "classifier" / "easynlp.json").unlink()
    ipet(replace(config, resume=True), options, ClassifyConfig(max_length=32))
    assert weights.stat().st_mtime_ns == written
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == final


def test_what_cannot_work_is_refused_before_anything_is_trained(config, pool, tmp_path):
    with pytest.raises(ConfigError, match="with one model there is none to teach it"):
        ipet(config, IpetOptions(patterns=PATTERNS[:1], words=WORDS, unlabeled=pool, generations=1))
    with pytest.raises(ConfigError, match=r"has no \[MASK\]"):
        ipet(config, IpetOptions(patterns=("{text}",), words=WORDS, unlabeled=pool))
    with pytest.raises(DataError, match="no row is left of the unlabelled text"):
        ipet(config, IpetOptions(patterns=PATTERNS, words=WORDS, unlabeled=config.train))
    options = IpetOptions(patterns=PATTERNS, unlabeled=pool, weighting="dev")
    with pytest.raises(ConfigError, match="needs dev data"):
        ipet(replace(config, dev=None), options)
    with pytest.raises(ConfigError, match="one label a text"):
        ipet(
            replace(config, task="sequence_labeling"),
            IpetOptions(patterns=PATTERNS, unlabeled=pool),
        )
    headless = str(without_mask_head(config.model, tmp_path / "headless"))
    with pytest.raises(ModelError, match="no masked-LM head of its own"):
        ipet(
            replace(config, model=headless),
            IpetOptions(patterns=PATTERNS, words=WORDS, unlabeled=pool),
        )
    assert not (tmp_path / "run").exists()


def test_soft_labels_are_cross_entropy_to_them(tiny_backbone):
    config = ClassifyConfig(max_length=32, labels=("好评", "差评"), pair=False)
    task = SoftClassify(config, tiny_backbone.tokenizer)
    rows = [{"text": "好", "label": "好评", "scores": {"差评": 0.25, "好评": 0.75}}]
    batch = task.collate(task.encode_batch(rows))
    assert batch["soft"].tolist() == [[0.75, 0.25]]
    logits = torch.tensor([[1.0, -1.0]])
    output = type("Output", (), {"logits": logits})
    tensors = {name: torch.from_numpy(array) for name, array in batch.items()}
    expected = -(logits.log_softmax(-1) * torch.tensor([[0.75, 0.25]])).sum()
    assert task.loss(output, tensors).item() == pytest.approx(expected.item())
    with pytest.raises(DataError, match="a probability for each of the labels"):
        task.encode({"text": "好", "label": "好评", "scores": {"好评": 1.0}})
    with pytest.raises(DataError, match="no probabilities"):
        task.encode({"text": "好", "label": "好评", "scores": {"好评": 1.0, "差评": 1.0}})
