"""MetaKD: its weights by hand, what a step depends on, and the faults of the original's code."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from easynlp.benchmarks.distill_settings import MetaKdOptions
from easynlp.benchmarks.metakd import bench_metakd, metakd_table, read_domains
from easynlp.config import TrainConfig
from easynlp.data.sampling import EncodedRows
from easynlp.distillation.domains import DomainRows, expertise_weights, prototype_scores
from easynlp.distillation.meta_kd import meta_distill, meta_teacher
from easynlp.distillation.teachers import ModelTeacher
from easynlp.errors import ConfigError, DataError, ModelError
from easynlp.models.backbone import Backbone
from easynlp.pipeline import Pipeline
from easynlp.run import train
from easynlp.tasks.text_classify import ClassifyConfig, TextClassify
from easynlp.training.loop import FitOptions, State, fit, make_forward, to_tensors
from easynlp.training.plan import Pass, Plan, task_term
from tests.conftest import REVIEWS
from tests.contract.samples import plain

CPU = torch.device("cpu")
ROWS = [{"text": text, "label": label} for text, label in REVIEWS]
DOMAINS = (0, 0, 0, 0, 1, 1, 1, 1)
SCORES = (0.9, 0.2, 0.5, 0.7, 0.3, 0.8, 0.1, 0.6)


@pytest.fixture
def notes(tmp_path):
    path = tmp_path / "rows.json"
    DomainRows(("酒店", "书籍"), DOMAINS, SCORES).save(path)
    return str(path)


def make_plan(backbone, dropout=0.0):
    backbone = plain(backbone, dropout)
    task = TextClassify.prepare(ClassifyConfig(max_length=32), backbone.tokenizer, ROWS)
    torch.manual_seed(0)
    return Plan(task, task.build(backbone), (task_term(task),), backbone)


def encoded(plan):
    return EncodedRows.of(plan.task.encode_batch(ROWS))


def step(plan, rows=range(8), epoch=0, seed=3):
    """Return the batch of some rows, and every term's sum on it."""
    source = plan.source(encoded(plan), seed)
    batch = to_tensors(plan.task.collate([source.features(i, epoch) for i in rows]), CPU)
    plan.model.eval()
    forward = make_forward(plan.model, "fp32", CPU)
    with torch.no_grad():
        run = Pass(forward, plan.model, batch, forward(batch))
        return batch, {term.name: float(term.compute(run)) for term in plan.terms}


@pytest.fixture(scope="module")
def teacher(tiny_folder, tmp_path_factory):
    """A meta-teacher of the eight rows."""
    home = tmp_path_factory.mktemp("meta")
    data = home / "train.jsonl"
    data.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in ROWS), "utf-8")
    DomainRows(("酒店", "书籍"), DOMAINS, SCORES).save(home / "rows.json")
    method = f"easynlp.distillation.meta_kd:meta_teacher:rows={home / 'rows.json'}"
    train(
        TrainConfig(
            task="text_classify", model=str(tiny_folder), train=str(data), output=str(home / "run"),
            steps=60, lr=3e-3, threads=1, method=(method,), dropout=0.0,
        ),
        ClassifyConfig(max_length=32),
    )  # fmt: skip
    return str(home / "run")


def test_prototype_scores_by_hand():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(24, 5))
    labels = [("a", "b", "c")[i % 3] for i in range(24)]
    labels[23] = "only here"
    domains = [i % 4 for i in range(24)]

    def cos(u, v):
        return u @ v / np.linalg.norm(u) / np.linalg.norm(v)

    def centre(label, domain):
        of = [
            v for v, y, d in zip(vectors, labels, domains, strict=True) if (y, d) == (label, domain)
        ]
        return np.mean(of, 0) if of else None

    for own in (0.5, 0.8):
        found = prototype_scores(vectors, labels, domains, own)
        for i in range(24):
            home = cos(vectors[i], centre(labels[i], domains[i]))
            away = [cos(vectors[i], c) for d in range(4)
                    if d != domains[i] and (c := centre(labels[i], d)) is not None]  # fmt: skip
            wanted = own * home + (1 - own) * np.mean(away) if away else home
            assert found[i] == pytest.approx(wanted)


def test_expertise_weights_by_hand():
    scores, sure = np.array([0.9, 0.1, 0.5]), np.array([0.99, 0.6, 0.05])
    raw = [(1 + t) / (math.exp((1 - p) ** 2) + 1) for t, p in zip(scores, sure, strict=True)]
    np.testing.assert_allclose(expertise_weights(scores, sure), raw / np.mean(raw))
    assert (np.diff(expertise_weights(np.full(9, 0.3), np.linspace(0, 1, 9))) > 0).all()


def test_a_row_is_weighed_before_rows_are_added(tiny_backbone, notes):
    """In the original a weight multiplied a mean over the batch, and so every row of it."""
    plan = meta_teacher(make_plan(tiny_backbone), rows=notes)
    batch, sums = step(plan)
    weights = np.array(SCORES) / np.mean(SCORES)
    np.testing.assert_allclose(batch["weight"], weights, rtol=1e-6)
    logits = plan.model(batch["input_ids"], batch["attention_mask"]).logits
    each = torch.nn.functional.cross_entropy(logits, batch["target"], reduction="none")
    assert sums["loss"] == pytest.approx(
        float((each.detach() * torch.tensor(weights)).sum()), rel=1e-5
    )
    assert sums["loss"] != pytest.approx(float(each.detach().sum()), rel=1e-5)
    alone = [step(plan, [i])[1] for i in range(8)]
    for name in ("loss", "domain"):
        assert sum(each[name] for each in alone) == pytest.approx(sums[name], rel=1e-5)


def test_false_domains_are_dealt_anew_each_epoch_and_by_the_seed_alone(tiny_backbone, notes):
    plan = meta_teacher(make_plan(tiny_backbone), rows=notes)
    draws = []
    for epoch in range(6):
        batch, _ = step(plan, epoch=epoch)
        assert batch["domain"].tolist() == list(DOMAINS)
        assert sorted(batch["false_domain"].tolist()) == sorted(DOMAINS)
        parts = [step(plan, [i], epoch)[0]["false_domain"].item() for i in range(8)]
        assert parts == batch["false_domain"].tolist()
        draws.append(tuple(parts))
    assert len(set(draws)) > 2


def test_padding_and_the_first_token_are_no_part_of_a_view(tiny_backbone, notes):
    """The original took means over padding as well."""
    plan = meta_teacher(make_plan(tiny_backbone), rows=notes)
    states: list[torch.Tensor] = []
    plan.model.register_forward_hook(lambda m, a, out: states.append(out["token_states"]))
    batch, _ = step(plan)
    long = {k: v for k, v in batch.items() if k in ("input_ids", "attention_mask")}
    wider = {k: torch.nn.functional.pad(v, (0, 7)) for k, v in long.items()}
    from easynlp.distillation.meta_kd import _means

    with torch.no_grad():
        plan.model(**wider)
        one, other = _means(states[0], long), _means(states[1], wider)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    row = int(long["attention_mask"].sum(1).argmin())
    size = int(long["attention_mask"][row].sum())
    torch.testing.assert_close(one[row], states[0][row, 1:size].mean(0))


@pytest.mark.parametrize("stage", ["teacher", "student"])
def test_accumulation_changes_nothing(tiny_backbone, notes, teacher, stage):
    found = []
    for accumulate in (1, 3):
        plan = make_plan(tiny_backbone)
        plan = (
            meta_teacher(plan, rows=notes) if stage == "teacher"
            else meta_distill(plan, teacher=teacher, rows=notes, alpha=0.2)
        )  # fmt: skip
        options = FitOptions(steps=4, batch_size=8, lr=1e-3, warmup=0.0, accumulate=accumulate)
        events = list(fit(plan, encoded(plan), options, state=State(), device=CPU))
        found.append((plan.model.state_dict(), events))
    assert found[0][1][-1].losses == pytest.approx(found[1][1][-1].losses, rel=1e-4)
    for name, weights in found[0][0].items():
        torch.testing.assert_close(found[1][0][name], weights, rtol=0, atol=1e-5)


def test_a_student_is_taught_by_weighed_answers_and_views(tiny_backbone, notes, teacher):
    plan = meta_distill(make_plan(tiny_backbone), teacher=teacher, rows=notes, temperature=3.0)
    batch, sums = step(plan)
    answers = [each["scores"] for each in Pipeline.load(teacher, backend="torch").predict(ROWS)]
    sure = np.array([said[row["label"]] for said, row in zip(answers, ROWS, strict=True)])
    wanted = expertise_weights(np.array(SCORES), sure)
    np.testing.assert_allclose(batch["weight"], wanted, rtol=1e-4)
    p = torch.tensor([[said[name] for name in plan.task.labels] for said in answers]).double()
    p = (p.clamp(min=1e-9).log() / 3).softmax(-1)
    logits = plan.model(batch["input_ids"], batch["attention_mask"]).logits.detach().double()
    q = (logits / 3).log_softmax(-1)
    each = 9 * (p * (p.log() - q)).sum(-1)
    assert sums["distill"] == pytest.approx(float((each * torch.tensor(wanted)).sum()), rel=1e-3)
    assert batch["view"].shape == (8, 32)
    assert batch["view"].abs().max() <= 1
    assert sums["transfer"] > 0
    weights = {term.name: term.weight for term in plan.terms}
    assert weights == {"loss": 0.0, "distill": 1.0, "transfer": 0.5}


def test_a_row_the_teacher_does_not_answer_teaches_nothing(
    tiny_backbone, notes, teacher, monkeypatch
):
    whole, silent = ModelTeacher.answers, (1, 4)

    def answers(self, examples):
        found = whole(self, examples)
        return [np.full_like(a, np.nan) if i in silent else a for i, a in enumerate(found)]

    monkeypatch.setattr(ModelTeacher, "answers", answers)
    plan = meta_distill(make_plan(tiny_backbone), teacher=teacher, rows=notes, transfer=0.0)
    batch, sums = step(plan)
    assert float(batch["weight"].mean()) == pytest.approx(1.0, rel=1e-5)
    alone = [step(plan, [i])[1]["distill"] for i in range(8)]
    assert [i for i, loss in enumerate(alone) if loss == 0] == [*silent]
    assert sum(alone) == pytest.approx(sums["distill"], rel=1e-5)


def test_views_differ_by_domain_and_text(tiny_backbone, notes, teacher, tmp_path):
    one = step(meta_distill(make_plan(tiny_backbone), teacher=teacher, rows=notes))[0]["view"]
    moved = DomainRows(("酒店", "书籍"), tuple(1 - d for d in DOMAINS), SCORES)
    moved.save(tmp_path / "moved.json")
    other = make_plan(tiny_backbone)
    other = meta_distill(other, teacher=teacher, rows=str(tmp_path / "moved.json"))
    assert not torch.allclose(one, step(other)[0]["view"])
    assert one.std(0).max() > 1e-3


def test_the_placebo_deals_the_same_weights_out_by_chance(tiny_backbone, notes, teacher):
    for method, options in (
        (meta_teacher, {}), (meta_distill, {"teacher": teacher}),
    ):  # fmt: skip
        given = {
            how: step(method(make_plan(tiny_backbone), rows=notes, weighting=how, **options))[0]
            for how in ("typical", "uniform", "shuffled")
        }
        real, dealt = given["typical"]["weight"], given["shuffled"]["weight"]
        assert not torch.equal(real, dealt)
        torch.testing.assert_close(real.sort().values, dealt.sort().values)
        assert given["uniform"]["weight"].tolist() == [1.0] * 8
        assert float(real.mean()) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("student", ["bert", "text_cnn:width=16,filters=8", "hashed_ngram:width=8"])
def test_students_of_any_kind_learn_and_are_saved_as_plain_runs(
    tiny_folder, teacher, notes, tmp_path, student, reviews_file
):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in ROWS), "utf-8")
    model = str(tiny_folder) if student == "bert" else student
    if student.startswith("text"):
        model += f",tokenizer={tiny_folder}"
    method = f"easynlp.distillation.meta_kd:meta_distill:teacher={teacher},rows={notes},alpha=0.1"
    pipeline = train(
        TrainConfig(
            task="text_classify", model=model, train=str(data), dev=str(data), threads=1,
            output=str(tmp_path / "run"), steps=40, lr=0.01, method=(method,),
        ),
        ClassifyConfig(max_length=32),
    )  # fmt: skip
    assert pipeline.meta["task"] == "text_classify"
    assert pipeline.meta["scores"]["dev"]["accuracy"] == 1.0
    from safetensors.torch import load_file

    assert not [k for k in load_file(tmp_path / "run" / "model.safetensors") if "view" in k]


def test_what_does_not_fit_is_refused(tiny_backbone, notes, teacher, tmp_path):
    plan = make_plan(tiny_backbone)
    with pytest.raises(ConfigError, match="shuffled"):
        meta_teacher(plan, rows=notes, weighting="random")
    with pytest.raises(ConfigError, match="which domain"):
        meta_teacher(plan, rows=str(tmp_path / "none.json"))
    with pytest.raises(ConfigError, match="comes first"):
        meta_teacher(meta_teacher(plan, rows=notes), rows=notes)
    several = TextClassify(replace(plan.task.config, multi_label=True), plan.task.tokenizer)
    with pytest.raises(ConfigError, match="one label a row"):
        meta_teacher(replace(plan, task=several), rows=notes)
    with pytest.raises(ModelError, match="transfer=0"):
        meta_distill(plan, teacher=str(Backbone.load("tiny-zh").folder), rows=notes)
    DomainRows(("a",), (0,), (0.5,)).save(tmp_path / "few.json")
    few = meta_teacher(make_plan(tiny_backbone), rows=str(tmp_path / "few.json"))
    with pytest.raises(ConfigError, match="domains of 1 rows were given, and there are 8"):
        few.source(encoded(few), 0)


@pytest.fixture
def shopping(tmp_path):
    """Three kinds of goods in the released form; the smallest has too few rows."""
    folder = tmp_path / "data" / "online_shopping_10_cats"
    folder.mkdir(parents=True)
    sizes = {"酒店": 24, "书籍": 20, "热水器": 3}
    for name in ("train", "test"):
        rows = [
            {"text": f"{text}{goods}{name}{i}", "label": str(int(label == "好评")), "domain": goods}
            for goods, size in sizes.items()
            for i in range(size)
            for text, label in [REVIEWS[i % 8]]
        ]
        rows.append({**rows[0], "text": "两边都有"})
        text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
        (folder / f"{name}.jsonl").write_text(text, "utf-8")
    return str(tmp_path / "data")


def test_domains_are_drawn_apart_from_the_test_rows(shopping):
    options = MetaKdOptions(data_root=shopping, rows=12, dev_rows=8, test_rows=9)
    domains, left_out = read_domains(options, 42)
    assert [each.name for each in domains] == ["酒店", "书籍"]
    assert left_out == {"热水器": "3 training rows; 20 are wanted"}
    for each in domains:
        assert (len(each.train), len(each.dev), len(each.test)) == (12, 8, 9)
        assert all(each.name in row["text"] for row in each.train)
        parts = [{row["text"] for row in part} for part in (each.train, each.dev, each.test)]
        assert sum(map(len, parts)) == len(set().union(*parts))
        assert "两边都有" not in parts[0] | parts[1]
    assert read_domains(options, 42)[0] == domains
    assert read_domains(options, 43)[0] != domains
    with pytest.raises(DataError, match="two are wanted"):
        read_domains(replace(options, rows=22), 42)
    with pytest.raises(DataError, match="--data-root"):
        read_domains(replace(options, data="ocnli"), 42)


@pytest.mark.slow
def test_the_benchmark_runs_goes_on_and_refuses_other_options(
    shopping, tiny_folder, tmp_path, monkeypatch
):
    options = MetaKdOptions(
        data_root=shopping, rows=12, dev_rows=8, test_rows=8, teacher=str(tiny_folder),
        student="hashed_ngram:buckets=97,width=8", teacher_epochs=1, epochs=1, lr=0.01,
        output=str(tmp_path / "out"), threads=1, max_length=32,
    )  # fmt: skip
    report = bench_metakd(options)
    for found in report["accuracy"].values():
        assert found.keys() == {"酒店", "书籍"}
        assert all(0 <= value <= 1 for value in found.values())
    assert set(report["gains"]) == set(report["accuracy"]) - {"metakd"}
    assert metakd_table(report).row_count == len(report["accuracy"])
    assert json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))["means"]

    import easynlp.fewshot.phases as phases

    def never(*_):
        raise AssertionError("trained again")

    with monkeypatch.context() as patch:
        patch.setattr(phases.run, "train", never)
        assert bench_metakd(options)["accuracy"] == report["accuracy"]
    with pytest.raises(ConfigError, match="--lr"):
        bench_metakd(replace(options, lr=0.02))
    drawn = tmp_path / "out" / str(options.seeds[0]) / "all.dev.jsonl"
    drawn.write_text(drawn.read_text("utf-8").replace("0", "1"), "utf-8")
    with pytest.raises(ConfigError, match=r"all\.dev\.jsonl holds other rows"):
        bench_metakd(options)
