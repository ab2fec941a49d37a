"""Replaced token detection: which tokens of a text are not its own?

Input: a text in which some tokens may have been replaced; to train and evaluate, also the
``original``, which must have as many tokens. Output: for every token the probability that it was
replaced. The discriminator's half of ELECTRA (Clark et al. 2020); by itself the replacements in
pre-training are random tokens, and the method ``electra`` adds the generator that makes good ones.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from easynlp.errors import DataError
from easynlp.tasks.base import Batch, Example, Features, Field, Prediction
from easynlp.tasks.inputs import text_of
from easynlp.tasks.language_modeling import LanguageModeling

if TYPE_CHECKING:
    import torch

    from easynlp.models.backbone import Backbone

__all__ = ["Config", "ReplacedTokenDetection"]


@dataclass(frozen=True)
class DetectionConfig:
    """Options of replaced token detection."""

    max_length: int = 128
    """Most tokens of a row, special tokens included; the rest is cut."""
    mask_rate: float = 0.15
    """Share of the tokens to replace, in pre-training."""
    masking: str = "char"
    """What is replaced together: char, word or ngram."""
    similar_words: ClassVar[str] = ""


Config = DetectionConfig


class ReplacedTokenDetection(LanguageModeling):
    """Find tokens that do not belong; see the module's docstring.

    The loss is the mean over all real tokens, special ones included, as in ELECTRA.

    Args:
        config: Options.
        tokenizer: Must have a mask token, which the generator of `electra` fills.
    """

    name: ClassVar[str] = "replaced_token_detection"
    architecture: ClassVar[str] = "AutoModelForPreTraining"
    metric: ClassVar[str] = "detection_accuracy"
    fields: ClassVar[tuple[Field, ...]] = (
        *LanguageModeling.fields,
        Field("original", ("original", "source"), target=True),
    )
    Config: ClassVar[type[Any]] = DetectionConfig

    def encode_batch(self, examples: Sequence[Example]) -> list[Features]:
        """Encode many examples; the same as `encode` on each.

        Raises:
            DataError: If a text and its original have different numbers of tokens.
        """
        texts = [text_of(example, "text") for example in examples]
        found: list[Features] = []
        for example, item in zip(
            examples, self.tokenizer.encode_batch(texts, self.config.max_length), strict=True
        ):
            features: Features = {"input_ids": item.ids}
            if "original" in example:
                before = self.tokenizer.encode(
                    text_of(example, "original"), max_length=self.config.max_length
                ).ids
                if len(before) != len(item.ids):
                    raise DataError(
                        f"`text` has {len(item.ids)} tokens and `original` {len(before)}: only "
                        "replacements can be found, nothing that was put in or left out"
                    )
                rng = np.random.default_rng(zlib.crc32(item.ids.tobytes()))
                features = self._features(item.ids, before, np.flatnonzero(item.ids != before), rng)
            found.append({**features, "truncated": item.truncated})
        return found

    def hide(self, ids: np.ndarray, words: np.ndarray, rng: np.random.Generator) -> Features:
        """Return features of one row with tokens replaced at random by `rng`."""
        positions = self.draw(ids, words, rng).positions
        changed = ids.copy()
        changed[positions] = self.ordinary[rng.integers(len(self.ordinary), size=len(positions))]
        return self._features(changed, ids, positions, rng)

    def _features(
        self, changed: np.ndarray, ids: np.ndarray, positions: np.ndarray, rng: np.random.Generator
    ) -> Features:
        return {
            "input_ids": changed,
            "target": (changed != ids).astype(np.int64),
            "replaced": positions,
            "original": ids[positions],
            # A generator's choice at each position: with these numbers it is a function of the
            # row, not of the rows it shares a batch with.
            "chance": rng.random(len(positions)).astype(np.float32),
        }

    def collate(self, features: Sequence[Features]) -> Batch:
        """Stack rows; every real token is a position to judge."""
        batch = super().collate(
            [{**f, "positions": np.arange(len(f["input_ids"]))} for f in features]
        )
        if all("replaced" in f for f in features):
            width = batch["input_ids"].shape[1]
            batch["replaced_positions"] = np.concatenate(
                [row * width + np.asarray(f["replaced"]) for row, f in enumerate(features)]
            ).astype(np.int64)
            batch["original"] = np.concatenate([f["original"] for f in features]).astype(np.int64)
            batch["chance"] = np.concatenate([f["chance"] for f in features])
        return batch

    def build(self, backbone: Backbone) -> torch.nn.Module:
        """Return a discriminator: ELECTRA's own, or a token classifier over another encoder."""
        from easynlp.models.heads import ReplacedTokens

        if backbone.config.model_type == "electra":
            return ReplacedTokens(backbone.with_head(self.architecture))
        return ReplacedTokens(backbone.with_head("AutoModelForTokenClassification", num_labels=2))

    def decode(
        self, logits: np.ndarray, batch: Batch, examples: Sequence[Example]
    ) -> list[Prediction]:
        """Return for each text its tokens with the probability that they were replaced."""
        replaced = 1.0 / (1.0 + np.exp(np.clip(logits[:, 0] - logits[:, 1], -60, 60)))
        ids = batch["input_ids"].reshape(-1)[batch["masked_positions"]]
        target = batch.get("target")
        found: list[Prediction] = []
        start = 0
        for count in batch["holes"].tolist():
            tokens = []
            for i in range(start, start + count):
                item: dict[str, Any] = {
                    "token": self.tokenizer.backend.id_to_token(int(ids[i])),
                    "replaced": float(replaced[i]),
                }
                if target is not None:
                    item["truth"] = int(target[i])
                tokens.append(item)
            found.append({"tokens": tokens})
            start += count
        return found

    def score(
        self, predictions: Sequence[Prediction], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the share of tokens judged right, and precision and recall of replaced ones."""
        tokens = [t for p in predictions for t in p["tokens"] if "truth" in t]
        said = [t["replaced"] > 0.5 for t in tokens]
        both = sum(s and t["truth"] for s, t in zip(said, tokens, strict=True))
        right = sum(s == bool(t["truth"]) for s, t in zip(said, tokens, strict=True))
        return {
            self.metric: right / max(1, len(tokens)),
            "precision": both / max(1, sum(said)),
            "recall": both / max(1, sum(t["truth"] for t in tokens)),
        }

    def loss(self, output: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return cross entropy summed over the tokens; `electra` puts its own truth in place."""
        truth = output.get("truth")
        return super().loss(output, batch if truth is None else {**batch, "target": truth})
