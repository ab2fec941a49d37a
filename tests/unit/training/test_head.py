"""A head fitted in place against scikit-learn, and what a run makes of it."""

from __future__ import annotations

import doctest
import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import easynlp
from easynlp.data.sampling import EncodedRows
from easynlp.errors import ConfigError, ModelError
from easynlp.tasks import find_task
from easynlp.training import depth, head
from easynlp.training.depth import depths, freeze
from easynlp.training.head import fit_head, last_layer, read_vectors
from easynlp.training.loop import FitOptions, State, fit
from easynlp.training.plan import Plan, task_term
from tests.conftest import REVIEWS
from tests.contract.samples import SAMPLES, plain

CPU = torch.device("cpu")
TEXTS = [text for text, _ in REVIEWS]


def make(backbone, sample="text_classify"):
    """Return a task, its model and the encoded rows of a sample."""
    task = SAMPLES[sample].make(backbone)
    torch.manual_seed(0)
    model = task.build(plain(backbone, 0.1))
    return task, model, EncodedRows.of(task.encode_batch(SAMPLES[sample].rows))


@pytest.mark.parametrize("module", [depth, head])
def test_examples_run(module):
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("labels", [2, 3])
def test_a_fitted_head_answers_as_logistic_regression_does(tiny_backbone, labels):
    rows = [{"text": text, "label": str(i % labels)} for i, text in enumerate(TEXTS)]
    kind = find_task("text_classify")
    config = kind.Config(max_length=32, pooling="first")
    task = kind.prepare(config, tiny_backbone.tokenizer, rows)
    torch.manual_seed(0)
    model = task.build(plain(tiny_backbone, 0.5)).train()
    source = EncodedRows.of(task.encode_batch(rows))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fit_head(task, model, source, CPU, strength=0.3)
    assert model.training
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"classifier.weight", "classifier.bias"}

    model.eval()
    pooled, logits = [], []
    for row in source.rows:  # one at a time, by stock transformers
        with torch.no_grad():
            ids = torch.tensor(row["input_ids"][None].astype(np.int64))
            pooled.append(model.bert(ids).pooler_output[0].numpy())
            logits.append(model(ids).logits[0].numpy())
    scaler = StandardScaler().fit(pooled)
    reference = LogisticRegression(C=0.3, max_iter=1000)
    reference.fit(scaler.transform(pooled), [int(r["label"]) for r in rows])
    ours = torch.tensor(np.array(logits)).softmax(-1).numpy()
    expected = reference.predict_proba(scaler.transform(pooled))
    np.testing.assert_allclose(ours, expected, atol=2e-3)


def test_several_labels_get_a_regression_each(tiny_backbone):
    task, model, source = make(tiny_backbone, "text_classify, several labels")
    fit_head(task, model, source, CPU, strength=100.0)
    vectors, targets = read_vectors(task, model, source, CPU)
    layer = last_layer(model)
    logits = vectors @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
    assert ((logits > 0) == (targets > 0.5)).all()


def test_vectors_come_in_the_order_of_the_rows(tiny_backbone):
    task, model, source = make(tiny_backbone)
    _, targets = read_vectors(task, model, source, CPU)
    assert targets.tolist() == [row["target"] for row in source.rows]


def test_a_model_without_a_label_head_is_refused(tiny_backbone):
    task, _, source = make(tiny_backbone)
    with pytest.raises(ModelError, match="one output a label"):
        fit_head(task, tiny_backbone.with_head("AutoModelForMaskedLM"), source, CPU, 1.0)
    task, model, source = make(tiny_backbone, "sequence_labeling")
    with pytest.raises(ModelError, match="no single target a row"):
        fit_head(task, model, source, CPU, 1.0)


@pytest.fixture
def go(tmp_path, tiny_folder, reviews_file):
    def train(output, **options):
        given = {
            "train": str(reviews_file), "model": str(tiny_folder), "precision": "fp32",
            "output": str(tmp_path / output), "epochs": 2.0, "batch_size": 8, "lr": 1e-3,
            "probe_strength": 10.0,
        }  # fmt: skip
        return easynlp.train("text_classify", **{**given, **options})

    return train


def steps_of(folder):
    path = folder / "metrics.jsonl"
    return path.read_text("utf-8").splitlines() if path.is_file() else []


def test_probe_only_is_a_run_without_a_step(go, tmp_path, reviews_file):
    pipeline = go("only", probe="only", dev=str(reviews_file))
    assert pipeline.meta["scores"]["dev"]["accuracy"] == 1.0
    assert pipeline.meta["best_step"] == 0
    assert not [line for line in steps_of(tmp_path / "only") if "losses" in json.loads(line)]


def test_a_probe_first_is_never_worse_than_the_probe_on_dev(go, reviews_file):
    ruined = go("ruined", probe="first", dev=str(reviews_file), lr=10.0, epochs=1.0, eval_every=3)
    only = go("only", probe="only", dev=str(reviews_file))
    texts = TEXTS[:3]
    assert ruined.meta["best_step"] == 0
    for one, other in zip(ruined.predict(texts), only.predict(texts), strict=True):
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-5)
    level = go("level", probe="first", dev=str(reviews_file), lr=1e-9)
    assert level.meta["best_step"] == 0  # no better is not enough
    tuned = go("tuned", probe="first", lr=1e-4)
    assert tuned.meta["best_step"] == 6
    assert tuned.predict(texts)[0]["scores"] != only.predict(texts)[0]["scores"]


def test_a_probe_first_of_a_head_that_is_not_trained_is_refused(go, tmp_path):
    with pytest.raises(ConfigError, match="Leave --probe out"):
        go("first", probe="first", method=["setfit"])
    assert not (tmp_path / "first").exists()
    for probe in ("no", "after"):
        assert go(probe, probe=probe, method=["setfit"], epochs=1.0).meta["best_step"] == 3


def test_a_probe_after_fits_what_was_trained(go, tmp_path, reviews_file):
    after = go("after", probe="after", dev=str(reviews_file), label_names="no")
    model, task = after.model.model, after.task
    rows = [json.loads(line) for line in reviews_file.read_text("utf-8").splitlines()]
    source = EncodedRows.of(task.encode_batch(rows))
    weight = last_layer(model).weight.detach().clone()
    fit_head(task, model, source, CPU, strength=10.0)
    torch.testing.assert_close(last_layer(model).weight.detach(), weight, atol=2e-3, rtol=1e-2)


def test_a_probed_run_resumes_to_the_same_weights(go, tmp_path, reviews_file):
    options = {"probe": "first", "dev": str(reviews_file), "layer_decay": 0.5}
    go("whole", **options)
    first = (tmp_path / "whole" / "model.safetensors").read_bytes()
    go("whole", resume=True, **options)
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() == first


def test_depths_and_freezing(tiny_backbone):
    _, model, _ = make(tiny_backbone)
    known = depths(model)
    assert known["bert.embeddings.word_embeddings.weight"] == 0
    assert known["bert.encoder.layer.1.output.dense.weight"] == 2
    assert known["classifier.weight"] == known["bert.pooler.dense.weight"] == 3
    freeze(model, embeddings=True)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, level in known.items() if level == 0}
    with pytest.raises(ConfigError, match="the model has 2 layers"):
        freeze(model, 3)


def trained(backbone, **options):
    task, model, source = make(plain(backbone))
    freeze(model, options.pop("freeze", 0))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    plan = Plan(task, model, (task_term(task),))
    given = {"steps": 1, "batch_size": 8, "lr": 1e-2, "warmup": 0.0, "weight_decay": 0.0}
    list(fit(plan, source, FitOptions(**given, **options), state=State(), device=CPU))
    return {k: float((v - before[k]).abs().max()) for k, v in model.state_dict().items()}


def test_frozen_layers_do_not_move(tiny_backbone):
    moved = trained(tiny_backbone, freeze=1)
    assert all((move == 0) == ("embeddings" in k or "layer.0." in k) for k, move in moved.items())


def test_lower_layers_learn_slower(tiny_backbone):
    moved = trained(tiny_backbone, layer_decay=0.1)  # Adam's first step is as long as its rate
    for name, scale in (("classifier.weight", 1.0), ("layer.1.output.dense.weight", 0.1),
                        ("layer.0.output.dense.weight", 0.01)):  # fmt: skip
        (move,) = [m for k, m in moved.items() if k.endswith(name)]
        assert move == pytest.approx(1e-2 * scale, rel=0.02)
