"""Windows, alignment and BIO tags, mostly as properties over random input."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from easynlp.text.spans import align, spans_to_tags, tag_names, tags_to_spans, windows

steady = settings(derandomize=True, database=None, deadline=None)


@steady
@given(st.integers(0, 300), st.integers(1, 40), st.data())
def test_every_token_is_owned_once_by_a_window_that_holds_it(tokens, size, data):
    overlap = data.draw(st.integers(0, size - 1))
    found = windows(tokens, size, overlap)
    assert [i for w in found for i in range(w.own_start, w.own_stop)] == list(range(tokens))
    for window in found:
        assert window.start <= window.own_start <= window.own_stop <= window.stop
        assert window.stop - window.start <= size
    for one, other in pairwise(found):
        assert one.stop - other.start >= overlap
        assert one.start < other.start


def test_an_inner_token_has_context_on_both_sides():
    for window in windows(1000, 126, 32)[1:-1]:
        assert window.own_start - window.start >= 16
        assert window.stop - window.own_stop >= 16


def test_overlap_must_leave_room():
    with pytest.raises(ValueError, match="overlap 8"):
        windows(10, 8, 8)


@st.composite
def token_spans(draw):
    """Return a number of tokens and disjoint spans (first, stop, kind) of them."""
    tokens = draw(st.integers(0, 30))
    cuts = sorted(draw(st.sets(st.integers(0, tokens), max_size=10)))
    pairs = [(a, b) for a, b in zip(cuts[::2], cuts[1::2], strict=False) if a < b]
    return tokens, [(a, b, draw(st.integers(0, 3))) for a, b in pairs]


@steady
@given(token_spans())
def test_tags_bring_back_the_spans(case):
    tokens, spans = case
    found = tags_to_spans(spans_to_tags(tokens, spans))
    assert list(zip(found.first, found.last + 1, found.kind, strict=True)) == spans


def conlleval(tags):
    """Slow and plain: what the CoNLL scorer makes of a sequence of BIO tags."""
    spans, begun = [], None
    for i, tag in enumerate([*tags, 0]):
        kind = (tag - 1) // 2
        if begun is not None and (tag == 0 or tag % 2 == 1 or kind != begun[1]):
            spans.append((begun[0], i - 1, begun[1]))
            begun = None
        if tag and begun is None:
            begun = (i, kind)
    return spans


@steady
@given(st.lists(st.integers(0, 6), max_size=40))
def test_any_tags_are_read_as_conlleval_reads_them(tags):
    found = tags_to_spans(np.array(tags, np.int64))
    assert list(zip(found.first, found.last, found.kind, strict=True)) == conlleval(tags)


@steady
@given(st.lists(st.lists(st.integers(0, 4), max_size=8), max_size=6))
def test_spans_do_not_cross_texts(rows):
    flat = np.array([tag for row in rows for tag in row], np.int64)
    texts = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    found = tags_to_spans(flat, texts)
    offsets = np.cumsum([0, *(len(row) for row in rows)])
    wanted = [
        (a + at, b + at, kind)
        for row, at in zip(rows, offsets.tolist(), strict=False)
        for a, b, kind in conlleval(row)
    ]
    assert list(zip(found.first, found.last, found.kind, strict=True)) == wanted


def test_align_touches_tokens_cut_by_a_span_and_none_over_spaces():
    starts, ends = np.array([0, 1, 5, 9]), np.array([1, 5, 6, 10])  # a space at 6-9
    spans = np.array([[0, 1], [2, 3], [4, 6], [6, 9], [0, 10]])
    assert align(starts, ends, spans).tolist() == [[0, 1], [1, 2], [1, 3], [3, 3], [0, 4]]


def test_align_nothing():
    assert align(np.array([]), np.array([]), np.array([])).shape == (0, 2)


def test_tag_names_are_where_the_numbers_say():
    names = tag_names(["地名", "人名"])
    assert [names[i] for i in spans_to_tags(4, [(1, 3, 1)])] == ["O", "B-人名", "I-人名", "O"]
