"""Checkpoints: written whole or not at all, read back to the same numbers.

A checkpoint is a folder ``checkpoints/step-00000123`` holding ``model.safetensors``,
``optimizer.safetensors`` and ``state.json``. ``last`` and ``best`` are small files naming one;
they are replaced only after the folder is complete and on disk, so a ``kill -9`` at any moment
leaves the previous checkpoint in force. Nothing is pickled.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model

from easynlp.errors import ModelError, RunError
from easynlp.training.loop import State

__all__ = ["Checkpoints", "write_folder", "write_json"]

_SAVED = ("step", "best_score", "best_step", "bad_evals", "tokens")


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is either the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(value, file, ensure_ascii=False, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {error.strerror}") from error


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder by filling a hidden one beside it, then renaming it into place.

    Raises:
        RunError: If the disk is full or refuses; nothing half-written stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        fill(temporary)
        for file in temporary.iterdir():
            file.chmod(0o644)  # safetensors writes for the owner only
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        temporary.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        reason = getattr(error, "strerror", None) or str(error)
        raise RunError(f"cannot write {path}: {reason}. Nothing was changed") from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


class Checkpoints:
    """The checkpoints of one run folder.

    Args:
        run: The run folder; ``checkpoints/`` is made inside when first saved to.
    """

    def __init__(self, run: Path) -> None:
        self.folder = run / "checkpoints"

    def save(self, model: torch.nn.Module, state: State, *, best: bool) -> None:
        """Save a checkpoint as ``last`` (and ``best``), then drop those no longer named."""
        path = self.folder / f"step-{state.step:08d}"
        if self._named("last") != path.name or not path.is_dir():
            write_folder(path, lambda folder: _fill(folder, model, state))
        write_json(self.folder / "last.json", {"checkpoint": path.name})
        if best:
            write_json(self.folder / "best.json", {"checkpoint": path.name})
        keep = {self._named("last"), self._named("best")}
        for other in self.folder.iterdir():
            if other.is_dir() and other.name not in keep:
                shutil.rmtree(other, ignore_errors=True)

    def load(self, model: torch.nn.Module, which: str = "last") -> State | None:
        """Read ``last`` or ``best`` into a model; return its state, or None if there is none.

        Raises:
            ModelError: If the checkpoint is damaged or of another model.
        """
        name = self._named(which)
        if name is None:
            return None
        path = self.folder / name
        try:
            load_model(model, path / "model.safetensors")
            values = json.loads((path / "state.json").read_text(encoding="utf-8"))
            pending = load_file(path / "optimizer.safetensors")
        except (OSError, SafetensorError, RuntimeError, ValueError) as error:
            raise ModelError(f"{path} is damaged or of another model: {error}") from error
        return State(**values, pending=pending)

    def _named(self, which: str) -> str | None:
        try:
            found = json.loads((self.folder / f"{which}.json").read_text(encoding="utf-8"))
            return str(found["checkpoint"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{self.folder / which}.json is damaged: {error}") from error


def _fill(folder: Path, model: torch.nn.Module, state: State) -> None:
    save_model(model, str(folder / "model.safetensors"))
    moments: dict[str, torch.Tensor] = {}
    if state.optimizer is not None:
        for index, values in state.optimizer.state_dict()["state"].items():
            for name, value in values.items():
                moments[f"{index}.{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    save_file(moments, folder / "optimizer.safetensors")
    fields = dataclasses.asdict(dataclasses.replace(state, optimizer=None, pending=None))
    write_json(folder / "state.json", {name: fields[name] for name in _SAVED})
