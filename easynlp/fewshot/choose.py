"""Which way to train? Try several with the same budget, compare them on dev, keep one, say why.

Every try is a plain `run.train` of the same model with the same number of optimizer steps, the
same learning rates and at most the same number of looks at dev (`budget_of`). The best dev score
wins; equal ones are told apart by the dev rows' mean log-probability of the right label, and then
the simpler way wins, which is the one further up in `WAYS`. With unlabelled text the winner then
labels it and learns on (`easynlp.fewshot.self_training`), and stays as it was if that is no better
on dev.

A dev file of a few dozen rows is a coarse judge: the report has the 95 % interval of the best score
and a test of its lead over the next way (`easynlp.fewshot.verdict`), and says when it is within
chance.
"""

from __future__ import annotations

import json
import logging
import math
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from easynlp.atomic import write_json
from easynlp.config import DataOptions, TrainConfig, to_yaml
from easynlp.dataset import read_splits
from easynlp.errors import ConfigError, ModelError, RunError, did_you_mean
from easynlp.fewshot.baselines import NaiveBayesEM, SelfTrainedLinear
from easynlp.fewshot.cp_tuning import INFERENCES
from easynlp.fewshot.phases import copy_run, train_once
from easynlp.fewshot.prompt_classify import PromptClassify, PromptConfig
from easynlp.fewshot.self_training import read_pool, self_train
from easynlp.fewshot.settings import FewShotConfig, SelfTrainingOptions
from easynlp.fewshot.verdict import Choice, Try, best_of, explain
from easynlp.models.backbone import Backbone
from easynlp.options import pieces
from easynlp.pipeline import Pipeline, make_meta, save_meta
from easynlp.tasks.base import Example
from easynlp.tasks.labels import label_of
from easynlp.tasks.text_classify import ClassifyConfig, TextClassify
from easynlp.training.folder import check_folder, claim_folder

__all__ = ["WAYS", "Choice", "Try", "budget_of", "check_ways", "choose", "explain"]

log = logging.getLogger("easynlp")
RECIPE, REPORT, TRIED = "fewshot", "fewshot.json", "tried"

WAYS: dict[str, Mapping[str, Any]] = {
    "probe": {"probe": "only"},
    "lp_ft": {"probe": "first"},
    "fine_tune": {},
    "setfit": {"method": ("setfit",)},
    "cp_tuning": {"method": ("cp_tuning",)},
    "pet": {"method": ("pet:{prompt}",)},
}
"""Ways to train, simplest first, and what they set; ``{prompt}`` is a pattern and its words."""
UNLABELED = "self_training"
NEVER = -1e9
"""Surety of what could not be tried."""


def choose(config: FewShotConfig) -> Choice:
    """Try ways to learn from few labels; leave the best on dev as a plain run folder.

    Args:
        config: Files, model, budget and ways.

    Returns:
        All tries and the reason; `output` holds the run, ``fewshot.json`` and ``tried/``.

    Raises:
        ConfigError: If options are wrong, the output folder is taken, or no way could be tried.
        DataError: If a file or row is wrong.
        ModelError: If the model cannot be had.
        Interrupted: After saving, on SIGINT or SIGTERM; the same call with `resume` goes on.

    Example:
        >>> choose(FewShotConfig(train="few.jsonl", dev="dev.jsonl", output="runs/x")).why
        ... # doctest: +SKIP
    """
    config = replace(config, ways=_spelled(config.ways))
    base, own = _plan(config)
    folder = Path(config.output)
    claim: dict[str, Any] = {
        "overwrite": config.overwrite, "resume": config.resume, "name": RECIPE,
        "written": to_yaml(config),
        "inputs": (config.model, config.train, config.dev, config.test, config.unlabeled),
    }  # fmt: skip
    ways = _ways(config)
    check_folder(folder, **claim)
    examples = read_splits(config, TextClassify.fields)
    if any(name == "pet" for name, _, _ in ways):
        _check_prompts(config, examples["train"])
    options = _self_training(config)
    pool = read_pool(base, options, examples) if config.unlabeled else None
    claim_folder(folder, **claim)
    (folder / TRIED).mkdir(exist_ok=True)
    texts = [] if pool is None else [str(each["text"]) for each in pool.examples]
    if config.words and not any("text_b" in row for row in examples["train"]):
        base = replace(base, label_names=config.words)  # only ways that fit a head read it
    tries = [
        _try(name, changes, detail, base, own, examples["dev"], folder, config.evaluations)
        for name, changes, detail in ways
    ]
    runs = [each for each in tries if each.folder and not each.note]
    if not runs:
        raise ConfigError(
            "no way could be tried:\n" + "\n".join(f"{t.way}: {t.note}" for t in tries)
        )
    best = best_of(runs)
    if pool is not None and UNLABELED in (config.ways or (UNLABELED,)):
        more = _self_train(
            best, ways, base, own, options, examples["dev"], folder, config.evaluations
        )
        tries.append(more)
        best = best_of([best, more])
    tries = [*_baselines(examples, texts), *tries]
    why = explain(tries, best, len(examples["dev"]))
    copy_run(folder / best.folder, folder)
    pipeline = Pipeline.load(folder, backend="torch")
    scores = dict(pipeline.meta["scores"])
    if "test" in examples:
        scores["test"] = pipeline.evaluate(examples["test"])
    about = {key: pipeline.meta[key] for key in ("columns", "best_step")}
    save_meta(folder, make_meta(pipeline.task, **about, base_model=config.model, scores=scores,
                                chosen=why))  # fmt: skip
    choice = Choice(tries, best, why, scores)
    write_json(folder / REPORT, asdict(choice))
    return choice


def budget_of(way: Mapping[str, Any], steps: int, evaluations: int) -> tuple[int, int]:
    """Return the steps from one evaluation of a way to the next, and how often dev is looked at.

    A way that has other looks than its checkpoints has the fewer of them: the probe before
    training counts as one, and each way of reading a checkpoint.

    Args:
        way: What the way sets.
        steps: Optimizer steps.
        evaluations: Looks at dev that a try may have.

    Example:
        >>> budget_of({}, 100, 10), budget_of({"probe": "first"}, 100, 10)
        ((10, 10), (12, 10))
        >>> budget_of({"method": ("cp_tuning",)}, 100, 10), budget_of({"probe": "only"}, 100, 10)
        ((34, 9), (100, 1))
    """
    if way.get("probe") == "only":
        return steps, 1
    extra = int(way.get("probe") == "first")
    readings = len(INFERENCES) if "cp_tuning" in way.get("method", ()) else 1
    wanted = max(1, (evaluations - extra) // readings)
    every = -(-steps // wanted)
    return every, -(-steps // every) * readings + extra


def _plan(config: FewShotConfig) -> tuple[TrainConfig, ClassifyConfig]:
    """Return what all tries have in common."""
    reading = {name: getattr(config, name) for name in DataOptions.__dataclass_fields__}
    base = TrainConfig(
        task="text_classify", train=config.train, dev=config.dev, output=config.output,
        model=config.model, steps=config.steps, batch_size=config.batch_size,
        precision=config.precision,
        device=config.device, threads=config.threads, seed=config.seed, **reading,
    )  # fmt: skip
    return base, ClassifyConfig(max_length=config.max_length, pooling=config.pooling)


def _self_training(config: FewShotConfig) -> SelfTrainingOptions:
    names = SelfTrainingOptions.__dataclass_fields__
    return SelfTrainingOptions(**{name: getattr(config, name) for name in names})


def check_ways(config: FewShotConfig) -> None:
    """Refuse ways that are unknown or lack what they need; reads and makes nothing.

    Raises:
        ConfigError: With the ways there are, or with what to give.
    """
    _ways(replace(config, ways=_spelled(config.ways)))


def _spelled(ways: Sequence[str]) -> tuple[str, ...]:
    """Return ways as `WAYS` writes them; elsewhere they are spelled with hyphens."""
    return tuple(each.replace("-", "_") for each in pieces(ways))


def _ways(config: FewShotConfig) -> list[tuple[str, dict[str, Any], str]]:
    """Return the tries: way, what it sets, and how it is told from others of the way.

    Raises:
        ConfigError: If a way is unknown, or needs what is not given.
    """
    for name in config.ways:
        if name not in (*WAYS, UNLABELED):
            known = ", ".join((*WAYS, UNLABELED))
            raise ConfigError(
                f'--ways: unknown way "{name}".{did_you_mean(name, WAYS)} Known: {known}'
            )
    if UNLABELED in config.ways and config.unlabeled is None:
        raise ConfigError("self-training needs unlabelled text: type --unlabeled FILE")
    if config.ways and not set(config.ways) & set(WAYS):
        raise ConfigError(
            f"{UNLABELED} goes on from the best of other ways: name one, as in --ways probe,"
            f"{UNLABELED}"
        )
    found: list[tuple[str, dict[str, Any], str]] = []
    for name, changes in WAYS.items():
        prompts = [p for p in changes.get("method", ()) if "{prompt}" in p]
        if (config.ways and name not in config.ways) or (not config.ways and prompts
                                                         and not config.pattern):  # fmt: skip
            continue
        if prompts and not config.pattern:
            raise ConfigError(f'{name} needs a pattern: type --pattern "{{text}}。总之很[MASK]。"')
        for pattern in config.pattern if prompts else ("",):
            words = f",words={config.words}" if config.words else ""
            set_ = dict(changes)
            if prompts:
                set_["method"] = tuple(
                    each.replace("{prompt}", f"pattern={pattern}{words}") for each in prompts
                )
            for lr in (0.0,) if changes.get("probe") == "only" else config.lrs:
                details = [f"lr {lr:g}" if lr else "", pattern]
                more = {"lr": lr} if lr else {}
                found.append((name, {**set_, **more}, ", ".join(filter(None, details))))
    return found


def _check_prompts(config: FewShotConfig, train: Sequence[Example]) -> None:
    """Refuse patterns and words that are wrong before anything is trained.

    Raises:
        ConfigError: If a pattern has no hole, or labels share a word, or one has none.
    """
    tokenizer = Backbone.load(config.model).tokenizer
    for pattern in config.pattern:
        prompt = PromptConfig(pattern=pattern, words=config.words, max_length=config.max_length)
        PromptClassify.prepare(prompt, tokenizer, train)


def _try(
    name: str, changes: Mapping[str, Any], detail: str, base: TrainConfig, own: ClassifyConfig,
    dev: Sequence[Example], folder: Path, evaluations: int,
) -> Try:  # fmt: skip
    """Train one way, or read how it did; a way that does not fit the model is noted, not raised."""
    place = f"{TRIED}/{_slug(name, detail)}"
    home, notes = folder / place, folder / f"{place}.json"
    if notes.is_file():
        return Try(**json.loads(notes.read_text(encoding="utf-8")))
    log.info("%s %s", name, detail)
    started = time.perf_counter()
    every, looks = budget_of(changes, base.steps, evaluations)
    config = replace(base, **changes, output=str(home), eval_every=every)
    try:
        train_once(config, own)
        found = _judged(name, detail, home, dev, started, place, looks)
    except (ConfigError, ModelError, RunError) as error:
        found = Try(name, detail, 0.0, NEVER, 0.0, note=str(error).splitlines()[0])
    log.info("  dev %.4f  %.1f s  %s", found.dev, found.seconds, found.note)
    write_json(notes, asdict(found))
    return found


def _self_train(
    best: Try, ways: Sequence[tuple[str, dict[str, Any], str]], base: TrainConfig,
    own: ClassifyConfig, options: SelfTrainingOptions, dev: Sequence[Example], folder: Path,
    evaluations: int,
) -> Try:  # fmt: skip
    """Let the best way learn from unlabelled text, or read how it did."""
    place = f"{TRIED}/{UNLABELED}"
    home, notes = folder / place, folder / f"{place}.json"
    if notes.is_file():
        return Try(**json.loads(notes.read_text(encoding="utf-8")))
    changes = next(set_ for name, set_, detail in ways
                   if (name, detail) == (best.way, best.detail))  # fmt: skip
    started = time.perf_counter()
    every, looks = budget_of(changes, base.steps, evaluations)
    config = replace(
        base, **changes, output=str(home), eval_every=every,
        resume=(home / "self_training.yaml").is_file(),
    )  # fmt: skip
    self_train(config, options, own)
    detail = ", ".join(filter(None, [best.way, best.detail]))
    rounds = len(json.loads((home / "self_training.json").read_text(encoding="utf-8"))["rounds"])
    found = _judged(UNLABELED, detail, home, dev, started, place, rounds * looks)
    write_json(notes, asdict(found))
    return found


def _judged(
    way: str,
    detail: str,
    home: Path,
    dev: Sequence[Example],
    started: float,
    place: str,
    looks: int,
) -> Try:
    """Score a run on dev."""
    answers = Pipeline.load(home, backend="torch").predict(list(dev))
    gold = [label_of(each["label"]) for each in dev]
    right = "".join(str(int(a["label"] == g)) for a, g in zip(answers, gold, strict=True))
    sure = sum(math.log(max(a["scores"][g], 1e-6)) for a, g in zip(answers, gold, strict=True))
    seconds = time.perf_counter() - started
    return Try(
        way,
        detail,
        right.count("1") / len(gold),
        sure / len(gold),
        seconds,
        folder=place,
        looks=looks,
        right=right,
    )


def _baselines(examples: Mapping[str, Sequence[Example]], texts: Sequence[str]) -> list[Try]:
    """Return what n-grams alone can do; they make no run folder, but a run should beat them."""
    if any("text_b" in each for each in examples["train"]):
        return []
    text, label = ([str(e[name]) for e in examples["train"]] for name in ("text", "label"))
    gold = [label_of(each["label"]) for each in examples["dev"]]
    found = []
    for way, model in (("tfidf_lr", SelfTrainedLinear(rounds=3 if texts else 0)),
                       ("naive_bayes_em", NaiveBayesEM())):  # fmt: skip
        started = time.perf_counter()
        model.fit(text, label, texts)
        chances = model.predict_proba([str(each["text"]) for each in examples["dev"]])
        numbers = [model.classes_.index(each) for each in gold]
        hits = zip(chances, numbers, strict=True)
        right = "".join(str(int(row.argmax() == i)) for row, i in hits)
        sure = sum(math.log(max(row[i], 1e-6)) for row, i in zip(chances, numbers, strict=True))
        seconds = time.perf_counter() - started
        found.append(
            Try(
                way,
                "no run folder",
                right.count("1") / len(gold),
                sure / len(gold),
                seconds,
                right=right,
            )
        )
    return found


def _slug(way: str, detail: str) -> str:
    """Return a folder name for a try: plain letters, and a number for a pattern."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in ".-") else "-" for c in detail)
    short = "-".join(filter(None, plain.split("-")))[:24]
    return "-".join(filter(None, [way, short, f"{zlib.crc32(detail.encode()):08x}"[:4]]))
