"""Masked language modeling: which words stand behind the holes?

Input: raw text, ``今天天气很好``, or text with its own ``[MASK]``. Output: the likeliest tokens
at every hole. Used by `pretrain`; logits are computed at the hidden positions only, which for a
small model is most of the cost of a step (the vocabulary is wider than the encoder is deep).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from easynlp.errors import ConfigError, DataError
from easynlp.tasks.base import Batch, Example, Features, Field, Prediction
from easynlp.text.masking import MASKINGS, Masked, mask_words
from easynlp.text.segment import continues, word_ids
from easynlp.text.similar_words import SimilarWords
from easynlp.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

    from easynlp.models.backbone import Backbone

__all__ = ["Config", "LanguageModeling", "special_ids", "token_words"]


@dataclass(frozen=True)
class ModelingConfig:
    """Options of masked language modeling."""

    max_length: int = 128
    """Most tokens of a row, special tokens included; the rest is cut."""
    mask_rate: float = 0.15
    """Share of the tokens to hide, as whole words."""
    masking: str = "word"
    """What is hidden whole: char, word, ngram (spans of 1 to 4 words), or similar (such spans,
    with similar words instead of [MASK])."""
    similar_words: str = ""
    """File of similar words, a line word<TAB>similar,similar each; needed by masking similar."""
    top: int = 5
    """Candidates returned for every hole."""

    def __post_init__(self) -> None:
        if self.masking not in MASKINGS:
            raise ConfigError(f'masking "{self.masking}" is none of {", ".join(MASKINGS)}')
        if self.masking == "similar" and not self.similar_words:
            raise ConfigError("masking similar needs a file of similar words: give similar_words")


Config = ModelingConfig


class LanguageModeling:
    """Guess hidden words; see the module's docstring.

    Args:
        config: Options.
        tokenizer: Must have a mask token.
    """

    name: ClassVar[str] = "language_modeling"
    architecture: ClassVar[str] = "AutoModelForMaskedLM"
    metric: ClassVar[str] = "masked_accuracy"
    fields: ClassVar[tuple[Field, ...]] = (
        Field("text", ("text", "sentence", "content", "paragraph")),
    )
    Config: ClassVar[type[Any]] = ModelingConfig
    needs_mask: ClassVar[bool] = True

    def __init__(self, config: Any, tokenizer: Tokenizer) -> None:
        if self.needs_mask and tokenizer.mask_id < 0:
            raise DataError("the tokenizer has no [MASK] token, so nothing can be hidden")
        self.config, self.tokenizer = config, tokenizer
        self.special = special_ids(tokenizer)
        self.ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size), self.special)
        self._similar: SimilarWords | None = None

    @classmethod
    def prepare(
        cls, config: Any, tokenizer: Tokenizer, examples: Sequence[Example]
    ) -> LanguageModeling:
        """Make the task; there is nothing to learn from the examples."""
        return cls(config, tokenizer)

    @classmethod
    def restore(cls, config: Mapping[str, Any], tokenizer: Tokenizer) -> LanguageModeling:
        """Make the task again from its saved options."""
        return cls(cls.Config(**config), tokenizer)

    def saved(self) -> dict[str, Any]:
        """Return the options as plain JSON values."""
        return asdict(self.config)

    def encode(self, example: Example) -> Features:
        """Tokenize, find whole words and hide some.

        The draw is a function of the text alone, so scores on held-out text repeat; training
        rows are drawn anew every epoch by `pretraining.rows`. A text that brings its own mask
        tokens keeps them, and nothing else is hidden; ``[MASK]`` is one whatever the tokenizer's
        own is called.
        """
        return self.encode_batch([example])[0]

    def encode_batch(self, examples: Sequence[Example]) -> list[Features]:
        """Encode many examples; the same as `encode` on each."""
        found = []
        texts = [example["text"] for example in examples]
        if self.tokenizer.mask_id >= 0:
            mask = str(self.tokenizer.backend.id_to_token(self.tokenizer.mask_id))
            texts = [text.replace("[MASK]", mask) for text in texts]
        for text, item in zip(
            texts, self.tokenizer.encode_batch(texts, self.config.max_length, True), strict=True
        ):
            assert item.offsets is not None
            if (item.ids == self.tokenizer.mask_id).any():
                mask_id = np.array([self.tokenizer.mask_id])
                ids, _ = self.tokenizer.without_spaces(item.ids, mask_id)
                holes = np.flatnonzero(ids == mask_id)
                found.append({"input_ids": ids, "positions": holes, "truncated": item.truncated})
                continue
            words = token_words(text, item.ids, item.offsets, self.special)
            seed = zlib.crc32(item.ids.tobytes())
            features = self.hide(item.ids, words, np.random.default_rng(seed))
            found.append({**features, "truncated": item.truncated})
        return found

    def hide(self, ids: np.ndarray, words: np.ndarray, rng: np.random.Generator) -> Features:
        """Return features of one row with words hidden by `rng`."""
        row = self.draw(ids, words, rng)
        return {"input_ids": row.ids, "positions": row.positions, "target": row.targets}

    def draw(self, ids: np.ndarray, words: np.ndarray, rng: np.random.Generator) -> Masked:
        """Return a row with words hidden as the options say."""
        config = self.config
        if config.masking == "similar" and self._similar is None:
            self._similar = SimilarWords.read(config.similar_words, self.tokenizer)
        return mask_words(
            ids, words, rate=config.mask_rate, mask_id=self.tokenizer.mask_id,
            random_ids=self.ordinary, rng=rng,
            masking=config.masking, similar=self._similar,
        )  # fmt: skip

    def collate(self, features: Sequence[Features]) -> Batch:
        """Stack rows; holes become flat positions into (rows x tokens).

        Full rows carry no attention mask: attention without one is faster.
        """
        lengths = np.array([len(f["input_ids"]) for f in features])
        width = int(lengths.max())
        ids = np.full((len(features), width), self.tokenizer.pad_id, np.int64)
        for row, item in enumerate(features):
            ids[row, : lengths[row]] = item["input_ids"]
        batch: Batch = {"input_ids": ids}
        if (lengths < width).any():
            batch["attention_mask"] = (np.arange(width) < lengths[:, None]).astype(np.int64)
        if any("shift" in f for f in features):
            shift = np.array([f.get("shift", 0) for f in features])
            batch["position_ids"] = np.arange(width) + shift[:, None]
        batch["masked_positions"] = np.concatenate(
            [row * width + np.asarray(f["positions"]) for row, f in enumerate(features)]
        ).astype(np.int64)
        batch["holes"] = np.array([len(f["positions"]) for f in features], np.int64)
        if all("target" in f for f in features):
            batch["target"] = np.concatenate([f["target"] for f in features]).astype(np.int64)
        if all("vector" in f for f in features):
            batch["vector"] = np.stack([f["vector"] for f in features])
        return batch

    def count(self, batch: Batch) -> int:
        """Return the number of holes."""
        return len(batch["masked_positions"])

    def build(self, backbone: Backbone) -> torch.nn.Module:
        """Return a masked-LM model that computes logits at the holes only."""
        from easynlp.models.heads import MaskedPositions

        return MaskedPositions(backbone.with_head(self.architecture))

    def loss(self, output: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return cross entropy summed over the holes."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(output.logits.float(), batch["target"], reduction="sum")

    def log_probs(self, output: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return log-probabilities at the holes, shape (holes, vocabulary)."""
        result: torch.Tensor = output.logits.float().log_softmax(-1)
        return result

    def decode(
        self, logits: np.ndarray, batch: Batch, examples: Sequence[Example]
    ) -> list[Prediction]:
        """Return for each text the likeliest tokens of every hole, with probabilities."""
        scores = np.exp(logits - logits.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        top: np.ndarray = np.argsort(-scores, axis=-1)[:, : self.config.top]
        target = batch.get("target")
        found: list[Prediction] = []
        hole = 0
        for count in batch["holes"]:
            holes = []
            for i in range(hole, hole + int(count)):
                names = [self.tokenizer.backend.id_to_token(int(t)) for t in top[i]]
                item: dict[str, Any] = {
                    "tokens": names,
                    "scores": [float(s) for s in scores[i, top[i]]],
                }
                if target is not None:
                    item["hidden"] = self.tokenizer.backend.id_to_token(int(target[i]))
                holes.append(item)
            found.append({"holes": holes})
            hole += int(count)
        return found

    def score(
        self, predictions: Sequence[Prediction], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the share of hidden tokens guessed right."""
        holes = [hole for item in predictions for hole in item["holes"] if "hidden" in hole]
        right = sum(hole["tokens"][0] == hole["hidden"] for hole in holes)
        return {self.metric: right / max(1, len(holes)), "holes": float(len(holes))}


def special_ids(tokenizer: Tokenizer) -> np.ndarray:
    """Return the ids of special tokens, which are never hidden and never random, sorted."""
    names = (
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "<pad>",
        "<s>",
        "</s>",
        "<unk>",
        "<mask>",
    )
    return np.array(sorted(i for t in names if (i := tokenizer.id_of(t)) is not None))


def token_words(text: str, ids: np.ndarray, offsets: np.ndarray, special: np.ndarray) -> np.ndarray:
    """Return the word number of each token, -1 for special tokens, shape (tokens,).

    Words are those of the segmenter. Where a token reaches over a word's end into a part of the
    next word, as pieces of a SentencePiece tokenizer do (``▁Go|od``, ``天天|气``), the two words
    are one, so that none is ever hidden by half; a token that ends where a word ends joins
    nothing.
    """
    of_char = word_ids(text)
    words = np.full(len(ids), -1, np.int32)
    inside = np.flatnonzero(~np.isin(ids, special))
    if len(of_char) and len(inside):
        start, end = offsets[inside].T
        first = np.minimum(start, len(of_char) - 1)
        last = np.clip(end - 1, first, len(of_char) - 1)
        words[inside] = np.cumsum(~continues(of_char[first], of_char[last]))
    return words
