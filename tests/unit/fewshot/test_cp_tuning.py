"""CP-Tuning: the loss by its formula, the vectors by stock transformers, the run that is left."""

from __future__ import annotations

import doctest
import json
import math

import numpy as np
import pytest
import torch

import easynlp
from easynlp.data.sampling import EncodedRows
from easynlp.errors import ConfigError
from easynlp.fewshot import pair_loss as module
from easynlp.fewshot.cp_tuning import cp_tuning
from easynlp.fewshot.mates import ANCHORS
from easynlp.fewshot.pair_loss import pair_loss
from easynlp.pipeline import Pipeline
from easynlp.training.plan import Pass, Plan, task_term
from tests.conftest import REVIEWS
from tests.contract.samples import SAMPLES, plain

CPU = torch.device("cpu")


def test_examples_run():
    assert doctest.testmod(module).failed == 0


def test_the_loss_is_its_formula():
    rng = np.random.default_rng(0)
    for _ in range(10):
        raw = rng.normal(size=(6, 4))
        unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
        labels = np.array([0, 0, 1, 1, 2, 0])
        margin, scale, k = 0.4, 8.0, 2.0
        positive = negative = 0.0
        for i in range(6):
            for j in range(i + 1, 6):
                s = float(unit[i] @ unit[j])
                if labels[i] == labels[j]:
                    cost = max(0.0, 1 + margin - s) / k
                    positive += math.exp(-scale * cost * (s - (1 - margin)))
                else:
                    cost = max(0.0, s + margin)
                    negative += math.exp(scale * cost * (s - margin))
        expected = math.log(1 + positive * negative)
        found = pair_loss(torch.tensor(unit), torch.tensor(labels), scale=scale, positive=k)
        assert found.item() == pytest.approx(expected, rel=1e-4)


def test_costs_have_no_gradient_and_a_batch_of_one_label_teaches_nothing():
    vectors = torch.nn.functional.normalize(torch.randn(4, 3), dim=-1).requires_grad_()
    loss = pair_loss(vectors, torch.tensor([1, 1, 1, 1]))
    loss.backward()
    assert loss.item() == 0
    assert vectors.grad.abs().sum() == 0
    pair = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], requires_grad=True)
    pair_loss(pair, torch.tensor([0, 0, 1]), scale=1.0, margin=0.4).backward()
    # d/ds of the one positive pair is -sigmoid * cost, with the cost held fixed.
    s, n, other = 0.6, 0.0, 0.8
    up = math.log(math.exp(0.4 * (n - 0.4)) + math.exp(1.2 * (other - 0.4)))
    down = -0.8 * (s - 0.6)
    gate = 1 / (1 + math.exp(-(up + down)))
    weights = np.array([math.exp(0.4 * (n - 0.4)), math.exp(1.2 * (other - 0.4))])
    weights /= weights.sum()
    expected = gate * (-0.8 * np.array([0.6, 0.8]) + weights[0] * 0.4 * np.array([0.0, 1.0]))
    np.testing.assert_allclose(pair.grad[0].numpy(), expected, atol=1e-5)


def make(backbone, **options):
    task = SAMPLES["text_classify"].make(backbone)
    torch.manual_seed(0)
    plan = Plan(task, task.build(plain(backbone)), (task_term(task),), plain(backbone))
    return cp_tuning(plan, **options)


@pytest.mark.parametrize("variant", ["paper", "easynlp"])
def test_vectors_are_those_of_stock_transformers(tiny_backbone, variant):
    plan = make(tiny_backbone, variant=variant)
    rows = plan.task.encode_batch(SAMPLES["text_classify"].rows[:3])
    batch = {k: torch.from_numpy(v) for k, v in plan.task.collate(rows).items()}
    model = plan.model.eval()
    inputs = {k: v for k, v in batch.items() if k != "target"}
    found = model(**inputs).vectors
    for row, ours in zip(rows, found, strict=True):
        ids = torch.tensor(row["input_ids"][None].astype(np.int64))
        hidden = model.core.bert(ids).last_hidden_state[0, row["hole"]]
        if variant == "easynlp":
            hidden = model.core.cls.predictions.transform(hidden)
        assert ids[0, row["hole"]] == plan.task.tokenizer.mask_id
        torch.testing.assert_close(ours, hidden / hidden.norm(), atol=1e-5, rtol=1e-4)
    softs = 4 if variant == "paper" else 0
    assert len(plan.task.soft_ids) == softs
    assert {t.name for t in plan.terms} == ({"loss", "mlm"} if softs else {"loss"})


def step(plan, rows):
    batch = {k: torch.from_numpy(v) for k, v in plan.task.collate(rows).items()}
    names = ("input_ids", "masked_positions", "attention_mask", "hidden_positions")

    def forward(given):
        return plan.model(**{k: v for k, v in given.items() if k in names})

    return Pass(forward, plan.model, batch, forward(batch))


def test_batches_mix_labels_and_hidden_words_are_the_rows_own(tiny_backbone):
    plan = make(tiny_backbone)
    plan.model.eval()
    source = plan.source(EncodedRows.of(plan.task.encode_batch(SAMPLES["text_classify"].rows)), 0)
    for i in range(8):
        run = step(plan, [source.features(i, 0)])
        assert len(set(run.batch["target"].tolist())) == 2
        contrast, mlm = plan.terms
        assert float(contrast.compute(run).detach()) > 0
        loss = mlm.compute(run)
        count = mlm.count({k: v.numpy() for k, v in run.batch.items()})
        assert 0 < count < len(source.features(i, 0)["input_ids"])
        assert float(loss.detach()) / count == pytest.approx(
            math.log(len(plan.task.tokenizer.backend.get_vocab())), rel=0.3
        )
        loss.backward()
    groups = run.batch[ANCHORS]
    assert groups.tolist() == [0, 0, 0]


@pytest.fixture
def go(tmp_path, tiny_folder, reviews_file):
    def train(output, method="cp_tuning", **options):
        given = {
            "train": str(reviews_file), "dev": str(reviews_file), "model": str(tiny_folder),
            "output": str(tmp_path / output), "steps": 30, "eval_every": 15, "batch_size": 8,
            "lr": 3e-3, "precision": "fp32", "probe_strength": 1.0,
        }  # fmt: skip
        return easynlp.train("text_classify", method=[method], **{**given, **options})

    return train


def test_a_run_answers_plain_labels_and_remembers_after_saving(go, tmp_path):
    pipeline = go("run", "cp_tuning:scale=16,mlm=0.01", steps=60, eval_every=20, lr=5e-3)
    answers = pipeline.predict([text for text, _ in REVIEWS])
    right = sum(a["label"] == label for a, (_, label) in zip(answers, REVIEWS, strict=True))
    assert right == 8
    assert set(answers[0]) == {"label", "score", "scores"}
    config = json.loads((tmp_path / "run" / "easynlp.json").read_text("utf-8"))["config"]
    assert len(config["owners"]) == 24
    assert config["inference"] in ("prototypes", "anchors", "head")
    again = Pipeline.load(tmp_path / "run").predict([text for text, _ in REVIEWS])
    assert again == answers


@pytest.mark.parametrize("inference", ["prototypes", "anchors", "head"])
def test_every_inference_is_what_it_says(go, inference):
    pipeline = go("run", f"cp_tuning:inference={inference},mlm=0", steps=10, eval_every=10)
    task, model = pipeline.task, pipeline.model.model
    weight = model.answers.weight.detach().numpy()
    prototypes, anchors = weight[:2], weight[4:]
    owners = np.array(task.config.owners)
    np.testing.assert_allclose(np.linalg.norm(anchors, axis=1), 1, atol=1e-5)
    for label in range(2):
        mean = anchors[owners == label].mean(0)
        np.testing.assert_allclose(prototypes[label], mean, atol=1e-5)
    text = REVIEWS[2][0] + "。"
    rows = task.encode_batch([{"text": text}])
    batch = {k: torch.from_numpy(v) for k, v in task.collate(rows).items()}
    vector = model(**batch).vectors[0].detach().numpy()
    if inference == "head":
        bias = model.answers.bias.detach().numpy()[2:4]
        scores = weight[2:4] @ vector + bias
    elif inference == "anchors":
        near = anchors @ vector
        scores = 10 * np.array([near[owners == label].max() for label in range(2)])
    else:
        scores = 10 * prototypes @ vector
    shares = np.exp(scores - scores.max())
    shares /= shares.sum()
    found = list(pipeline.predict([text])[0]["scores"].values())
    assert found == pytest.approx(shares.tolist(), abs=1e-4)


def test_a_resumed_run_has_the_same_weights(go, tmp_path):
    go("whole")
    weights = (tmp_path / "whole" / "model.safetensors").read_bytes()
    go("whole", resume=True)
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() == weights


def test_bad_options_are_refused(tiny_backbone):
    with pytest.raises(ConfigError, match="2 masks"):
        make(tiny_backbone, pattern="{text}[MASK][MASK]")
    with pytest.raises(ConfigError, match="scale 0"):
        make(tiny_backbone, scale=0.0)
    plan = make(tiny_backbone)
    with pytest.raises(ConfigError, match="comes first"):
        cp_tuning(plan)


def test_random_anchors_deal_the_stored_labels_out_and_leave_training_alone(go, tmp_path):
    options = {"steps": 10, "eval_every": 10, "dropout": 0.0}
    kept = go("kept", "cp_tuning:inference=anchors,mlm=0", **options)
    dealt = go("dealt", "cp_tuning:inference=anchors,mlm=0,random_anchors=true", **options)
    own, other = (np.array(run.task.config.owners) for run in (kept, dealt))
    assert sorted(own) == sorted(other)
    assert own.tolist() != other.tolist()
    labels = 2
    one, two = (run.model.model.answers.weight.detach().numpy() for run in (kept, dealt))
    np.testing.assert_allclose(one[2 * labels :], two[2 * labels :], atol=1e-6)  # the same vectors
    for label in range(labels):  # the prototypes are those of the labels dealt out
        mean = two[2 * labels :][other == label].mean(0)
        np.testing.assert_allclose(two[label], mean, atol=1e-5)
    # A row's nearest anchor is itself (or one as near), so it answers with the label it was dealt.
    rows = [json.loads(x) for x in (tmp_path / "train.jsonl").read_text("utf-8").splitlines()]
    names = dealt.task.labels
    said = [p["label"] for p in dealt.predict([row["text"] for row in rows])]
    assert np.mean([label == names[i] for label, i in zip(said, other, strict=True)]) > 0.7
