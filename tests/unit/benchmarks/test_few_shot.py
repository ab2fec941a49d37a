"""Few-shot methods as contenders: what they are given, and the placebo arms."""

from dataclasses import dataclass, replace

import pytest

from easynlp.benchmarks import contenders, few_shot
from easynlp.benchmarks.contender import Budget
from easynlp.benchmarks.encodings import grade, hide
from easynlp.benchmarks.few_shot import shuffled_labels, shuffled_words
from easynlp.benchmarks.fewclue import find_split, read_split_file
from easynlp.benchmarks.prompts import prompt_of
from easynlp.errors import ConfigError
from easynlp.methods import METHODS
from easynlp.tasks import TASKS
from easynlp.tasks.text_classify import ClassifyConfig, TextClassify

BUDGET = Budget(lrs=(1e-3,), min_steps=1, max_steps=1, evaluations=1)
SEEN = []


@dataclass(frozen=True)
class PatternConfig(ClassifyConfig):
    pattern: str = ""
    words: str = ""


class Pattern(TextClassify):
    """text_classify that notes the prompt it was given."""

    Config = PatternConfig

    @classmethod
    def prepare(cls, config, tokenizer, examples):
        SEEN.append({"pattern": config.pattern, "words": config.words, "rows": list(examples)})
        labels = sorted({each["label"] for each in examples})
        return cls(replace(config, labels=tuple(labels), pair="text_b" in examples[0]), tokenizer)


def own_method(plan, *, pattern: str = "", words: str = "", placebo: str = "", rate: float = 0.0):
    """Note what a method was given."""
    SEEN.append({"pattern": pattern, "words": words, "placebo": placebo, "rate": rate})
    return plan


def entails(plan, *, hypothesis: str = "", descriptions: str = ""):
    """Note what a method of entailment was given."""
    SEEN.append({"hypothesis": hypothesis, "descriptions": descriptions})
    return plan


@pytest.fixture
def table(monkeypatch):
    SEEN.clear()
    monkeypatch.setitem(TASKS, "pattern", f"{__name__}:Pattern")
    methods = {"own": own_method, "entails": entails}
    for name, method in methods.items():
        monkeypatch.setitem(METHODS, name, f"{__name__}:{method.__name__}")
    monkeypatch.setattr(
        few_shot, "find_task", lambda name: {"pattern": Pattern}.get(name, TextClassify)
    )
    monkeypatch.setattr(few_shot, "find_method", lambda name: methods.get(name) or find_real(name))


def find_real(name):
    from easynlp.methods import find_method

    return find_method(name)


@pytest.fixture
def cell(shared):
    return find_split(shared / "data" / "bench", "cluewsc", "0")


def learn(name, folder, split, seed=13):
    contender = contenders.find(f"{name}@{folder}", BUDGET)
    return contender.learn(split.closed(), seed, lambda text: None)


def test_a_task_with_a_pattern_gets_that_of_the_benchmarks_task(table, tiny_folder, cell):
    learned = learn("method:pattern", tiny_folder, cell)
    prompt = prompt_of("cluewsc")
    (given,) = SEEN
    assert given["pattern"] == prompt.pattern
    assert given["words"] == '{"true": ["是"], "false": ["不"]}'
    (row,) = [each for each in given["rows"][:1]]
    assert row["text"].count("_") == 2
    assert row["text_b"] == row["span"]
    assert learned.chosen["prompt"] == "adapet"
    test = hide(read_split_file(cell.test, "cluewsc"))[:3]
    assert len(learned.predict(test)) == 3  # shown in the same way


def test_a_method_with_a_pattern_gets_it_and_its_own_options(table, tiny_folder, cell):
    learn("method:own:prompt=paddle:rate=0.5", tiny_folder, cell)
    assert SEEN[0]["pattern"] == prompt_of("cluewsc", "paddle").pattern
    assert SEEN[0]["rate"] == 0.5


def test_a_method_of_entailment_gets_hypothesis_and_descriptions(table, tiny_folder, shared):
    split = find_split(shared / "data" / "bench", "eprstmt", "0")
    learned = learn("method:entails", tiny_folder, split)
    assert SEEN == [
        {"hypothesis": "{label}", "descriptions": '{"Positive": ["满意"], "Negative": ["不满意"]}'}
    ]
    assert learned.chosen["prompt"] == "efl"


def test_placebo_of_the_method_itself_is_handed_on(table, tiny_folder, cell):
    learn("method:own:placebo=random-anchors", tiny_folder, cell)
    assert SEEN[0]["placebo"] == "random-anchors"


def test_placebo_shuffled_words_leaves_no_label_its_own(table, tiny_folder, cell):
    learn("method:pattern:placebo=shuffled-words", tiny_folder, cell)
    assert SEEN[0]["words"] == '{"true": ["不"], "false": ["是"]}'
    words = {str(i): (f"w{i}",) for i in range(119)}
    for seed in (13, 42, 87):
        found = shuffled_words(words, seed)
        assert sorted(found.values()) == sorted(words.values())
        assert all(found[label] != words[label] for label in words)
    assert shuffled_words(words, 13) != shuffled_words(words, 42)


def test_placebo_random_labels_keeps_texts_and_counts(table, tiny_folder, cell):
    learn("method:pattern:placebo=random-labels", tiny_folder, cell)
    true = read_split_file(cell.train, "cluewsc")
    given = SEEN[0]["rows"]
    assert [each["passage"] for each in given] == [each["passage"] for each in true]
    labels, drawn = [e["label"] for e in true], [e["label"] for e in given]
    assert sorted(labels) == sorted(drawn)
    assert labels != drawn
    assert shuffled_labels(true, 13) == shuffled_labels(true, 13)


def test_a_method_without_pattern_is_plain_fine_tuning_with_it(tiny_folder, cell):
    learned = learn("method:r_drop:alpha=2", tiny_folder, cell)
    assert "prompt" not in learned.chosen
    assert learned.parameters > 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("method:pett", "unknown method"),
        ("method:r_drop:placebo=random-words", "Known: random-labels, shuffled-words"),
        ("method:r_drop:alpha", "is no OPTION=VALUE"),
        ("method:text_classify:alpha=1", "a task alone takes prompt, steps, batch and placebo"),
    ],
)
def test_names_that_are_wrong_say_so(name, said):
    with pytest.raises(ConfigError, match=said):
        contenders.find(name, BUDGET)


def test_an_unknown_prompt_is_named(table, tiny_folder, cell):
    with pytest.raises(ConfigError, match=r'"adapt" with a pattern\. Did you mean "adapet"'):
        learn("method:pattern:prompt=adapt", tiny_folder, cell)


def test_a_method_of_prompts_takes_the_tasks_that_have_one(tiny_folder):
    efl = contenders.find(f"method:efl@{tiny_folder}", Budget())
    assert efl.takes("eprstmt")
    assert not efl.takes("bustm")
    assert contenders.find(f"method:setfit@{tiny_folder}", Budget()).takes("bustm")


def test_identity_tells_arms_apart(table, tiny_folder):
    names = ["method:own", "method:own:rate=1", "method:own:placebo=random-labels",
             "method:pattern", "method:own:prompt=paddle", "method:own:placebo=x"]  # fmt: skip
    found = {contenders.find(f"{name}@{tiny_folder}", BUDGET).identity() for name in names}
    assert len(found) == len(names)


def test_identity_changes_with_a_pattern(table, tiny_folder, monkeypatch):
    contender = contenders.find(f"method:pattern@{tiny_folder}", BUDGET)
    before = contender.identity()
    prompt = prompt_of("eprstmt")
    changed = {"eprstmt": {prompt.name: replace(prompt, pattern=prompt.pattern + "！")}}
    monkeypatch.setattr(few_shot, "prompts", lambda: changed)
    assert contender.identity() != before


def test_identity_changes_with_what_stands_in_a_file_of_an_option(tiny_folder, tmp_path):
    file = tmp_path / "pattern.txt"
    contender = contenders.find(
        f"method:pet:pattern=@{file}:loss=restricted@{tiny_folder}", Budget()
    )
    found = set()
    for pattern in ("{text}。很[MASK]。", "很[MASK]。{text}"):
        file.write_text(pattern, "utf-8")
        found.add(contender.identity())
    assert len(found) == 2


@pytest.mark.parametrize("name", ["setfit", "cp_tuning", "pet", "p_tuning", "efl"])
def test_every_few_shot_method_learns_and_answers(tiny_folder, shared, name):
    split = find_split(shared / "data" / "bench", "eprstmt", "0")
    budget = replace(BUDGET, max_length=32, min_steps=2, max_steps=2)
    contender = contenders.find(f"method:{name}@{tiny_folder}", budget)
    learned = contender.learn(split.closed(), 13, lambda text: None)
    dev = read_split_file(split.dev, "eprstmt")
    predictions = learned.predict(hide(dev))
    assert {each["label"] for each in predictions} <= {"Positive", "Negative"}
    # What is answered afterwards is what was scored when it was the best.
    assert grade(dev, predictions) == learned.dev_accuracy
