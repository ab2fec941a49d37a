"""Where a tokenizer's post-processor puts special tokens, read from its settings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

__all__ = ["Layout", "longest_first", "read_layouts"]


@dataclass(frozen=True)
class Layout:
    """Special tokens around the members of a text (one member) or a pair (two).

    Attributes:
        ids: Special tokens before each member, then those at the end: members + 1 tuples.
        types: Type ids of the same.
        members: Type id of each member's own tokens.
    """

    ids: tuple[tuple[int, ...], ...]
    types: tuple[tuple[int, ...], ...]
    members: tuple[int, ...]

    @cached_property
    def added(self) -> int:
        """Number of special tokens."""
        return sum(map(len, self.ids))

    @cached_property
    def plain(self) -> bool:
        """Whether all type ids are 0."""
        return not any(self.members) and not any(map(any, self.types))

    def type_ids(self, lengths: Sequence[int]) -> np.ndarray:
        """Return the type ids of one text or pair whose members have so many tokens."""
        found = np.zeros(self.added + sum(lengths), np.int32)
        at = 0
        for kinds, length in zip(self._runs, (*lengths, 0), strict=True):
            for kind, count in kinds:
                count = length if count is None else count
                if kind:
                    found[at : at + count] = kind
                at += count
        return found

    @cached_property
    def _runs(self) -> tuple[tuple[tuple[int, int | None], ...], ...]:
        """For each member and the end: type ids and how often they follow (None: a member)."""
        members: list[tuple[tuple[int, int | None], ...]] = [((m, None),) for m in self.members]
        return tuple(
            tuple((kind, 1) for kind in kinds) + member
            for kinds, member in zip(self.types, [*members, ()], strict=True)
        )


def read_layouts(post_processor: Any) -> tuple[Layout, Layout] | None:
    """Return the layouts of texts and of pairs; None for a post-processor of another kind.

    Args:
        post_processor: That of a ``tokenizers.Tokenizer``; ``BertProcessing`` and
            ``TemplateProcessing`` with every member once and in order are understood.

    Example:
        >>> from tokenizers.processors import BertProcessing
        >>> text, pair = read_layouts(BertProcessing(("[SEP]", 3), ("[CLS]", 2)))
        >>> text.ids, pair.ids
        (((2,), (3,)), ((2,), (3,), (3,)))
    """
    if post_processor is None:
        return None
    state = json.loads(post_processor.__getstate__())
    if state["type"] == "BertProcessing":
        cls, sep = (state["cls"][1],), (state["sep"][1],)
        return (
            Layout((cls, sep), ((0,), (0,)), (0,)),
            Layout((cls, sep, sep), ((0,), (0,), (1,)), (0, 1)),
        )
    if state["type"] != "TemplateProcessing":
        return None
    names = {name: tuple(item["ids"]) for name, item in state["special_tokens"].items()}
    single, pair = (_template(state[key], names) for key in ("single", "pair"))
    if single is None or pair is None or (single[0], pair[0]) != ("A", "AB"):
        return None
    return single[1], pair[1]


def _template(
    pieces: list[dict[str, Any]], names: dict[str, tuple[int, ...]]
) -> tuple[str, Layout] | None:
    """Return the members of a template in their order, and its layout."""
    order, members = "", []
    ids: list[tuple[int, ...]] = [()]
    types: list[tuple[int, ...]] = [()]
    for piece in pieces:
        ((kind, item),) = piece.items()
        if kind == "Sequence":
            order += item["id"]
            members.append(int(item["type_id"]))
            ids.append(())
            types.append(())
        elif kind == "SpecialToken" and item["id"] in names:
            ids[-1] += names[item["id"]]
            types[-1] += (int(item["type_id"]),) * len(names[item["id"]])
        else:
            return None
    return order, Layout(tuple(ids), tuple(types), tuple(members))


def longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Return how many tokens of either member stay: the longer is cut first, then both alike.

    The rule of Hugging Face tokenizers: with two long members, the longer gets the odd one.

    Args:
        first: Tokens of the first member.
        second: Tokens of the second member.
        room: Most tokens of both.

    Example:
        >>> longest_first(3, 20, 10), longest_first(30, 20, 11)
        ((3, 7), (6, 5))
    """
    if first + second <= room:
        return first, second
    short, long = min(first, second), max(first, second)
    long = short if short > room else max(short, room - short)
    if short + long > room:
        short = room // 2
        long = short + room % 2
    return (long, short) if first > second else (short, long)
