"""Guess hidden characters: how good a masked-LM head is, with the same holes for every model.

Holes are characters of whole Chinese words, chosen on the text alone; each is a token of its own,
as in the Chinese BERTs: where a tokenizer has a piece of several characters that touches a hole,
the piece is cut into its characters first (an unfamiliar reading for such a model, which is used
to a hole a piece: what it scores is a lower bound). The guess is the likeliest single Chinese
character of its vocabulary: then the question is the same for all, whatever else their
vocabularies hold, and a character that one lacks counts as wrong. `Filler` can also hide the
pieces that touch a hole and let all pieces compete, but those figures compare with nothing but the
same tokenizer's.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from easynlp.errors import ModelError
from easynlp.models.backbone import Backbone
from easynlp.models.heads import MaskedPositions
from easynlp.text.characters import Characters, is_han
from easynlp.text.masking import mask_words
from easynlp.text.segment import word_ids
from easynlp.text.tokenizer import Encoded

__all__ = ["By", "Filler", "Passage", "commonest_share", "hide_each_word", "hide_words"]

By = Literal["character", "piece"]


@dataclass(frozen=True)
class Passage:
    """A text and the positions of its hidden characters, rising."""

    text: str
    holes: tuple[int, ...]


def hide_words(text: str, rate: float, seed: int = 0) -> Passage:
    """Choose whole words of Chinese characters to hide; a function of text, rate and seed.

    Args:
        text: Raw text.
        rate: Share of the Chinese characters to hide, in the mean over texts.
        seed: Another one chooses other words.

    Raises:
        MissingExtra: If the segmenter is not installed.

    Example:
        >>> hide_words("我喜欢北京", 0.4).holes
        (3, 4)
    """
    rng = np.random.default_rng((seed, zlib.crc32(text.encode())))
    places = np.arange(len(text))
    chosen = mask_words(
        places, _han_words(text), rate=rate, mask_id=-1, random_ids=(0, 1), rng=rng
    )  # fmt: skip
    return Passage(text, tuple(int(place) for place in chosen.positions))


def hide_each_word(text: str) -> list[Passage]:
    """Return a copy of a text for each of its Chinese words, with that word hidden.

    Example:
        >>> [passage.holes for passage in hide_each_word("我喜欢北京")]
        [(0,), (1, 2), (3, 4)]
    """
    words = _han_words(text)
    return [
        Passage(text, tuple(np.flatnonzero(words == word).tolist()))
        for word in dict.fromkeys(words[words >= 0].tolist())
    ]


def commonest_share(passages: Sequence[Passage]) -> float:
    """Return what always guessing the passages' commonest hidden character would score."""
    hidden = [passage.text[hole] for passage in passages for hole in passage.holes]
    _, counts = np.unique(hidden, return_counts=True)
    return float(counts.max() / len(hidden)) if hidden else 0.0


class Filler:
    """A masked-LM model that fills holes.

    Args:
        backbone: The model.
        device: Where to compute.

    Attributes:
        gaps: Parameters of model and head that the weights do not hold.

    Raises:
        ModelError: If there is no masked-LM head for the architecture, or no mask token.
    """

    def __init__(self, backbone: Backbone, device: torch.device | str = "cpu") -> None:
        self.name, self.tokenizer = backbone.name, backbone.tokenizer
        self._characters = Characters(self.tokenizer)
        if self.tokenizer.mask_id < 0:
            raise ModelError(f"{self.name} has no mask token, so it can fill nothing")
        torch.manual_seed(0)  # a head that the weights lack is at least the same one each time
        model, self.gaps = backbone.with_head_and_gaps("AutoModelForMaskedLM")
        self.model = MaskedPositions(model).to(device)
        self.model.train(False)
        self.device = torch.device(device)
        positions = getattr(backbone.config, "max_position_embeddings", None) or 512
        self.max_length = min(512, int(positions))
        vocabulary = self.tokenizer.backend.get_vocab()
        self._han = np.array(
            sorted(i for token, i in vocabulary.items() if len(token) == 1 and is_han(token)),
            np.int64,
        )

    def fill(
        self, passages: Sequence[Passage], by: By = "character", batch_size: int = 32
    ) -> np.ndarray:
        """Return for each hole, in order, whether it was guessed right; bool, (holes,).

        With ``by="piece"`` a hole is a piece that touches hidden characters.

        Raises:
            ModelError: If a hidden character is in a token with others that are not Chinese
                (``by="character"``), or a passage is too long for the model.
        """
        targets = self.targets(passages, by)
        right = np.zeros(len(targets), bool)
        for holes, logits in self._logits(passages, by, batch_size):
            if by == "character":
                best = self._han[logits[:, self._han].argmax(-1).cpu().numpy()]
            else:
                best = logits.argmax(-1).cpu().numpy()
            right[holes] = (best == targets[holes]) & (targets[holes] != self.tokenizer.unk_id)
        return right

    def context_gain(
        self, passages: Sequence[Passage], by: By = "character", batch_size: int = 32
    ) -> np.ndarray:
        """Return how much more likely the context makes each hidden token, nats, (holes,).

        That is its log-probability minus the log of its mean probability over all holes: what
        the model would say of it without looking. A head that makes nothing of the context
        gains 0 or less in the mean (Jensen's inequality).

        Raises:
            ModelError: As `fill`.
        """
        kinds, which = np.unique(self.targets(passages, by), return_inverse=True)
        found = np.zeros((len(which), len(kinds)))
        for holes, logits in self._logits(passages, by, batch_size):
            found[holes] = logits.float().log_softmax(-1)[:, kinds].double().cpu().numpy()
        expected = np.log(np.exp(found).mean(0) + 1e-300)
        gain: np.ndarray = found[np.arange(len(which)), which] - expected[which]
        return gain

    def targets(self, passages: Sequence[Passage], by: By = "character") -> np.ndarray:
        """Return the hidden token of each hole, in the order of `fill`; (holes,)."""
        encoded = self._encode(passages, by)
        pairs = zip(passages, encoded, strict=True)
        parts = [item.ids[self._tokens(p, item, by)] for p, item in pairs]
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)

    def _encode(self, passages: Sequence[Passage], by: By) -> list[Encoded]:
        texts = [passage.text for passage in passages]
        found = self.tokenizer.encode_batch(texts, self.max_length, offsets=True)
        if by == "piece":
            return found
        return [
            self._characters.cut(passage.text, item, passage.holes)
            for passage, item in zip(passages, found, strict=True)
        ]

    def _logits(
        self, passages: Sequence[Passage], by: By, batch_size: int
    ) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """Yield numbers of holes and their logits, (holes, vocabulary), batch by batch."""
        encoded = self._encode(passages, by)
        places = [self._tokens(p, item, by) for p, item in zip(passages, encoded, strict=True)]
        ends = np.cumsum([len(each) for each in places])
        order = sorted(range(len(passages)), key=lambda i: len(encoded[i].ids))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            width = len(encoded[rows[-1]].ids)
            ids = np.full((len(rows), width), self.tokenizer.pad_id, np.int64)
            mask = np.zeros((len(rows), width), np.int64)
            for i, row in enumerate(rows):
                length = len(encoded[row].ids)
                ids[i, :length], mask[i, :length] = encoded[row].ids, 1
                ids[i, places[row]] = self.tokenizer.mask_id
            flat = np.concatenate([i * width + places[row] for i, row in enumerate(rows)])
            numbers = [np.arange(ends[row] - len(places[row]), ends[row]) for row in rows]
            arrays = (ids, flat.astype(np.int64), mask)
            with torch.inference_mode():
                output = self.model(*(torch.from_numpy(a).to(self.device) for a in arrays))
            yield np.concatenate(numbers), output.logits

    def _tokens(self, passage: Passage, item: Encoded, by: By) -> np.ndarray:
        """Return the token numbers of a passage's holes."""
        assert item.offsets is not None
        if item.truncated or len(item.ids) > self.max_length:
            raise ModelError(
                f"{self.name} reads {self.max_length} tokens, and a passage of "
                f"{len(passage.text)} characters has more: take shorter passages"
            )
        first, end = item.offsets.T
        if by == "piece":
            wanted = np.array(passage.holes)
            touched = (first[:, None] <= wanted) & (wanted < end[:, None])
            return np.flatnonzero(touched.any(1))
        single = np.flatnonzero(end - first == 1)
        token_at = dict(zip(first[single].tolist(), single.tolist(), strict=True))
        missing = [hole for hole in passage.holes if hole not in token_at]
        if missing:
            raise ModelError(
                f'"{passage.text[missing[0]]}" is no token of its own to {self.name}, so its '
                "accuracy cannot be compared with that of models to which it is"
            )
        return np.array([token_at[hole] for hole in passage.holes], np.int64)


def _han_words(text: str) -> np.ndarray:
    """Return the word number of each character, -1 in words with other than Chinese ones."""
    words = word_ids(text).copy()
    other = np.array([not is_han(character) for character in text], bool)
    words[np.isin(words, words[other])] = -1
    return words
