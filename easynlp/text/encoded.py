"""What a tokenizer returns for a text or a pair."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Encoded"]


class Encoded(NamedTuple):
    """One encoded text or pair: ids and type ids (1-D int32), character offsets (N, 2)."""

    ids: np.ndarray
    type_ids: np.ndarray
    truncated: bool
    offsets: np.ndarray | None = None
