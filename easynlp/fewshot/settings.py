"""Options of few-shot learning: flat dataclasses, importable without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from easynlp.config import Count, Share, Steps
from easynlp.options import Range

__all__ = ["SelfTrainingOptions"]


@dataclass(frozen=True, kw_only=True)
class SelfTrainingOptions:
    """Options of learning from unlabelled text."""

    unlabeled: str | None = None
    """Unlabelled texts of the same kind, in any format training data may have."""
    exclude: tuple[str, ...] = ()
    """Further files whose texts must not be learned from; those of train, dev and test never
    are."""
    rounds: Count = 3
    """Times the unlabelled text is labelled anew and learned from."""
    quota: Count = 100
    """Most unlabelled rows of a label that the first round believes."""
    growth: Annotated[float, Range(1)] = 2.0
    """What the quota is multiplied with from round to round."""
    confidence: Share = 0.0
    """Least probability of a guess that is believed."""
    balance: bool = True
    """Hold every label to the quota; off: only their sum."""
    restart: bool = True
    """Start every round from the pre-trained model; off: from the round before."""
    patience_rounds: Steps = 0
    """Stop after so many rounds that are no better on dev; 0: never."""
    placebo: bool = False
    """Deal the labels of believed rows out by chance: what is gained then, guesses did not gain."""
