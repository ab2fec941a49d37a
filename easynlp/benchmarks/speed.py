"""``easynlp bench speed``: training and prediction beside transformers, in one interleaved run.

Both sides get the same weights, the same texts, the same number of threads, and take turns
within every round, so that whatever else the machine does meets both. Speeds are medians over
rounds; a ratio is taken round by round and comes with a bootstrap interval.

Training counts real tokens (padding is not work done) on rows tokenized before; prediction is
text in, label out, tokenizing included.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from easynlp.benchmarks.fewclue import find_split, read_split_file
from easynlp.benchmarks.machine import machine
from easynlp.benchmarks.settings import SpeedOptions
from easynlp.benchmarks.speed_sides import ALLOCATOR, Setup, Worker
from easynlp.benchmarks.statistics import ratio_interval
from easynlp.data.columns import read_examples
from easynlp.errors import DataError, MissingExtra

__all__ = ["Arm", "bench_speed", "speed_tables"]

log = logging.getLogger("easynlp")
DEMO = Path(__file__).parents[1] / "demo" / "data"


@dataclass(frozen=True)
class Arm:
    """One way of doing the work.

    Attributes:
        title: For the table.
        worker: Which process: ``easynlp``, ``transformers``, or ``transformers+allocator``.
        name: The side's own name for it.
        batch_size: Of prediction; 0 for training.
    """

    title: str
    worker: str
    name: str
    batch_size: int = 0

    @property
    def ours(self) -> bool:
        """Whether it is this library."""
        return self.worker == "easynlp"


def bench_speed(options: SpeedOptions) -> dict[str, Any]:
    """Measure all arms; return the report, and write it to ``options.output`` if given.

    The report holds ``training`` and ``prediction`` (an entry an arm: speeds of all rounds,
    ``median``, ``low``, ``high``), ``ratios`` (ours to each peer at the same work),
    ``agreement`` (share of labels equal to those of ``transformers.pipeline``), ``data``,
    ``options`` and ``machine``.

    Raises:
        ConfigError: If an option is wrong.
        DataError: If the data is.
        MissingExtra: If accelerate is not installed, without which there is no Trainer.
        RunError: If a side fails.
    """
    if importlib.util.find_spec("accelerate") is None:
        raise MissingExtra("timing the transformers Trainer", "bench")
    with tempfile.TemporaryDirectory(prefix="easynlp-speed-") as scratch, ExitStack() as stack:
        setup, texts, about = _prepare(options, Path(scratch))
        environments = {"easynlp": {}, "transformers": {}, "transformers+allocator": ALLOCATOR}
        workers = {
            name: stack.enter_context(Worker(name.partition("+")[0], setup, environment))
            for name, environment in environments.items()
        }
        training = _rounds(_training_arms(workers["easynlp"]), workers, options, texts)
        prediction = _rounds(_prediction_arms(options), workers, options, texts)
    report = {
        "training": training,
        "prediction": prediction,
        "ratios": _ratios(training) + _ratios(prediction),
        "agreement": _agreement(prediction),
        "data": about,
        "options": asdict(options),
        "machine": machine(options.threads),
    }
    for entry in (*training, *prediction):
        del entry["labels"]
    if options.output is not None:
        text = json.dumps(report, ensure_ascii=False, indent=1)
        Path(options.output).write_text(text + "\n", encoding="utf-8")
    return report


def _training_arms(easynlp: Worker) -> list[Arm]:
    """Return the ways to train; ours in the default precision, and in fp32 if that differs."""
    default = easynlp.ask("default_precision")["precision"]
    ours = [Arm(f"easynlp, {default} (default)", "easynlp", default)]
    if default != "fp32":
        ours.append(Arm("easynlp, fp32", "easynlp", "fp32"))
    return [
        *ours,
        Arm("Trainer, padded to max_length", "transformers", "max_length"),
        Arm("Trainer, padded to longest", "transformers", "longest"),
        Arm("Trainer, longest, our allocator", "transformers+allocator", "longest"),
    ]


def _prediction_arms(options: SpeedOptions) -> list[Arm]:
    return [
        arm
        for size in (1, options.batch_size)
        for arm in (
            Arm("easynlp, int8 ONNX", "easynlp", "int8", size),
            Arm("easynlp, fp32 ONNX", "easynlp", "onnx", size),
            Arm("easynlp, torch fp32", "easynlp", "torch", size),
            Arm("transformers.pipeline", "transformers", "pipeline", size),
        )
    ]


def _rounds(
    arms: Sequence[Arm], workers: Mapping[str, Worker], options: SpeedOptions, texts: Sequence[str]
) -> list[dict[str, Any]]:
    """Let all arms take turns for some rounds; return an entry an arm. Round 0 is not counted."""
    speeds: dict[Arm, list[float]] = defaultdict(list)
    labels: dict[Arm, list[str]] = defaultdict(list)
    for number in range(options.rounds + 1):
        first = number * options.texts
        some = [texts[i % len(texts)] for i in range(first, first + options.texts)]
        for arm in arms if number % 2 == 0 else arms[::-1]:
            worker = workers[arm.worker]
            if arm.batch_size:
                found = worker.ask("predict", arm=arm.name, texts=some, batch_size=arm.batch_size)
                labels[arm] += found["labels"]
                speed = len(some) / found["seconds"]
            else:
                found = worker.ask("train", arm=arm.name)
                speed = found["tokens"] / found["seconds"]
            if number:
                speeds[arm].append(speed)
        kind = "prediction" if arms[0].batch_size else "training"
        log.info("%s: round %d of %d%s", kind, number, options.rounds,
                 "" if number else " (warm-up)")  # fmt: skip
    return [
        {
            **asdict(arm), "ours": arm.ours, "speeds": speeds[arm], "median": median(speeds[arm]),
            "low": min(speeds[arm]), "high": max(speeds[arm]), "labels": labels[arm],
        }
        for arm in arms
    ]  # fmt: skip


def _ratios(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compare each of our arms with each peer at the same work."""
    return [
        {
            "ours": ours["title"], "peer": peer["title"], "batch_size": ours["batch_size"],
            **asdict(ratio_interval(ours["speeds"], peer["speeds"])),
        }
        for ours in entries
        if ours["ours"]
        for peer in entries
        if not peer["ours"] and peer["batch_size"] == ours["batch_size"]
    ]  # fmt: skip


def _agreement(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compare the labels of each of our arms with the peer's, text by text."""
    peers = {entry["batch_size"]: entry["labels"] for entry in entries if not entry["ours"]}
    return [
        {
            "ours": entry["title"], "batch_size": entry["batch_size"],
            "equal": sum(map(str.__eq__, entry["labels"], peers[entry["batch_size"]]))
            / len(entry["labels"]),
        }
        for entry in entries
        if entry["ours"]
    ]  # fmt: skip


def _prepare(options: SpeedOptions, scratch: Path) -> tuple[Setup, list[str], dict[str, Any]]:
    """Fine-tune a model shortly and export it, so that both sides run real, equal weights."""
    from easynlp import run
    from easynlp.config import TrainConfig
    from easynlp.deployment.export import export
    from easynlp.tasks import find_task

    rows, texts, source = _data(options)
    data = scratch / "train.jsonl"
    lines = (
        json.dumps({"text": row["text"], "label": str(row["label"])}, ensure_ascii=False) + "\n"
        for row in rows
    )
    data.write_text("".join(lines), encoding="utf-8")
    config = TrainConfig(
        task="text_classify", train=str(data), output=str(scratch / "run"), model=options.model,
        epochs=2, batch_size=options.batch_size, lr=3e-4, text="text", label="label",
        threads=options.threads,
    )  # fmt: skip
    log.info("fine-tuning %s on %d rows of %s ...", options.model, len(rows), source)
    # The other side is transformers' own classifier, which reads the first token.
    kind: Any = find_task("text_classify").Config
    run.train(config, kind(max_length=options.max_length, pooling="first"))
    exports = {"onnx": scratch / "fp32", "int8": scratch / "int8"}
    for name, folder in exports.items():
        # Speed is what is measured here; how often labels agree is in the report.
        export(scratch / "run", int8=name == "int8", output=folder, texts=texts[:200], force=True)
    setup = Setup(
        str(scratch / "run"), {name: str(folder) for name, folder in exports.items()}, str(data),
        options.steps, options.batch_size, options.max_length, options.threads,
        str(scratch / "trainer"),
    )  # fmt: skip
    chars = sum(map(len, texts)) / len(texts)
    about = {
        "source": source, "train_rows": len(rows), "texts": len(texts),
        "mean_characters": round(chars, 1),
        "texts_repeat": len(texts) < options.texts * (options.rounds + 1),
    }  # fmt: skip
    return setup, texts, about


def _data(options: SpeedOptions) -> tuple[list[Mapping[str, Any]], list[str], str]:
    """Return training rows, texts to predict, and where they are from."""
    if options.data is not None:
        rows = _read(Path(options.data))
        return rows, [str(row["text"]) for row in rows], options.data
    try:
        split = find_split(Path(options.data_root), "tnews", "few_all")
    except DataError:
        log.warning("no fewclue_tnews in %s: measuring on the demo's reviews", options.data_root)
        texts = [row["text"] for name in ("dev", "test") for row in _read(DEMO / f"{name}.jsonl")]
        return _read(DEMO / "train.jsonl"), texts, "the demo's reviews"
    held = [*read_split_file(split.dev, "tnews"), *read_split_file(split.test, "tnews")]
    texts = [str(row["text"]) for row in held]
    return list(read_split_file(split.train, "tnews")), texts, "FewCLUE TNEWS, train_few_all"


def _read(path: Path) -> list[Mapping[str, Any]]:
    from easynlp.tasks import find_task

    return [row for _, row in read_examples(str(path), find_task("text_classify").fields)]


def speed_tables(report: Mapping[str, Any]) -> list[Table]:
    """Return a report's tables: training and prediction, ratios beside the speeds."""
    return [_training_table(report), _prediction_table(report)]


def _training_table(report: Mapping[str, Any]) -> Table:
    entries = report["training"]
    peers = {entry["title"]: letter for entry, letter in zip(_peers(entries), "ABCD", strict=False)}
    table = _table(report, "Training: real tokens a second", "tokens/s")
    for letter in peers.values():
        table.add_column(f"times {letter}", justify="right", no_wrap=True)
    ratios = {(row["ours"], row["peer"]): row for row in report["ratios"]}
    for entry in entries:
        own = peers.get(entry["title"], " ")
        name = f"{own}  {entry['title']}"
        times = [_ratio(ratios.get((entry["title"], peer))) for peer in peers]
        table.add_row(name, *_speeds(entry), *times)
    return table


def _prediction_table(report: Mapping[str, Any]) -> Table:
    equal = {(row["ours"], row["batch_size"]): row["equal"] for row in report["agreement"]}
    ratios = {(row["ours"], row["batch_size"]): row for row in report["ratios"]}
    table = _table(report, "Prediction: text in, label out, texts a second", "texts/s")
    for heading in ("times", "same labels"):
        table.add_column(heading, justify="right", no_wrap=True)
    last = 0
    for entry in report["prediction"]:
        size = entry["batch_size"]
        if size != last:
            table.add_section()
        last = size
        pair = (entry["title"], size)
        share = f"{100 * equal[pair]:.1f}%" if pair in equal else ""
        name = f"batch {size}  {entry['title']}"
        table.add_row(name, *_speeds(entry), _ratio(ratios.get(pair)), share)
    return table


def _table(report: Mapping[str, Any], title: str, unit: str) -> Table:
    found = "; ".join(f"{name} {value}" for name, value in report["machine"].items())
    rounds = report["options"]["rounds"]
    caption = f"{report['data']['source']}; {rounds} rounds, sides in turns; {found}"
    table = Table(title=title, caption=caption)
    table.add_column("", no_wrap=True)
    for heading in (unit, "range"):
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _peers(entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [entry for entry in entries if not entry["ours"]]


def _speeds(entry: Mapping[str, Any]) -> tuple[str, str]:
    return f"{entry['median']:,.0f}", f"{entry['low']:,.0f}-{entry['high']:,.0f}"


def _ratio(row: Mapping[str, Any] | None) -> str:
    return "" if row is None else f"{row['median']:.1f} ({row['low']:.1f}-{row['high']:.1f})"
