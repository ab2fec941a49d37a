"""What a choice on dev is worth: looks counted, the lead tested, chance named."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from easynlp.metrics import share_interval

__all__ = ["Choice", "Try", "best_of", "explain", "sign_test"]

LEAST = 0.05
"""Corrected p-value from which a lead counts as one that may be chance."""


@dataclass(frozen=True)
class Try:
    """One way, tried.

    Attributes:
        way: Key of `easynlp.fewshot.choose.WAYS`, self-training, or a baseline, which is for
            comparison only.
        detail: Learning rate and pattern.
        dev: Score on dev: accuracy.
        surety: Mean log-probability of the right labels of dev.
        seconds: What training and looking at dev took.
        note: Why it was not to be had, if it was not.
        folder: Its run, below the output folder; empty for baselines.
        looks: Scores on dev among which its own is the best: checkpoints, times ways to read one.
        right: For each row of dev 1 if it was answered rightly, else 0.
    """

    way: str
    detail: str
    dev: float
    surety: float
    seconds: float
    note: str = ""
    folder: str = ""
    looks: int = 1
    right: str = ""


@dataclass(frozen=True)
class Choice:
    """What was tried, what was chosen, and why."""

    tries: Sequence[Try]
    chosen: Try
    why: str
    scores: Mapping[str, Mapping[str, float]]


def best_of(tries: Sequence[Try]) -> Try:
    """Return the best on dev, then the surest, then the first."""
    return max(tries, key=lambda each: (each.dev, round(each.surety, 6)))


def explain(tries: Sequence[Try], best: Try, rows: int) -> str:
    """Return in words why a try was chosen, and how far that can be believed.

    The lead over the next way is judged by the rows on which the two differ (McNemar's exact test,
    two-sided). The winner is the best of all scores that were looked at, so the p-value is
    multiplied by their number (Bonferroni). Looks at one dev file are much alike, so that is more
    than enough: a lead that stands it is none of chance, one that does not may be real.

    Args:
        tries: All of them.
        best: The one chosen.
        rows: Rows of dev.

    Example:
        >>> one, other = "1111111000", "1111110110"
        >>> tries = [Try("probe", "", 0.7, -0.6, 1, folder="a", right=one),
        ...          Try("lp_ft", "lr 1e-4", 0.8, -0.5, 9, folder="b", looks=10, right=other)]
        >>> explain(tries, tries[1], 10)
        'lp_ft (lr 1e-4): 0.800 on 10 dev rows (95 % interval 0.490 to 0.943), 1 row ahead of \
probe: alone right on 2, alone wrong on 1, p 1 by a sign test, 1 after 11 looks at dev, which may \
well be chance'
    """
    low, high = share_interval(round(best.dev * rows), rows)
    detail = f" ({best.detail})" if best.detail else ""
    told = (
        f"{best.way}{detail}: {best.dev:.3f} on {rows} dev rows "
        f"(95 % interval {low:.3f} to {high:.3f})"
    )
    others = [each for each in tries if each.way != best.way and not each.note]
    if not others:
        return f"{told}; nothing else was tried"
    next_best = best_of(others)
    ahead = round((best.dev - next_best.dev) * rows)
    if ahead < 0:
        return f"{told}, {_rows(-ahead)} behind {next_best.way}, which makes no run folder"
    if ahead == 0:
        how = "by surer answers" if best.surety > next_best.surety else "as the simpler way"
        return f"{told}, as {next_best.way}; chosen {how}"
    pairs = list(zip(best.right, next_best.right, strict=True))
    wins, losses = pairs.count(("1", "0")), pairs.count(("0", "1"))
    looks = sum(each.looks for each in tries if each.folder and not each.note)
    p = sign_test(wins, losses)
    corrected = min(1.0, p * looks)
    chance = ", which may well be chance" if corrected >= LEAST else ""
    return (
        f"{told}, {_rows(ahead)} ahead of {next_best.way}: alone right on {wins}, alone wrong on "
        f"{losses}, p {p:.2g} by a sign test, {corrected:.2g} after {looks} looks at dev{chance}"
    )


def sign_test(wins: int, losses: int) -> float:
    """Return the two-sided p-value of so many wins and losses, if either is as likely.

    Example:
        >>> sign_test(6, 0), sign_test(9, 5)
        (0.03125, 0.4239501953125)
    """
    count = wins + losses
    tail = sum(math.comb(count, k) for k in range(min(wins, losses) + 1))
    return min(1.0, float(2 * tail / 2**count))


def _rows(count: int) -> str:
    return f"{count} row" if count == 1 else f"{count} rows"
