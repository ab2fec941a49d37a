"""Recovery, contrastive pruning and quantization-aware training: what their terms say and mean."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from easynlp.compression.cap import _Bank, contrast, with_contrast
from easynlp.compression.prune import Cut, full_cut, save_pruned
from easynlp.compression.qat import qat, round_activations, round_weights
from easynlp.compression.recover import Guide, answered, token_count, with_guide
from easynlp.compression.vocabulary import choose_vocabulary
from easynlp.data.sampling import EncodedRows
from easynlp.deployment.export import export
from easynlp.errors import ConfigError
from easynlp.models.backbone import Backbone
from easynlp.models.heads import core
from easynlp.models.runtime import TorchModel
from easynlp.pipeline import Pipeline, make_meta, save_meta
from easynlp.training.folder import save_weights
from easynlp.training.loop import FitOptions, State, fit, make_forward, to_tensors
from easynlp.training.plan import Pass, Plan, task_term
from tests.contract.samples import SAMPLES, plain

CPU = torch.device("cpu")


def make(backbone, name="text_classify", seed=0):
    sample = SAMPLES[name]
    task = sample.make(backbone)
    torch.manual_seed(seed)
    model = task.build(plain(backbone))
    return task, model, EncodedRows.of(task.encode_batch(sample.rows))


def one_pass(plan, source):
    batch = plan.task.collate([source.features(i, 0) for i in range(len(source.rows))])
    tensors = to_tensors(batch, CPU)
    forward = make_forward(plan.model, "fp32", CPU)
    return Pass(forward, plan.model, tensors, forward(tensors))


@pytest.mark.parametrize("name", ["text_classify", "text_classify, mean", "sequence_labeling"])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(tiny_backbone, name):
    task, model, source = make(tiny_backbone, name)
    plan = with_guide(
        Plan(task, model.eval(), (task_term(task),)), Guide(copy.deepcopy(model), None, (0, 1))
    )
    _, losses = plan.total(one_pass(plan, source))
    assert set(losses) == {"loss", "soft", "hidden"}
    assert losses["soft"].item() == pytest.approx(0, abs=1e-5)
    assert losses["hidden"].item() == pytest.approx(0, abs=1e-5)
    other = make(tiny_backbone, name, seed=5)[1]
    for parameter in other.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    plan = with_guide(Plan(task, model, (task_term(task),)), Guide(other, None, (0, 1)))
    _, losses = plan.total(one_pass(plan, source))
    assert losses["soft"] > 1e-3
    assert losses["hidden"] > 1e-3


def test_the_teacher_reads_the_students_tokens_under_its_own_ids(tiny_backbone, tmp_path):
    task, model, _ = make(tiny_backbone)
    rows = SAMPLES["text_classify"].rows
    words = choose_vocabulary(tiny_backbone.tokenizer, [r["text"] for r in rows], fallback=0)
    cut = Cut(**{**vars(full_cut(core(model).config)), "tokens": words.kept})
    save_pruned(model, cut, words.tokenizer, tmp_path / "cut")
    student = type(task).restore(task.saved(), words.tokenizer)
    small = student.build(plain(Backbone.load(str(tmp_path / "cut")))).eval()
    source = EncodedRows.of(student.encode_batch(rows))
    plan = with_guide(Plan(student, small, (task_term(student),)), Guide(model, words.kept, (0, 1)))
    _, losses = plan.total(one_pass(plan, source))
    assert losses["hidden"].item() == pytest.approx(0, abs=1e-5)
    # Under the student's ids the teacher would read other words.
    plan = with_guide(Plan(student, small, (task_term(student),)), Guide(model, None, (0, 1)))
    assert plan.total(one_pass(plan, source))[1]["hidden"] > 1e-3


def test_recovery_brings_a_cut_model_back_to_its_teacher(tiny_backbone, tmp_path):
    task, model, source = make(tiny_backbone)
    for parameter in model.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    config = core(model).config
    cut = Cut((0,), ((0,),) * 2, (tuple(range(32)),) * 2)
    save_pruned(model, cut, task.tokenizer, tmp_path / "cut")
    backbone = Backbone.load(str(tmp_path / "cut"))
    small = task.build(plain(backbone))
    guide = Guide(model, None, (0,))  # its labels are chance: it teaches alone
    plan = with_guide(Plan(task, small, (task_term(task),), backbone), guide, labels=0)
    events = list(
        fit(plan, source, FitOptions(steps=60, batch_size=8, lr=5e-3), state=State(), device=CPU)
    )
    assert set(events[0].losses) == {"soft", "hidden"}
    assert events[-1].losses["soft"] < 0.5 * events[0].losses["soft"]
    assert events[-1].losses["hidden"] < events[0].losses["hidden"]
    assert config.num_hidden_layers == 2  # the teacher is what it was
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_padding_is_not_counted():
    mask = np.array([[1, 1, 0], [1, 1, 1]])
    assert token_count({"input_ids": np.ones((2, 3)), "attention_mask": mask}) == 5
    assert token_count({"input_ids": np.ones((2, 3))}) == 6


@pytest.mark.parametrize("name", ["text_classify", "sequence_labeling",
                                  "text_classify, several labels"])  # fmt: skip
def test_a_run_answers_unlabelled_rows_so_that_they_can_be_learned(tiny_backbone, name):
    task, model, _ = make(tiny_backbone, name)
    pipeline = Pipeline(task, TorchModel(model.eval()))
    texts = [{"text": row["text"]} for row in SAMPLES[name].rows]
    found = answered(pipeline, texts)
    rows = task.encode_batch(found)
    assert "target" in task.collate(rows)
    said = pipeline.predict(texts)
    assert task.score(said, found)[task.metric] in (1.0, 0.0)  # 0 where nothing was found


def test_contrast_is_what_the_formula_says():
    generator = torch.Generator().manual_seed(0)
    ours, theirs, rest = (torch.randn(3, 4, generator=generator) for _ in range(3))
    unit = torch.nn.functional.normalize
    theirs, rest = unit(theirs, dim=-1), unit(rest, dim=-1)
    bank = torch.cat([theirs, rest])  # the rows themselves are stored, too
    labels, stored = torch.tensor([0, 1, 0]), torch.tensor([0, 1, 0, 1, 1, 0])
    alike = labels[:, None] == stored[None]
    itself = torch.cat([torch.eye(3), torch.zeros(3, 3)], 1) > 0
    found = contrast(ours, theirs, bank, itself, alike, 0.5)
    for i in range(3):
        logs = (unit(ours, dim=-1)[i] @ bank.T / 0.5).log_softmax(0)
        plain_part = -logs[i]
        mates = -logs[alike[i]].mean()
        torch.testing.assert_close(found[i], plain_part + mates)
    alone = contrast(ours, theirs, bank, itself, None, 0.5)
    strangers = contrast(ours, theirs, rest, itself[:, 3:], None, 0.5)
    for i in range(3):
        z = unit(ours, dim=-1)[i] / 0.5
        torch.testing.assert_close(alone[i], -(z @ bank.T).log_softmax(0)[i])
        once = torch.cat([theirs[i : i + 1], rest])  # not stored, it counts all the same
        torch.testing.assert_close(strangers[i], -(z @ once.T).log_softmax(0)[0])


def test_a_text_is_not_held_against_itself_in_half_precision(tiny_backbone):
    task, model, source = make(tiny_backbone)
    other = make(tiny_backbone, seed=7)[1]
    for parameter in other.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    bank = _Bank(Guide(other, None, (0, 1), "bf16"), task)
    bank.source = source
    batch = one_pass(Plan(task, model, (task_term(task),)), source).batch
    wide = {
        name: torch.nn.functional.pad(value, (0, 23)) if value.dim() == 2 else value
        for name, value in batch.items()
    }
    run = Pass(make_forward(model, "fp32", CPU), model, wide, None)
    _, itself, alike = bank.of(run)
    assert itself.sum(1).tolist() == [1] * len(source.rows)
    assert alike[itself].all()


def test_contrast_pulls_a_model_towards_others(tiny_backbone):
    task, model, source = make(tiny_backbone)
    other = make(tiny_backbone, seed=7)[1]
    for parameter in other.parameters():  # large weights, so that texts lie apart
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    plan = with_contrast(
        Plan(task, model, (task_term(task),)), [Guide(other, None, (0, 1))], weight=1.0
    )
    events = list(
        fit(plan, source, FitOptions(steps=40, batch_size=8, lr=3e-3), state=State(), device=CPU)
    )
    assert events[-1].losses["cap"] < 0.85 * events[0].losses["cap"]
    with pytest.raises(ConfigError, match="0 models"):
        with_contrast(plan, [])


def test_rounding_is_int8s_and_lets_gradients_through():
    torch.manual_seed(0)
    weight = torch.randn(5, 7, requires_grad=True)
    rounded = round_weights(weight)
    scale = weight.detach().abs().amax(1, keepdim=True) / 127
    steps = rounded.detach() / scale
    torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
    assert (rounded - weight).abs().max() <= scale.max() / 2 + 1e-6
    (rounded * 2).sum().backward()
    assert torch.equal(weight.grad, torch.full_like(weight, 2.0))
    again = round_weights(rounded.detach())
    torch.testing.assert_close(again, rounded.detach(), rtol=0, atol=1e-6)

    values = torch.randn(3, 4, 6)
    found = round_activations(values)
    for row, wanted in zip(values, found, strict=True):
        torch.testing.assert_close(round_activations(row[None])[0], wanted)  # a row alone
        assert len(torch.unique(wanted)) <= 256
    padded = torch.cat([values, 50 * torch.ones(3, 2, 6)], 1)
    real = torch.tensor([[1, 1, 1, 1, 0, 0]] * 3)
    torch.testing.assert_close(round_activations(padded, real)[:, :4], found)


def test_training_sees_nearly_what_the_int8_export_computes(tiny_backbone, tmp_path):
    # With a mean over tokens, for the export computes nothing for the first token alone.
    task, model, source = make(tiny_backbone, "text_classify, mean")
    for parameter in model.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    rounded = qat(Plan(task, copy.deepcopy(model).eval(), (task_term(task),)))
    folder = tmp_path / "run"
    folder.mkdir()
    save_weights(folder, model, tiny_backbone)
    save_meta(folder, make_meta(task))
    rows = SAMPLES["text_classify"].rows
    export(folder, int8=True, texts=rows, force=True)
    served = Pipeline.load(folder, backend="int8").model
    apart, plainly = [], []
    for features in source.rows:
        batch = task.collate([features])
        wanted = served.logits(batch)
        apart.append(np.abs(TorchModel(rounded.model).logits(batch) - wanted).max())
        plainly.append(np.abs(TorchModel(model.eval()).logits(batch) - wanted).max())
    assert np.mean(apart) < 0.8 * np.mean(plainly)
    with pytest.raises(ConfigError, match="twice"):
        qat(rounded)
