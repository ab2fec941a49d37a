"""The figures of ``easynlp bench landing``: what each is to reach, and whether it was reached."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["FIGURES", "Figure", "Measured", "judge"]


@dataclass(frozen=True)
class Figure:
    """A figure to reach.

    Attributes:
        part: Of the benchmark.
        about: What it is, in words.
        sense: Whether more or less is better.
        target: What to reach.
        unit: Behind the number: points, %, x, ms, MB.
        strict: The target itself is not enough.
    """

    part: str
    about: str
    sense: Literal[">=", "<="]
    target: float
    unit: str
    strict: bool = False

    def reached(self, value: float) -> bool:
        """Return whether a value reaches the target.

        Example:
            >>> [Figure("p", "gain", ">=", 17, "points").reached(v) for v in (16.9, 17.0)]
            [False, True]
        """
        if not math.isfinite(value):
            return False
        if self.strict and value == self.target:
            return False
        return value >= self.target if self.sense == ">=" else value <= self.target


@dataclass(frozen=True)
class Measured:
    """A figure as it came out.

    Attributes:
        key: Of `FIGURES`.
        value: None if it was not measured.
        reached: None if it was not measured.
        note: How it was measured, or why it was not.
    """

    key: str
    value: float | None
    reached: bool | None
    note: str = ""


def _eprstmt(size: int) -> dict[str, Figure]:
    who = f"student of 1/{size}"
    return {
        f"size_{size}": Figure("eprstmt", f"{who}: teacher's parameters / its own", ">=",
                               size, "x"),
        f"gain_{size}": Figure("eprstmt", f"{who}: gain over its plain fine-tuning", ">=",
                               17, "points"),
        f"share_{size}": Figure("eprstmt", f"{who}: share of the teacher's accuracy", ">=",
                                92, "%"),
    }  # fmt: skip


def _titles(name: str) -> dict[str, Figure]:
    return {
        f"{name}_bytes": Figure("titles", f"{name}: student's file", "<=", 4, "MB"),
        f"{name}_share": Figure("titles", f"{name}: share of the teacher's accuracy", ">=",
                                98.5, "%"),
        f"{name}_speed": Figure("titles", f"{name}: latency, teacher's / student's", ">=", 25, "x"),
        f"{name}_speed_base": Figure(
            "titles", f"{name}: latency, base size / student's", ">=", 25, "x"),
    }  # fmt: skip


FIGURES: Mapping[str, Figure] = {
    **_eprstmt(30), **_eprstmt(100),
    **_titles("chnsenticorp"), **_titles("thucnews_title10"),
    "compress_bytes": Figure("compress", "bytes saved", ">=", 93, "%"),
    "compress_drop": Figure("compress", "accuracy lost on test", "<=", 0.3, "points"),
    "compress_speed": Figure("compress", "speed against the same model in fp32", ">=", 2.3, "x"),
    "tiny_p99": Figure("latency", "tiny tier, p99", "<=", 1, "ms"),
    "small_p99": Figure("latency", "4 x 312 BERT, p99", "<=", 8, "ms"),
    "end_to_end": Figure("latency", "base size in fp32 / 4 x 312 as served, p50", ">=", 7, "x"),
    "metakd_kd": Figure("metakd", "MetaKD over per-domain vanilla KD, mean", ">=", 2, "points"),
    "metakd_pooled": Figure("metakd", "MetaKD over the pooled control, mean", ">=", 0, "points",
                            strict=True),
    "server_ratio": Figure("server", "texts a second / one request, one run", ">=", 3, "x"),
    "server_lost": Figure("server", "requests lost or failed, overload included", "<=", 0, ""),
    "server_shed": Figure("server", "requests shed with 429 under overload", ">=", 1, ""),
    "server_half": Figure("server", "p99 at half load / idle p50", "<=", 3, "x"),
}  # fmt: skip
"""Every figure by its key, in the order of the table."""


def judge(key: str, value: float, note: str = "") -> Measured:
    """Return a measured figure with its verdict.

    Example:
        >>> judge("tiny_p99", 0.4).reached
        True
    """
    return Measured(key, float(value), FIGURES[key].reached(value), note)
