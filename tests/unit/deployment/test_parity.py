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


class Tokens:
    """The part of a token-labelling task that a comparison needs."""

    def collate(self, features):
        return {"input_ids": np.stack([f["input_ids"] for f in features])}


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
    assert largest_difference(one, other, iter([batch])) == 0.0
    batch["attention_mask"][:] = 1
    assert largest_difference(one, other, iter([batch])) == 5.0


def test_every_token_counts_but_special_ones():
    features = [{"input_ids": np.array([2, 7, 8, 9, 3])}] * 2
    one = Table(lambda ids: np.stack([ids > 0, ids == 99], -1))
    other = Table(lambda ids: np.stack([ids != 8, ids == 8], -1))
    found = agreement(Tokens(), one, other, features, [{}, {}])
    assert (found.labels, found.equal, found.texts) == (6, 4, 2)
    assert round(found.share, 3) == 0.667


def test_all_windows_of_a_text_count():
    class Windows(Tokens):
        def collate(self, features):
            mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0]])
            return {"input_ids": np.array([[2, 7, 8, 3], [2, 9, 3, 0]]), "attention_mask": mask}

    one = Table(lambda ids: np.stack([ids > 0, ids == 99], -1))
    other = Table(lambda ids: np.stack([ids != 9, ids == 9], -1))
    found = agreement(Windows(), one, other, [{}], [{}])
    assert (found.labels, found.equal, found.texts) == (3, 2, 1)


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
    assert agreement(Tokens(), None, None, [], []).share == 0.0
