"""Teachers answer in the student's terms, whatever they are called or cut texts into."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from easynlp.distillation.answers import Wanted, at_tokens, fold_tags, on_characters
from easynlp.distillation.cache import Ensemble, Shuffled, ask, calibrated
from easynlp.distillation.teachers import ModelTeacher, find_teacher, read_names
from easynlp.errors import ConfigError, DataError, ModelError
from easynlp.pipeline import Pipeline
from easynlp.tasks import find_task
from tests.conftest import REVIEWS
from tests.contract.samples import SAMPLES
from tests.unit.distillation.teaching import classifier, hub_folder, save_run, tagger

ROWS = [{"text": text, "label": label} for text, label in REVIEWS]
TEXTS = [row["text"] for row in ROWS]


def test_a_run_answers_as_it_predicts_in_the_students_order(tmp_path, tiny_backbone):
    run = classifier(tmp_path / "run", tiny_backbone)
    answers = ModelTeacher(run, Wanted("label", ("差评", "好评"))).answers(ROWS)
    said = Pipeline.load(run, backend="torch").predict(TEXTS)
    for answer, prediction in zip(answers, said, strict=True):
        scores = [prediction["scores"]["差评"], prediction["scores"]["好评"]]
        assert np.exp(answer[0]) == pytest.approx(scores, abs=1e-5)


def test_a_run_with_several_labels_answers_each_of_them(tmp_path, tiny_backbone):
    run = classifier(tmp_path / "run", tiny_backbone, multi_label=True)
    answers = ModelTeacher(run, Wanted("labels", ("差评", "好评"))).answers(ROWS)
    said = Pipeline.load(run, backend="torch").predict(TEXTS)
    for answer, prediction in zip(answers, said, strict=True):
        yes = [prediction["scores"][name] for name in ("差评", "好评")]
        assert np.exp(answer[:, 1]) == pytest.approx(yes, abs=1e-5)
        assert np.exp(answer).sum(-1) == pytest.approx([1.0, 1.0])


def test_a_hub_classifier_answers_as_stock_transformers(tmp_path, tiny_backbone):
    names = ["LABEL_0", "LABEL_1"]
    folder = hub_folder(
        tmp_path / "hub", tiny_backbone, "AutoModelForSequenceClassification", names
    )
    wanted = Wanted("label", ("好评", "差评"))
    with pytest.raises(ConfigError, match="teacher: LABEL_0, LABEL_1") as error:
        ModelTeacher(folder, wanted)
    assert "student: 好评, 差评" in str(error.value)
    assert "--teacher-labels" in str(error.value)
    renamed = read_names("LABEL_0=差评;LABEL_1=好评")
    answers = ModelTeacher(folder, wanted, names=renamed).answers(ROWS)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    for text, answer in zip(TEXTS, answers, strict=True):
        ids = tiny_backbone.tokenizer.encode(text, max_length=64).ids.tolist()
        with torch.no_grad():
            logs = model(torch.tensor([ids])).logits.log_softmax(-1)[0]
        assert answer[0] == pytest.approx(logs.numpy()[::-1], abs=1e-4)


def test_a_hub_tagger_in_bioes_answers_in_bio(tmp_path, tiny_backbone):
    names = ["E-人名", "S-人名", "O", "B-人名", "I-人名"]
    folder = hub_folder(tmp_path / "hub", tiny_backbone, "AutoModelForTokenClassification", names)
    (answer,) = ModelTeacher(folder, Wanted("tags", ("人名",))).answers([{"text": "张三在北京"}])
    model = AutoModelForTokenClassification.from_pretrained(folder).eval()
    ids = tiny_backbone.tokenizer.encode("张三在北京", max_length=64).ids.tolist()
    with torch.no_grad():
        probs = model(torch.tensor([ids])).logits.softmax(-1)[0, 1:-1].numpy()
    wanted = np.stack([probs[:, 2], probs[:, 1] + probs[:, 3], probs[:, 0] + probs[:, 4]], 1)
    assert np.exp(answer) == pytest.approx(wanted, abs=1e-5)


def test_behind_the_first_piece_of_a_latin_word_the_entity_goes_on(tmp_path, tiny_backbone):
    names = ["O", "B-人名", "I-人名"]
    folder = hub_folder(tmp_path / "hub", tiny_backbone, "AutoModelForTokenClassification", names)
    (answer,) = ModelTeacher(folder, Wanted("tags", ("人名",))).answers([{"text": "三good张"}])
    probs = np.exp(answer)
    first, inner = probs[1], probs[2:5]  # taggers are taught the first piece only
    assert inner[:, 0] == pytest.approx([first[0]] * 3, abs=1e-6)
    assert inner[:, 2] == pytest.approx([first[1] + first[2]] * 3, abs=1e-6)
    assert not np.allclose(probs[5], first)


def test_a_run_whose_logits_are_no_labels_answers_by_its_predictions(tmp_path, tiny_backbone):
    sample = SAMPLES["prompt_classify"]
    run = save_run(tmp_path / "run", tiny_backbone, sample.make(tiny_backbone))
    answers = ModelTeacher(run, Wanted("label", ("好评", "差评"))).answers(ROWS)
    said = Pipeline.load(run, backend="torch").predict(TEXTS)
    for answer, prediction in zip(answers, said, strict=True):
        scores = [prediction["scores"][name] for name in ("好评", "差评")]
        assert np.exp(answer[0]) == pytest.approx(scores, abs=1e-5)


def test_a_tagger_run_reads_long_texts_whole(tmp_path, tiny_backbone):
    run = tagger(tmp_path / "run", tiny_backbone)
    text = "张三在北京大学读书" * 5
    (answer,) = ModelTeacher(run, Wanted("tags", ("人名", "地名", "机构"))).answers(
        [{"text": text}]
    )
    assert answer.shape == (len(text), 7)
    assert np.exp(answer).sum(-1) == pytest.approx(np.ones(len(text)))


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Wanted("labels", ("好评", "差评")), "it tells one label a text"),
        (Wanted("tags", ("好评", "差评")), "it tells one label a text"),
        (Wanted("label", ("好评", "差评"), pair=True), "reads single texts"),
        (Wanted("label", ("好评", "中评")), "student: 好评, 中评"),
    ],
)
def test_a_run_of_another_kind_is_refused(tmp_path, tiny_backbone, wanted, said):
    with pytest.raises(ConfigError, match=said):
        ModelTeacher(classifier(tmp_path / "run", tiny_backbone), wanted)


def test_a_model_whose_head_is_not_trained_cannot_teach(tiny_folder):
    teacher = ModelTeacher(str(tiny_folder), Wanted("label", ("LABEL_0", "LABEL_1")))
    with pytest.raises(ModelError, match="are not in its weights"):
        teacher.answers(ROWS)


def test_tag_schemes_and_their_errors():
    assert fold_tags(["O", "PER", "LOC"], ["LOC", "PER"], {}, "t").argmax(1).tolist() == [0, 4, 2]
    assert fold_tags(["B-p", "O", "I-p"], ["PER"], {"p": "PER"}, "t").argmax(1).tolist() == [
        1,
        0,
        2,
    ]
    with pytest.raises(ConfigError, match="teacher: LOC\n  student: PER"):
        fold_tags(["O", "B-LOC"], ["PER"], {}, "t")
    with pytest.raises(ConfigError, match='has no label "x"'):
        fold_tags(["O", "B-LOC"], ["LOC"], {"x": "LOC"}, "t")
    with pytest.raises(ConfigError, match="is not theirs=ours"):
        read_names("LABEL_0")


def test_answers_pass_between_tokenizers_by_characters():
    # The teacher reads 北京 as one token, the student as two: the entity goes on, it does not
    # begin again. The student's 大学 takes what is said of its first character.
    logs = np.log(np.array([[0.1, 0.8, 0.1], [0.2, 0.1, 0.7], [0.9, 0.05, 0.05]]))
    text = " 北京大学"
    table = on_characters(text, np.array([0, 3, 4]), np.array([3, 4, 5]), logs)
    assert np.isnan(table[0]).all()
    tokens = at_tokens(table, np.array([1, 2, 3, 0]), np.array([2, 3, 5, 0]))
    assert np.exp(tokens[:3]) == pytest.approx(
        np.array([[0.1, 0.8, 0.1], [0.1, 0.0, 0.9], [0.2, 0.1, 0.7]]), abs=1e-6
    )
    assert np.isnan(tokens[3]).all()


def test_tags_reach_a_student_with_another_tokenizer(tmp_path, tiny_backbone, unigram):
    run = tagger(tmp_path / "run", tiny_backbone)
    wanted = Wanted("tags", ("人名", "地名", "机构"))
    text = "张三在北京大学读书"
    (answer,) = ModelTeacher(run, wanted).answers([{"text": text}])
    kind = find_task("sequence_labeling")
    student = kind(kind.Config(max_length=16, overlap=2, labels=wanted.labels), unigram)
    row = student.encode({"text": text})
    owned = row["owned"]
    tokens = at_tokens(answer, row["starts"][owned], row["ends"][owned])
    for start, end, told in zip(row["starts"][owned], row["ends"][owned], tokens, strict=True):
        if end > start:
            assert told == pytest.approx(answer[start], rel=1e-6)


class Counting:
    """A teacher that counts what it is asked."""

    name, fingerprint, fickle = "counting", "1", False

    def __init__(self, fail_at=None):
        self.asked, self.fail_at = 0, fail_at

    def answers(self, examples):
        if self.fail_at is not None and self.asked >= self.fail_at:
            raise KeyboardInterrupt
        self.asked += len(examples)
        return [np.full((1, 2), float(each["text"])) for each in examples]


def test_answers_are_computed_once_and_go_on_after_a_stop(tmp_path, monkeypatch):
    monkeypatch.setattr("easynlp.distillation.cache.BLOCK", 4)
    rows = [{"text": str(i)} for i in range(10)]
    stopped = Counting(fail_at=8)
    with pytest.raises(KeyboardInterrupt):
        ask(stopped, rows, tmp_path / "a")
    again = Counting()
    found = ask(again, rows, tmp_path / "a")
    assert again.asked == 2
    assert [float(each[0, 0]) for each in found] == list(range(10))
    assert isinstance(found[9], np.memmap)
    assert found[0].dtype == np.float16
    once_more = Counting()
    ask(once_more, rows, tmp_path / "a")
    assert once_more.asked == 0
    changed = Counting()
    ask(changed, [{"text": "77"}, *rows[1:]], tmp_path / "a")
    assert changed.asked == 4  # its block only
    other = Counting()
    other.fingerprint = "2"
    assert float(ask(other, rows, tmp_path / "a", "fp32")[3][0, 0]) == 3.0
    assert other.asked == 10
    assert not [path for path in (tmp_path / "a").iterdir() if path.name.startswith(".")]


def test_a_fingerprint_is_of_weights_tokenizer_and_labels(tmp_path, tiny_backbone):
    run = classifier(tmp_path / "run", tiny_backbone)
    prints = {
        ModelTeacher(run, Wanted("label", labels)).fingerprint
        for labels in (("好评", "差评"), ("差评", "好评"))
    }
    assert len(prints) == 2
    before = ModelTeacher(run, Wanted("label", ("好评", "差评"))).fingerprint
    assert before in prints
    meta = json.loads((tmp_path / "run" / "easynlp.json").read_text("utf-8"))
    meta["config"]["max_length"] = 16
    (tmp_path / "run" / "easynlp.json").write_text(json.dumps(meta), "utf-8")
    shorter = ModelTeacher(run, Wanted("label", ("好评", "差评"))).fingerprint
    assert shorter != before
    meta["calibration"] = {"temperature": 2.0}
    (tmp_path / "run" / "easynlp.json").write_text(json.dumps(meta), "utf-8")
    assert ModelTeacher(run, Wanted("label", ("好评", "差评"))).fingerprint != shorter


def test_labels_that_are_called_otherwise_now_are_not_answered_from_before(tmp_path, tiny_backbone):
    names = ["LABEL_0", "LABEL_1"]
    folder = hub_folder(
        tmp_path / "hub", tiny_backbone, "AutoModelForSequenceClassification", names
    )
    wanted = Wanted("label", ("好评", "差评"))
    wrong, right = (
        ModelTeacher(folder, wanted, names=read_names(said))
        for said in ("LABEL_0=好评;LABEL_1=差评", "LABEL_0=差评;LABEL_1=好评")
    )
    first = np.stack([np.asarray(each[0]) for each in ask(wrong, ROWS, tmp_path / "kept")])
    second = np.stack([np.asarray(each[0]) for each in ask(right, ROWS, tmp_path / "kept")])
    assert np.array_equal(second, first[:, ::-1])
    assert not np.array_equal(second, first)
    kinds = [f"{role}-{kind}" for kind in ("PER", "LOC") for role in "BI"]
    tags = hub_folder(
        tmp_path / "tags", tiny_backbone, "AutoModelForTokenClassification", ["O", *kinds]
    )
    prints = {
        ModelTeacher(tags, Wanted("tags", ("人", "地")), names=read_names(said)).fingerprint
        for said in ("PER=人;LOC=地", "PER=地;LOC=人")
    }
    assert len(prints) == 2


def test_the_weights_are_not_read_when_all_answers_are_kept(tmp_path, tiny_backbone, monkeypatch):
    run = classifier(tmp_path / "run", tiny_backbone)
    wanted = Wanted("label", ("好评", "差评"))
    first = [np.array(each) for each in ask(find_teacher(run, wanted), ROWS, tmp_path / "kept")]

    def refuse(*args, **more):
        raise AssertionError("it was loaded")

    monkeypatch.setattr(Pipeline, "load", refuse)
    again = ask(find_teacher(run, wanted), ROWS, tmp_path / "kept")
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_an_ensemble_is_the_mean_of_the_probabilities_of_those_who_answer():
    silent = np.full((1, 2), np.nan)
    one = [np.log([[0.9, 0.1]]), silent, silent]
    two = [np.log([[0.5, 0.5]]), np.log([[0.2, 0.8]]), silent]
    found = Ensemble([one, two])
    assert np.exp(found[0]) == pytest.approx(np.array([[0.7, 0.3]]))
    assert np.exp(found[1]) == pytest.approx(np.array([[0.2, 0.8]]))
    assert np.isnan(found[2]).all()
    with pytest.raises(ConfigError, match="same texts"):
        Ensemble([one, two[:1]])


def test_a_calibrated_vote_gives_a_member_that_knows_nothing_no_say():
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 2, 200)
    labels = [("好评", "差评")[i] for i in gold]
    good = [np.log([[0.7, 0.3]] if g == 0 else [[0.3, 0.7]]) for g in gold]
    noise = [np.log([[0.999, 0.001]] if r else [[0.001, 0.999]]) for r in rng.integers(0, 2, 200)]
    wanted = Wanted("label", ("好评", "差评"))
    how = calibrated([good, noise], [good, noise], labels, wanted)
    voted = np.array([Ensemble([good, noise], how)[i][0].argmax() for i in range(200)])
    plain = np.array([Ensemble([good, noise])[i][0].argmax() for i in range(200)])
    assert (voted == gold).mean() == 1.0
    assert (plain == gold).mean() < 0.7
    with pytest.raises(ConfigError, match="--vote mean"):
        calibrated([good], [good], labels, Wanted("tags", ("好评", "差评")))
    with pytest.raises(DataError, match="dev rows"):
        calibrated([good], [[]], [], wanted)


def test_the_placebo_deals_the_same_answers_out_anew():
    given = [np.full((3 + i % 2, 2), float(i)) for i in range(20)]
    dealt = Shuffled(given, 7)
    assert sorted(float(each[0, 0]) for each in dealt) == list(range(20))
    assert [len(each) for each in dealt] == [len(each) for each in given]
    assert sum(float(a[0, 0]) == float(b[0, 0]) for a, b in zip(given, dealt, strict=True)) < 5
    assert [float(each[0, 0]) for each in Shuffled(given, 7)] == [float(e[0, 0]) for e in dealt]


def test_what_a_task_wants(tiny_backbone):
    assert Wanted("label", ("a", "b", "c")).shape == (1, 3)
    assert Wanted("labels", ("a", "b", "c")).shape == (3, 2)
    task = find_task("language_modeling")
    with pytest.raises(ConfigError, match="not by language_modeling"):
        Wanted.of(task(task.Config(), tiny_backbone.tokenizer))
