"""CHID as a cloze: which candidate would the language model write into the blank?

The blank gets as many masks as the idioms have characters, all filled at once; a candidate's score
is the joint probability of its characters, each at its own mask, and the answer is the highest.
That is how FewCLUE's own PET baseline ranks candidates. Probabilities are a softmax over the
candidates' joint log-probabilities, and training lowers minus its logarithm at the right one.
No label word is needed, and no candidate is seen alone.

The examples of a question are the same cloze, so it is run once for all of them that stand in a
batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from easynlp.benchmarks.encodings import grade
from easynlp.errors import DataError, ModelError
from easynlp.fewshot.template import Template, TemplateEncoder
from easynlp.tasks.base import Batch, Example, Features, Field, Prediction
from easynlp.tasks.inputs import pad_rows, text_of
from easynlp.tasks.labels import check_length
from easynlp.tasks.text_classify import LABEL, TEXT, TEXT_B
from easynlp.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

    from easynlp.models.backbone import Backbone

__all__ = ["ClozeConfig", "IdiomCloze"]


@dataclass(frozen=True)
class ClozeConfig:
    """Options of the cloze.

    Attributes:
        pattern: ``{text}`` and ``{text_b}`` around one ``[MASK]``, which stands for as many as an
            idiom has characters.
        max_length: Most tokens of a row.
        turned: Each candidate is scored by the characters of the one so many places on: a placebo,
            which has all idioms and says nothing about them.
    """

    pattern: str
    max_length: int = 128
    turned: int = 0


class IdiomCloze:
    """Tell which candidate stands in a blank; see the module's docstring.

    Examples are those of `easynlp.benchmarks.encodings.idiom`, one for each candidate, with
    ``candidates`` and the number of their own, ``choice``.

    Args:
        config: Options.
        tokenizer: Of the backbone; a character it does not know counts as its unknown token.

    Raises:
        ConfigError: If the pattern is wrong.
    """

    name: ClassVar[str] = "idiom_cloze"
    architecture: ClassVar[str] = "AutoModelForMaskedLM"
    metric: ClassVar[str] = "accuracy"
    fields: ClassVar[tuple[Field, ...]] = (TEXT, TEXT_B, LABEL)
    Config: ClassVar[type[ClozeConfig]] = ClozeConfig

    def __init__(self, config: ClozeConfig, tokenizer: Tokenizer) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.labels = ("0", "1")
        self._template = Template.parse(config.pattern)
        self._encoders: dict[int, TemplateEncoder] = {}

    @classmethod
    def prepare(
        cls, config: ClozeConfig, tokenizer: Tokenizer, examples: Sequence[Example]
    ) -> IdiomCloze:
        """Make the task; nothing is learned from the examples."""
        return cls(config, tokenizer)

    @classmethod
    def restore(cls, config: Mapping[str, Any], tokenizer: Tokenizer) -> IdiomCloze:
        """Make the task again from what `saved` returned."""
        return cls(ClozeConfig(**config), tokenizer)

    def saved(self) -> dict[str, Any]:
        """Return the options as plain JSON values."""
        return asdict(self.config)

    def encode(self, example: Example) -> Features:
        """Fill the pattern.

        Returns:
            ``input_ids`` with the masks, ``holes`` (where they are), ``words`` (candidates,
            characters), ``choice``, ``truncated``; with a label also ``target``, 1 for the right
            candidate.

        Raises:
            DataError: If the candidates of a question have different lengths.
        """
        candidates = example["candidates"]
        (length, *more) = {len(each) for each in candidates}
        if more:
            raise DataError(
                "candidates of different lengths have joint probabilities that do not compare: "
                + ", ".join(candidates)
            )
        if length not in self._encoders:
            self._encoders[length] = TemplateEncoder(
                self._template, self.tokenizer, length, self.config.max_length
            )
        texts = {name: text_of(example, name) for name in self._template.fields}
        (filled,) = self._encoders[length].encode_batch([texts])
        words = np.array([[self._id(c) for c in each] for each in candidates], np.int64)
        features: Features = {
            "input_ids": filled.ids, "holes": filled.holes, "truncated": filled.truncated,
            "words": np.roll(words, -self.config.turned, axis=0), "choice": int(example["choice"]),
        }  # fmt: skip
        if "label" in example:
            features["target"] = int(str(example["label"]) == "1")
        return features

    def encode_batch(self, examples: Sequence[Example]) -> list[Features]:
        """Encode many examples."""
        return [self.encode(example) for example in examples]

    def collate(self, features: Sequence[Features]) -> Batch:
        """Stack the clozes, each once, and say which example is of which.

        ``row``, ``choice`` and ``target`` are (examples,); ``place`` (flat numbers of masks),
        ``words`` and ``real`` are (clozes, candidates, characters), ``penalty`` is (clozes,
        candidates), minus infinity where a cloze has fewer; ``masked_positions`` are flat places in
        rows x tokens.
        """
        known: dict[tuple[bytes, bytes], int] = {}
        clozes: list[Features] = []
        row = []
        for item in features:
            key = item["input_ids"].tobytes(), item["words"].tobytes()
            if key not in known:
                known[key] = len(clozes)
                clozes.append(item)
            row.append(known[key])
        batch = pad_rows([item["input_ids"] for item in clozes], self.tokenizer.pad_id)
        width = batch["input_ids"].shape[1]
        batch["masked_positions"] = np.concatenate(
            [number * width + item["holes"] for number, item in enumerate(clozes)]
        ).astype(np.int64)
        shape = len(clozes), *np.max([item["words"].shape for item in clozes], axis=0)
        place, words = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        real, penalty = np.zeros(shape, np.float32), np.full(shape[:2], -np.inf, np.float32)
        first = 0
        for number, item in enumerate(clozes):
            many, length = item["words"].shape
            place[number, :many, :length] = first + np.arange(length)
            words[number, :many, :length] = item["words"]
            real[number, :many, :length], penalty[number, :many] = 1.0, 0.0
            first += length
        batch |= {"row": np.array(row), "place": place, "words": words, "real": real,
                  "penalty": penalty}  # fmt: skip
        batch["choice"] = np.array([item["choice"] for item in features])
        if all("target" in item for item in features):
            batch["target"] = np.array([item["target"] for item in features])
        return batch

    def count(self, batch: Batch) -> int:
        """Return the number of examples."""
        return len(batch["row"])

    def build(self, backbone: Backbone) -> torch.nn.Module:
        """Return the backbone with its masked-LM head, which answers at the masks only.

        Raises:
            ModelError: If the weights hold no masked-LM head.
        """
        from easynlp.models.heads import MaskedPositions

        check_length(backbone, self.config.max_length)
        model, gaps = backbone.with_head_and_gaps(self.architecture)
        if gaps and backbone.folder is not None:
            raise ModelError(
                f"{backbone.name} has no masked-LM head of its own, and a cloze needs one. Look "
                "for a model that has: easynlp models, and easynlp models check MODEL"
            )
        return MaskedPositions(model)

    def loss(self, output: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return minus the log-probability of the right candidates, summed."""
        own = self.log_probs(output, batch)[range(len(batch["row"])), batch["choice"]]
        return -own[batch["target"] == 1].sum()

    def log_probs(self, output: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return log-probabilities of the candidates, (examples, candidates)."""
        found = output.logits.float().log_softmax(-1)[batch["place"], batch["words"]]
        joint = (found * batch["real"]).sum(-1) + batch["penalty"]
        result: torch.Tensor = joint.log_softmax(-1)[batch["row"]]
        return result

    def decode(
        self, logits: np.ndarray, batch: Batch, examples: Sequence[Example]
    ) -> list[Prediction]:
        """Return for each example the probability that its candidate is the right one."""
        import torch

        tensors = {name: torch.from_numpy(np.asarray(batch[name])) for name in
                   ("row", "place", "words", "real", "penalty")}  # fmt: skip
        output = _Output(torch.from_numpy(np.asarray(logits, np.float32)))
        every = self.log_probs(output, tensors).exp().numpy()
        predictions: list[Prediction] = []
        for row, choice in zip(every, batch["choice"], strict=True):
            chance = float(row[choice])
            best = "1" if row.argmax() == choice else "0"
            predictions.append({"label": best, "scores": {"0": 1 - chance, "1": chance}})
        return predictions

    def score(
        self, predictions: Sequence[Prediction], examples: Sequence[Example]
    ) -> dict[str, float]:
        """Return the share of questions answered rightly."""
        return {"accuracy": grade(examples, predictions)}

    def _id(self, character: str) -> int:
        found = self.tokenizer.id_of(character)
        return max(self.tokenizer.unk_id, 0) if found is None else found


@dataclass(frozen=True)
class _Output:
    logits: torch.Tensor
