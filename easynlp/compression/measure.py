"""What a served folder costs: latency and memory, in a process of its own.

``python -m easynlp.compression.measure FOLDER PEER TEXTS.json`` prints one line of JSON. A process
of its own, so that what else a compression holds in memory is not counted, and one thread, as in a
server. The peer answers the same texts in turn, so that a busy machine slows both alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from easynlp.atomic import write_json
from easynlp.errors import RunError

if TYPE_CHECKING:
    from easynlp.pipeline import Pipeline

__all__ = ["Cost", "measure"]

WARM, ROUNDS, LIMIT_S = 8, 3, 20.0
"""Untimed texts, passes over all texts, seconds after which no more are begun."""


@dataclass(frozen=True)
class Cost:
    """Text in, prediction out, one text at a time, one thread.

    Attributes:
        p50_ms: Median, milliseconds.
        p99_ms: 99th percentile, milliseconds.
        speedup: Median over texts of the peer's time by its own.
        memory_mb: What loading and running it adds to the process, megabytes.
    """

    p50_ms: float
    p99_ms: float
    speedup: float
    memory_mb: float


def measure(folder: Path, items: Sequence[Any], peer: Path | None = None) -> Cost:
    """Return what an exported folder costs.

    Args:
        folder: With a model, a tokenizer and ``easynlp.json``.
        items: Texts, pairs or examples without targets, to predict.
        peer: Another such folder, to compare with; None: itself.

    Raises:
        RunError: If the process fails.
    """
    notes = folder.parent / f".{folder.name}.{os.getpid()}.timed.json"
    write_json(notes, list(items))
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
    places = [str(folder), str(peer or folder), str(notes)]
    command = [sys.executable, "-m", "easynlp.compression.measure", *places]
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False,
            env={**os.environ, **one, "PYTHONPATH": path},
        )  # fmt: skip
    finally:
        notes.unlink(missing_ok=True)
    if done.returncode:
        raise RunError(f"timing {folder} failed: {done.stderr.strip()[-500:]}")
    return Cost(**json.loads(done.stdout.strip().splitlines()[-1]))


def _resident() -> float:
    """Return the megabytes this process holds now; the most it ever held where that is unknown."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _main(folder: str, peer: str, notes: str) -> None:
    import onnxruntime  # noqa: F401 - its own memory is not the model's

    from easynlp.pipeline import Pipeline

    items = json.loads(Path(notes).read_text(encoding="utf-8"))
    before = _resident()
    mine = Pipeline.load(folder)
    for item in items[:WARM]:
        mine.predict([item])
    own: list[float] = []
    ratios: list[float] = []
    for item in items:  # alone first: what it holds is not to be mixed up with the peer's
        mine.predict([item])
    memory = _resident() - before
    other = Pipeline.load(peer)
    for item in items[:WARM]:
        other.predict([item])
    began = time.perf_counter()
    for item in (item for _ in range(ROUNDS) for item in items):
        own.append(_seconds(mine, item))
        ratios.append(_seconds(other, item) / own[-1])
        if time.perf_counter() - began > LIMIT_S:
            break
    p50, p99 = np.percentile(own, [50, 99]) * 1000
    cost = Cost(float(p50), float(p99), float(np.median(ratios)), memory)
    rounded = {name: round(value, 4) for name, value in vars(cost).items()}
    sys.stdout.write(json.dumps(rounded) + "\n")


def _seconds(pipeline: Pipeline, item: Any) -> float:
    started = time.perf_counter()
    pipeline.predict([item])
    return time.perf_counter() - started


if __name__ == "__main__":
    _main(*sys.argv[1:])
