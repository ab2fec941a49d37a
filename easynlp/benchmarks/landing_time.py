"""Part ``latency`` of ``easynlp bench landing``, and how all its parts are timed.

Text in, label out, tokenizing included, one text a call, one thread, ONNX Runtime for every model.
Models take turns, a pass over all texts each, so that what else the machine does meets all of
them. Beside the time on the wall stands the processor's, which leaves out waiting for a machine
that is shared; ratios are of that, pass by pass: waiting meets long calls more than short ones and
would flatter the small model. On an idle core both are the same, for there is one thread.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from easynlp.benchmarks.landing_figures import Measured, judge
from easynlp.benchmarks.landing_settings import LandingBenchOptions
from easynlp.benchmarks.machine import machine
from easynlp.benchmarks.statistics import ratio_interval
from easynlp.config import TrainConfig
from easynlp.deployment.export import Report, export
from easynlp.errors import ConfigError
from easynlp.fewshot.phases import train_once, write_rows
from easynlp.pipeline import Pipeline
from easynlp.tasks.text_classify import ClassifyConfig

__all__ = ["faster", "latency", "ready", "run_of_shape", "shape_folder", "take_turns",
           "texts_of_length"]  # fmt: skip

REVIEWS = Path(__file__).parents[1] / "demo" / "data" / "test.jsonl"
STEPS = {"hashed_ngram": (60, 3e-2), "bert": (60, 5e-4)}
Answer = Callable[[str], object]


def latency(options: LandingBenchOptions, home: Path) -> tuple[list[Measured], dict[str, Any]]:
    """Time the tiny tier, a small BERT and a base-size one; return figures and details.

    Weights do not matter: every model learned for some steps to tell texts by their beginning, so
    that int8 is checked on answers that are clear. The base-size one is served in fp32.
    """
    texts = texts_of_length(options.characters, options.timed)
    small, base = options.small_shape, options.base_shape
    sides: dict[str, Answer] = {}
    about: dict[str, Any] = {}
    for name, model, int8 in (
        (f"{options.tiny_model}, int8", options.tiny_model, True),
        (f"{small}, int8", small, True), (f"{small}, fp32", small, False),
        (f"{base}, fp32", base, False),
    ):  # fmt: skip
        run = run_of_shape(options, model, home, steps=1 if model == base else None)
        report = ready(run, int8=int8, texts=run.parent / "train.jsonl")
        sides[name] = answerer(Path(report.folder))
        about[name] = {"bytes": report.bytes, "kind": report.kind}
    times = take_turns(sides, texts, options.rounds)
    tiny, first, plain, large = sides
    ratio = faster(times, first, large)
    note = f"of {len(texts)} texts of {options.characters} characters, {options.rounds} passes"
    figures = [
        judge("tiny_p99", times[tiny]["p99_ms"], f"{tiny}; processor time "
              f"{times[tiny]['cpu_p99_ms']:.2f} ms; {note}"),
        judge("small_p99", times[first]["p99_ms"], f"{first}; processor time "
              f"{times[first]['cpu_p99_ms']:.2f} ms; fp32 {times[plain]['p99_ms']:.2f} ms"),
        judge("end_to_end", ratio["median"], f"{large} / {first}, {ratio['low']:.1f} to "
              f"{ratio['high']:.1f}; in fp32 both {faster(times, plain, large)['median']:.1f} x; "
              f"the tiny tier {faster(times, tiny, large)['median']:.0f} x"),
    ]  # fmt: skip
    rows = [{"model": name, **about[name], **_shown(times[name])} for name in sides]
    return figures, {"rows": rows, "machine": machine(1)}


def take_turns(
    sides: Mapping[str, Answer], texts: Sequence[str], rounds: int
) -> dict[str, dict[str, Any]]:
    """Time functions of one text; each takes a pass over all texts in its turn.

    Returns:
        For each name ``p50_ms`` and ``p99_ms`` over all calls, the same of processor time as
        ``cpu_p50_ms`` and ``cpu_p99_ms``, ``calls``, and ``passes``: the median
        of each pass, ms of processor time.
    """
    wall: dict[str, list[list[float]]] = {name: [] for name in sides}
    used: dict[str, list[list[float]]] = {name: [] for name in sides}
    for answer in sides.values():  # the first calls of anything are slow
        for text in texts[:8]:
            answer(text)
    for _ in range(rounds):
        for name, answer in sides.items():
            answer(texts[0])  # what the model before left in the caches is not its fault
            spent, computed = [], []
            for text in texts:
                cpu, started = time.process_time(), time.perf_counter()
                answer(text)
                spent.append(1000 * (time.perf_counter() - started))
                computed.append(1000 * (time.process_time() - cpu))
            wall[name].append(spent)
            used[name].append(computed)
    return {
        name: {
            **_percentiles("", [each for one in passes for each in one]),
            **_percentiles("cpu_", [each for one in used[name] for each in one]),
            "calls": sum(map(len, passes)),
            "passes": [float(np.median(one)) for one in used[name]],
        }
        for name, passes in wall.items()
    }


def faster(times: Mapping[str, Mapping[str, Any]], fast: str, slow: str) -> dict[str, float]:
    """Return how many times as fast one is as the other: median over passes, 95% interval.

    Example:
        >>> faster({"a": {"passes": [1.0, 1.0]}, "b": {"passes": [8.0, 8.0]}}, "a", "b")["median"]
        8.0
    """
    speeds = [[1 / each for each in times[name]["passes"]] for name in (fast, slow)]
    found = ratio_interval(*speeds)
    return {"median": found.median, "low": found.low, "high": found.high}


def run_of_shape(
    options: LandingBenchOptions, model: str, home: Path, steps: int | None = None
) -> Path:
    """Return a run of a model that learned to tell how made-up rows begin.

    Args:
        options: Say how long texts are.
        model: A shape such as ``4x312``, or what ``--model`` takes.
        home: Where the run is put.
        steps: Optimizer steps; by default enough for clear answers.
    """
    folder = home / model.partition(":")[0].strip("/").replace("/", "-")  # within, if it is a path
    data = folder / "train.jsonl"
    if not data.is_file():
        write_rows(data, _told_apart(options.characters))
    is_shape = _shape(model) is not None
    name = f"random:{shape_folder(model, folder / 'shape')}" if is_shape else model
    enough, lr = STEPS["bert" if is_shape else "hashed_ngram"]
    config = TrainConfig(
        task="text_classify", model=name, train=str(data), output=str(folder / "run"),
        steps=steps or enough, batch_size=16, lr=lr, threads=options.threads, seed=options.seed,
    )  # fmt: skip
    train_once(config, ClassifyConfig(max_length=options.max_length))
    return folder / "run"


def shape_folder(shape: str, folder: Path) -> Path:
    """Write the configuration and tokenizer of a BERT of so many layers and such a width.

    Raises:
        ConfigError: If the shape is none.
    """
    from transformers import BertConfig

    from easynlp.models.backbone import Backbone

    sizes = _shape(shape)
    if sizes is None:
        raise ConfigError(f'"{shape}" is no shape; write layers x width, e.g. 4x312')
    layers, width = sizes
    tokenizer = Backbone.load("random:tiny-zh").tokenizer
    folder.mkdir(parents=True, exist_ok=True)
    BertConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=width, num_hidden_layers=layers,
        num_attention_heads=12 if width % 12 == 0 else 1, intermediate_size=4 * width,
        pad_token_id=tokenizer.pad_id,
    ).save_pretrained(folder)  # fmt: skip
    tokenizer.save(folder)
    return folder


def ready(run: Path, *, int8: bool, texts: Path) -> Report:
    """Return a run's export, made where it is not there yet.

    int8 is kept as it comes out: what it costs is measured here and part of the table.
    """
    target = run.parent / f"{run.name}-{'int8' if int8 else 'onnx'}"
    said = target / "export.json"
    if said.is_file():
        return Report(**json.loads(said.read_text(encoding="utf-8")))
    return export(run, int8=int8, output=target, texts=texts, force=int8)


def answerer(folder: Path) -> Answer:
    """Return a function from a text to a label, in ONNX Runtime with one thread."""
    pipeline = Pipeline.load(folder, threads=1)
    return lambda text: pipeline.predict([text])[0]["label"]


def texts_of_length(characters: int, count: int) -> list[str]:
    """Return different texts of exactly so many characters, cut from real reviews.

    Example:
        >>> {len(text) for text in texts_of_length(30, 20)}
        {30}
    """
    lines = REVIEWS.read_text(encoding="utf-8").splitlines()
    whole = "".join(str(json.loads(line)["text"]) for line in lines)
    starts = np.linspace(0, len(whole) - characters, count).astype(int)
    return [whole[start : start + characters] for start in starts]


def _told_apart(characters: int) -> list[dict[str, str]]:
    """Return rows whose first characters say the label."""
    begin = ("好好好好", "差差差差")
    texts = texts_of_length(max(4, characters - 4), 256)
    return [{"text": begin[i % 2] + text, "label": begin[i % 2][0]} for i, text in enumerate(texts)]


def _shape(name: str) -> tuple[int, int] | None:
    layers, times, width = name.partition("x")
    return (int(layers), int(width)) if times and layers.isdigit() and width.isdigit() else None


def _percentiles(prefix: str, spent: Sequence[float]) -> dict[str, float]:
    p50, p99 = np.percentile(spent, [50, 99])
    return {f"{prefix}p50_ms": float(p50), f"{prefix}p99_ms": float(p99)}


def _shown(times: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in times.items() if key != "passes"}
