"""Methods of several trainings: what passes from one run to the next.

Every training is a plain `run.train` into a folder of its own, on rows that the method wrote. A run
that is complete is not trained again, so the same call with ``resume`` takes up where one stopped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from easynlp import run
from easynlp.atomic import write_text
from easynlp.config import DataOptions, TrainConfig
from easynlp.errors import ConfigError
from easynlp.pipeline import META, Pipeline

__all__ = ["copy_run", "keep_rows", "plain_reading", "train_once", "write_rows"]


def train_once(config: TrainConfig, task_config: Any = None) -> Pipeline:
    """Train, or take up what an earlier call left; a run that is complete is only loaded.

    Its checkpoints, several times its weights, are deleted then: nothing goes on from them.

    Args:
        config: Of the run; its `resume` is set here.
        task_config: Options of the task.

    Example:
        >>> train_once(config).meta["scores"]                         # doctest: +SKIP
    """
    folder = Path(config.output)
    if (folder / META).is_file():
        return Pipeline.load(folder, backend="torch")
    made = run.train(replace(config, resume=(folder / "train.yaml").is_file()), task_config)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return made


def copy_run(source: Path, target: Path) -> None:
    """Copy a finished run's files (not its checkpoints) into another folder, metadata last."""
    files = [path for path in source.iterdir() if path.is_file()]
    for path in sorted(files, key=lambda path: path.name == META):
        staged = target / f".{path.name}.tmp"
        shutil.copyfile(path, staged)
        staged.replace(target / path.name)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write examples as JSON lines, under the fields' own names; see `plain_reading`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, _lines(rows))


def keep_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write examples that runs are made of; where they stand already they must be the same.

    Raises:
        ConfigError: If a file is there with other rows: what was made of those would be mixed
            with what is made of these.
    """
    if not path.is_file():
        write_rows(path, rows)
    elif path.read_text(encoding="utf-8") != _lines(rows):
        raise ConfigError(
            f"{path} holds other rows than are to be learned now: the data has changed since. "
            "Choose another --output, or put the data back"
        )


def _lines(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in rows)


def plain_reading() -> dict[str, Any]:
    """Return the options of reading at their defaults, for files that `write_rows` wrote."""
    return vars(DataOptions())
