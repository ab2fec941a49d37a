"""The whole road on real reviews: train, evaluate, export, check, time, and how to serve it.

The model is fine-tuned with `RECIPE`, whose values were chosen on the dev rows; the test rows
are scored once, at the end, by every contender alike.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from easynlp.benchmarks.floors import LinearFloor, MajorityFloor
from easynlp.benchmarks.statistics import share_interval
from easynlp.benchmarks.timing import folder_size, machine, time_prediction
from easynlp.data.columns import read_examples
from easynlp.demo.settings import DemoOptions
from easynlp.tasks import find_task
from easynlp.tasks.base import Example

__all__ = ["DATA", "RECIPE", "demo_table", "next_steps", "run_demo"]

log = logging.getLogger("easynlp")

DATA = Path(__file__).with_name("data")
RECIPE: dict[str, Any] = {"epochs": 6.0, "batch_size": 32, "lr": 1e-4}
"""Options of the training, chosen on dev."""
COLUMNS: dict[str, Any] = {"text": "text", "label": "label"}
MAX_LENGTH = 208
"""Enough for the longest review: nothing is cut."""
TIMED = 200
"""Test texts that are timed."""
Predict = Callable[[Sequence[str]], list[str]]


def run_demo(options: DemoOptions) -> dict[str, Any]:
    """Train, export, check and time; return the report and write it to ``report.json``.

    The report holds ``rows`` (a contender each: accuracy with its 95% interval, bytes on disk,
    latencies, texts a second), ``export`` (how int8 agrees with the run), ``output``,
    ``seconds`` and ``machine``.

    Args:
        options: Where to, which model, which seed.

    Raises:
        ConfigError: If the output folder exists.
        GateError: If the int8 export disagrees with the trained model.
        MissingExtra: If the packages of ``[train]`` are not installed.
    """
    started = time.perf_counter()
    from easynlp import run
    from easynlp.config import TrainConfig
    from easynlp.deployment.export import export
    from easynlp.pipeline import Pipeline

    folder = Path(options.output)
    log.info("1 of 5: fine-tuning %s on 1,000 reviews", options.model)
    config = TrainConfig(
        task="text_classify", train=str(DATA / "train.jsonl"), dev=str(DATA / "dev.jsonl"),
        output=options.output, overwrite=options.overwrite, model=options.model,
        seed=options.seed, **COLUMNS, **RECIPE,
    )  # fmt: skip
    run.train(config, find_task("text_classify").Config(max_length=MAX_LENGTH))
    log.info("2 of 5: exporting to ONNX, fp32 and int8, and checking both against the run")
    plain = export(folder, output=folder / "onnx-fp32")
    small = export(folder, int8=True)
    log.info("3 of 5: fitting the floors")
    test = _read("test")
    majority, linear, linear_bytes = _fit_floors(folder)
    contenders: list[tuple[str, Predict, int | None]] = [
        ("majority", majority.predict, None),
        ("TF-IDF + SVM", linear.predict, linear_bytes),
        *(
            (
                f"{Path(options.model).name} {kind}",
                labels_of(Pipeline.load(path)),
                folder_size(Path(path)),
            )
            for kind, path in (("fp32", plain.folder), ("int8", small.folder))
        ),
    ]
    log.info("4 of 5: scoring on %d test reviews", len(test))
    rows = [_score(name, predict, size, test) for name, predict, size in contenders]
    log.info("5 of 5: timing, one thread")
    for row, (_, predict, _) in zip(rows, contenders, strict=True):
        row |= asdict(time_prediction(predict, [str(each["text"]) for each in test[:TIMED]]))
    report = {
        "rows": rows,
        "export": {"int8": asdict(small), "fp32": asdict(plain)},
        "output": options.output,
        "seconds": round(time.perf_counter() - started, 1),
        "machine": machine(1),
    }
    text = json.dumps(report, ensure_ascii=False, indent=1)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    return report


def _read(name: str) -> list[Example]:
    path, fields = str(DATA / f"{name}.jsonl"), find_task("text_classify").fields
    return [example for _, example in read_examples(path, fields, chosen=COLUMNS)]


def _fit_floors(folder: Path) -> tuple[MajorityFloor, LinearFloor, int]:
    """Fit both floors; the linear one goes through its file, whose size is returned."""
    train = _read("train")
    texts, labels = [str(row["text"]) for row in train], [str(row["label"]) for row in train]
    majority, linear = MajorityFloor(), LinearFloor()
    majority.fit(texts, labels)
    linear.fit(texts, labels)
    size = linear.save(folder / "tfidf-svm.npz")
    return majority, LinearFloor.load(folder / "tfidf-svm.npz"), size


def labels_of(pipeline: Any) -> Predict:
    """Return a function from texts to labels."""

    def predict(texts: Sequence[str]) -> list[str]:
        return [str(prediction["label"]) for prediction in pipeline.predict(texts)]

    return predict


def _score(
    name: str, predict: Predict, size: int | None, test: Sequence[Example]
) -> dict[str, Any]:
    """Return a contender's accuracy on test with its interval, and its size on disk."""
    answers = predict([str(row["text"]) for row in test])
    right = sum(answer == row["label"] for answer, row in zip(answers, test, strict=True))
    low, high = share_interval(right, len(test))
    return {"name": name, "accuracy": right / len(test), "low": low, "high": high, "bytes": size}


def demo_table(report: Mapping[str, Any]) -> Table:
    """Return a report as the table the demo prints."""
    export, found = report["export"]["int8"], report["machine"]
    agreement = export["agreement"]
    table = Table(
        title="500 real reviews never trained on: 正面 or 负面?",
        caption=f"int8 agrees with the trained model on {100 * agreement:.1f}% of "
        f"{export['texts']} texts; {found['cpu']}, one thread, load {found['load']}; "
        f"all in {report['seconds']:.0f} s",
    )
    table.add_column("", no_wrap=True)
    for heading in ("accuracy", "95%", "on disk", "p50 ms", "p99 ms", "texts/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in report["rows"]:
        table.add_row(
            row["name"],
            f"{100 * row['accuracy']:.1f}%",
            f"{100 * row['low']:.1f}-{100 * row['high']:.1f}",
            *_weight_and_speed(row),
        )
    return table


def _weight_and_speed(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return size, latencies and texts a second; the majority floor computes nothing."""
    if row["bytes"] is None:
        return ("-",) * 4
    return (
        f"{row['bytes'] / 1e6:.1f} MB",
        f"{row['p50_ms']:.2f}",
        f"{row['p99_ms']:.2f}",
        f"{row['texts_per_second']:,.0f}",
    )


def next_steps(report: Mapping[str, Any]) -> str:
    """Return the commands that serve the model and ask it something."""
    body = '{"texts": ["房间很干净，下次还来", "等了两个小时，没人理"]}'
    return (
        f"Serve it:  easynlp serve {report['output']} --port 8000\n"
        f"Ask it:    curl -s http://127.0.0.1:8000/predict -H 'Content-Type: application/json' "
        f"-d '{body}'"
    )
