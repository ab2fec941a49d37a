"""EFL: classification as entailment. Does the text entail the description of this label?

Wang et al. 2021, "Entailment as Few-Shot Learner" (arXiv 2104.14690). A row (text, label) becomes
pairs of the text and one sentence a label: 1 for its own label, 0 for the others; a model of two
outputs learns them all at once, and so reads what labels mean. The prediction is the label whose
description is entailed with the highest probability; `scores` are these probabilities, divided by
their sum. Every text is read once for each label: 119 labels are 119 pairs.

In training a row brings its true pair and `negatives` others, drawn anew every epoch (the paper
draws them once); 0 takes all.

A model that has learned entailment from other data knows the question already, and a table must
say so: `pretrain_entailment` makes one of NLI rows, and its folder goes where ``--model`` is
taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np

from easynlp.config import Steps
from easynlp.data.sampling import Source
from easynlp.errors import ConfigError, DataError
from easynlp.fewshot.one_label import AnswersAsClassifier
from easynlp.options import Range
from easynlp.tasks.base import Batch, Example, Features, Field
from easynlp.tasks.inputs import pad_rows, text_of
from easynlp.tasks.labels import Pooling, label_of, pooled_head
from easynlp.tasks.text_classify import LABEL, TEXT, ClassifyConfig, TextClassify
from easynlp.text.label_words import Verbalizer
from easynlp.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

    from easynlp.models.backbone import Backbone
    from easynlp.training.plan import Plan

__all__ = ["ANSWERS", "Config", "Entailment", "Negatives", "efl"]

ANSWERS = ("0", "1")
"""Names of the model's outputs: the description does not follow from the text; it does."""


@dataclass(frozen=True)
class EntailmentConfig:
    """Options of classification as entailment."""

    descriptions: str = ""
    """What each label means, e.g. "好评=满意;差评=不满意", or @FILE; by default the labels' own
    names."""
    hypothesis: str = "{label}"
    """The second sentence, e.g. "这是一条{label}的评论", with {label} for the description."""
    negatives: Steps = 0
    """Wrong descriptions a row is trained on in an epoch, drawn anew each time; 0: all."""
    max_length: Annotated[int, Range(8)] = 128
    """Most tokens of a text and a description together; the text is cut."""
    pooling: Pooling = "auto"
    """What the head reads: the first token, or the mean of all; see text_classify."""
    labels: tuple[str, ...] = ()
    """All labels, in order; learned from the training data."""


Config = EntailmentConfig


class Entailment(AnswersAsClassifier):
    """Tell which label a text has by which description it entails; see the module's docstring.

    Args:
        config: Options, with `labels` known.
        tokenizer: Of the backbone.

    Raises:
        ConfigError: If a description is missing, is two labels', or `hypothesis` has no
            ``{label}``.
    """

    name: ClassVar[str] = "entailment"
    architecture: ClassVar[str] = "AutoModelForSequenceClassification"
    metric: ClassVar[str] = "accuracy"
    fields: tuple[Field, ...] = (TEXT, LABEL)
    Config: ClassVar[type[EntailmentConfig]] = EntailmentConfig

    def __init__(self, config: EntailmentConfig, tokenizer: Tokenizer) -> None:
        if "{label}" not in config.hypothesis:
            raise ConfigError(f'the hypothesis "{config.hypothesis}" has no {{label}} in it')
        words = Verbalizer.parse(config.descriptions, config.labels)
        self.config = replace(config, descriptions=str(words))
        self.tokenizer = tokenizer
        self.hypotheses = [
            config.hypothesis.replace("{label}", "，".join(each)) for each in words.words
        ]
        for i, text in enumerate(self.hypotheses):
            if text in self.hypotheses[:i]:
                other = config.labels[self.hypotheses.index(text)]
                raise ConfigError(
                    f'the labels "{other}" and "{config.labels[i]}" have the same description, '
                    f'"{text}": no text could tell them apart'
                )
        self._classify = TextClassify(ClassifyConfig(labels=config.labels, pair=False), tokenizer)
        self.labels = self._classify.labels

    @classmethod
    def prepare(
        cls, config: EntailmentConfig, tokenizer: Tokenizer, examples: Sequence[Example]
    ) -> Entailment:
        """Learn the labels (sorted; numbers by value), unless the options name them.

        Raises:
            DataError: If there are fewer than two labels.
            ConfigError: If the descriptions are wrong.
        """
        known = TextClassify.prepare(
            ClassifyConfig(labels=config.labels, pair=False), tokenizer, examples
        )
        return cls(replace(config, labels=known.config.labels), tokenizer)

    @classmethod
    def restore(cls, config: Mapping[str, Any], tokenizer: Tokenizer) -> Entailment:
        """Make the task again from what `saved` returned."""
        return cls(EntailmentConfig(**{**config, "labels": tuple(config["labels"])}), tokenizer)

    def saved(self) -> dict[str, Any]:
        """Return the options, labels included, as plain JSON values."""
        return {**asdict(self.config), "labels": list(self.config.labels)}

    def encode(self, example: Example) -> Features:
        """Tokenize a text with every description; see `encode_batch`.

        Raises:
            DataError: If the text is missing or no string, or the label is unknown.
        """
        return self.encode_batch([example])[0]

    def encode_batch(self, examples: Sequence[Example]) -> list[Features]:
        """Encode many examples.

        Returns:
            For each ``pair_ids`` and ``pair_types``, its pairs one behind the other, and
            ``pair_ends``, where each ends; ``input_ids``, the longest pair, to sort by; with a
            label also ``gold``, its number.
        """
        texts = [text_of(example, "text") for example in examples]
        pairs = [(text, other) for text in texts for other in self.hypotheses]
        encoded = self.tokenizer.encode_batch(pairs, self.config.max_length)
        rows: list[Features] = []
        for number, example in enumerate(examples):
            own = encoded[number * len(self.labels) : (number + 1) * len(self.labels)]
            features: Features = {
                "input_ids": max((item.ids for item in own), key=len),
                "pair_ids": np.concatenate([item.ids for item in own]),
                "pair_types": np.concatenate([item.type_ids for item in own]),
                "pair_ends": np.cumsum([len(item.ids) for item in own]),
                "truncated": any(item.truncated for item in own),
            }
            if "label" in example:
                features["gold"] = self._gold(example["label"])
            rows.append(features)
        return rows

    def collate(self, features: Sequence[Features]) -> Batch:
        """Pad and stack the pairs of all rows; ``target`` (pairs,) is 1 for the true ones.

        A row has a pair for every label, or for those in ``chosen``.
        """
        ids: list[np.ndarray] = []
        types: list[np.ndarray] = []
        target: list[int] = []
        for item in features:
            ends = item["pair_ends"]
            for label in item.get("chosen", range(len(ends))):
                part = slice(ends[label - 1] if label else 0, ends[label])
                ids.append(item["pair_ids"][part])
                types.append(item["pair_types"][part])
                target.append(int(label == item.get("gold")))
        batch = pad_rows(ids, self.tokenizer.pad_id, types)
        if all("gold" in item for item in features):
            batch["target"] = np.array(target, np.int64)
        return batch

    def training_rows(self, source: Source, seed: int) -> Source:
        """Return the rows with `negatives` drawn for each epoch, or with the pairs of all labels.

        Their lengths are those of all their pairs: a budget of tokens is one of what is computed.
        """
        others = len(self.labels) - 1
        drawn = self.config.negatives if 0 < self.config.negatives < others else others
        return Negatives(source, len(self.labels), drawn, seed)

    def count(self, batch: Batch) -> int:
        """Return the number of pairs."""
        return len(batch["input_ids"])

    def build(self, backbone: Backbone) -> torch.nn.Module:
        """Return the backbone with a head of two outputs; `config` learns which pooling it has."""
        model, pooling = pooled_head(
            backbone, self.architecture, ANSWERS, self.config.max_length, self.config.pooling,
            problem_type="single_label_classification",
        )  # fmt: skip
        self.config = replace(self.config, pooling=pooling)
        return model

    def loss(self, output: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the cross entropy summed over pairs."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(output.logits.float(), batch["target"], reduction="sum")

    def log_probs(self, output: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the log-probabilities of not following and following, (pairs, 2)."""
        result: torch.Tensor = output.logits.float().log_softmax(-1)
        return result

    def label_logits(self, logits: np.ndarray) -> np.ndarray:
        """Return the log-probability that each label's sentence follows, (texts, labels)."""
        pairs = logits.astype(np.float64).reshape(-1, len(self.labels), 2)
        follows: np.ndarray = -np.logaddexp(0.0, pairs[..., 0] - pairs[..., 1])
        return follows

    def _gold(self, value: Any) -> int:
        if isinstance(value, list | tuple | set | frozenset):
            raise DataError(f"`label` holds {len(value)} labels; entailment tells one")
        return self.labels.index_of(label_of(value))


@dataclass(frozen=True)
class Negatives:
    """Rows of which each epoch shows the true pair and some of the others.

    Args:
        source: Rows with pairs of all labels.
        labels: How many there are.
        count: Wrong ones to draw.
        seed: Of the draw.
    """

    source: Source
    labels: int
    count: int
    seed: int = 0

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row's drawn pairs, at most."""
        found: np.ndarray = self.source.lengths * (1 + self.count)
        return found

    def features(self, index: int, epoch: int) -> Features:
        """Return a row with the numbers of its pairs as ``chosen``, the true one first."""
        row = self.source.features(index, epoch)
        rng = np.random.default_rng((self.seed, epoch, index))
        others = [label for label in range(self.labels) if label != row["gold"]]
        drawn = rng.choice(others, self.count, replace=False).tolist()
        return {**row, "chosen": [row["gold"], *drawn]}


def efl(
    plan: Plan,
    *,
    descriptions: str | None = None,
    hypothesis: str | None = None,
    negatives: int | None = None,
) -> Plan:
    """Make a plan of text_classify one of entailment between texts and label descriptions.

    Args:
        plan: What to change, of text_classify or entailment; no method may have come before it.
        descriptions: See `EntailmentConfig`; here and below, None leaves what the task has.
        hypothesis: See `EntailmentConfig`.
        negatives: See `EntailmentConfig`.

    Raises:
        ConfigError: If the plan is of another task, or an option is wrong.

    Example:
        >>> plan = efl(plan, descriptions="好评=满意;差评=不满意")      # doctest: +SKIP
    """
    from easynlp.training.plan import task_term

    config = _config_of(plan.task)
    if plan.backbone is None or [term.name for term in plan.terms] != ["loss"]:
        raise ConfigError("efl makes the model anew, so it comes first among the methods")
    given = {"descriptions": descriptions, "hypothesis": hypothesis, "negatives": negatives}
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    made = Entailment(replace(config, **changes), plan.backbone.tokenizer)
    return replace(
        plan, task=made, model=made.build(plan.backbone), terms=(task_term(made),),
        source=made.training_rows,
    )  # fmt: skip


def _config_of(task: Any) -> EntailmentConfig:
    """Return the options of a task as entailment.

    Raises:
        ConfigError: If there is no such reading of it.
    """
    if isinstance(task, Entailment):
        return task.config
    if isinstance(task, TextClassify) and not task.config.multi_label and not task.config.pair:
        return EntailmentConfig(
            max_length=task.config.max_length, pooling=task.config.pooling,
            labels=task.config.labels,
        )  # fmt: skip
    raise ConfigError("efl is for text_classify with one text and one label a row")
