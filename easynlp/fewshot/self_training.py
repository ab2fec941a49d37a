"""Self-training: a run labels unlabelled text, believes what it is surest of, and learns again.

Round 0 trains on the labelled rows alone. Each further round labels the pool with the best model
of the round before, keeps the surest guesses (a threshold and a quota for each label), and trains
on labelled and kept rows together, by default from the pre-trained model anew, so that early
mistakes are not inherited as weights. The round that is best on dev is the result (of equal ones
the later, which has seen more text); without dev it is the last.

Guards, because a model that learns from itself can talk itself into anything: rows of the pool
that also stand in train, dev, test or a file of `exclude` are left out and counted; the quota
holds for each label; every round writes what it kept; and the `placebo` option deals the labels
of the kept rows out by chance, so that a gain can be told from the gain of more steps.

Every round is a plain `run.train` into ``rounds/N``; a round that is complete is not done again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from easynlp.atomic import write_json
from easynlp.config import TrainConfig, to_yaml
from easynlp.data.diagnose import example_hash
from easynlp.dataset import read_all, read_splits
from easynlp.errors import ConfigError, DataError
from easynlp.fewshot.phases import copy_run, plain_reading, train_once, write_rows
from easynlp.fewshot.pseudo_labels import Kept, choose_confident, shuffle_labels
from easynlp.fewshot.settings import SelfTrainingOptions
from easynlp.pipeline import Pipeline, make_meta, save_meta
from easynlp.tasks import find_task
from easynlp.tasks.base import Example
from easynlp.training.folder import check_folder, claim_folder

__all__ = ["Pool", "Round", "read_pool", "self_train"]

log = logging.getLogger("easynlp")
RECIPE, REPORT, ROUNDS = "self_training", "self_training.json", "rounds"


@dataclass(frozen=True)
class Pool:
    """Unlabelled examples that may be learned from, and how many were left out, by reason."""

    examples: Sequence[Example]
    left_out: Mapping[str, int]


@dataclass(frozen=True)
class Round:
    """What a round trained on and how it did.

    Attributes:
        number: 0 is the labelled rows alone.
        kept: Rows of the pool each label was given.
        confident: Rows of the pool over the threshold, by label, before the quota.
        dev: Scores on dev; empty if there is none.
        metric: The score rounds are compared by; None without dev.
    """

    number: int
    kept: Mapping[str, int]
    confident: Mapping[str, int]
    dev: Mapping[str, float]
    metric: float | None


def self_train(
    config: TrainConfig, options: SelfTrainingOptions, task_config: Any = None
) -> Pipeline:
    """Train in rounds on labelled and unlabelled text; leave the best round as a run folder.

    Args:
        config: Of every round, as for `run.train`; the task must be text_classify or answer as it
            does, one label a row. `output` gets the best round's run, ``self_training.json`` (what
            every round kept and scored) and ``rounds/``.
        options: Rounds, quota, threshold and the pool.
        task_config: Options of the task.

    Returns:
        The best round, as `easynlp.load` would return it.

    Raises:
        ConfigError: If options are wrong or the output folder is taken.
        DataError: If a file or row is wrong, or nothing is left of the pool.
        ModelError: If the model cannot be had.
        Interrupted: After saving, on SIGINT or SIGTERM; the same call with `resume` goes on.

    Example:
        >>> self_train(config, SelfTrainingOptions(unlabeled="pool.jsonl"))   # doctest: +SKIP
    """
    if options.unlabeled is None:
        raise ConfigError("self-training needs unlabelled text: type --unlabeled FILE")
    task_type = find_task(config.task)
    task_config = task_config if task_config is not None else task_type.Config()
    if getattr(task_config, "multi_label", False):
        raise ConfigError("self-training is for one label a text; --multi-label is not")
    folder = Path(config.output)
    claim: dict[str, Any] = {
        "overwrite": config.overwrite, "resume": config.resume, "name": RECIPE,
        "written": to_yaml(config, options, task_config),
        "inputs": (config.model, config.train, config.dev, config.test, options.unlabeled),
    }  # fmt: skip
    check_folder(folder, **claim)
    examples = read_splits(config, task_type.fields)
    pool = read_pool(config, options, examples)
    claim_folder(folder, **claim)
    if any(pool.left_out.values()):
        log.info("unlabelled: %d rows are used, left out: %s", len(pool.examples),
                 ", ".join(f"{n} {why}" for why, n in pool.left_out.items() if n))  # fmt: skip

    home = folder / ROUNDS
    home.mkdir(exist_ok=True)
    for name in ("train", "dev"):
        if name in examples:
            write_rows(home / f"{name}.jsonl", examples[name])
    base = replace(
        config, **plain_reading(), dev=str(home / "dev.jsonl") if config.dev else None,
        test=None, overwrite=False, resume=False,
    )  # fmt: skip
    rounds: list[Round] = []
    for number in range(options.rounds + 1):
        rounds.append(_round(number, base, options, task_config, examples["train"], pool, home))
        _write_report(folder, options, pool, rounds)
        if _worse_for_long(rounds, options.patience_rounds):
            log.info("round %d: no better on dev for %d rounds; that is all", number,
                     options.patience_rounds)  # fmt: skip
            break
    best = best_round(rounds)
    return _finish(folder, home / str(best.number), config, examples.get("test"), rounds)


def read_pool(
    config: TrainConfig, options: SelfTrainingOptions, labelled: Mapping[str, Sequence[Example]]
) -> Pool:
    """Read unlabelled rows, each text once, without those that stand in labelled files.

    Args:
        config: How to read files, and the task.
        options: `unlabeled` and further files to `exclude`.
        labelled: Examples of train, dev and test.

    Raises:
        DataError: If nothing is left.
    """
    task_type = find_task(config.task)
    taken: dict[int, str] = {}
    for name, examples in labelled.items():
        taken |= dict.fromkeys(map(example_hash, examples), f"also in {name}")
    for path in options.exclude:
        rows = read_all(path, task_type.fields, config, with_targets=False)
        taken |= dict.fromkeys(map(example_hash, rows), f"also in {Path(path).name}")
    left_out = dict.fromkeys([*taken.values(), "repeated"], 0)
    kept: list[Example] = []
    assert options.unlabeled is not None
    for example in read_all(options.unlabeled, task_type.fields, config, with_targets=False):
        key = example_hash(example)
        if key in taken:
            left_out[taken[key]] += 1
        else:
            kept.append(example)
            taken[key] = "repeated"
    if not kept:
        raise DataError(
            "no unlabelled row is left: all stand in the labelled files", path=options.unlabeled
        )
    return Pool(kept, left_out)


def best_round(rounds: Sequence[Round]) -> Round:
    """Return the round that is best on dev, of equal ones the later; without dev the last."""
    return max(rounds, key=lambda r: (-1.0 if r.metric is None else r.metric, r.number))


def _round(
    number: int, base: TrainConfig, options: SelfTrainingOptions, task_config: Any,
    labelled: Sequence[Example], pool: Pool, home: Path,
) -> Round:  # fmt: skip
    """Do one round, or read what it did."""
    folder, notes = home / str(number), home / f"{number}.json"
    train = home / ("train.jsonl" if number == 0 else f"train-{number}.jsonl")
    kept: dict[str, Any] = {"kept": {}, "confident": {}}
    if number and not (notes.is_file() and train.is_file()):
        before = Pipeline.load(home / str(number - 1), backend="torch")
        found = _guess(before, pool.examples, number, options, base.seed)
        names = before.task.config.labels
        rows = [
            {**_texts(pool.examples[row]), "label": names[label]}
            for row, label in zip(found.rows, found.labels, strict=True)
        ]
        write_rows(train, [*labelled, *rows])
        given = np.bincount(found.labels, minlength=len(names)).tolist()
        kept = {
            "kept": dict(zip(names, given, strict=True)),
            "confident": dict(zip(names, found.confident.tolist(), strict=True)),
        }
        write_json(notes, kept)
    elif number:
        kept = json.loads(notes.read_text(encoding="utf-8"))
    if number:
        log.info("round %d: kept %s", number,
                 ", ".join(f"{name} {n}" for name, n in kept["kept"].items()))  # fmt: skip
    model = base.model if options.restart or not number else str(home / str(number - 1))
    config = replace(base, train=str(train), output=str(folder), model=model)
    dev = train_once(config, task_config).meta["scores"].get("dev", {})
    metric = find_task(base.task).metric
    return Round(number, kept["kept"], kept["confident"], dev, dev.get(metric))


def _guess(
    pipeline: Pipeline,
    pool: Sequence[Example],
    number: int,
    options: SelfTrainingOptions,
    seed: int,
) -> Kept:
    """Label the pool and choose what to believe; the quota doubles with every round."""
    names = pipeline.task.config.labels
    scores = np.array(
        [[answer["scores"][name] for name in names] for answer in pipeline.stream(pool)]
    )
    kept = choose_confident(
        scores, quota=round(options.quota * options.growth ** (number - 1)),
        confidence=options.confidence, balance=options.balance,
    )  # fmt: skip
    missing = [name for i, name in enumerate(names) if not (kept.labels == i).any()]
    if missing:
        log.warning("round %d: nothing was kept of %d labels (%s …); is --confidence too high?",
                    number, len(missing), missing[0])  # fmt: skip
    return shuffle_labels(kept, seed + number) if options.placebo else kept


def _finish(
    folder: Path, best: Path, config: TrainConfig, test: Sequence[Example] | None,
    rounds: Sequence[Round],
) -> Pipeline:  # fmt: skip
    """Make the output folder the best round's run, scored on test once."""
    copy_run(best, folder)
    pipeline = Pipeline.load(folder, backend="torch")
    meta = {**pipeline.meta, "base_model": config.model}
    if test is not None:
        meta["scores"] = {**meta["scores"], "test": pipeline.evaluate(test)}
    about = {key: meta[key] for key in ("base_model", "columns", "scores", "best_step")}
    save_meta(folder, make_meta(pipeline.task, **about))
    log.info("the best of %d rounds is round %s", len(rounds), best.name)
    return Pipeline.load(folder, backend="torch")


def _worse_for_long(rounds: Sequence[Round], patience: int) -> bool:
    if not patience or rounds[-1].metric is None:
        return False
    return rounds[-1].number - best_round(rounds).number >= patience


def _write_report(
    folder: Path, options: SelfTrainingOptions, pool: Pool, rounds: Sequence[Round]
) -> None:
    write_json(
        folder / REPORT,
        {
            "options": asdict(options), "pool": len(pool.examples),
            "left_out": dict(pool.left_out), "rounds": [asdict(each) for each in rounds],
            "best": best_round(rounds).number,
        },
    )  # fmt: skip


def _texts(example: Example) -> dict[str, Any]:
    return {name: value for name, value in example.items() if name.startswith("text")}
