"""A masked language model says which other words might stand in a text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from easynlp.data.augment import Hole
from easynlp.errors import ModelError
from easynlp.models.backbone import Backbone
from easynlp.models.heads import MaskedPositions
from easynlp.text.tokenizer import Encoded

__all__ = ["WordFiller"]


class WordFiller:
    """Puts other words into holes, each of as many tokens as the one before.

    All holes of a text are filled at once, each token drawn from the likeliest ones; special
    tokens, pieces of Latin words, and what stood there are never drawn. The text around the holes
    stays as it is, character by character.

    Args:
        name: A masked language model.
        top: How many of the likeliest tokens are drawn from.
        max_length: Most tokens of a text that are read; holes behind them stay as they are.
        device: Where to compute.

    Raises:
        ModelError: If the model has no trained masked-LM head.

    Example:
        >>> fill = WordFiller("tiny-zh")                               # doctest: +SKIP
        >>> fill(["房间很干净"], [[(3, 5)]], [0])                       # doctest: +SKIP
        ['房间很舒服']
    """

    def __init__(
        self,
        name: str,
        *,
        top: int = 10,
        max_length: int = 128,
        device: torch.device | None = None,
    ) -> None:
        backbone = Backbone.load(name)
        model, gaps = backbone.with_head_and_gaps("AutoModelForMaskedLM")
        if backbone.folder is None or any("predictions" in gap or "lm_head" in gap for gap in gaps):
            raise ModelError(f"{name} has no trained masked-LM head, so it cannot fill holes")
        self.device = device or torch.device("cpu")
        self.model = MaskedPositions(model).train(False).to(self.device)
        self.tokenizer, self.top, self.max_length = backbone.tokenizer, top, max_length
        self.names = self.tokenizer.tokens()
        banned = [
            not each or each.startswith(("##", "[", "<", "▁")) or not each.isalnum()
            for each in self.names
        ]
        self.banned = torch.tensor(banned, device=self.device)

    @torch.no_grad()
    def __call__(
        self, texts: Sequence[str], holes: Sequence[Sequence[Hole]], seeds: Sequence[int]
    ) -> list[str]:
        """Return the texts with other words in the holes.

        Args:
            texts: Each at least a character long.
            holes: Of each text.
            seeds: Of each text's draw.
        """
        found = list(texts)
        encoded = self.tokenizer.encode_batch(list(texts), self.max_length, offsets=True)
        order = sorted(range(len(texts)), key=lambda i: len(encoded[i].ids))
        for start in range(0, len(order), 32):
            rows = order[start : start + 32]
            places = [_inside(encoded[i], holes[i]) for i in rows]
            words = self._likeliest([encoded[i] for i in rows], places)
            for i, at, choices in zip(rows, places, words, strict=True):
                found[i] = self._put(texts[i], encoded[i], at, choices, seeds[i])
        return found

    def _likeliest(
        self, rows: Sequence[Encoded], places: Sequence[np.ndarray]
    ) -> list[list[list[tuple[int, float]]]]:
        """Return (token, probability) of the likeliest tokens at each place of each row."""
        width = max(len(item.ids) for item in rows)
        ids = np.full((len(rows), width), self.tokenizer.pad_id, np.int64)
        flat: list[int] = []
        before: list[int] = []
        for number, (item, at) in enumerate(zip(rows, places, strict=True)):
            ids[number, : len(item.ids)] = item.ids
            before += item.ids[at].tolist()
            ids[number, at] = self.tokenizer.mask_id
            flat += (number * width + at).tolist()
        if not flat:
            return [[] for _ in rows]
        lengths = torch.tensor([len(item.ids) for item in rows], device=self.device)
        mask = torch.arange(width, device=self.device) < lengths[:, None]
        output: Any = self.model(
            input_ids=torch.from_numpy(ids).to(self.device), attention_mask=mask.long(),
            masked_positions=torch.tensor(flat, device=self.device),
        )  # fmt: skip
        logits = output.logits.float()[:, : len(self.banned)]
        logits = logits.masked_fill(self.banned[: logits.shape[1]], -torch.inf)
        logits[torch.arange(len(before)), torch.tensor(before)] = -torch.inf
        probs, tokens = logits.softmax(-1).topk(self.top)
        listed = [
            list(zip(t, p, strict=True))
            for t, p in zip(tokens.tolist(), probs.tolist(), strict=True)
        ]
        cuts = np.cumsum([0, *map(len, places)])
        return [listed[a:b] for a, b in pairwise(cuts.tolist())]

    def _put(
        self, text: str, item: Encoded, places: np.ndarray,
        choices: Sequence[Sequence[tuple[int, float]]], seed: int,
    ) -> str:  # fmt: skip
        assert item.offsets is not None
        rng = np.random.default_rng(seed)
        for place, choice in reversed(list(zip(places.tolist(), choices, strict=True))):
            tokens, weights = zip(*choice, strict=True)
            shares = np.array(weights) / sum(weights)
            drawn = self.names[tokens[int(rng.choice(len(tokens), p=shares))]]
            start, end = item.offsets[place].tolist()
            text = text[:start] + drawn + text[end:]
        return text


def _inside(item: Encoded, holes: Sequence[Hole]) -> np.ndarray:
    """Return the tokens that lie in holes."""
    assert item.offsets is not None
    first, end = item.offsets.T
    inside = np.zeros(len(first), bool)
    for start, stop in holes:
        inside |= (first >= start) & (end <= stop) & (end > first)
    return np.flatnonzero(inside)
