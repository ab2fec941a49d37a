"""Prompts over several labelled sets at once: TransPrompt's first phase.

Wang et al. 2021, "TransPrompt: Towards an Automatic Transferable Prompting Framework for Few-shot
Text Classification" (EMNLP 2021). Rows come from similar sets with the same labels. A set has soft
tokens of its own, whose vectors are ``share`` times what the set's own prompt encoder makes and
the rest what one universal encoder makes for all sets: the one learns what is particular, the
other what transfers. (An encoder has inputs and an MLP of its own; EasyNLP's code mixes LSTM
outputs in front of one MLP.) Rows weigh by how typical they are (`easynlp.fewshot.transprompt`),
and a small reward for undecided answers keeps the model from leaning on one set's labels::

    loss = sum of weight x cross entropy - entropy x H(answer)

EasyNLP's code has the share of 0.8 and the factor of 0.01; which sign it gives the entropy differs
between its versions, and here it is the paper's, against over-confident answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from easynlp.errors import ConfigError, DataError
from easynlp.fewshot.prompt_classify import PromptClassify, PromptConfig
from easynlp.fewshot.template import Template, add_soft_tokens, soft_names
from easynlp.tasks.base import Batch, Example, Features, Field
from easynlp.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

    from easynlp.training.plan import Plan

__all__ = ["CrossConfig", "CrossPrompt", "cross_prompts"]

SET = Field("set", ("set",), required=False, target=True)
WEIGHT = Field("weight", ("weight",), required=False, target=True)


@dataclass(frozen=True)
class CrossConfig(PromptConfig):
    """Options of prompts over several sets."""

    sets: int = 1
    """Labelled sets; a row's field ``set`` counts them from 0, which is also the default."""
    entropy: float = 0.01
    """Factor of the answers' entropy, which is taken from the loss."""


class CrossPrompt(PromptClassify):
    """Classify by prompts, each set with soft tokens of its own; see the module's docstring.

    Args:
        config: Options, with `labels` known; the pattern has soft tokens.
        tokenizer: Of the backbone; a copy knows the soft tokens of all sets.

    Raises:
        ConfigError: If the pattern or the words are wrong, there is no soft token, or the loss is
            to be over the vocabulary.
    """

    config: CrossConfig
    Config = CrossConfig

    def __init__(self, config: CrossConfig, tokenizer: Tokenizer) -> None:
        softs = Template.parse(config.pattern).softs
        if not softs:
            raise ConfigError(f'the pattern "{config.pattern}" has no soft token; write [PRO]*4')
        if config.loss != "restricted":
            raise ConfigError(f"prompts over several sets have loss=restricted, not {config.loss}")
        super().__init__(config, add_soft_tokens(tokenizer, softs * config.sets))
        self.fields = (*self.fields, SET, WEIGHT)
        names = soft_names(softs * config.sets)
        found = [self.tokenizer.id_of(name) for name in names]
        self.soft_ids = [number for number in found if number is not None]
        self._own = np.array(self.soft_ids).reshape(config.sets, softs)
        self._vocabulary = min(self.soft_ids)

    @classmethod
    def restore(cls, config: Mapping[str, Any], tokenizer: Tokenizer) -> CrossPrompt:
        """Make the task again from what `saved` returned."""
        return cls(CrossConfig(**{**config, "labels": tuple(config["labels"])}), tokenizer)

    def encode_batch(self, examples: Sequence[Example]) -> list[Features]:
        """Encode many examples, with the soft tokens of each one's set and its ``weight``.

        Raises:
            DataError: If a set is unknown or a weight is no number; see
                `PromptClassify.encode_batch`.
        """
        rows = super().encode_batch(examples)
        for features, example in zip(rows, examples, strict=True):
            number, weight = (_number(example, name, i) for i, name in ((0, "set"), (1, "weight")))
            if number not in range(self.config.sets):
                raise DataError(f"`set` is {number:g}; there are {self.config.sets}, from 0")
            ids = features["input_ids"]
            for first, own in zip(self._own[0], self._own[int(number)], strict=True):
                ids = np.where(features["input_ids"] == first, own, ids)
            features["input_ids"] = ids.astype(features["input_ids"].dtype)
            features["weight"] = weight
        return rows

    def collate(self, features: Sequence[Features]) -> Batch:
        """Pad and stack; ``weight`` is (examples,) float32."""
        batch = super().collate(features)
        if "target" in batch:
            batch["weight"] = np.array([item["weight"] for item in features], np.float32)
        return batch

    def loss(self, output: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the weighted cross entropy, less the entropy, summed over examples."""
        found = self.log_probs(output, batch)
        right = found.gather(1, batch["target"][:, None])[:, 0]
        entropy = -(found.exp() * found).sum(1)
        return -(batch["weight"] * right).sum() - self.config.entropy * entropy.sum()


def cross_prompts(
    plan: Plan, *, share: float = 0.8, encoder: str = "lstm", unseen: bool = False
) -> Plan:
    """Make the soft tokens of a plan of `CrossPrompt` by an encoder a set and one for all.

    Args:
        plan: What to change.
        share: Of a set's own encoder in its vectors; the rest is the universal one's.
        encoder: What makes vectors: ``lstm``, ``mlp`` or ``none``; see `p_tuning`.
        unseen: Set 0 has no rows here: its vectors are the universal encoder's alone.

    Raises:
        ConfigError: If an option is wrong, the plan is another, or other methods came first.

    Example:
        >>> plan = cross_prompts(plan, share=0.5)                     # doctest: +SKIP
    """
    from easynlp.fewshot.p_tuning import MixedEncoder, SoftPrompts

    if not 0 <= share <= 1 or encoder not in ("lstm", "mlp", "none"):
        raise ConfigError(
            f"cross_prompts: share {share:g}, encoder {encoder}; valid: 0 to 1, and lstm, mlp, none"
        )
    if not isinstance(plan.task, CrossPrompt) or plan.backbone is None:
        raise ConfigError(f"cross_prompts is for prompts over several sets, not {plan.task.name}")
    if [term.name for term in plan.terms] != ["loss"]:
        raise ConfigError("cross_prompts makes the model anew, so it comes first among the methods")
    model = plan.task.language_model(plan.backbone)
    table: Any = model.get_input_embeddings()
    ids = plan.task.soft_ids
    start = table.weight[ids].detach().float().view(plan.task.config.sets, -1, table.embedding_dim)
    mixed = MixedEncoder(start, encoder, share, unseen=unseen)  # type: ignore[arg-type]
    return replace(plan, model=SoftPrompts(model, ids, freeze=False, encoder=mixed))


def _number(example: Example, name: str, default: float) -> float:
    try:
        return float(example.get(name, default))
    except (TypeError, ValueError) as error:
        raise DataError(f"`{name}` is {example[name]!r}, which is no number") from error
