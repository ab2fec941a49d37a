"""``easynlp distill`` from files to a run folder."""

import json
from dataclasses import replace

import numpy as np
import pytest

from easynlp.cli.main import main
from easynlp.distillation.answers import Wanted
from easynlp.distillation.endpoint import write_endpoint
from easynlp.distillation.run import _Work, distill
from easynlp.distillation.settings import DistillConfig, DistillOptions, EndpointOptions
from easynlp.errors import ConfigError, DataError, ModelError
from easynlp.pipeline import Pipeline
from tests.conftest import REVIEWS
from tests.contract.samples import SAMPLES
from tests.unit.distillation.fake_endpoint import Server
from tests.unit.distillation.teaching import classifier, tagger, write

ROWS = [{"text": text, "label": label} for text, label in REVIEWS]


@pytest.fixture
def files(tmp_path, tiny_folder, tiny_backbone):
    """Options of a small distillation."""
    pool = [{"text": f"{text[:6]}{i}"} for i in range(3) for text, _ in REVIEWS]
    pool += [{"text": ROWS[0]["text"]}, pool[0]]  # in train, and twice
    config = DistillConfig(
        train=write(tmp_path / "train.jsonl", ROWS), dev=write(tmp_path / "dev.jsonl", ROWS[:4]),
        test=write(tmp_path / "test.jsonl", ROWS[4:]), output=str(tmp_path / "out"),
        student=str(tiny_folder), epochs=2, batch_size=8, lr=1e-3, device="cpu",
    )  # fmt: skip
    options = DistillOptions(
        teacher=(classifier(tmp_path / "teacher", tiny_backbone),),
        unlabeled=write(tmp_path / "pool.jsonl", pool), augment_model=str(tiny_folder),
    )  # fmt: skip
    return config, options


def report_of(config):
    with open(f"{config.output}/distill.json", encoding="utf-8") as file:
        return json.load(file)


def test_both_texts_of_a_pair_are_changed_in_turn():
    rows = [{"text": f"{i}今天天气很好我们去公园", "text_b": f"{i}明天下雨在家看书", "label": "1"}
            for i in range(6)]  # fmt: skip
    for copies, wanted in ((2, 6), (1, 3)):
        options = DistillOptions(teacher=("x",), augment=copies, augment_model="")
        work = _Work(DistillConfig(train="", output=""), options, EndpointOptions(), None)
        work.rows, work.wanted = {"train": rows}, Wanted("label", ("0", "1"), pair=True)
        found = work._copies()
        for name in ("text", "text_b"):
            assert len([each for each in found
                        if each[name] not in {row[name] for row in rows}]) == wanted  # fmt: skip


def test_the_result_is_a_run_like_any_other(files, tmp_path):
    config, options = files
    options = replace(options, augment=2, hidden=0.5, relation=0.5)
    pipeline = distill(config, options)
    report = report_of(config)
    assert report["labelled"] == 8
    assert report["unlabelled"] == 24
    assert 0 < report["augmented"] <= 16
    assert set(report["teachers"][options.teacher[0]]) == {"dev", "test"}
    assert set(report["student"]) == {"dev", "test"}
    again = Pipeline.load(config.output)
    assert again.predict(["很好"])[0].keys() == {"label", "score", "scores"}
    assert pipeline.meta["base_model"] == config.student
    assert pipeline.meta["task"] == "text_classify"
    rows = (tmp_path / "out" / "texts" / "unlabelled.jsonl").read_text("utf-8").splitlines()
    assert len(rows) == len(set(rows)) == 24 + report["augmented"]
    assert not {json.loads(row)["text"] for row in rows} & {row["text"] for row in ROWS}
    steps = (tmp_path / "out" / "student" / "metrics.jsonl").read_text("utf-8").splitlines()
    wanted = 2 * -(-(32 + report["augmented"]) // 8)
    assert json.loads(steps[-1])["step"] == wanted
    assert {"loss", "distill", "hidden", "relation"} == set(json.loads(steps[-1])["losses"])


def test_it_goes_on_where_it_was_stopped_to_the_same_weights(files, tmp_path, stopped):
    config, options = files
    options = replace(options, augment=1)
    distill(config, options)
    other = replace(config, output=str(tmp_path / "again"), save_every=2)
    stopped(lambda: distill(other, options))
    assert not (tmp_path / "again" / "easynlp.json").exists()
    distill(replace(other, resume=True), options)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "again")]
    assert weights[0] == weights[1]
    with pytest.raises(ConfigError, match=r"--alpha: was 0\.2, now 0\.5"):
        distill(replace(other, resume=True), replace(options, alpha=0.5))
    write(tmp_path / "pool.jsonl", ROWS)
    with pytest.raises(ConfigError, match=r"pool\.jsonl has changed since"):
        distill(replace(other, resume=True), options)


def test_with_another_teacher_it_does_not_go_on(files, tmp_path, tiny_backbone):
    """The student would have learned from both, and the report named one."""
    config, options = files
    distill(config, options)
    classifier(tmp_path / "teacher", tiny_backbone, max_length=16)
    with pytest.raises(ConfigError, match="teacher has changed since"):
        distill(replace(config, resume=True), options)


def test_controls_take_as_many_steps(files, tmp_path):
    config, options = files
    losses = {}
    for name, changes in {
        "plain": {"alpha": 1.0}, "taught": {}, "placebo": {"placebo": "shuffled-teacher"},
    }.items():  # fmt: skip
        made = replace(config, output=str(tmp_path / name))
        distill(made, replace(options, cache=str(tmp_path / "answers"), **changes))
        lines = (tmp_path / name / "student" / "metrics.jsonl").read_text("utf-8").splitlines()
        losses[name] = json.loads(lines[-1])
    assert len({each["step"] for each in losses.values()}) == 1
    assert set(losses["plain"]["losses"]) == {"loss"}
    assert losses["taught"]["losses"]["distill"] != losses["placebo"]["losses"]["distill"]
    kept = list((tmp_path / "answers").glob("*.starts.npy"))
    assert len(kept) == 3  # all three runs share those on dev, test and the texts to learn from


def test_a_tagger_learns_from_a_tagger(files, tmp_path, tiny_backbone):
    config, options = files
    rows = SAMPLES["sequence_labeling"].rows
    labels = SAMPLES["sequence_labeling"].make(tiny_backbone).config.labels
    config = replace(
        config, task="sequence_labeling", train=write(tmp_path / "tags.jsonl", rows),
        dev=write(tmp_path / "tags_dev.jsonl", rows), test=None,
    )  # fmt: skip
    run = tagger(tmp_path / "tagger", tiny_backbone, labels)
    pipeline = distill(config, replace(options, teacher=(run,), augment=1))
    assert "entities" in pipeline.predict(["张三在北京"])[0]
    assert report_of(config)["student"]["dev"].keys() >= {"f1"}
    assert report_of(config)["teachers"][run]["dev"].keys() >= {"f1"}


def test_an_ensemble_and_a_student_of_its_layers(files, tmp_path, tiny_backbone):
    config, options = files
    other = classifier(tmp_path / "other", tiny_backbone, ("差评", "好评"))
    options = replace(
        options, teacher=(*options.teacher, other), vote="calibrated", student_layers="1"
    )
    pipeline = distill(config, options)
    model = pipeline.model.model
    assert len(model.base_model.encoder.layer) == 1
    assert set(report_of(config)["teachers"]) == set(options.teacher)
    start = Pipeline.load(options.teacher[0], backend="torch").model.model
    from easynlp.models.backbone import Backbone

    kept = Backbone.load(f"{config.output}/start").with_head("AutoModel")
    ours = kept.encoder.layer[0].attention.self.query.weight
    assert np.array_equal(
        ours.detach().numpy(),
        start.base_model.encoder.layer[1].attention.self.query.weight.detach().numpy(),
    )


def test_a_start_that_was_cut_off_is_made_again(files, tmp_path, monkeypatch):
    """The library writes the configuration first, and that alone is no model."""
    from transformers import PreTrainedModel

    config, options = files
    options = replace(options, student_layers="1")
    whole = PreTrainedModel.save_pretrained

    def killed(self, folder, **more):
        self.config.save_pretrained(folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", killed)
    with pytest.raises(KeyboardInterrupt):
        distill(config, options)
    monkeypatch.setattr(PreTrainedModel, "save_pretrained", whole)
    assert "dev" in distill(replace(config, resume=True), options).meta["scores"]


def test_an_endpoint_teaches(files, tmp_path, monkeypatch):
    config, options = files
    monkeypatch.setenv("MY_KEY", "sk-very-secret-1234")
    server = Server()
    endpoint = EndpointOptions(
        endpoint=server.url, endpoint_model="m", endpoint_key="MY_KEY", shots=2
    )
    distill(config, replace(options, teacher=()), endpoint)
    assert sum(server.seen.values()) == 32
    everything = b"".join(p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert b"sk-very-secret" not in everything
    server.http.shutdown()
    server.http.server_close()
    # All replies are kept: the student is trained anew without a request.
    (tmp_path / "out" / "easynlp.json").unlink()
    (tmp_path / "out" / "student" / "easynlp.json").unlink()
    patient = replace(endpoint, retries=0, timeout=9.0)
    distill(replace(config, resume=True), replace(options, teacher=()), patient)
    assert sum(server.seen.values()) == 32


def test_an_endpoint_is_not_asked_about_the_rows_of_dev_and_test(files, tmp_path):
    config, options = files
    server = Server()
    endpoint = EndpointOptions(endpoint=server.url, endpoint_model="m")
    write_endpoint(tmp_path / "llm.json", endpoint, [])
    dev = write(tmp_path / "dev.jsonl", [{**row, "text": f"新{row['text']}"} for row in ROWS])
    distill(replace(config, dev=dev), replace(options, teacher=(f"llm:{tmp_path / 'llm.json'}",)))
    server.http.shutdown()
    server.http.server_close()
    assert sum(server.seen.values()) == 32
    assert not report_of(config)["teachers"]


def test_the_length_a_teacher_reads_is_that_of_its_layers_too():
    options = DistillOptions(teacher=("t",), relation=1.0, teacher_length=64)
    work = _Work(DistillConfig(train="", output=""), options, EndpointOptions(), None)
    answers, layers = work._methods({})
    assert "teacher_length=64" in answers
    assert "max_length=64" in layers


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"teacher": ()}, "type --teacher DIR, or --endpoint URL"),
        ({"student_layers": "0,9"}, "--student-layers 0,9: rising numbers of 0 to 1"),
        ({"placebo": "shuffled-teacher", "hidden": 1.0}, "leave --hidden"),
        ({"teacher_labels": "x=好评"}, 'has no label "x"'),
        ({"teacher": ("text_cnn",), "attention": 1.0}, "--attention: the teacher text_cnn has no"),
        ({"light": True, "hidden": 1.0, "relation": 1.0}, "--hidden, --relation: the student hash"),
    ],
)
def test_what_cannot_be_is_told_before_a_folder_is_made(files, tmp_path, changes, said):
    config, options = files
    light = {"student": "hashed_ngram:buckets=61"} if changes.pop("light", False) else {}
    with pytest.raises(ConfigError, match=said):
        distill(replace(config, **light), replace(options, **changes))
    with pytest.raises(ModelError, match='--teacher: no model "nowhere"'):
        distill(config, replace(options, teacher=("nowhere",)))
    with pytest.raises(ConfigError, match='no option "alpa"'):
        distill(replace(config, method=("r_drop:alpa=1",)), options)
    with pytest.raises(ModelError, match='no model "nowhere"'):
        distill(config, replace(options, augment=1, augment_model="nowhere"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("written", ["flag", "repeated", "recipe", "environment"])
def test_teachers_stand_between_commas(written, capsys, tmp_path, monkeypatch):
    given = ["distill", "--train", "t.jsonl", "--output", str(tmp_path / "x"), "--print-config"]
    if written == "flag":
        given += ["--teacher", "a, b,c"]
    elif written == "repeated":
        given += ["--teacher", "a", "--teacher", "b,c"]
    elif written == "recipe":
        (tmp_path / "recipe.yaml").write_text("teacher: a,b,c\n", "utf-8")
        given += ["--config", str(tmp_path / "recipe.yaml")]
    else:
        monkeypatch.setenv("EASYNLP_TEACHER", "a,b;c")
    assert main(given) == 0
    assert "teacher:\n- a\n- b\n- c\n" in capsys.readouterr().out


def test_both_of_two_teachers_between_commas_teach(files, tmp_path, tiny_backbone):
    config, options = files
    other = classifier(tmp_path / "other", tiny_backbone, ("差评", "好评"))
    both = DistillOptions(teacher=(f"{options.teacher[0]},{other}",))
    distill(replace(config, steps=1), both)
    assert set(report_of(config)["teachers"]) == {options.teacher[0], other}


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_label_the_training_data_lacks_is_told_at_its_line(files, tmp_path, split):
    config, options = files
    odd = write(tmp_path / "odd.jsonl", [*ROWS[:2], {"text": "还行", "label": "中评"}])
    with pytest.raises(DataError, match=r'odd\.jsonl:3: unknown label "中评".* has: 好评, 差评'):
        distill(replace(config, **{split: odd}), options)
    assert not (tmp_path / "out").exists()


def test_wrong_input_leaves_no_folder_in_the_way_but_never_what_took_work(files, tmp_path):
    config, options = files
    weights = tmp_path / "teacher" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    with pytest.raises(ModelError):
        distill(config, options)
    assert not (tmp_path / "out").exists()
    weights.write_bytes(whole)
    late = f"distill_layers:teacher={options.teacher[0]},hidden=-1"
    with pytest.raises(ConfigError, match="valid: 0 or more"):  # found after the teacher was asked
        distill(replace(config, method=(late,)), options)
    assert any((tmp_path / "out" / "answers").rglob("*.npy"))


def test_the_command(files, capsys):
    config, options = files
    arguments = [
        "distill", "--teacher", options.teacher[0], "--student", config.student, "--train",
        config.train, "--dev", config.dev, "--unlabeled", options.unlabeled, "--output",
        config.output, "--steps", "3", "--device", "cpu",
    ]  # fmt: skip
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert f"dev  accuracy {report_of(config)['student']['dev']['accuracy']:.4f}" in said
    assert options.teacher[0] in said
    assert main(arguments) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(["distill", "--train", config.train, "--output", "x"]) == 2


def test_the_command_takes_the_task_from_its_teacher(files, tmp_path, tiny_backbone):
    from easynlp.cli.distill import distill as command

    run = tagger(tmp_path / "tagger", tiny_backbone)
    names = [cls.__name__ for cls in command(["--teacher", run]).classes]
    assert "LabelingConfig" in names
    names = [cls.__name__ for cls in command(["--teacher", files[1].teacher[0]]).classes]
    assert "ClassifyConfig" in names
    assert "LabelingConfig" in [
        cls.__name__ for cls in command(["--task", "sequence_labeling"]).classes
    ]
