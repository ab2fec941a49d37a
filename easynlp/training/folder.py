"""The folder a run writes to: refused, cleared or taken up again, never silently mixed."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from easynlp.atomic import write_folder, write_json, write_text
from easynlp.errors import ConfigError
from easynlp.extras import versions
from easynlp.models.backbone import Backbone
from easynlp.models.heads import core

__all__ = ["check_folder", "claim_folder", "drop_folder", "save_weights"]

_FREE = frozenset(
    {"resume", "overwrite", "threads", "workers", "log_every", "save_every", "output", "device",
     "timeout", "retries", "backoff", "requests_per_minute"}
)  # fmt: skip
"""Options that may differ when a run is resumed: they do not change the numbers."""


def check_folder(
    folder: Path,
    written: str,
    *,
    overwrite: bool,
    resume: bool,
    name: str,
    inputs: Sequence[str | None] = (),
) -> None:
    """Refuse a folder a run may not write to; changes nothing.

    Args:
        folder: Where the run will live.
        written: The resolved recipe, YAML text.
        overwrite: The folder may be emptied, if an earlier run wrote it.
        resume: Go on in it; options that change the numbers must be as they were.
        name: File name of the recipe, without suffix.
        inputs: Files and folders the run reads; they must not be in a folder it empties.

    Raises:
        ConfigError: If the folder is taken and neither flag is given, is not a run's, or the
            options differ from those of the run to resume.
    """
    recipe = folder / f"{name}.yaml"
    if overwrite and resume:
        raise ConfigError("--overwrite and --resume exclude each other")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--output {folder} is a file")
    if not _is_taken(folder):
        return
    if resume and not recipe.is_file():
        raise ConfigError(f"{folder} holds no run to resume ({recipe.name} is not there)")
    if resume:
        _check_same(recipe, yaml.safe_load(written))
    elif not overwrite:
        raise ConfigError(
            f"{folder} exists and is not empty. Go on with --resume, start anew with --overwrite, "
            "or choose another --output"
        )
    elif not recipe.is_file():
        raise ConfigError(
            f"{folder} was not written by this command ({recipe.name} is not there), so "
            "--overwrite will not delete it"
        )
    for path in inputs:
        if path and Path(path).exists() and Path(path).resolve().is_relative_to(folder.resolve()):
            raise ConfigError(f"--overwrite would delete {path}, which the run reads")


def claim_folder(
    folder: Path,
    written: str,
    *,
    overwrite: bool,
    resume: bool,
    name: str,
    inputs: Sequence[str | None] = (),
) -> None:
    """Make a run's folder and write its resolved recipe into it as ``<name>.yaml``.

    See `check_folder`, which it asks first, for the arguments and what is refused.
    """
    check_folder(folder, written, overwrite=overwrite, resume=resume, name=name, inputs=inputs)
    if _is_taken(folder):
        if resume:
            return
        shutil.rmtree(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot write to --output {folder}: {error.strerror}") from error
    write_text(folder / f"{name}.yaml", written)
    write_json(folder / "versions.json", {**versions(), "machine": platform.platform()})


def drop_folder(folder: Path, worth: Sequence[str]) -> None:
    """Delete a run's folder after wrong input, so that the corrected command can be typed at once.

    Args:
        folder: What `claim_folder` made in this call; one that is resumed is not to be given.
        worth: Patterns of what took work; the folder stays if there is any.
    """
    if all(next(folder.glob(pattern), None) is None for pattern in worth):
        shutil.rmtree(folder, ignore_errors=True)


def _is_taken(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def save_weights(folder: Path, model: torch.nn.Module, backbone: Backbone) -> None:
    """Write a trained model into its run folder, as stock transformers lays one out.

    Files are written aside and renamed one by one, the weights last.

    Raises:
        RunError: If the disk is full or refuses; the files that were there stay.
    """
    staged = folder / "checkpoints" / "final"

    def fill(target: Path) -> None:
        inner: Any = core(model)
        inner.config.dtype = torch.float32
        inner.save_pretrained(target)
        backbone.save_tokenizer(target)

    write_folder(staged, fill)
    for file in sorted(staged.iterdir(), key=lambda f: f.suffix == ".safetensors"):
        file.replace(folder / file.name)
    staged.rmdir()


def _check_same(recipe: Path, resolved: Mapping[str, Any]) -> None:
    before = yaml.safe_load(recipe.read_text(encoding="utf-8")) or {}
    changed = [  # what an older version had no option for is not a change
        f"--{key.replace('_', '-')}: was {before[key]!r}, now {value!r}"
        for key, value in resolved.items()
        if key not in _FREE and key in before and before[key] != value
    ]
    if changed:
        raise ConfigError(
            f"cannot resume {recipe.parent} with other options:\n  "
            + "\n  ".join(changed)
            + "\n  Give the options it was begun with, start anew with --overwrite, or choose "
            "another --output"
        )
