"""How long an answer takes: every contender, a model or a floor, is timed by the same function."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

__all__ = ["Speed", "folder_size", "machine", "time_prediction"]

PACKAGES = (
    "easynlp",
    "torch",
    "transformers",
    "accelerate",
    "tokenizers",
    "onnxruntime",
    "numpy",
    "sklearn",
)
_DISTRIBUTIONS = {"sklearn": "scikit-learn"}


@dataclass(frozen=True)
class Speed:
    """Text in, label out.

    Attributes:
        p50_ms: Median time of one text alone, milliseconds.
        p99_ms: 99th percentile of the same.
        texts_per_second: In calls of `batch_size` texts.
        batch_size: Texts of such a call.
    """

    p50_ms: float
    p99_ms: float
    texts_per_second: float
    batch_size: int


def time_prediction(
    predict: Callable[[Sequence[str]], object],
    texts: Sequence[str],
    *,
    batch_size: int = 32,
    rounds: int = 3,
    limit_s: float = 10.0,
) -> Speed:
    """Time a function from texts to answers, one text at a time and in batches.

    One untimed pass over the first texts comes before. Texts a second is the best round's, for
    interruptions only ever slow a round down; latencies are over all calls.

    Args:
        predict: Takes a list of texts.
        texts: What to predict; a few hundred real ones.
        batch_size: Texts of one call when throughput is timed.
        rounds: Passes over `texts`.
        limit_s: Stop starting calls of one kind after this many seconds.
    """
    predict(texts[:batch_size])
    for text in texts[:8]:
        predict([text])
    single: list[float] = []
    rates: list[float] = []
    began = time.perf_counter()
    for text in (text for _ in range(rounds) for text in texts):
        started = time.perf_counter()
        predict([text])
        single.append(time.perf_counter() - started)
        if time.perf_counter() - began > limit_s:
            break
    began = time.perf_counter()
    for _ in range(rounds):
        started = time.perf_counter()
        for start in range(0, len(texts), batch_size):
            predict(texts[start : start + batch_size])
        rates.append(len(texts) / (time.perf_counter() - started))
        if time.perf_counter() - began > limit_s:
            break
    p50, p99 = np.percentile(single, [50, 99]) * 1000
    return Speed(float(p50), float(p99), max(rates), batch_size)


def folder_size(*paths: Path) -> int:
    """Return the bytes of files and of all files in folders."""
    total = 0
    for path in paths:
        files = path.rglob("*") if path.is_dir() else [path]
        total += sum(file.stat().st_size for file in files if file.is_file())
    return total


def machine(threads: int) -> dict[str, str]:
    """Return what was measured on: processor, cores, threads used, load, versions."""
    found = {
        "cpu": _cpu_model(),
        "cores": str(os.cpu_count()),
        "threads": str(threads),
        "load": " ".join(f"{value:.1f}" for value in os.getloadavg()),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(_DISTRIBUTIONS.get(package, package))
    return found


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
