"""P-tuning v2: learned keys and values in every layer, and a classifier over the first token.

Liu et al. 2022, "P-Tuning v2: Prompt Tuning Can Be Comparable to Fine-tuning Universally Across
Scales and Tasks" (arXiv 2110.07602). No pattern and no label words: the model is text_classify's,
and each layer's tokens look at `tokens` learned keys and values beside their own. With ``freeze``
(the paper's) the encoder stays as it is bit for bit, and only the prompts and the head learn:
0.1 % to 3 % of the weights; they want a rate of 1e-3 to 1e-2.

Deviations: tokens keep the positions they have without prompts (the authors' code moves them up by
the prompt's length, which costs as many positions); there is no MLP that makes the prompts, which
the paper finds to help on some tasks and to hurt on others; with ``--pooling mean`` the head reads
the mean of the tokens, the prompts left out.

A run is its encoder, head and prompts in one file, and is loaded by easynlp and exported as any;
stock transformers reads the encoder and the head without the prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from easynlp.errors import ConfigError
from easynlp.tasks.text_classify import ClassifyConfig, TextClassify
from easynlp.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

    from easynlp.models.backbone import Backbone
    from easynlp.training.plan import Plan

__all__ = ["DeepPromptClassify", "DeepPromptConfig", "deep_prompt"]


@dataclass(frozen=True)
class DeepPromptConfig(ClassifyConfig):
    """Options of text classification with prompts in every layer."""

    prompt_tokens: int = 16
    """Learned keys and values in every layer."""


class DeepPromptClassify(TextClassify):
    """Tell which label a text has, with prompts in every layer; see the module's docstring.

    Args:
        config: Options, with `labels` and `pair` known.
        tokenizer: Of the backbone.
    """

    config: DeepPromptConfig
    Config: ClassVar[type[ClassifyConfig]] = DeepPromptConfig

    @classmethod
    def restore(cls, config: Mapping[str, Any], tokenizer: Tokenizer) -> DeepPromptClassify:
        """Make the task again from what `saved` returned."""
        return cls(DeepPromptConfig(**{**config, "labels": tuple(config["labels"])}), tokenizer)

    def build(self, backbone: Backbone) -> torch.nn.Module:
        """Return the backbone with a classification head and prompts in every layer.

        Raises:
            ConfigError: See `TextClassify.build`.
            ModelError: If the encoder's attention takes no past keys and values.
        """
        from easynlp.models.prefix import add_prefix

        model = super().build(backbone)
        add_prefix(model, self.config.prompt_tokens, backbone.folder)
        return model


def deep_prompt(plan: Plan, *, tokens: int = 16, freeze: bool = True) -> Plan:
    """Make a plan of text_classify one that learns prompts in every layer.

    Args:
        plan: What to change; no method may have come before it.
        tokens: Learned keys and values in every layer; the paper's are 1 to 100 by task.
        freeze: Train prompts and head only; off: the encoder as well.

    Raises:
        ConfigError: If the plan is of another task or other methods came first, or an option is
            wrong.
        ModelError: If the encoder's attention takes no past keys and values.

    Example:
        >>> plan = deep_prompt(plan, tokens=8)                        # doctest: +SKIP
    """
    from easynlp.models.heads import core
    from easynlp.training.plan import task_term

    if tokens < 1:
        raise ConfigError(f"deep_prompt: tokens is {tokens}; valid: 1 or more")
    if isinstance(plan.task, DeepPromptClassify):
        raise ConfigError("deep_prompt is given twice; once is enough, with tokens for its length")
    if type(plan.task) is not TextClassify:
        raise ConfigError(f"deep_prompt is for text_classify, not for {plan.task.name}")
    if plan.backbone is None or [term.name for term in plan.terms] != ["loss"]:
        raise ConfigError("deep_prompt makes the model anew, so it comes first among the methods")
    known = {each.name: getattr(plan.task.config, each.name) for each in fields(ClassifyConfig)}
    task = DeepPromptClassify(
        DeepPromptConfig(**known, prompt_tokens=tokens), plan.backbone.tokenizer
    )
    model = task.build(plan.backbone)
    if freeze:
        inner: Any = core(model)
        heads = {"deep_prompt", "mean_classifier"}  # inside an encoder that is the whole model
        for name, parameter in inner.base_model.named_parameters():
            parameter.requires_grad_(name.partition(".")[0] in heads)
    return replace(plan, task=task, model=model, terms=(task_term(task),))
