"""What was measured on: the machine; and how large files and models are."""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import struct
from importlib import metadata
from pathlib import Path

__all__ = ["folder_size", "machine", "parameters", "served_bytes"]

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


def folder_size(*paths: Path) -> int:
    """Return the bytes of files and of all files in folders."""
    total = 0
    for path in paths:
        files = path.rglob("*") if path.is_dir() else [path]
        total += sum(file.stat().st_size for file in files if file.is_file())
    return total


def served_bytes(folder: Path) -> int:
    """Return the bytes of what is served of a model folder: all but the report on its export."""
    return folder_size(*(path for path in folder.iterdir() if path.name != "export.json"))


def parameters(folder: Path) -> int:
    """Return how many numbers a model folder's safetensors file holds."""
    with (folder / "model.safetensors").open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    shapes = [about["shape"] for name, about in header.items() if name != "__metadata__"]
    return sum(map(math.prod, shapes))


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
