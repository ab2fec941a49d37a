"""Packages we lean on: which extra installs them, and which versions are here."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

from easynlp.errors import MissingExtra

__all__ = ["EXTRAS", "needed_for", "versions"]

EXTRAS = {
    **dict.fromkeys(
        ("torch", "transformers", "safetensors", "sklearn", "onnx", "onnxscript", "onnx_ir",
         "rjieba", "nervaluate", "tensorboard"), "train",
    ),
    "pyarrow": "parquet",
    "modelscope_hub": "modelscope",
    "httpx": "test",
}  # fmt: skip
"""Importable names to extras."""


@contextmanager
def needed_for(feature: str) -> Iterator[None]:
    """Say how to install what a feature imports, if it is not there.

    Args:
        feature: What asks for it: ``easynlp train``.

    Raises:
        MissingExtra: In place of a ModuleNotFoundError of a package an extra installs.

    Example:
        >>> with needed_for("easynlp train"):          # doctest: +ELLIPSIS
        ...     raise ModuleNotFoundError("No module named 'torch'", name="torch")
        Traceback (most recent call last):
        easynlp.errors.MissingExtra: easynlp train needs packages that are not installed. ...
    """
    try:
        yield
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        raise MissingExtra(feature, extra) from error


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that decide a run's numbers."""
    found = {"python": platform.python_version()}
    for package in ("easynlp", "torch", "transformers", "tokenizers", "onnxruntime", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
