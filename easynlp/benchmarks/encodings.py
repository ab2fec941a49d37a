"""How a row of a FewCLUE file becomes examples of text classification, and answers come back.

Five kinds of rows, one function each; all give the fields of ``text_classify`` (``text``,
``text_b``, ``label``), and beside them what templates and floors want to name:

- `text`: one text. `pair`: two; `premise_pair`: the same, of which several rows share the first.
- `keywords` (CSL): ``text`` is the keywords, ``text_b`` the abstract. Of a pair the longer text is
  cut first, so no keyword is ever cut.
- `pronoun` (CLUEWSC): the text with ``[noun]`` and ``_pronoun_`` marked where they stand (the
  marks of CLUE's baseline).
- `idiom` (CHID): seven examples, one for each candidate: ``text`` is the candidate, ``text_b`` the
  passage around the blank with the candidate in it, ``label`` 1 for the right one and 0 else.
  The answer to the question is the candidate with the highest probability of 1.

``group`` says which rows are not independent of each other (rows of one abstract, premise or
text); intervals resample groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from easynlp import metrics
from easynlp.data.readers import Row
from easynlp.errors import DataError
from easynlp.tasks.base import Example

__all__ = ["answers_of", "gold_of", "grade", "groups_of", "hide", "idiom", "joined", "keywords",
           "pair", "plain_texts", "premise_pair", "pronoun", "rows_of", "text"]  # fmt: skip

BLANK = "#idiom#"
AROUND = 50
"""Characters kept on either side of CHID's blank: with the idioms they fit in 128 tokens."""


def text(row: Row, labelled: bool = True) -> list[Example]:
    """Return the example of a single text.

    Example:
        >>> text(Row({"text": "很好", "label": "1"}, "a.jsonl", 1))
        [{'text': '很好', 'label': '1'}]
    """
    return [{"text": _string(row, "text"), **_label(row, labelled)}]


def pair(row: Row, labelled: bool = True) -> list[Example]:
    """Return the example of two texts.

    Example:
        >>> pair(Row({"text_a": "你好", "text_b": "您好", "label": "1"}, "a.jsonl", 1))
        [{'text': '你好', 'text_b': '您好', 'label': '1'}]
    """
    a, b = _string(row, "text_a"), _string(row, "text_b")
    return [{"text": a, "text_b": b, **_label(row, labelled)}]


def premise_pair(row: Row, labelled: bool = True) -> list[Example]:
    """Return the example of a premise and a hypothesis; rows of a premise are a group."""
    return [{**example, "group": example["text"]} for example in pair(row, labelled)]


def keywords(row: Row, labelled: bool = True) -> list[Example]:
    """Return the example of keywords and an abstract.

    Example:
        >>> row = Row({"text": "本文研究蚁群。", "keywords": ["蚁群", "鱼"], "label": "0"}, "a", 1)
        >>> keywords(row)[0]["text"], keywords(row)[0]["text_b"]
        ('蚁群、鱼', '本文研究蚁群。')
    """
    abstract, words = _string(row, "text"), row.values.get("keywords")
    if not isinstance(words, list) or not words or not all(isinstance(w, str) for w in words):
        raise DataError("`keywords` must be a list of words", path=row.path, line=row.line)
    return [
        {"text": "、".join(words), "text_b": abstract, **_label(row, labelled),
         "keywords": tuple(words), "group": abstract}
    ]  # fmt: skip


def pronoun(row: Row, labelled: bool = True) -> list[Example]:
    """Return the example of a text with a noun and a pronoun marked in it.

    Example:
        >>> row = {"text": "小猫饿了，它叫。", "span1_text": "小猫", "span1_index": 0,
        ...        "span2_text": "它", "span2_index": 5, "label": "true"}
        >>> pronoun(Row(row, "a.jsonl", 1))[0]["text"]
        '[小猫]饿了，_它_叫。'
    """
    passage, spans = _string(row, "text"), []
    for name, opening, closing in (("span1", "[", "]"), ("span2", "_", "_")):
        found, at = _string(row, f"{name}_text"), row.values.get(f"{name}_index")
        if not isinstance(at, int) or passage[at : at + len(found)] != found:
            raise DataError(
                f'`{name}_index` is {at!r}, where "{found}" does not stand',
                path=row.path, line=row.line,
            )  # fmt: skip
        spans.append((at, at + len(found), opening, closing))
    marked = passage
    for start, end, opening, closing in sorted(spans, reverse=True):
        marked = marked[:start] + opening + marked[start:end] + closing + marked[end:]
    (noun_at, noun_end, *_), (at, end, *_) = spans
    return [
        {"text": marked, **_label(row, labelled), "passage": passage,
         "span": passage[noun_at:noun_end], "pronoun": passage[at:end],
         "pronoun_marked": passage[:at] + "_" + passage[at:end] + "_" + passage[end:],
         "span_at": noun_at, "pronoun_at": at, "group": passage}
    ]  # fmt: skip


def idiom(row: Row, labelled: bool = True) -> list[Example]:
    """Return an example for each candidate of a blank.

    Example:
        >>> row = {"text": "他#idiom#地笑。", "candidates": ["气势汹汹", "美不胜收"], "answer": 0}
        >>> [(e["text_b"], e["label"]) for e in idiom(Row(row, "a.jsonl", 1))]
        [('他气势汹汹地笑。', '1'), ('他美不胜收地笑。', '0')]
    """
    passage, candidates = _string(row, "text"), row.values.get("candidates")
    if not isinstance(candidates, list) or passage.count(BLANK) != 1:
        raise DataError(
            f"a row needs `candidates` and a text with one {BLANK}", path=row.path, line=row.line
        )
    answer = row.values.get("answer")
    if labelled and answer not in range(len(candidates)):
        raise DataError(
            f"`answer` is {answer!r}, which is none of {len(candidates)} candidates",
            path=row.path, line=row.line,
        )  # fmt: skip
    before, _, after = passage.partition(BLANK)
    before, after = before[-AROUND:], after[:AROUND]
    return [
        {"text": candidate, "text_b": before + candidate + after,
         **({"label": str(int(number == answer))} if labelled else {}),
         "passage": passage, "before": before, "after": after, "candidates": tuple(candidates),
         "question": f"{row.path}:{row.line}", "choice": number}
        for number, candidate in enumerate(candidates)
    ]  # fmt: skip


def rows_of(examples: Sequence[Example]) -> list[list[Example]]:
    """Return the examples of each row of the file: one, or all of a question."""
    rows: dict[Any, list[Example]] = {}
    for number, example in enumerate(examples):
        rows.setdefault(example.get("question", number), []).append(example)
    return list(rows.values())


def hide(examples: Sequence[Example]) -> list[Example]:
    """Return examples as they are handed over to be answered: without labels."""
    return [
        {k: v for k, v in each.items() if k not in ("label", "label_desc")} for each in examples
    ]


def answers_of(examples: Sequence[Example], predictions: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one answer for each row of the file: a label, or the number of a candidate.

    Of a question the candidate with the highest score of label 1 is the answer (the first of
    equal ones).

    Raises:
        DataError: If there is not one prediction for each example, or a candidate has no score.

    Example:
        >>> rows = [{"question": "a:1", "choice": 0}, {"question": "a:1", "choice": 1}]
        >>> answers_of(rows, [{"label": "0", "scores": {"1": 0.2}}, {"scores": {"1": 0.3}}])
        ['1']
    """
    if len(examples) != len(predictions):
        raise DataError(
            f"{len(predictions)} predictions for {len(examples)} rows; every row counts"
        )
    if not examples or "question" not in examples[0]:
        return [str(prediction["label"]) for prediction in predictions]
    best: dict[str, tuple[float, str]] = {}
    for example, prediction in zip(examples, predictions, strict=True):
        score = float(prediction["scores"].get("1", 0.0))
        name = example["question"]
        if name not in best or score > best[name][0]:
            best[name] = score, str(example["choice"])
    return [answer for _, answer in best.values()]


def gold_of(examples: Sequence[Example]) -> list[str]:
    """Return the right answer of each row of the file."""
    if examples and "question" in examples[0]:
        return [str(each["choice"]) for each in examples if each["label"] == "1"]
    return [str(each["label"]) for each in examples]


def groups_of(examples: Sequence[Example]) -> list[int]:
    """Return the group of each row of the file, numbered as they come.

    Example:
        >>> groups_of([{"group": "a"}, {"group": "b"}, {"group": "a"}])
        [0, 1, 0]
        >>> groups_of([{"text": "a"}, {"text": "a"}])
        [0, 1]
    """
    if examples and "question" in examples[0]:
        examples = [each for each in examples if each["choice"] == 0]
    names = [each.get("group", number) for number, each in enumerate(examples)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return [numbers[name] for name in names]


def grade(examples: Sequence[Example], predictions: Sequence[Mapping[str, Any]]) -> float:
    """Return the share of rows of the file answered rightly."""
    return metrics.accuracy(gold_of(examples), answers_of(examples, predictions))


def joined(example: Example) -> str:
    """Return an example's text, or both of a pair on two lines."""
    second = example.get("text_b")
    return str(example["text"]) if second is None else f"{example['text']}\n{second}"


def plain_texts(examples: Sequence[Example]) -> list[str]:
    """Return the text of each row of the file without marks and candidates."""
    if examples and "question" in examples[0]:
        return [str(each["passage"]) for each in examples if each["choice"] == 0]
    return [str(each.get("passage", joined(each))) for each in examples]


def _string(row: Row, name: str) -> str:
    value = row.values.get(name)
    if not isinstance(value, str) or not value.strip():
        raise DataError(
            f"`{name}` must be a text, not {value!r}; this row has: {', '.join(row.values)}",
            path=row.path, line=row.line,
        )  # fmt: skip
    return value


def _label(row: Row, labelled: bool) -> dict[str, Any]:
    if not labelled:
        return {}
    said = row.values.get("label_desc")
    return {"label": _string(row, "label")} | ({"label_desc": said} if said else {})
