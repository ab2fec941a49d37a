"""Checkpoints: written whole or not at all, read back to the same numbers.

A checkpoint is a folder ``checkpoints/step-00000123`` holding ``model.safetensors``,
``optimizer.safetensors`` and ``state.json``. ``last.json`` names the one in force, and is
replaced only after its folder is complete and on disk, so a ``kill -9`` at any moment leaves the
previous checkpoint in force. Which step was the best stands in ``state.json``: there is no second
pointer that could disagree. Nothing is pickled.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model

from easynlp.atomic import write_folder, write_json
from easynlp.errors import ModelError, RunError
from easynlp.training.loop import State

__all__ = ["Checkpoints"]

_SAVED = ("step", "best_score", "best_step", "bad_evals", "tokens")


class Checkpoints:
    """The checkpoints of one run folder.

    Args:
        run: The run folder; ``checkpoints/`` is made inside when first saved to.
    """

    def __init__(self, run: Path) -> None:
        self.folder = run / "checkpoints"

    def save(self, model: torch.nn.Module, state: State) -> None:
        """Save a checkpoint, then drop all but it and the best.

        A best step must be saved when it is reached: later only its number is known.
        """
        name = _name(state.step)
        write_folder(self.folder / name, lambda folder: _fill(folder, model, state))
        write_json(self.folder / "last.json", {"checkpoint": name})
        for other in self.folder.iterdir():
            if other.is_dir() and other.name not in (name, _name(state.best_step)):
                shutil.rmtree(other, ignore_errors=True)

    def load(self, model: torch.nn.Module, step: int | None = None) -> State | None:
        """Read the checkpoint in force, or that of a step, into a model.

        Returns:
            Its state; None if nothing has been saved yet.

        Raises:
            ModelError: If the checkpoint is missing, damaged or of another model.
        """
        name = self._last() if step is None else _name(step)
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

    def _last(self) -> str | None:
        path = self.folder / "last.json"
        try:
            return str(json.loads(path.read_text(encoding="utf-8"))["checkpoint"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path} is damaged: {error}") from error


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _fill(folder: Path, model: torch.nn.Module, state: State) -> None:
    moments: dict[str, torch.Tensor] = {}
    if state.optimizer is not None:
        for index, values in state.optimizer.state_dict()["state"].items():
            for name, value in values.items():
                moments[f"{index}.{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    try:
        save_model(model, str(folder / "model.safetensors"))
        save_file(moments, folder / "optimizer.safetensors")
    except SafetensorError as error:
        raise RunError(f"cannot write {folder}: {error}") from error
    fields = dataclasses.asdict(dataclasses.replace(state, optimizer=None, pending=None))
    write_json(folder / "state.json", {name: fields[name] for name in _SAVED})
