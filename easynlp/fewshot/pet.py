"""PET: train a masked language model on filled patterns.

Schick & Schütze 2021, "Exploiting Cloze Questions for Few Shot Text Classification and Natural
Language Inference" (arXiv 2001.07676): with q(y | x) the softmax over the label words only,
``loss = (1 - alpha) CE(q, y) + alpha MLM``, where MLM asks for hidden words of the same rows, so
that the model goes on being a language model. The paper's alpha is 1e-4, for MLM over unlabelled
text as well; CLUE's baseline uses the labelled rows alone, as here. The term costs a second pass,
so it is off unless asked for. EasyNLP's code has no such term and trains over the full vocabulary:
``loss=vocabulary``.

Fuzzy-PET is PET with several words a label: each row is trained for every word set, and the
scoring is chosen with ``scoring``; see `easynlp.fewshot.verbalizer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from easynlp.errors import ConfigError
from easynlp.fewshot.auxiliary import language_term
from easynlp.fewshot.prompt_classify import PromptClassify, PromptConfig
from easynlp.fewshot.verbalizer import Scoring, WordScore
from easynlp.models.backbone import Backbone
from easynlp.tasks.text_classify import TextClassify
from easynlp.training.plan import Plan, task_term

__all__ = ["pet", "prompt_config", "prompt_plan"]


def pet(
    plan: Plan,
    *,
    pattern: str = "",
    words: str = "",
    loss: Literal["restricted", "vocabulary"] | None = None,
    scoring: Scoring | None = None,
    word_score: WordScore | None = None,
    alpha: float = 0.0,
    mask_rate: float = 0.15,
) -> Plan:
    """Make a plan of text_classify or prompt_classify one that fills the hole of a pattern.

    Args:
        plan: What to change; no method may have come before it.
        pattern: The text with a hole, ``{text}。总之很[MASK]。``, or ``@FILE``.
        words: Words of each label, ``好评=好;差评=差``, or ``@FILE``; by default the labels' names.
        loss: ``restricted`` to the label words (the paper), or over the ``vocabulary`` (EasyNLP).
        scoring: How several words a label count: ``candidates``, ``sum`` or ``sets``.
        word_score: How a word's tokens count: ``sum`` or ``mean``.
        alpha: Weight of masked language modeling on the same rows; the paper's is 1e-4.
        mask_rate: Share of a row's tokens hidden for it.

    Raises:
        ConfigError: If the plan is of another task or other methods came first, or an option,
            pattern or word is wrong.

    Example:
        >>> plan = pet(plan, pattern="{text}。很[MASK]", words="好评=好;差评=差")  # doctest: +SKIP
    """
    if not 0 <= alpha < 1 or not 0 < mask_rate < 1:
        raise ConfigError(
            f"pet: alpha {alpha:g}, mask_rate {mask_rate:g}; valid: alpha from 0 to below 1, "
            "mask_rate between 0 and 1"
        )
    options = {"pattern": pattern, "words": words, "loss": loss, "scoring": scoring,
               "word_score": word_score}  # fmt: skip
    made = prompt_plan("pet", plan, {key: value for key, value in options.items() if value})
    if not alpha:
        return made
    term = replace(made.terms[0], weight=1 - alpha)
    return replace(made, terms=(term, language_term(made.task, alpha, mask_rate, _ask)))


def prompt_plan(
    method: str,
    plan: Plan,
    options: Mapping[str, Any],
    wrap: Callable[[PromptClassify, PreTrainedModel], torch.nn.Module] | None = None,
) -> Plan:
    """Return the plan of a prompt: its task, the model with its masked-LM head, its loss.

    Args:
        method: Who asks, for messages.
        plan: Of text_classify or prompt_classify, with nothing but the task's loss.
        options: Fields of `PromptConfig` to set.
        wrap: Makes the trained module of the language model; by default what the task builds.

    Raises:
        ConfigError: If the plan is another, or the options are wrong.
    """
    config, backbone = prompt_config(method, plan), _backbone(method, plan)
    if [term.name for term in plan.terms] != ["loss"]:
        raise ConfigError(f"{method} makes the model anew, so it comes first among the methods")
    made = PromptClassify(replace(config, **options), backbone.tokenizer)
    model = wrap(made, made.language_model(backbone)) if wrap else made.build(backbone)
    return replace(plan, task=made, model=model, terms=(task_term(made),))


def prompt_config(method: str, plan: Plan) -> PromptConfig:
    """Return what a plan's task says of a prompt: all of prompt_classify, labels of text_classify.

    Raises:
        ConfigError: If the plan is of another task.
    """
    if isinstance(plan.task, PromptClassify):
        return plan.task.config
    if isinstance(plan.task, TextClassify) and not plan.task.config.multi_label:
        config = plan.task.config
        return PromptConfig(max_length=config.max_length, labels=config.labels)
    raise ConfigError(
        f"{method} is for text_classify and prompt_classify with one label a text, not for "
        f"{plan.task.name}"
    )


def _backbone(method: str, plan: Plan) -> Backbone:
    if plan.backbone is None:
        raise ConfigError(f"{method} needs a plan that knows its backbone")
    return plan.backbone


def _ask(places: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what asks a masked-LM model for the words at these places."""
    return {"masked_positions": places}
