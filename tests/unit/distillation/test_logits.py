"""The distill method: what it adds to a plan, and what the originals got wrong."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from easynlp.data.sampling import EncodedRows
from easynlp.distillation.logits import distill, learn_from
from easynlp.distillation.losses import soft_kl
from easynlp.errors import ConfigError, DataError
from easynlp.models.runtime import TorchModel
from easynlp.pipeline import Pipeline
from easynlp.tasks import find_task
from easynlp.training.loop import FitOptions, State, fit, make_forward, to_tensors
from easynlp.training.plan import Pass, Plan, task_term
from tests.conftest import REVIEWS
from tests.contract.samples import SAMPLES, plain
from tests.unit.distillation.teaching import classifier, sure, tagger, write

CPU = torch.device("cpu")
ROWS = SAMPLES["text_classify"].rows
POOL = [{"text": text[:5]} for text, _ in REVIEWS]


def plan_of(backbone, sample=None):
    sample = sample or SAMPLES["text_classify"]
    task = sample.make(backbone)
    torch.manual_seed(0)
    return Plan(task, task.build(plain(backbone)), (task_term(task),), backbone)


def one_pass(plan, rows, indices):
    """Return a pass over rows of the plan's own source, as the loop makes it."""
    source = plan.source(EncodedRows.of(plan.task.encode_batch(rows)), 0)
    batch = plan.task.collate([source.features(i, 0) for i in indices])
    tensors = to_tensors(batch, CPU)
    forward = make_forward(plan.model.eval(), "fp32", CPU)
    return batch, Pass(forward, plan.model, tensors, forward(tensors))


def train(plan, rows, **options):
    given = {"steps": 6, "batch_size": 4, "lr": 1e-3, "warmup": 0.0, **options}
    source = EncodedRows.of(plan.task.encode_batch(rows))
    events = list(fit(plan, source, FitOptions(**given), state=State(), device=CPU))
    return plan.model.state_dict(), events


def answers_for(examples):
    rng = np.random.default_rng(5)
    return [np.log(rng.dirichlet([1, 1])[None]) for _ in examples]


def test_alpha_1_is_plain_training_bit_for_bit(tiny_backbone):
    def never(examples):
        raise AssertionError("the teacher was asked")

    with_teacher = learn_from(plan_of(tiny_backbone), never, alpha=1.0, more=POOL)
    ours, events = train(with_teacher, ROWS)
    theirs, plain_events = train(plan_of(tiny_backbone), ROWS)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [e.losses for e in events] == [e.losses for e in plain_events]


def test_the_loss_is_hard_and_soft_over_their_own_rows(tiny_backbone):
    plan = learn_from(plan_of(tiny_backbone), answers_for, alpha=0.3, temperature=3.0, more=POOL)
    rows = [0, 1, 9, 10, 11]  # two with labels, three without
    batch, run = one_pass(plan, ROWS, rows)
    logits = run.output.logits
    hard = cross_entropy(logits[:2], torch.tensor(batch["target"][:2]), reduction="sum")
    said = np.concatenate(answers_for([*ROWS, *POOL]))[rows]
    soft = soft_kl(logits, torch.tensor(said), 3.0).sum()
    counts = plan.counts(batch)
    assert counts == [2, 5]
    total, losses = plan.total(run, counts)
    assert float(losses["loss"]) == pytest.approx(float(hard), rel=1e-5)
    assert float(losses["distill"]) == pytest.approx(float(soft), rel=1e-4)
    assert float(total) == pytest.approx(float(0.3 * hard / 2 + 0.7 * soft / 5), rel=1e-4)


def test_rows_without_labels_have_the_soft_loss_only(tiny_backbone):
    plan = learn_from(plan_of(tiny_backbone), answers_for, alpha=0.5, more=POOL)
    batch, run = one_pass(plan, ROWS, [8, 9])
    assert "target" not in batch
    assert plan.counts(batch) == [0, 2]
    total, losses = plan.total(run, plan.counts(batch))
    assert float(losses["loss"]) == 0.0
    total.backward()
    assert all(p.grad is not None for p in plan.model.parameters() if p.requires_grad)


def test_a_student_learns_from_texts_without_labels_alone(tiny_backbone):
    right = {text[:5]: label for text, label in REVIEWS}

    sample = SAMPLES["text_classify"]
    order = sample.make(tiny_backbone).config.labels
    plan = learn_from(
        plan_of(tiny_backbone),
        lambda examples: [sure(2, order.index(right.get(e["text"], order[0]))) for e in examples],
        alpha=0.0, temperature=1.0, more=POOL,
    )  # fmt: skip
    train(plan, sample.rows[:1], steps=80, batch_size=9, lr=5e-3)
    said = Pipeline(plan.task, TorchModel(plan.model.eval())).predict([e["text"] for e in POOL])
    assert [each["label"] for each in said] == [label for _, label in REVIEWS]


def test_dev_rows_never_meet_the_teacher(tiny_backbone):
    """EasyNLP paired its training logits with dev rows by line, and failed where dev was longer."""
    asked = []

    def teacher(examples):
        asked.append(len(examples))
        return answers_for(examples)

    plan = learn_from(plan_of(tiny_backbone), teacher, more=POOL)
    dev = plan.task.encode_batch([*ROWS, *ROWS, *ROWS])
    batch = plan.task.collate(dev)
    assert set(batch) == {"input_ids", "attention_mask", "target"}
    train(plan, ROWS)
    assert asked == [len(ROWS) + len(POOL)]


def test_only_texts_are_shown_to_the_teacher(tmp_path, tiny_backbone):
    run = classifier(tmp_path / "run", tiny_backbone)
    plan = plan_of(tiny_backbone)
    found = distill(plan, teacher=run)
    rows = [{**row, "label": "好评"} for row in ROWS]
    one = found.source(EncodedRows.of(found.task.encode_batch(rows)), 0).features(3, 0)["teacher"]
    rows = [{**row, "label": "差评"} for row in ROWS]
    other = found.source(EncodedRows.of(found.task.encode_batch(rows)), 0).features(3, 0)["teacher"]
    assert np.array_equal(one, other)


def test_texts_the_teacher_cannot_label_are_left_out_unless_they_have_a_label(
    tiny_backbone, caplog
):
    def teacher(examples):
        found = answers_for(examples)
        for i in (0, 8, 9):
            found[i] = np.full((1, 2), np.nan)
        return found

    plan = learn_from(plan_of(tiny_backbone), teacher, alpha=0.5, more=POOL)
    source = plan.source(EncodedRows.of(plan.task.encode_batch(ROWS)), 0)
    assert len(source.lengths) == 14
    assert "no answer for 3 of 16 texts; 2 without a label are left out" in caplog.text
    batch, run = one_pass(plan, ROWS, [0, 1, 8])
    assert plan.counts(batch) == [2, 2]
    assert all(np.isfinite(float(x)) for x in plan.total(run)[1].values())
    nobody = learn_from(plan_of(tiny_backbone), lambda e: [np.full((1, 2), np.nan)] * len(e))
    with pytest.raises(DataError, match="answers none of 8"):
        one_pass(nobody, ROWS, [0])


@pytest.mark.parametrize("count", [1, 9])
def test_a_last_batch_of_one_row_is_like_any_other(tiny_backbone, count):
    """EasyNLP lost it."""
    plan = learn_from(plan_of(tiny_backbone), answers_for, more=POOL[:1])
    _, events = train(plan, ROWS, batch_size=8, steps=2 * count)
    assert all(np.isfinite(list(e.losses.values())).all() for e in events)


def test_several_labels_and_pairs(tmp_path, tiny_backbone):
    several = SAMPLES["text_classify, several labels"]
    labels = several.make(tiny_backbone).config.labels
    run = classifier(tmp_path / "several", tiny_backbone, labels, multi_label=True)
    plan = distill(plan_of(tiny_backbone, several), teacher=run, alpha=0.5)
    batch, made = one_pass(plan, several.rows, [0, 1])
    assert batch["teacher"].shape == (2 * len(labels), 2)
    assert plan.counts(batch) == [2 * len(labels)] * 2
    pairs = SAMPLES["text_classify, pairs"]
    run = classifier(tmp_path / "pairs", tiny_backbone, ("0", "1"), pair=True)
    plan = distill(plan_of(tiny_backbone, pairs), teacher=run)
    extra = write(tmp_path / "pool.jsonl", [{"text": "很好", "text_b": "好"}])
    plan = distill(plan_of(tiny_backbone, pairs), teacher=run, unlabeled=extra)
    batch, made = one_pass(plan, pairs.rows, [0, 8])
    assert plan.counts(batch) == [1, 2]
    assert np.isfinite(float(plan.total(made)[0]))


def test_tags_over_texts_with_and_without_entities(tmp_path, tiny_backbone):
    sample = SAMPLES["sequence_labeling"]
    labels = sample.make(tiny_backbone).config.labels
    run = tagger(tmp_path / "run", tiny_backbone, labels)
    pool = write(tmp_path / "pool.jsonl", [{"text": "张三不在北京" * 3}, {"text": "好"}])
    plan = distill(plan_of(tiny_backbone, sample), teacher=run, unlabeled=pool, alpha=0.5)
    batch, made = one_pass(plan, sample.rows, [0, 8, 9])
    owned = int(batch["owned"].sum())
    assert batch["teacher"].shape == (owned, 1 + 2 * len(labels))
    assert plan.counts(batch) == [9, owned]  # the characters of the first text; all
    logs = plan.task.log_probs(made.output, made.batch)[:9]
    target = torch.tensor(batch["target"][batch["owned"].astype(bool)][:9])
    hard = cross_entropy(logs, target, reduction="sum")
    assert float(plan.total(made)[1]["loss"]) == pytest.approx(float(hard), rel=1e-5)


def test_a_student_that_equals_its_teacher_has_no_soft_loss(tmp_path, tiny_backbone):
    run = classifier(tmp_path / "run", tiny_backbone)
    pipeline = Pipeline.load(run, backend="torch")
    task = pipeline.task
    plan = Plan(task, pipeline.model.model, (task_term(task),), tiny_backbone)
    for loss in ("kl", "mse"):
        found = distill(plan, teacher=run, loss=loss)
        _, made = one_pass(found, ROWS, [0, 1, 2])
        assert float(found.total(made)[1]["distill"]) < 1e-5


def test_the_placebo_keeps_the_answers_and_loses_their_rows(tmp_path, tiny_backbone):
    run = classifier(tmp_path / "run", tiny_backbone)
    said = []
    for placebo in (False, True):
        plan = distill(plan_of(tiny_backbone), teacher=run, placebo=placebo)
        source = plan.source(EncodedRows.of(plan.task.encode_batch(ROWS)), 3)
        said.append([tuple(source.features(i, 0)["teacher"][0].tolist()) for i in range(8)])
    assert sorted(said[0]) == sorted(said[1])
    assert said[0] != said[1]


def test_what_cannot_be(tmp_path, tiny_backbone):
    plan = plan_of(tiny_backbone)
    for options, said in [
        ({"alpha": 1.5}, "alpha from 0 to 1"),
        ({"temperature": 0.0}, "more than 0"),
    ]:
        with pytest.raises(ConfigError, match=said):
            learn_from(plan, answers_for, **options)
    once = learn_from(plan, answers_for)
    with pytest.raises(ConfigError, match="once; its terms"):
        learn_from(once, answers_for)
    with pytest.raises(ConfigError, match="needs a teacher"):
        distill(plan, teacher="")
    with pytest.raises(ConfigError, match="write dev=FILE"):
        distill(plan, teacher=classifier(tmp_path / "r", tiny_backbone), vote="calibrated")
    with pytest.raises(DataError, match=r"shape \(1, 3\), not \(1, 2\)"):
        one_pass(learn_from(plan, lambda e: [np.zeros((1, 3))] * len(e)), ROWS, [0])
    language = find_task("language_modeling")
    task = language(language.Config(max_length=32), tiny_backbone.tokenizer)
    other = Plan(task, task.build(tiny_backbone), (task_term(task),), tiny_backbone)
    with pytest.raises(ConfigError, match="not by language_modeling"):
        learn_from(other, answers_for)
