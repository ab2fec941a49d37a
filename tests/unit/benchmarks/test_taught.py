"""Contenders over unlabelled text: what is believed, who answers, and the placebo."""

import numpy as np
import pytest

from easynlp.benchmarks.contender import Budget, Learned
from easynlp.benchmarks.contenders import find
from easynlp.benchmarks.encodings import hide
from easynlp.benchmarks.fewclue import Split, read_split_file
from easynlp.benchmarks.harness import bench_fewclue
from easynlp.benchmarks.pool import draw
from easynlp.benchmarks.taught import Taught, believed_rows, chances
from easynlp.errors import ConfigError
from easynlp.fewshot.pseudo_labels import Kept
from tests.unit.benchmarks.release import BAD, GOOD, TEST, options

BUDGET = Budget(lrs=(1e-3,), min_steps=2, max_steps=2, evaluations=1, max_length=32)
POOL = tuple({"text": text + "呢"} for text in (*GOOD, *BAD))
GOLD = {text + "呢": "Positive" for text in GOOD} | {text + "呢": "Negative" for text in BAD}


class Sure:
    """A teacher that knows the truth, or the contrary, with a sureness that falls with the rows."""

    seeded = unlabelled = False

    def __init__(self, *, wrong=False, sureness=0.9):
        self.wrong, self.sureness, self.seen = wrong, sureness, []

    def takes(self, task):
        return True

    def identity(self):
        return "sure"

    def learn(self, split, seed, say):
        self.seen.append(split)

        def predict(examples):
            found = []
            for number, example in enumerate(examples):
                good = any(example["text"].startswith(text) for text in GOOD) != self.wrong
                chance = self.sureness - 0.001 * number
                positive = chance if good else 1 - chance
                label = "Positive" if positive > 0.5 else "Negative"
                scores = {"Positive": positive, "Negative": 1 - positive}
                found.append({"label": label, "scores": scores})
            return found

        return Learned(predict, 0.5 + 0.1 * len(self.seen))


@pytest.fixture
def split(root):
    folder = root / "fewclue_eprstmt"
    files = (folder / "train_0.jsonl", folder / "dev_0.jsonl")
    return Split("eprstmt", "0", *files, None, unlabelled=POOL)


def made(name, *teachers, student=None):
    taught = Taught(name, BUDGET, "nowhere")
    taught.teachers = list(teachers)
    taught.student = student or teachers[0]
    return taught


def test_the_student_learns_what_teachers_believe(split):
    teacher, student = Sure(), Sure()
    taught = made("self-training:student=finetune:rounds=1:quota=3", teacher, student=student)
    learned = taught.learn(split, 13, print)
    (seen,) = student.seen
    assert seen.unlabelled == ()
    assert len(seen.believed) == 6
    assert all(row["label"] == GOLD[row["text"]] for row in seen.believed)
    assert learned.chosen["pool"] == 8
    assert learned.chosen["rounds"][0]["kept"] == {"Negative": 3, "Positive": 3}


def test_a_teacher_alone_learns_round_by_round_and_the_best_round_answers(split):
    teacher = Sure()
    learned = made("self-training:rounds=2:quota=1:growth=2", teacher).learn(split, 13, print)
    assert [len(seen.believed) for seen in teacher.seen] == [0, 2, 4]
    assert (learned.chosen["round"], learned.dev_accuracy) == (2, pytest.approx(0.8))


def test_a_committee_hushes_a_member_that_dev_proves_wrong(split):
    # The wrong member is surer than the right one, so a plain product would follow it.
    right, wrong, student = Sure(sureness=0.8), Sure(wrong=True, sureness=0.95), Sure()
    taught = made("committee:teacher=lp-ft+finetune:quota=4:soft=false", right, wrong,
                  student=student)  # fmt: skip
    learned = taught.learn(split, 13, print)
    (seen,) = student.seen
    assert all(row["label"] == GOLD[row["text"]] for row in seen.believed)
    assert [each["voted"] for each in learned.chosen["rounds"][0]["teachers"]] == [1, 0]


def test_the_placebo_keeps_texts_and_counts_and_deals_out_labels(split):
    rows = []
    for placebo in ("", ":placebo=random-pseudo-labels"):
        student = Sure()
        name = f"self-training:student=finetune:rounds=1:quota=4{placebo}"
        made(name, Sure(), student=student).learn(split, 13, print)
        rows.append(student.seen[0].believed)
    real, placebo = rows
    assert [row["text"] for row in real] == [row["text"] for row in placebo]
    assert sorted(row["label"] for row in real) == sorted(row["label"] for row in placebo)
    assert [row["label"] for row in real] != [row["label"] for row in placebo]


def test_probabilities_change_places_with_their_labels():
    pool = [{"text": str(i)} for i in range(4)]
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
    kept = Kept(np.arange(4), scores.argmax(1), np.zeros(2))
    for placebo in (None, 1, 2):
        for row in believed_rows(pool, kept, ["a", "b"], scores, placebo):
            assert max(row["scores"], key=row["scores"].get) == row["label"]


def test_the_draw_is_the_same_whatever_the_order(split):
    few = [each["text"] for each in draw(split, 5)]
    turned = Split("eprstmt", "0", split.train, split.dev, None, unlabelled=POOL[::-1])
    assert few == [each["text"] for each in draw(turned, 5)]
    assert len(few) == 5
    assert few != [each["text"] for each in POOL[:5]]


def test_margins_are_no_probabilities(split):
    learned = find("tfidf-svm", BUDGET).learn(split, 13, print)
    with pytest.raises(ConfigError, match="answers no probabilities"):
        chances(learned, POOL, ["Negative", "Positive"])


def test_without_unlabelled_text_the_student_learns_from_the_labels(split):
    student = Sure()
    taught = made("committee:teacher=lp-ft+finetune", Sure(), Sure(), student=student)
    bare = Split("eprstmt", "0", split.train, split.dev, None)
    assert taught.learn(bare, 13, print).chosen["pool"] == 0
    assert student.seen[0].believed == ()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("self-training:quotas=3", 'no option "quotas". Did you mean "quota"'),
        ("self-training:quota=0", "quota"),
        ("self-training:placebo=random-labels", "Known: random-pseudo-labels"),
        ("self-training:student=probe@x:restart=false", "without restart"),
        ("quota=3", "is an option and no contender"),
        ("self-training:quota=3:quota=4", "given twice"),
    ],
)
def test_names_that_are_wrong_say_so(name, said):
    with pytest.raises(ConfigError, match=said):
        find(name, BUDGET)


def test_teachers_and_students_have_models_and_options_of_their_own():
    name = "committee:teacher=probe@a+pet::prompt=lm-bff@b+nb-em:student=lp-ft@c:quota=7"
    taught = find(name, BUDGET, "d")
    assert [each.name for each in taught.teachers] == [
        "probe:a", "method:pet:prompt=lm-bff@b", "nb-em",
    ]  # fmt: skip
    assert (taught.student.name, taught.student.model) == ("lp-ft@c", "c")
    assert taught.options.quota == 7
    assert taught.align
    alone = find("self-training@d", BUDGET)
    assert alone.alone
    assert alone.student is alone.teachers[0]


@pytest.mark.parametrize(
    "name",
    [
        "self-training:quota=1:rounds=2:restart=false",
        "self-training:teacher=nb-em:student=lp-ft:quota=1:rounds=1:soft=true",
        "committee:teacher=probe+pet+nb-em:student=finetune:quota=2",
        "ipet:generations=1",
        "knn:neighbours=3",
        "centroid",
    ],
)
def test_every_contender_learns_and_answers_in_the_harness(root, tiny_folder, name):
    pytest.importorskip("sklearn")
    more = {"splits": ("0",), "seeds": (13,), "max_length": 32, "drop_near_test": True}
    report = bench_fewclue(options(root, contenders=(name,), model=str(tiny_folder), **more))
    (cell,) = report["cells"]
    assert len(cell["answers"]) == len(TEST)
    assert set(cell["answers"]) <= {"Positive", "Negative"}
    if name.split(":")[0] not in ("knn", "centroid"):
        assert (cell["unlabelled"], cell["unlabelled_near_dev_dropped"]) == (6, 2)
        assert cell["chosen"]["pool"] == 6


def test_going_on_from_the_weights_before_is_not_starting_anew(root, split, tiny_folder):
    test = hide(read_split_file(root / "fewclue_eprstmt" / "test_public.jsonl", "eprstmt"))
    scores = {}
    for restart in ("true", "false"):
        name = f"self-training:quota=2:rounds=1:teacher=finetune:restart={restart}"
        taught = Taught(name, BUDGET, str(tiny_folder))
        twice = [taught.learn(split, 13, lambda text: None).predict(test) for _ in range(2)]
        assert twice[0] == twice[1]  # a cell does not go on from the one before
        scores[restart] = [each["scores"]["Positive"] for each in twice[0]]
    assert scores["true"] != scores["false"]
