"""Patterns and label words of the benchmark."""

import pytest

from easynlp.benchmarks import fewclue
from easynlp.benchmarks.fewclue import find_split, read_split_file
from easynlp.benchmarks.prompts import prompt_of, prompts, read_prompts
from easynlp.errors import ConfigError

COLLIDING = """
t:
  - name: x
    pattern: "{text}[MASK]"
    words: {经营养成: 经营, 经营: 经营}
"""


DISTINCT = COLLIDING.replace("经营养成: 经营", "a: b")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (COLLIDING, 'the labels "经营养成" and "经营" share the word "经营"'),
        (COLLIDING.replace("经营, ", "[养成, 经营], "), "share the word"),
        (COLLIDING.replace("经营养成: 经营", "a: b").replace("{text}", "{label}"), "names {label}"),
        (COLLIDING.replace("经营养成: 经营", "a: b").replace("[MASK]", ""), "no \\[MASK\\]"),
        (
            COLLIDING.replace("经营养成: 经营", "a: b") + "    view: {text: label_desc}\n",
            "answer away",
        ),
    ],
)
def test_prompts_that_collide_or_tell_are_refused(text, said):
    with pytest.raises(ConfigError, match=said):
        read_prompts(text)


def test_the_prompts_of_all_tasks_cover_all_labels(shared):
    for task, suite in fewclue.FEWCLUE.items():
        path = find_split(shared / "data" / "bench", task, "0").train
        rows = read_split_file(path, task)
        labels = {each["label"] for each in rows}
        for prompt in prompts()[task].values():
            assert set(prompt.words) == (set() if prompt.candidates else labels)
            assert "text" in prompt.show(rows[0])
        parts = ("candidates", "pattern")
        assert prompt_of(task, parts=parts).name == next(iter(prompts()[task]))
        assert suite.classes >= 2


def test_the_triples_are_a_balanced_choice_of_the_sets():
    known = prompts()["eprstmt"]
    sets = [known[f"fuzzy-set-{n}"] for n in range(1, 11)]
    triples = [known[f"fuzzy-triple-{n}"] for n in range(1, 11)]
    assert all(each.extra for each in (*sets, *triples))
    assert prompt_of("eprstmt").name == "clue-pet"
    pairs = [{each.words["Positive"][0], each.words["Negative"][0]} for each in sets]
    assert len(set().union(*pairs)) == 20
    uses = [sum(each.words["Positive"][0] in t.words["Positive"] for t in triples) for each in sets]
    assert uses == [3] * 10
    for triple in triples:
        assert all(len(words) == 3 for words in triple.words.values())
        # The n-th word of either label is of one set.
        for pair in zip(triple.words["Positive"], triple.words["Negative"], strict=True):
            assert set(pair) in pairs


def test_a_view_may_be_a_sentence_but_not_the_answer():
    shown = prompt_of("cluewsc", "clue-pet").show(
        {"text": "x", "pronoun": "它", "span": "小猫", "passage": "小猫饿了，它叫。"}
    )
    assert (shown["text"], shown["text_b"]) == ("它", "小猫，小猫饿了，它叫。")
    with pytest.raises(ConfigError, match="answer away"):
        read_prompts(DISTINCT + "    view: {text: '{text}{label}'}\n")
