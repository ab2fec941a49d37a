"""Which pattern? And can this model fill holes at all? ``easynlp prompt check``.

A masked-LM head may be missing or never trained (`easynlp.models.catalogue_check`); then no
pattern works. Otherwise each pattern is scored on dev as it is (zero-shot) and, where there are
training rows, after a short training, each from the pre-trained weights. Told with it: what always
guessing the commonest label scores, how much of a difference chance alone explains (half of the
95% interval of the best score, for rows that are independent), and how far the patterns spread.

The score of the best of several patterns, chosen on dev, is too good: score it on test once.
"""

from __future__ import annotations

import logging
import math
import statistics
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from easynlp import run
from easynlp.config import TrainConfig
from easynlp.dataset import read_splits
from easynlp.errors import ConfigError
from easynlp.fewshot.prompt_classify import PromptClassify, PromptConfig
from easynlp.fewshot.prompt_settings import PromptCheckOptions
from easynlp.models.backbone import Backbone
from easynlp.models.catalogue_check import check_model
from easynlp.models.runtime import TorchModel
from easynlp.pipeline import Pipeline
from easynlp.tasks.base import Example
from easynlp.tasks.labels import label_of

__all__ = ["check_prompts"]

log = logging.getLogger("easynlp")


def check_prompts(options: PromptCheckOptions) -> dict[str, Any]:
    """Say whether a model fills holes, and compare patterns on labelled rows.

    Args:
        options: Model, rows, patterns and words. Without patterns only the model is looked at.

    Returns:
        ``model``; ``mask_head`` with its ``verdict`` (see `check_model`); and, with patterns and a
        head, ``rows`` (what was scored on), ``majority`` (always the commonest label),
        ``patterns`` (of each ``pattern``, ``zero_shot``, ``commonest_answer`` with its share, and
        with training rows ``trained``), ``best`` and ``spread`` (``range``, sample ``sd`` and
        ``noise``) for ``zero_shot`` and ``trained``.

    Raises:
        ConfigError: If a pattern or word is wrong, or there are patterns and no rows.
        DataError: If a row is wrong.
        ModelError: If the model cannot be had.

    Example:
        >>> check_prompts(PromptCheckOptions(model="tiny-zh"))["mask_head"]["verdict"]
        'real'
    """
    if options.pattern and not (options.dev or options.train):
        raise ConfigError("patterns are compared on labelled rows: give some with --dev FILE")
    rows = read_splits(options, PromptClassify.fields, ("train", "dev"))
    # Wrong patterns and words are told before the model is run.
    backbone = Backbone.load(options.model)
    tasks = [_task(pattern, options, backbone, rows) for pattern in options.pattern]
    report: dict[str, Any] = {"model": options.model}
    report["mask_head"] = check_model(options.model)["mask_head"]
    if not tasks or report["mask_head"]["verdict"] in ("missing", "none"):
        return report
    on = "dev" if "dev" in rows else "train"
    gold = Counter(label_of(example["label"]) for example in rows[on])
    report["rows"] = {"scored_on": on, "rows": gold.total(), "labels": len(tasks[0].labels)}
    report["majority"] = max(gold.values()) / gold.total()
    found = []
    for number, task in enumerate(tasks):
        log.info("pattern %d of %d: %s", number + 1, len(tasks), task.config.pattern)
        entry = _zero_shot(task, backbone, rows[on])
        if "train" in rows and on == "dev":
            entry["trained"] = _trained(task, options, rows["dev"])
        found.append(entry)
    report["patterns"] = found
    kinds = [kind for kind in ("zero_shot", "trained") if kind in found[0]]
    scores = {kind: [entry[kind] for entry in found] for kind in kinds}
    report["best"] = {k: found[s.index(max(s))]["pattern"] for k, s in scores.items()}
    report["spread"] = {k: _spread(s, gold.total()) for k, s in scores.items()}
    return report


def _task(
    pattern: str,
    options: PromptCheckOptions,
    backbone: Backbone,
    rows: dict[str, list[Example]],
) -> PromptClassify:
    config = PromptConfig(
        pattern=pattern, words=options.words, scoring=options.scoring,
        word_score=options.word_score, max_length=options.max_length,
    )  # fmt: skip
    every = [example for part in rows.values() for example in part]
    return PromptClassify.prepare(config, backbone.tokenizer, every)


def _zero_shot(
    task: PromptClassify, backbone: Backbone, examples: Sequence[Example]
) -> dict[str, Any]:
    pipeline = Pipeline(task, TorchModel(task.build(backbone).eval()))
    answers = pipeline.predict(list(examples))
    (label, count), *_ = Counter(each["label"] for each in answers).most_common(1)
    return {
        "pattern": task.config.pattern,
        "zero_shot": task.score(answers, examples)["accuracy"],
        "commonest_answer": {label: count / len(answers)},
    }


def _trained(task: PromptClassify, options: PromptCheckOptions, dev: Sequence[Example]) -> float:
    """Return accuracy on dev after training; dev chooses nothing on the way."""
    assert options.train is not None
    reading = {name: getattr(options, name) for name in
               ("text", "text_b", "label", "encoding", "schema", "header", "format")}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            task="prompt_classify", train=options.train, output=str(Path(folder, "run")),
            model=options.model, epochs=options.epochs, lr=options.lr,
            batch_size=options.batch_size, seed=options.seed, **reading,
        )  # fmt: skip
        return run.train(config, task.config).evaluate(dev)["accuracy"]


def _spread(scores: Sequence[float], rows: int) -> dict[str, float]:
    best = max(scores)
    return {
        "range": best - min(scores),
        "sd": statistics.stdev(scores) if len(scores) > 1 else 0.0,
        "noise": 1.96 * math.sqrt(best * (1 - best) / rows),
    }
