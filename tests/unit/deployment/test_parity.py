from __future__ import annotations

import numpy as np

from easynlp.deployment.parity import agreement, largest_difference, shape_batches
from tests.unit.deployment import tiny


class Table:
    """Logits by the row's ids, from a function."""

    def __init__(self, function):
        self.function = function

    def logits(self, batch):
        return self.function(batch["input_ids"]).astype(np.float32)


class Finder:
    """A task that finds every token but 0, and says where."""

    def collate(self, features):
        return {"input_ids": np.stack([f["input_ids"] for f in features])}

    def decode(self, logits, batch, examples):
        tags = logits[0].argmax(-1)
        finds = [
            {"start": int(at), "type": int(tags[at]), "score": float(logits[0, at, tags[at]])}
            for at in np.flatnonzero(tags)
        ]
        return [{"entities": finds}]


def test_batches_have_padding_and_fit_the_model():
    batches = list(shape_batches(("input_ids", "attention_mask"), vocab_size=50, longest=100))
    assert [b["input_ids"].shape for b in batches] == [(1, 8), (1, 64), (2, 2), (4, 37), (8, 100)]
    assert all(set(b) == {"input_ids", "attention_mask"} for b in batches)
    assert [int(b["attention_mask"][0].sum()) for b in batches[2:]] == [1, 18, 50]
    assert all(b["attention_mask"].any(1).all() for b in batches)
    assert all(b["input_ids"].min() >= 0 and b["input_ids"].max() < 50 for b in batches)


def test_padding_of_token_answers_is_not_compared():
    one = Table(lambda ids: np.zeros((*ids.shape, 2)))
    batch = {"input_ids": np.array([[1, 2, 0]]), "attention_mask": np.array([[1, 1, 0]])}
    other = Table(lambda ids: np.stack([ids == 0, ids == 9], -1) * 5.0)
    assert largest_difference(one, other, [batch]) == 0.0
    batch["attention_mask"][:] = 1
    assert largest_difference(one, other, [batch]) == 5.0


def test_each_find_counts_and_where_nothing_is_found_does_not():
    texts = [np.array([5, *[7] * 50, 6]), np.array([7] * 52), np.array([6, *[7] * 51])]
    features = [{"input_ids": ids} for ids in texts]
    one = Table(lambda ids: np.stack([ids == 7, (ids == 5) * 2, (ids == 6) * 2], -1))
    same = Table(lambda ids: one.logits({"input_ids": ids}) * 3)
    assert agreement(Finder(), one, same, features, [{}] * 3).share == 1.0
    # Of 156 tokens two are told differently; they are two of the three that were found.
    other = Table(lambda ids: np.stack([ids != 5, (ids == 5) * 2, ids == 99], -1))
    found = agreement(Finder(), one, other, features, [{}] * 3)
    assert (found.labels, found.equal, found.texts) == (3, 1, 3)
    extra = Table(lambda ids: np.stack([ids == 99, (ids != 6) * 2, (ids == 6) * 2], -1))
    found = agreement(Finder(), one, extra, features, [{}] * 3)
    assert (found.labels, found.equal) == (156, 3)


def test_characters_of_entities_count():
    class Entities(Finder):
        def decode(self, logits, batch, examples):
            spans = [(*span, "PER") for span in logits.astype(int).tolist()]
            names = ("start", "end", "type")
            return [{"entities": [dict(zip(names, span, strict=True)) for span in spans]}]

    def compare(one, other):
        tables = [Table(lambda ids, spans=spans: np.array(spans)) for spans in (one, other)]
        found = agreement(Entities(), *tables, [{"input_ids": np.array([1])}], [{}])
        return found.labels, found.equal

    spans = [[2, 5], [5, 9]]
    assert compare(spans, spans) == (7, 7)
    assert compare(spans, [[2, 5], [5, 8]]) == (7, 6)
    assert compare(spans, [[2, 6], [6, 9]]) == (7, 5), "5 begins one, 6 begins the other"
    assert compare([[2, 9], [2, 2]], spans) == (7, 6), "two side by side are not one"


def test_texts_count_if_neither_finds_anything():
    nothing = Table(lambda ids: np.stack([ids > 0, ids == 99], -1))
    features = [{"input_ids": np.array([7, 8])}] * 2
    found = agreement(Finder(), nothing, nothing, features, [{}] * 2)
    assert (found.labels, found.equal) == (2, 2)


def test_of_ranked_candidates_the_first_counts():
    class Holes(Finder):
        def decode(self, logits, batch, examples):
            order = [row.argsort()[::-1].tolist() for row in logits]
            return [{"holes": [{"tokens": row, "scores": [0.5] * len(row)} for row in order]}]

    one = Table(lambda ids: np.float32([[3, 2, 1], [1, 2, 3]]))
    for other, equal in (([[3, 1, 2], [2, 1, 3]], 2), ([[2, 3, 1], [1, 2, 3]], 1)):
        second = Table(lambda ids, other=other: np.float32(other))
        found = agreement(Holes(), one, second, [{"input_ids": np.array([1])}], [{}])
        assert (found.labels, found.equal) == (2, equal)


def test_what_is_no_number_differs():
    one = Table(lambda ids: np.zeros((1, 2)))
    other = Table(lambda ids: np.float32([[np.nan, 0.0]]))
    assert largest_difference(one, other, [{"input_ids": np.array([[1]])}]) == np.inf


def test_scores_may_differ_where_labels_agree():
    from easynlp.tasks.text_classify import TextClassify

    for multi, logits, equal in (
        (False, [[2.0, 1.0, -3.0], [1.5, 1.4, 0.0]], 2),
        (False, [[2.0, 1.0, -3.0], [1.3, 1.4, 0.0]], 1),
        (True, [[2.0, 1.0, -3.0], [0.1, 9.0, -1.0]], 2),
        (True, [[2.0, 1.0, -3.0], [0.1, 9.0, 1.0]], 1),
    ):
        config = TextClassify.Config(labels=("体育", "财经", "房产"), pair=False, multi_label=multi)
        task = TextClassify(config, tiny.tokenizer())
        features = [task.encode({"text": text}) for text in ("房间", "饭菜")]
        one = Table(lambda ids: np.float32([[2.0, 1.0, -3.0]]))
        answers = iter(logits)
        other = Table(lambda ids, answers=answers: np.float32([next(answers)]))
        found = agreement(task, one, other, features, [{}, {}])
        assert (found.labels, found.equal) == (2, equal)


def test_no_labels_no_agreement():
    assert agreement(Finder(), None, None, [], []).share == 0.0
