"""The whole road on real reviews, small: `easynlp.landing.land` with 1,000 labels and no teacher.

The data is diagnosed, the model fine-tuned with `RECIPE`, whose values were chosen on the dev rows,
exported to ONNX and int8, checked, scored and timed beside two floors. The test rows are scored
once, at the end, by every contender alike.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from easynlp.atomic import write_json
from easynlp.benchmarks.machine import folder_size
from easynlp.demo.settings import DemoOptions

__all__ = ["DATA", "RECIPE", "demo_table", "next_steps", "run_demo"]

DATA = Path(__file__).with_name("data")
RECIPE: dict[str, Any] = {
    "student_steps": 192, "evaluations": 6, "batch_size": 32, "student_lrs": (1e-4,),
}  # fmt: skip
"""Options of the training, six passes over the reviews, chosen on dev."""
MAX_LENGTH = 208
"""Enough for the longest review: nothing is cut."""
TIMED = 200
"""Test texts that are timed."""
SKIPPED = ("teacher", "label", "distill", "augment", "curve")
"""Stages left out: with 1,000 labels and no large model there is nothing to learn from a teacher,
and the demo is to be over in minutes."""


def run_demo(options: DemoOptions) -> dict[str, Any]:
    """Walk the road; return what the demo prints and write it to ``demo.json``.

    The report holds ``rows`` (a contender each: accuracy with its 95% interval, bytes on disk,
    latencies, texts a second), ``export`` (how int8 agrees with the run), ``page`` (the landing
    report, HTML), ``output``, ``seconds`` and ``machine``.

    Args:
        options: Where to, which model, which seed.

    Raises:
        ConfigError: If the output folder exists.
        MissingExtra: If the packages of ``[train]`` are not installed.
    """
    started = time.perf_counter()
    from easynlp.landing.land import land
    from easynlp.landing.settings import LandOptions

    folder = Path(options.output)
    landed = land(
        LandOptions(
            train=str(DATA / "train.jsonl"), dev=str(DATA / "dev.jsonl"),
            test=str(DATA / "test.jsonl"), output=options.output, overwrite=options.overwrite,
            student=options.model, seed=options.seed, max_length=MAX_LENGTH, timed=TIMED,
            skip=SKIPPED, text="text", label="label", **RECIPE,
        )
    )  # fmt: skip
    found = {row["key"]: row for row in (*landed.report["table"], *landed.report["floors"])}
    name, score = Path(options.model).name, folder / "score"
    places = {
        "majority": ("majority", None),
        "tfidf_svm": ("TF-IDF + SVM", score / "tfidf-svm.npz"),
        "small_finetuned": (f"{name} fp32", folder / "export" / "small_finetuned"),
        "small_compressed": (f"{name} int8", folder / "compress" / "model"),
    }
    report = {
        "rows": [_row(found[key], shown, path) for key, (shown, path) in places.items()
                 if key in found],
        "export": landed.report["compressed"],
        "page": str(landed.page),
        "output": options.output,
        "seconds": round(time.perf_counter() - started, 1),
        "machine": landed.report["machine"],
    }  # fmt: skip
    write_json(folder / "demo.json", report)
    return report


def _row(found: Mapping[str, Any], name: str, path: Path | None) -> dict[str, Any]:
    """Return a contender as the demo tells of it."""
    row = {"name": name, **{key: found[key] for key in ("accuracy", "low", "high")}, "bytes": None}
    if path is None:
        return row
    one, batch = found["one"], found["batch"]
    return row | {
        "bytes": folder_size(path), "p50_ms": one["p50_ms"], "p99_ms": one["p99_ms"],
        "texts_per_second": 32_000 / batch["p50_ms"],
    }  # fmt: skip


def demo_table(report: Mapping[str, Any]) -> Table:
    """Return a report as the table the demo prints."""
    export, found = report["export"], report["machine"]
    table = Table(
        title="500 real reviews never trained on: 正面 or 负面?",
        caption=f"int8 agrees with the trained model on {100 * export['agreement']:.1f}% of "
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
    """Return where the page is, and the commands that serve the model and ask it something."""
    body = '{"texts": ["房间很干净，下次还来", "等了两个小时，没人理"]}'
    return (
        f"Read it:   {report['page']}\n"
        f"Serve it:  easynlp serve {report['output']}/model --port 8000\n"
        f"Ask it:    curl -s http://127.0.0.1:8000/predict -H 'Content-Type: application/json' "
        f"-d '{body}'"
    )
