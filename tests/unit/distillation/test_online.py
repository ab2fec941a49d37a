"""Online distillation: who learns from whom, what is thrown away, and what becomes a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from easynlp.config import TrainConfig
from easynlp.data.sampling import EncodedRows
from easynlp.deployment.export import export
from easynlp.distillation.cohort import train_cohort
from easynlp.distillation.losses import relation_kl, soft_kl
from easynlp.distillation.members import find_member
from easynlp.distillation.online import online_distill
from easynlp.distillation.settings import CohortOptions
from easynlp.errors import ConfigError, ModelError
from easynlp.methods import apply_methods
from easynlp.pipeline import Pipeline
from easynlp.tasks import find_task
from easynlp.tasks.text_classify import ClassifyConfig
from easynlp.training.loop import FitOptions, State, fit, make_forward, to_tensors
from easynlp.training.plan import Pass, Plan, task_term
from tests.conftest import REVIEWS
from tests.contract.samples import SAMPLES, plain

CPU = torch.device("cpu")
OPTIONS = {"students": "1x16+2x24", "assistant": "2x32"}
TASKS = ("text_classify", "text_classify, mean", "text_classify, pairs", "sequence_labeling")


def make_plan(backbone, name="text_classify", **options):
    sample = SAMPLES[name]
    task = sample.make(backbone)
    torch.manual_seed(0)
    backbone = plain(backbone)
    plan = Plan(task, task.build(backbone), (task_term(task),), backbone)
    return online_distill(plan, **{**OPTIONS, **options})


def spread(plan):
    """Let fresh heads say something, so that answers differ enough to be compared."""
    torch.manual_seed(1)
    for name in ("teacher", *plan.model.names):
        torch.nn.init.normal_(plan.model.member(name).classifier.weight, std=30.0)
    return plan


def batch_of(plan, name="text_classify"):
    return to_tensors(plan.task.collate(plan.task.encode_batch(SAMPLES[name].rows)), CPU)


def run_of(plan, name="text_classify"):
    batch = batch_of(plan, name)
    forward = make_forward(plan.model, "fp32", CPU)
    plan.model.train()
    return Pass(forward, plan.model, batch, forward(batch))


def gradients(plan, term, name="text_classify"):
    """Return which members (and extra layers) a term's gradient reaches."""
    plan.model.zero_grad(set_to_none=True)
    next(t for t in plan.terms if t.name == term).compute(run_of(plan, name)).backward()
    reached = set()
    for key, value in plan.model.named_parameters():
        if value.grad is not None and value.grad.abs().max() > 0:
            parts = key.split("cohort")
            reached.add(
                parts[-1].removeprefix("_extra").split(".")[1] if len(parts) > 1 else "teacher"
            )
    return reached


def test_a_frozen_teacher_has_no_dropout_and_learners_have(tiny_backbone):
    backbone = tiny_backbone.with_dropout(0.5)
    task = SAMPLES["text_classify"].make(backbone)
    plan = Plan(task, task.build(backbone), (task_term(task),), backbone)
    plan = spread(online_distill(plan, **OPTIONS, frozen=True))
    one, other = (run_of(plan).output["said"] for _ in range(2))
    assert torch.equal(one["teacher"].logits, other["teacher"].logits)
    for name in plan.model.names:
        assert not torch.equal(one[name].logits, other[name].logits)
    trained = {name.partition(".")[0] for name, p in plan.model.core.named_parameters()
               if p.requires_grad}  # fmt: skip
    assert trained == {"cohort", "cohort_extra"}


@pytest.mark.parametrize("name", TASKS)
def test_nothing_flows_from_a_learner_to_its_source(tiny_backbone, name):
    plan = make_plan(tiny_backbone, name)
    assert gradients(plan, "loss", name) == {"teacher"}
    for who in ("assistant", "student0", "student1"):
        for what in ("labels", "answers", "relations"):
            assert gradients(plan, f"{who}_{what}", name) == {who}


def test_terms_are_the_formulas(tiny_backbone):
    plan = spread(make_plan(tiny_backbone, temperature=3.0, alpha=0.3, relations=2.0, heads=8))
    run = run_of(plan)
    losses = {t.name: float(t.compute(run).detach()) for t in plan.terms}
    weights = {t.name: t.weight for t in plan.terms}
    said, states, valid = run.output["said"], run.output["states"], run.batch["attention_mask"] > 0
    for who, source in (
        ("assistant", "teacher"),
        ("student0", "assistant"),
        ("student1", "assistant"),
    ):
        wanted = soft_kl(said[who].logits, said[source].logits, 3.0).sum()
        assert losses[f"{who}_answers"] == pytest.approx(float(wanted.detach()), rel=1e-5)
        entropy = torch.nn.functional.cross_entropy(
            said[who].logits, run.batch["target"], reduction="sum"
        )
        assert losses[f"{who}_labels"] == pytest.approx(float(entropy.detach()), rel=1e-5)
        above = plan.model.core.cohort_extra[who]
        wanted = sum(
            relation_kl(above[part](states[who]["hidden"]), states[source][part], valid, 8).sum()
            for part in ("query", "key", "value")
        )
        assert losses[f"{who}_relations"] == pytest.approx(float(wanted.detach()), rel=1e-5)
        assert [weights[f"{who}_{t}"] for t in ("labels", "answers", "relations")] == [
            0.3,
            0.7,
            2.0,
        ]


def test_the_extra_layer_is_what_trains_the_last_one(tiny_backbone):
    """Without it, relations of the last layer leave its output without gradient."""
    for extra in (True, False):
        plan = make_plan(tiny_backbone, extra=extra)
        plan.model.zero_grad(set_to_none=True)
        term = next(t for t in plan.terms if t.name == "student0_relations")
        term.compute(run_of(plan)).backward()
        last = plan.model.core.cohort["student0"].bert.encoder.layer[-1].output.dense.weight
        assert (last.grad is not None and bool(last.grad.abs().max() > 0)) == extra
        assert hasattr(plan.model.core, "cohort_extra") == extra


def test_without_an_assistant_students_learn_from_the_teacher(tiny_backbone):
    plan = spread(make_plan(tiny_backbone, assistant=""))
    assert not [t for t in plan.terms if t.name.startswith("assistant")]
    run = run_of(plan)
    said = run.output["said"]
    term = next(t for t in plan.terms if t.name == "student0_answers")
    wanted = soft_kl(said["student0"].logits, said["teacher"].logits, 2.0).sum()
    assert float(term.compute(run).detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)


def test_a_frozen_teacher_stays_as_it_is(tiny_backbone):
    plan = make_plan(tiny_backbone, frozen=True)
    before = {k: v.clone() for k, v in plan.model.state_dict().items()}
    source = EncodedRows.of(plan.task.encode_batch(SAMPLES["text_classify"].rows))
    list(fit(plan, source, FitOptions(steps=3, lr=1e-2, batch_size=8), state=State(), device=CPU))
    for key, value in plan.model.state_dict().items():
        if "cohort" not in key:
            assert torch.equal(value, before[key]), key
        elif "student0" in key and "word_embeddings" in key:
            assert not torch.equal(value, before[key])


@pytest.mark.parametrize("name", TASKS)
def test_padding_changes_no_loss_and_accumulation_none(tiny_backbone, name):
    found = []
    for accumulate in (1, 3):
        plan = make_plan(tiny_backbone, name)
        source = EncodedRows.of(plan.task.encode_batch(SAMPLES[name].rows))
        options = FitOptions(steps=3, batch_size=8, lr=1e-3, warmup=0.0, accumulate=accumulate)
        events = list(fit(plan, source, options, state=State(), device=CPU))
        found.append(events[-1].losses)
    assert found[0] == pytest.approx(found[1], rel=2e-4, abs=1e-6)
    assert {"loss", "assistant_relations", "student1_answers"} <= found[0].keys()


def test_the_placebo_teaches_what_was_said_of_another_row(tiny_backbone):
    plain, placebo = (
        spread(make_plan(tiny_backbone, placebo=name)) for name in ("", "shuffled-source")
    )
    run = run_of(plain)
    said = run.output["said"]
    for each in said.values():  # weights at random say nearly the same of all rows
        each.logits = torch.randn(each.logits.shape)
    ours, theirs = (plain.task.log_probs(said[n], run.batch) for n in ("student0", "assistant"))
    wanted = soft_kl(ours, theirs.roll(len(theirs) // 2, 0), 2.0).sum()
    usual, other = (
        {term.name: term.compute(run) for term in plan.terms if "student0" in term.name}
        for plan in (plain, placebo)
    )
    torch.testing.assert_close(other["student0_answers"], wanted)
    assert usual["student0_answers"].item() != pytest.approx(wanted.item(), rel=0.01)
    assert other["student0_labels"] == usual["student0_labels"]


def test_answers_of_a_cohort_are_the_students_mean(tiny_backbone):
    plan = make_plan(tiny_backbone)
    plan.model.eval()
    batch = batch_of(plan)
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
    with torch.no_grad():
        found = plan.model(**inputs)
        alone = [plan.model.member(n)(**inputs).logits for n in ("student0", "student1")]
    wanted = torch.stack([each.log_softmax(-1) for each in alone]).mean(0)
    torch.testing.assert_close(found.logits, wanted)
    torch.testing.assert_close(found["said"]["teacher"].logits, plan.model.teacher(**inputs).logits)


@pytest.fixture(scope="module")
def config(tiny_folder, tmp_path_factory):
    home = tmp_path_factory.mktemp("online")
    data = home / "rows.jsonl"
    rows = [{"text": text, "label": label} for text, label in REVIEWS]
    data.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    return TrainConfig(
        task="text_classify", model=str(tiny_folder), train=str(data), dev=str(data), threads=1,
        output=str(home / "out"), steps=150, lr=5e-3, dropout=0.0, batch_size=8, eval_every=150,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("students", "error", "said"),
    [
        ((), ConfigError, "--students 2x128,4x256"),
        (("2x,1x64",), ModelError, r'--students: no model "2x".*as in --students 2x128'),
        (("1x16, 2x17",), ConfigError, "--students: 2x17: layers x width"),
    ],
)
def test_what_is_no_student_is_told_as_it_was_typed(config, tmp_path, students, error, said):
    with pytest.raises(error, match=said):
        train_cohort(replace(config, output=str(tmp_path / "x")), CohortOptions(students=students))
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_each_member_becomes_a_run_of_its_own(config, tmp_path):
    learn = CohortOptions(students=("1x16", "2x24"), assistant="2x32")
    runs = train_cohort(config, learn, ClassifyConfig(max_length=32))
    texts = [text for text, _ in REVIEWS]
    wanted = [label for _, label in REVIEWS]
    assert set(runs) == {"teacher", "assistant", "student0", "student1"}
    sizes = {}
    for name, pipeline in runs.items():
        assert [each["label"] for each in pipeline.predict(texts)] == wanted, name
        assert pipeline.meta["task"] == "text_classify"
        sizes[name] = sum(p.numel() for p in pipeline.model.model.parameters())
    assert sizes["student0"] < sizes["student1"] < sizes["teacher"]
    home = Path(config.output)
    whole = load_file(home / "cohort" / "model.safetensors")
    for name in ("student0", "student1", "assistant"):
        weights = load_file(home / name / "model.safetensors")
        assert not [key for key in weights if "cohort" in key]
        for key, value in weights.items():
            assert torch.equal(value, whole[f"cohort.{name}.{key}"])
    found = export(home / "student0", int8=True)
    assert found.passed
    assert [
        e["label"] for e in Pipeline.load(home / "student0", backend="int8").predict(texts)
    ] == wanted
    scores = json.loads((home / "online.json").read_text("utf-8"))["scores"]
    assert {name: found["dev"]["accuracy"] for name, found in scores.items()} == dict.fromkeys(
        ("teacher", "assistant", "student0", "student1"), 1.0
    )
    with pytest.raises(ConfigError, match="exists and is not empty"):
        train_cohort(config, learn, ClassifyConfig(max_length=32))
    resumed = replace(config, resume=True)
    with pytest.raises(ConfigError, match="assistant"):
        train_cohort(resumed, replace(learn, assistant=""), ClassifyConfig(max_length=32))
    again = train_cohort(resumed, learn, ClassifyConfig(max_length=32))
    assert again["student1"].predict(texts) == runs["student1"].predict(texts)


def test_resuming_changes_nothing(config, tmp_path, stopped):
    found = []
    for name in ("one", "two"):
        own = replace(config, output=str(tmp_path / name), steps=6, eval_every=2)

        def go(own=own):
            going_on = replace(own, resume=(Path(own.output) / "online.yaml").is_file())
            return train_cohort(
                going_on, CohortOptions(students=("1x16",)), ClassifyConfig(max_length=32)
            )

        if name == "two":
            stopped(go)
        go()
        found.append((tmp_path / name / "student0" / "model.safetensors").read_bytes())
    assert found[0] == found[1]


def test_what_does_not_fit_is_refused(tiny_backbone):
    for options, why in (
        ({"students": ""}, "needs students"),
        ({"students": "2x17"}, "multiple of 8"),
        ({"students": "tiny-zh"}, "another tokenizer"),
        ({"students": "text_cnn"}, "another tokenizer"),
        ({"heads": 5}, "divide all widths"),
        ({"alpha": 2.0}, "0 to 1"),
        ({"placebo": "shuffled"}, "no placebo"),
    ):
        with pytest.raises(ConfigError, match=why):
            make_plan(tiny_backbone, **options)
    task = find_task("text_classify").prepare(
        ClassifyConfig(max_length=32), tiny_backbone.tokenizer, SAMPLES["text_classify"].rows
    )
    plan = Plan(task, task.build(tiny_backbone), (task_term(task),), tiny_backbone)
    plan = apply_methods(plan, ["r_drop", "fgm"])
    with pytest.raises(ConfigError, match="comes first"):
        online_distill(plan, students="1x16")
    assert find_member("3x64", tiny_backbone).config.num_attention_heads == 1
