"""Entailment: pairs by hand, negatives, the method, and a start from other tasks' pairs."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import easynlp
from easynlp.config import TrainConfig
from easynlp.data.sampling import EncodedRows
from easynlp.errors import ConfigError, DataError
from easynlp.fewshot.efl import Entailment, EntailmentConfig, efl
from easynlp.fewshot.nli import pretrain_entailment
from easynlp.models.backbone import Backbone
from easynlp.pipeline import BATCH_TOKENS, Pipeline
from easynlp.training.plan import Plan, task_term
from tests.conftest import REVIEWS
from tests.contract.samples import SAMPLES, plain

LABELS = [label for _, label in REVIEWS]
NEWS = EntailmentConfig(
    descriptions="甲=北京;乙=大学;丙=天气;丁=早餐", hypothesis="这是{label}", max_length=24,
    labels=("甲", "乙", "丙", "丁"),
)  # fmt: skip


def test_a_row_is_a_pair_for_every_label(tiny_backbone):
    task = Entailment(NEWS, tiny_backbone.tokenizer)
    rows = [{"text": "我在北京读书", "label": "甲"}, {"text": "今天天气真好" * 9, "label": "丙"}]
    features = task.encode_batch(rows)
    assert [item["truncated"] for item in features] == [False, True]
    batch = task.collate(features)
    assert batch["target"].tolist() == [1, 0, 0, 0, 0, 0, 1, 0]
    pairs = [(row["text"], text) for row in rows for text in task.hypotheses]
    for number, item in enumerate(tiny_backbone.tokenizer.encode_batch(pairs, 24)):
        length = len(item.ids)
        np.testing.assert_array_equal(batch["input_ids"][number, :length], item.ids)
        np.testing.assert_array_equal(batch["token_type_ids"][number, :length], item.type_ids)
        assert batch["attention_mask"][number].sum() == length
    texts = tiny_backbone.tokenizer.backend.decode(batch["input_ids"][4].tolist())
    assert "北" in texts  # the description is never cut, the text is


def test_the_answer_is_the_description_entailed_most_surely(tiny_backbone):
    task = Entailment(NEWS, tiny_backbone.tokenizer)
    logits = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32) * 3
    found = task.decode(logits, {}, [{}] * 3)
    chances = torch.tensor(logits).double().softmax(-1)[:, 1].view(3, 4).numpy()
    shares = chances / chances.sum(1, keepdims=True)
    for answer, row in zip(found, shares, strict=True):
        assert answer["label"] == NEWS.labels[int(row.argmax())]
        assert list(answer["scores"].values()) == pytest.approx(row.tolist(), abs=1e-6)


def test_negatives_are_drawn_anew_and_never_the_true_label(tiny_backbone):
    from dataclasses import replace

    task = Entailment(replace(NEWS, negatives=2), tiny_backbone.tokenizer)
    rows = [{"text": "北京", "label": label} for label in NEWS.labels]
    plain_rows = EncodedRows.of(task.encode_batch(rows))
    source = task.training_rows(plain_rows, 1)
    met = set()
    for epoch in range(20):
        for i in range(4):
            item = source.features(i, epoch)
            assert item["chosen"] == source.features(i, epoch)["chosen"]
            assert item["chosen"][0] == i
            assert len(set(item["chosen"])) == 3
            met |= {(i, label) for label in item["chosen"][1:]}
            assert task.collate([item])["target"].tolist() == [1, 0, 0]
    assert len(met) == 12
    assert (source.lengths == 3 * plain_rows.lengths).all()
    other = task.training_rows(plain_rows, 2)
    assert any(
        source.features(i, e)["chosen"] != other.features(i, e)["chosen"]
        for i in range(4) for e in range(20)
    )  # fmt: skip
    whole = Entailment(NEWS, tiny_backbone.tokenizer).training_rows(plain_rows, 1)
    assert sorted(whole.features(2, 0)["chosen"]) == [0, 1, 2, 3]
    assert (whole.lengths == 4 * plain_rows.lengths).all()


def test_what_cannot_be_told_apart_is_refused(tiny_backbone):
    tokenizer = tiny_backbone.tokenizer
    with pytest.raises(ConfigError, match='"甲" and "乙" have the same description'):
        Entailment(EntailmentConfig(descriptions="甲=一;乙=一", labels=("甲", "乙")), tokenizer)
    with pytest.raises(ConfigError, match=r"no \{label\}"):
        Entailment(EntailmentConfig(hypothesis="好", labels=("甲", "乙")), tokenizer)
    with pytest.raises(ConfigError, match="the labels are no words"):
        Entailment(EntailmentConfig(labels=("1", "2")), tokenizer)
    task = SAMPLES["text_classify, pairs"].make(tiny_backbone)
    plan = Plan(task, task.build(plain(tiny_backbone)), (task_term(task),), tiny_backbone)
    with pytest.raises(ConfigError, match="one text and one label"):
        efl(plan)


def write(path, rows):
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    return str(path)


def test_a_start_from_other_pairs_and_a_run_that_answers_plain_labels(
    tmp_path, tiny_folder, reviews_file
):
    nli = [{"premise": a, "hypothesis": b, "label": "entailment" if x == y else "contradiction"}
           for a, x in REVIEWS for b, y in REVIEWS]  # fmt: skip
    config = TrainConfig(
        task="text_classify", train="", output=str(tmp_path / "nli"), model=str(tiny_folder),
        epochs=1.0, precision="fp32", lr=1e-3,
    )  # fmt: skip
    start = pretrain_entailment(config, [write(tmp_path / "nli.jsonl", nli)])
    pipeline = easynlp.train(
        "text_classify", train=str(reviews_file), model=start, output=str(tmp_path / "run"),
        method=["efl:descriptions=好评=很好;差评=太差,hypothesis=服务{label}"], epochs=2.0,
        batch_size=8, lr=5e-3, precision="fp32", dropout=0.0,
    )  # fmt: skip
    assert pipeline.meta["task"] == "entailment"
    answers = pipeline.predict([text for text, _ in REVIEWS])
    assert {a["label"] for a in answers} <= {"好评", "差评"}
    merged = [json.loads(line) for line in (tmp_path / "nli.train.jsonl").read_text().splitlines()]
    assert [row["label"] for row in merged] == [str(int(a == b)) for a in LABELS for b in LABELS]
    # The start's head answers the same question, so it is kept.
    begun = pipeline.task.build(Backbone.load(start))
    kept = load_file(f"{start}/model.safetensors")["mean_classifier.weight"]
    torch.testing.assert_close(begun.classifier.weight, kept)
    assert set(answers[0]) == {"label", "score", "scores"}
    with pytest.raises(DataError, match="0 of 64 rows are entailed"):
        pretrain_entailment(config, [str(tmp_path / "nli.jsonl")], entailed=("yes",))


def test_entailment_rows_are_read_as_told_and_dev_too(tmp_path, tiny_folder):
    rows = [{"p": a, "h": b, "gold": "entailment" if x == y else "neutral"}
            for a, x in REVIEWS for b, y in REVIEWS][:20]  # fmt: skip
    rows[3]["gold"] = rows[7]["gold"] = "-"  # as in OCNLI, where annotators did not agree
    dev = [{"p": a, "h": f"{a}。", "gold": label} for (a, _), label in
           zip(REVIEWS, ["entailment", "contradiction", "-", "neutral"], strict=False)]  # fmt: skip
    config = TrainConfig(
        task="text_classify", train="", output=str(tmp_path / "nli"), model=str(tiny_folder),
        steps=1, precision="fp32", text="p", text_b="h", label="gold",
        dev=write(tmp_path / "dev.jsonl", dev),
    )  # fmt: skip
    folder = pretrain_entailment(config, [write(tmp_path / "train.jsonl", rows)])
    assert Pipeline.load(folder).meta["scores"]["dev"].keys() == {"accuracy", "macro_f1"}
    made = {
        name: [json.loads(line) for line in (tmp_path / f"nli.{name}.jsonl").open("r", -1, "utf-8")]
        for name in ("train", "dev")
    }
    assert len(made["train"]) == 18
    assert [row["label"] for row in made["dev"]] == ["1", "0", "0"]
    assert made["dev"][0] == {"text": REVIEWS[0][0], "text_b": f"{REVIEWS[0][0]}。", "label": "1"}


def test_the_rows_written_never_take_the_place_of_a_file_given(tmp_path, tiny_folder):
    given = write(tmp_path / "nli.dev.jsonl", [{"text": "好", "text_b": "好", "label": "1"}])
    before = (tmp_path / "nli.dev.jsonl").read_bytes()
    config = TrainConfig(
        task="text_classify", train="", dev=given, output=str(tmp_path / "nli"),
        model=str(tiny_folder),
    )  # fmt: skip
    with pytest.raises(ConfigError, match="choose another output"):
        pretrain_entailment(config, [write(tmp_path / "train.jsonl", [])])
    assert (tmp_path / "nli.dev.jsonl").read_bytes() == before


def test_many_labels_are_asked_in_calls_of_bounded_size(tiny_backbone):
    names = tuple(f"天{i}" for i in range(119))
    config = EntailmentConfig(labels=names, max_length=32)
    task = Entailment(config, tiny_backbone.tokenizer)
    sizes = []

    class Model:
        backend, row_wise, call_cost = "test", False, 0
        inputs = ("input_ids", "attention_mask", "token_type_ids")

        def logits(self, batch):
            sizes.append(batch["input_ids"].size)
            return (
                np.stack([batch["input_ids"].sum(1), np.zeros(len(batch["input_ids"]))], 1) * 1e-4
            )

    rows = [{"text": "房间很干净" * 4, "label": "天7"} for _ in range(64)]
    found = Pipeline(task, Model()).evaluate(rows)
    assert set(found) == {"accuracy", "macro_f1"}
    assert sum(sizes) > 100_000
    assert max(sizes) <= BATCH_TOKENS
