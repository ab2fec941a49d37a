"""What holds of every app in TASKS, checked on the tiny model.

Encode -> finite loss -> learns 8 rows by heart -> decode -> save -> restore -> same answers; and
texts as users have them: empty, emoji, full width, very long.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from easynlp.data.sampling import EncodedRows
from easynlp.models.heads import core
from easynlp.models.runtime import TorchModel
from easynlp.pipeline import Pipeline
from easynlp.tasks import TASKS, find_task
from easynlp.tasks.base import INPUT_NAMES, Task
from easynlp.training.loop import FitOptions, State, fit, make_forward, to_tensors
from easynlp.training.plan import Plan, task_term
from tests.contract.samples import SAMPLES, Sample, plain

CPU = torch.device("cpu")
TEXTS = {
    "empty": "",
    "spaces": " \t\n\u3000",
    "emoji": "😀👨‍👩‍👧房间很干净👍🏽",
    "full width": "ＡＢＣ，１２３！房间　很干净",
    "unknown characters": "龘䶮𠀀𪚥",
    "control characters": "房\x00间\u200b很\ufffd干净",
    "one character": "好",
    "very long": "房间很干净，下次还来。" * 10_000,
}

pytestmark = pytest.mark.parametrize("sample", SAMPLES.values(), ids=list(SAMPLES))


@pytest.fixture
def task(sample: Sample, tiny_backbone) -> Task:
    return sample.make(tiny_backbone)


@pytest.fixture
def model(task, tiny_backbone):
    torch.manual_seed(0)
    return task.build(plain(tiny_backbone)).eval()


def run(task, model, features):
    """Return the summed loss, the log-probabilities and the count of a batch."""
    batch = task.collate(features)
    tensors = to_tensors(batch, CPU)
    with torch.no_grad():
        output = make_forward(model, "fp32", CPU)(tensors)
        return task.loss(output, tensors), task.log_probs(output, tensors), task.count(batch)


def close(one, other, tolerance=2e-5):
    """Compare predictions: numbers to a tolerance, all else exactly."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[k], other[k], tolerance) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(
            close(a, b, tolerance) for a, b in zip(one, other, strict=True)
        )
    if isinstance(one, float):
        return math.isclose(one, other, abs_tol=tolerance)
    return one == other


def test_every_app_has_samples(sample):
    assert {s.task for s in SAMPLES.values()} == set(TASKS), "add rows to tests/contract/samples.py"
    assert len(sample.rows) == 8


def test_the_class_says_what_it_is(sample, task):
    assert task.name == sample.task
    assert task.metric
    assert task.fields[0].name == "text"
    assert {f.name for f in task.fields} <= {f.name for f in find_task(sample.task).fields}
    assert isinstance(task.config, find_task(sample.task).Config)


def test_features_and_batches_are_plain_arrays(sample, task):
    features = task.encode_batch(sample.rows)
    for item in features:
        assert item["input_ids"].ndim == 1
        assert item["input_ids"].dtype == np.int32
        assert item["truncated"] in (True, False)
    batch = task.collate(features)
    assert batch["input_ids"].ndim == 2
    assert {array.dtype for array in batch.values()} <= {np.dtype(np.int64), np.dtype(np.float32)}
    assert "target" in batch
    assert not {"labels", "label"} & set(batch)
    assert any(name in batch for name in INPUT_NAMES)


def test_encoding_together_is_encoding_one_by_one(sample, task):
    for one, item in zip(sample.rows, task.encode_batch(sample.rows), strict=True):
        alone = task.encode(one)
        assert alone.keys() == item.keys()
        assert all(np.array_equal(alone[key], item[key]) for key in item)


def test_loss_is_finite_and_counted(sample, task, model):
    loss, log_probs, count = run(task, model, task.encode_batch(sample.rows))
    assert math.isfinite(loss.item())
    assert loss.item() > 0
    assert log_probs.shape[0] == count
    assert log_probs.dim() == 2
    np.testing.assert_allclose(log_probs.exp().sum(-1).numpy(), 1, atol=1e-5)


def test_loss_is_a_sum_over_rows_whatever_their_company(sample, task, model):
    features = task.encode_batch(sample.rows)
    whole, together, count = run(task, model, features)
    alone = [run(task, model, [item]) for item in features]
    assert sum(n for _, _, n in alone) == count
    assert sum(loss.item() for loss, _, _ in alone) == pytest.approx(whole.item(), rel=1e-5)
    apart = torch.cat([log_probs for _, log_probs, _ in alone])
    np.testing.assert_allclose(apart.numpy(), together.numpy(), atol=1e-5)


def test_padding_changes_nothing(sample, task, model):
    short, long = sample.inputs("房间很干净"), sample.inputs("房间很干净，下次还来。今天真好")
    predictions, rows_of = [], []
    for rows in ([short], [short, long], [long, short]):
        batch = task.collate(task.encode_batch(rows))
        logits = TorchModel(model).logits(batch)
        predictions.append(task.decode(logits, batch, rows)[rows.index(short)])
        with torch.no_grad():
            tensors = to_tensors(batch, CPU)
            output = make_forward(model, "fp32", CPU)(tensors)
            rows_of.append(task.log_probs(output, tensors))
    assert "attention_mask" in batch
    alone, first, last = rows_of
    assert len(alone) > 0
    np.testing.assert_allclose(first[: len(alone)], alone, atol=1e-5)
    np.testing.assert_allclose(last[-len(alone) :], alone, atol=1e-5)
    assert close(predictions[0], predictions[1], 1e-5)
    assert close(predictions[0], predictions[2], 1e-5)


@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
def test_any_text_gets_an_answer(sample, task, model, text):
    examples = [sample.inputs(text), sample.inputs("房间很干净"), sample.inputs(text)]
    pipeline = Pipeline(task, TorchModel(model))
    found = pipeline.predict(examples)
    assert len(found) == 3
    assert close(found[0], found[2])
    assert close(found[1], pipeline.predict(examples[1:2])[0])
    json.dumps(found, allow_nan=False)


def test_learns_eight_rows_by_heart_and_remembers_after_saving(
    sample, task, tiny_backbone, tmp_path
):
    torch.manual_seed(0)
    plan = Plan(task, task.build(plain(tiny_backbone)), (task_term(task),))
    options = FitOptions(steps=sample.steps, batch_size=8, lr=5e-3)
    source = EncodedRows.of(task.encode_batch(sample.rows))
    events = list(fit(plan, source, options, state=State(), device=CPU))
    assert events[-1].losses["loss"] < 0.5 * events[0].losses["loss"]
    pipeline = Pipeline(task, TorchModel(plan.model.eval()))
    scores = pipeline.evaluate(sample.rows)
    assert scores[task.metric] >= sample.learnt
    assert all(isinstance(value, float) for value in scores.values())
    predicted = pipeline.predict(sample.rows)

    saved = json.loads(json.dumps(task.saved(), ensure_ascii=False, allow_nan=False))
    core(plan.model).save_pretrained(tmp_path)
    task.tokenizer.save(tmp_path)
    restored = find_task(sample.task).restore(saved, type(task.tokenizer).load(tmp_path))
    assert restored.config == task.config
    assert restored.metric == task.metric
    assert restored.fields == task.fields
    again = Pipeline(restored, TorchModel.load(tmp_path, restored.build))
    assert close(again.predict(sample.rows), predicted, 1e-6)
    assert again.evaluate(sample.rows) == pytest.approx(scores)
