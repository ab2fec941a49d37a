"""Training methods that are not tied to one stage: functions ``Plan -> Plan``.

An entry is one file and one line. On the command line: ``--method r_drop:alpha=4 --method fgm``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from easynlp.config import parse_method
from easynlp.registry import resolve
from easynlp.training.plan import Plan

METHODS: dict[str, str] = {
    "r_drop": "easynlp.methods.r_drop:r_drop",
    "fgm": "easynlp.methods.fgm:fgm",
    "cp_tuning": "easynlp.fewshot.cp_tuning:cp_tuning",
    "deep_prompt": "easynlp.fewshot.deep_prompt:deep_prompt",
    "efl": "easynlp.fewshot.efl:efl",
    "pet": "easynlp.fewshot.pet:pet",
    "p_tuning": "easynlp.fewshot.p_tuning:p_tuning",
    "setfit": "easynlp.fewshot.setfit:setfit",
    "sop": "easynlp.pretraining.segment_pairs:sop",
    "nsp": "easynlp.pretraining.segment_pairs:nsp",
    "electra": "easynlp.pretraining.electra:electra",
    "bag_of_words": "easynlp.pretraining.bag_of_words:bag_of_words",
    "sentence_distill": "easynlp.pretraining.sentence_distill:sentence_distill",
    "hidden_distill": "easynlp.pretraining.token_distill:hidden_distill",
    "relation_distill": "easynlp.pretraining.token_distill:relation_distill",
    "distill": "easynlp.distillation.logits:distill",
    "distill_layers": "easynlp.distillation.layers:distill_layers",
    "cap": "easynlp.compression.cap:cap",
    "qat": "easynlp.compression.qat:qat",
}

__all__ = ["METHODS", "apply_methods", "find_method"]


def find_method(name: str) -> Any:
    """Return the method of a name in `METHODS`, or of ``package.module:name``."""
    return resolve(name, METHODS, kind="method")


def apply_methods(plan: Plan, specs: Sequence[str]) -> Plan:
    """Apply methods to a plan in the order given.

    Args:
        plan: What to change.
        specs: ``name`` or ``name:option=value,option=value`` each.

    Raises:
        ConfigError: If a method or option is unknown, or does not fit the plan.
    """
    for spec in specs:
        name, options = parse_method(spec, find_method)
        plan = find_method(name)(plan, **options)
    return plan
