import random

import pytest

from easynlp.data.near import LEAST, NearIndex, grams


def jaccard(a, b):
    a, b = grams(a), grams(b)
    return len(a & b) / len(a | b)


def test_the_index_finds_exactly_what_comparing_all_pairs_finds():
    rng = random.Random(7)
    rows = ["".join(rng.choices("甲乙丙丁戊己", k=rng.randint(1, 40))) for _ in range(60)]
    texts = []
    for row in rows:  # some far, some a few letters away, some the same
        letters = list(row)
        for _ in range(rng.randint(0, 4)):
            letters[rng.randrange(len(letters))] = rng.choice("甲乙丙")
        texts.append("".join(letters) + rng.choice(["", "了", "了没有呢"]))
    index = NearIndex(rows)
    expected = {
        i: max(jaccard(text, row) for row in rows)
        for i, text in enumerate(texts)
        if any(jaccard(text, row) >= LEAST for row in rows)
    }
    found = {each.text: each.similarity for each in index.find(texts)}
    assert found == pytest.approx(expected)
    assert 5 < len(found) < 60
    near = {j for j, row in enumerate(rows) if any(jaccard(t, row) >= LEAST for t in texts)}
    assert index.rows_near(texts) == near
    for number, text in enumerate(texts[:20]):
        expected = [(j, jaccard(text, row)) for j, row in enumerate(rows)]
        assert [(n.text, n.row, pytest.approx(n.similarity)) for n in index.all_near(text, 9)] == [
            (9, j, similarity) for j, similarity in expected if similarity >= LEAST
        ], number


def test_white_space_case_and_width_do_not_count():
    assert NearIndex(["Ａpple 手机 很好用"]).find(["apple手机很好用"])[0].similarity == 1.0


def test_short_texts_are_near_themselves_only():
    assert [n.text for n in NearIndex(["很好"]).find(["很好", "很好吗", "好"])] == [0]
