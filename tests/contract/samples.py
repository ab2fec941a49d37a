"""Examples for every app, and what every method claims. A new app or method adds its entry."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from easynlp.models.backbone import Backbone
from easynlp.pipeline import make_meta, save_meta
from easynlp.tasks import find_task
from easynlp.training.folder import save_weights
from tests.conftest import REVIEWS

__all__ = ["CLAIMS", "PRETRAINING_ONLY", "SAMPLES", "SPECS", "TERMS", "Sample", "plain",
           "teacher_of"]  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """Eight labelled rows of an app and the options to learn them with."""

    task: str
    rows: list[dict[str, Any]]
    options: dict[str, Any]
    learnt: float = 1.0
    """What the app's metric must reach on the very rows it was trained on."""
    steps: int = 120
    backbone: str = "bert"
    """Which tiny backbone it needs: see tests/contract/conftest.py."""

    def make(self, backbone: Backbone) -> Any:
        """Return the task, prepared on the rows."""
        kind = find_task(self.task)
        return kind.prepare(kind.Config(**self.options), backbone.tokenizer, self.rows)

    def inputs(self, text: str) -> dict[str, Any]:
        """Return an example without targets whose texts are all `text`."""
        names = {name for name in self.rows[0] if name.startswith("text")}
        return dict.fromkeys(names, text)


def _entities(text: str, **pieces: str) -> dict[str, Any]:
    found = [
        {"start": text.index(p), "end": text.index(p) + len(p), "type": kind}
        for p, kind in pieces.items()
    ]
    return {"text": text, "entities": found}


REVIEW_ROWS = [{"text": text, "label": label} for text, label in REVIEWS]
TOPICS = ["卫生", "服务|差评", "早餐|位置", "", "服务", "差评", "位置", "差评|卫生"]

SAMPLES = {
    "text_classify": Sample("text_classify", REVIEW_ROWS, {"max_length": 32, "pooling": "first"}),
    "text_classify, mean": Sample(
        "text_classify", REVIEW_ROWS, {"max_length": 32, "pooling": "mean"}
    ),
    "text_classify, pairs": Sample(
        "text_classify",
        [
            {"text": text, "text_b": (text if i % 2 else REVIEWS[i - 1][0])[:6], "label": i % 2}
            for i, (text, _) in enumerate(REVIEWS)
        ],
        {"max_length": 32},
        steps=200,
    ),
    "text_classify, several labels": Sample(
        "text_classify",
        [{"text": r["text"], "label": t} for r, t in zip(REVIEW_ROWS, TOPICS, strict=True)],
        {"max_length": 32, "multi_label": True, "label_separator": "|"},
        steps=200,
    ),
    "prompt_classify": Sample(
        "prompt_classify",
        REVIEW_ROWS,
        {"max_length": 32, "pattern": "{text}，很[MASK]。", "words": "好评=好,很好;差评=差,太差"},
    ),
    "prompt_classify, pairs": Sample(
        "prompt_classify",
        [
            {"text": text, "text_b": (text if i % 2 else REVIEWS[i - 1][0])[:6], "label": i % 2}
            for i, (text, _) in enumerate(REVIEWS)
        ],
        {
            "max_length": 32,
            "pattern": "{text}[MASK]，{text_b}",
            "words": "0=不;1=再",
            "loss": "vocabulary",
        },
        steps=200,
    ),
    "entailment": Sample(
        "entailment",
        REVIEW_ROWS,
        {"max_length": 32, "descriptions": "好评=很好;差评=太差", "hypothesis": "{label}了"},
        steps=200,
    ),
    "sequence_labeling": Sample(
        "sequence_labeling",
        [
            _entities("张三在北京大学读书", 张三="人名", 北京大学="机构"),
            _entities("今天北京天气真好", 北京="地名"),
            _entities("我在北京读书", 北京="地名"),
            _entities("天气真好"),
            _entities("张三服务热情", 张三="人名"),
            _entities("我不推荐北京大学的早餐", 北京大学="机构"),
            _entities("老板张三，在北京", 张三="人名", 北京="地名"),
            _entities("房间很干净"),
        ],
        {"max_length": 10, "overlap": 3},
    ),
    "language_modeling": Sample(
        "language_modeling", [{"text": text} for text, _ in REVIEWS], {"max_length": 32}, steps=200
    ),
    "causal_language_modeling": Sample(
        "causal_language_modeling",
        [{"text": text} for text, _ in REVIEWS],
        {"max_length": 32},
        learnt=0.9,  # the first token of eight texts cannot be foreseen
        steps=200,
    ),
    "span_corruption": Sample(
        "span_corruption",
        [{"text": text} for text, _ in REVIEWS],
        {"max_length": 32},
        steps=300,
        backbone="t5",
    ),
    "replaced_token_detection": Sample(
        "replaced_token_detection",
        [{"text": text[:3] + "北" + text[4:], "original": text} for text, _ in REVIEWS],
        {"max_length": 32},
    ),
}

CLAIMS: dict[str, tuple[str, ...]] = {
    "r_drop": (
        "text_classify",
        "prompt_classify",
        "sequence_labeling",
        "language_modeling",
        "causal_language_modeling",
        "span_corruption",
        "replaced_token_detection",
    ),
    "fgm": (
        "text_classify",
        "prompt_classify",
        "sequence_labeling",
        "language_modeling",
        "causal_language_modeling",
        "replaced_token_detection",
    ),
    "pet": ("prompt_classify",),
    "cp_tuning": ("prompt_classify",),
    "p_tuning": ("prompt_classify",),
    "setfit": ("text_classify",),
    "deep_prompt": ("text_classify",),
    "efl": ("entailment",),
    "sop": ("language_modeling",),
    "nsp": ("language_modeling",),
    "electra": ("replaced_token_detection",),
    "bag_of_words": ("language_modeling",),
    "sentence_distill": ("language_modeling",),
    "hidden_distill": ("language_modeling",),
    "relation_distill": ("language_modeling",),
    "distill": ("text_classify", "prompt_classify", "sequence_labeling"),
    "distill_layers": ("text_classify", "prompt_classify", "sequence_labeling"),
    "cap": ("text_classify", "sequence_labeling"),
    "qat": ("text_classify", "sequence_labeling", "prompt_classify"),
}
"""Methods to the apps they work for."""

SPECS = {
    "r_drop": "r_drop:alpha=2",
    "fgm": "fgm:epsilon=0.05",
    "efl": "efl:negatives=1",
    "cp_tuning": "cp_tuning:pool=group,mlm=0,scale=16",
    "pet": "pet:alpha=0.01,mask_rate=0.3",
    "p_tuning": "p_tuning:tokens=3",
    "deep_prompt": "deep_prompt:tokens=3,freeze=false",
    "setfit": "setfit:classify=true,weight=0.1",
    "sop": "sop",
    "nsp": "nsp",
    "electra": "electra:size=0.5",
    "bag_of_words": "bag_of_words",
    "sentence_distill": "sentence_distill:contrast=0",
    "hidden_distill": "hidden_distill",
    "relation_distill": "relation_distill:heads=4",
    "distill": "distill:teacher={teacher},alpha=0.8",
    "distill_layers": "distill_layers:teacher={teacher}",
    "cap": "cap",
    "qat": "qat:activations=false",
}
"""How the methods are run here: the tiny model's random embeddings are short (a row's L2 norm is
about 0.4), so a perturbation of the usual length would drown the text."""

TERMS = {
    "pet": "mlm",
    "p_tuning": "loss",
    "efl": "loss",
    "deep_prompt": "loss",
    "cp_tuning": "loss",
    "distill_layers": "hidden",
    "qat": "loss",
}
"""Methods whose term has another name than they, or that change the task's own."""

PRETRAINING_ONLY = {
    "p_tuning": "adds an encoder of soft tokens; its output is saved as their embeddings",
    "sop": "adds a pooler and a layer that reads it; the layer is not saved",
    "nsp": "adds a pooler and a layer that reads it; the layer is not saved",
    "electra": "adds a generator, which is not saved",
    "bag_of_words": "adds a pooler and a projection; the projection is not saved",
    "sentence_distill": "adds a pooler and a projection; the projection is not saved",
    "hidden_distill": "adds a projection that is not saved",
    "relation_distill": "needs a teacher beside the task",
    "distill_layers": "adds projections that are not saved",
}
"""Methods that add parameters (all but the first while pre-training), and why they may."""


def teacher_of(sample: Sample, backbone: Backbone, folder: Path) -> str:
    """Write a run that may teach a sample's task, untrained, and return its folder."""
    kind = "sequence_labeling" if sample.task == "sequence_labeling" else "text_classify"
    options = sample.options if sample.task == kind else {"max_length": 32}
    task = replace(sample, task=kind, options=options).make(backbone)
    model = task.build(backbone)
    folder.mkdir(exist_ok=True)
    save_weights(folder, model, backbone)
    save_meta(folder, make_meta(task))
    return str(folder)


def plain(backbone: Backbone, dropout: float = 0.0) -> Backbone:
    """Return a copy of a backbone with another rate of dropout."""
    config = copy.deepcopy(backbone.config)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
    return replace(backbone, config=config)
