"""TransPrompt: prompts learned on several similar sets, then adapted to one of them.

Wang et al. 2021, "TransPrompt: Towards an Automatic Transferable Prompting Framework for Few-shot
Text Classification" (EMNLP 2021), in two phases, each a plain `run.train`:

1. One masked language model learns all sets together (`easynlp.fewshot.cross_prompt`). A row
   weighs by its nearness to the centre of its label, in its own set and in the others: with h its
   vector, a = `own_label` and c the centres (means of the vectors of a set and label),
   ``s = a x -|h - c of its own set| + (1 - a) x the mean over other sets of -|h - c|``, and the
   weights are the softmax of s over all rows, times their number.
2. The model goes on with the target's rows alone, its soft tokens free from there. With few rows
   that may undo what the other sets taught, so the first phase's model stays the answer if no
   checkpoint of the second is better on dev; either way the run is one of prompt_classify.

Deviations: vectors and centres are the pre-trained encoder's (the mean of its tokens), computed
once, and the softmax is over all rows, not over a batch: so weights depend neither on how a step is
cut up nor on where a run was resumed. In the second phase the soft tokens are vectors, no longer
an encoder's output.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from easynlp.atomic import write_json
from easynlp.config import DataOptions, TrainConfig, to_yaml
from easynlp.data.diagnose import example_hash
from easynlp.dataset import read_all, read_splits
from easynlp.errors import ConfigError, DataError
from easynlp.fewshot.cross_prompt import CrossConfig, CrossPrompt, cross_prompts
from easynlp.fewshot.phases import copy_run, plain_reading, train_once, write_rows
from easynlp.fewshot.prompt_classify import PromptConfig
from easynlp.fewshot.prompt_settings import TransPromptOptions
from easynlp.fewshot.template import Template
from easynlp.fewshot.vectors import Encoder
from easynlp.models.backbone import Backbone
from easynlp.pipeline import Pipeline, make_meta, save_meta
from easynlp.tasks.base import Example
from easynlp.tasks.labels import label_of
from easynlp.tasks.text_classify import ClassifyConfig, TextClassify
from easynlp.training.folder import check_folder, claim_folder

__all__ = ["prototype_weights", "transprompt"]

log = logging.getLogger("easynlp")
RECIPE, REPORT, PHASES = "transprompt", "transprompt.json", "phases"
TASK = f"{CrossPrompt.__module__}:{CrossPrompt.__qualname__}"
METHOD = f"{cross_prompts.__module__}:{cross_prompts.__qualname__}"


def transprompt(config: TrainConfig, options: TransPromptOptions) -> Pipeline:
    """Learn prompts on several sets, then on the target; leave its run.

    Args:
        config: Of the second phase, and but for its length of the first; `train` is the target's.
            `output` gets the run, ``transprompt.json`` and ``phases/``.
        options: Other sets, pattern, words, weights.

    Returns:
        A run of prompt_classify, as `easynlp.load` would return it.

    Raises:
        ConfigError: If options are wrong or the output folder is taken.
        DataError: If a file or row is wrong, or a set has other labels than the target.
        ModelError: If the model cannot be had or has no masked-LM head.
        Interrupted: After saving, on SIGINT or SIGTERM; the same call with `resume` goes on.

    Example:
        >>> transprompt(config, TransPromptOptions(others=("books.jsonl",),
        ...     pattern="[PRO]*4{text}。很[MASK]", words="好评=好;差评=差"))   # doctest: +SKIP
    """
    if not options.others:
        raise ConfigError("transprompt learns from other sets as well: type --others FILE")
    if config.method or config.probe != "no":
        raise ConfigError("transprompt chooses its methods: leave --method and --probe out")
    folder = Path(config.output)
    claim: dict[str, Any] = {
        "overwrite": config.overwrite, "resume": config.resume, "name": RECIPE,
        "written": to_yaml(config, options),
        "inputs": (config.model, config.train, config.dev, config.test, *options.others),
    }  # fmt: skip
    check_folder(folder, **claim)
    splits = read_splits(config, TextClassify.fields)
    prompt, sets = _read(config, options, splits)
    claim_folder(folder, **claim)
    home = folder / PHASES
    home.mkdir(exist_ok=True)
    report: dict[str, Any] = {"options": asdict(options)}

    plain = replace(config, **plain_reading(), test=None, overwrite=False)
    for name, rows in splits.items():
        write_rows(home / f"{name}.jsonl", rows)
    dev = str(home / "dev.jsonl") if "dev" in splits else None
    rows, about = _weighted(config.model, sets, options, config.seed)
    report["sets"] = about
    write_rows(home / "all.jsonl", rows)
    write_json(folder / REPORT, report)

    first = replace(
        plain, task=TASK, train=str(home / "all.jsonl"), dev=dev, output=str(home / "first"),
        epochs=options.first_epochs, steps=0,
        method=(f"{METHOD}:share={options.own_share},encoder={options.encoder},"
                f"unseen={str(options.unseen).lower()}",),
    )  # fmt: skip
    crossed = CrossConfig(**asdict(prompt), sets=1 + len(options.others), entropy=options.entropy)
    first_phase = train_once(first, crossed)
    report["first"] = first_phase.meta.get("scores", {})
    second = replace(
        plain, task="prompt_classify", model=str(home / "first"), output=str(home / "second"),
        train=str(home / "train.jsonl"), dev=dev,
        test=str(home / "test.jsonl") if "test" in splits else None,
        method=("p_tuning:encoder=none",),
    )  # fmt: skip
    found = train_once(second, prompt)
    report["second"] = found.meta.get("scores", {})
    scores = [report[phase].get("dev", {}).get(found.task.metric) for phase in ("first", "second")]
    stays = scores[0] is not None and scores[0] >= scores[1]
    chosen, meta = ("first", first_phase.meta) if stays else ("second", found.meta)
    if stays:
        log.info("the second phase is no better on dev than the first (%.4f): it stays", scores[0])
    report["chosen"] = chosen
    copy_run(home / chosen, folder)
    kept = {key: meta[key] for key in ("columns", "scores", "best_step")}
    save_meta(folder, make_meta(found.task, **kept, base_model=config.model))
    pipeline = Pipeline.load(folder, backend="torch")
    if stays and "test" in splits:
        kept["scores"] = {**kept["scores"], "test": pipeline.evaluate(splits["test"])}
        save_meta(folder, make_meta(found.task, **kept, base_model=config.model))
        pipeline = Pipeline.load(folder, backend="torch")
    write_json(folder / REPORT, report)
    return pipeline


def prototype_weights(
    vectors: np.ndarray, labels: Sequence[str], sets: Sequence[int], own: float = 0.5
) -> np.ndarray:
    """Return each row's weight by its nearness to its label's centres; their mean is 1.

    Args:
        vectors: Shape (rows, width).
        labels: Of the rows.
        sets: Number of the set each row is of.
        own: Share of the own set's centre; a label that no other set has has its own only.

    Example:
        >>> vectors = np.array([[0.0], [0.0], [3.0], [1.0]])
        >>> prototype_weights(vectors, ["a"] * 4, [0, 0, 0, 1]).round(2).tolist()
        [0.79, 0.79, 0.29, 2.14]
    """
    names, numbers = np.array(labels), np.array(sets)
    centres = {
        (number, name): vectors[(numbers == number) & (names == name)].mean(0)
        for number, name in sorted(set(zip(numbers.tolist(), names.tolist(), strict=True)))
    }
    nearness = np.zeros(len(vectors))
    for row, (vector, name, number) in enumerate(zip(vectors, labels, sets, strict=True)):
        near = -float(np.linalg.norm(vector - centres[number, name]))
        others = [
            -float(np.linalg.norm(vector - centre))
            for (other, label), centre in centres.items()
            if label == name and other != number
        ]
        nearness[row] = own * near + (1 - own) * float(np.mean(others)) if others else near
    shares = np.exp(nearness - nearness.max())
    found: np.ndarray = shares / shares.sum() * len(shares)
    return found


def _read(
    config: TrainConfig, options: TransPromptOptions, splits: Mapping[str, Sequence[Example]]
) -> tuple[PromptConfig, list[list[Example]]]:
    """Return the prompt and the sets, the target's first; rows of dev and test are left out."""
    backbone = Backbone.load(config.model)
    template = Template.parse(options.pattern)
    if not template.softs:
        template = template.with_soft(4)
    known = TextClassify.prepare(ClassifyConfig(), backbone.tokenizer, splits["train"]).config
    held = {example_hash(e) for name in ("dev", "test") for e in splits.get(name, ())}
    sets = [list(splits["train"])]
    for path in options.others:
        rows = read_all(path, TextClassify.fields, DataOptions(encoding=config.encoding))
        odd = {label_of(row["label"]) for row in rows} - set(known.labels)
        if odd:
            raise DataError(
                f'the label "{min(odd)}" is none of the training data\'s '
                f"({', '.join(known.labels[:10])}); sets must share labels", path=path,
            )  # fmt: skip
        kept = [row for row in rows if example_hash(row) not in held]
        if not kept:
            raise DataError("no row is left: all stand in dev or test", path=path)
        sets.append(kept)
    prompt = PromptConfig(
        pattern=str(template), words=options.words, max_length=options.max_length,
        labels=known.labels,
    )  # fmt: skip
    crossed = CrossPrompt(CrossConfig(**asdict(prompt), sets=len(sets)), backbone.tokenizer)
    crossed.language_model(backbone)  # a wrong model is told before a folder is made
    return prompt, sets


def _weighted(
    model: str, sets: Sequence[Sequence[Example]], options: TransPromptOptions, seed: int
) -> tuple[list[Example], list[dict[str, Any]]]:
    """Return the rows of the first phase with `set` and `weight`, and what there is of each."""
    rows = [
        {**row, "set": number}
        for number, part in enumerate(sets)
        for row in part
        if number or not options.unseen
    ]
    weights = np.ones(len(rows))
    if options.weighting != "uniform":
        vectors = Encoder(model, options.max_length, seed).features(rows)["mean"]
        labels = [label_of(row["label"]) for row in rows]
        weights = prototype_weights(
            vectors, labels, [row["set"] for row in rows], options.own_label
        )
    if options.weighting == "shuffled":
        weights = np.random.default_rng(seed).permutation(weights)
    files = ("train", *options.others)
    about = []
    for number, name in enumerate(files):
        own = weights[[row["set"] == number for row in rows]]
        # Kish's number: as many rows of equal weight would tell as much.
        effective = own.sum() ** 2 / (own**2).sum() if len(own) else 0.0
        about.append({"file": name, "rows": len(own), "weight": float(own.sum()),
                      "effective_rows": float(effective)})  # fmt: skip
    return [
        {**row, "weight": round(float(weight), 6)}
        for row, weight in zip(rows, weights, strict=True)
    ], about
