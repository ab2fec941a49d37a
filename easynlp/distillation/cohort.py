"""Online distillation as a command: a cohort is trained, and each member becomes a run folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from easynlp.atomic import write_json
from easynlp.config import TrainConfig, to_yaml
from easynlp.dataset import read_splits
from easynlp.distillation.members import ASSISTANT, TEACHER, find_member, learners, task_for
from easynlp.distillation.online import COHORT, online_distill
from easynlp.distillation.settings import CohortOptions
from easynlp.errors import ConfigError, ModelError
from easynlp.fewshot.phases import train_once
from easynlp.models.backbone import Backbone
from easynlp.models.compact import stored_layer
from easynlp.pipeline import META, Pipeline, make_meta, save_meta
from easynlp.training.folder import check_folder, claim_folder, save_weights

__all__ = ["split_cohort", "train_cohort"]

RECIPE, REPORT = "online", "online.json"


def train_cohort(
    config: TrainConfig, options: CohortOptions, task_config: Any = None
) -> dict[str, Pipeline]:
    """Train a teacher and its students in one run; leave each as a run of its own.

    Args:
        config: Of the run; `model` is the teacher. `output` gets ``cohort/`` (the teacher's run,
            the others within), a run folder for each of the others (``assistant``, ``student0``
            and on), and ``online.json``: every member's scores on dev and test.
        options: Who learns, and how.
        task_config: Options of the task.

    Returns:
        The runs by name, ``teacher`` among them.

    Raises:
        ConfigError: If options are wrong or the output folder is taken.
        DataError: If a file or row is wrong.
        ModelError: If a model cannot be had.

    Example:
        >>> options = CohortOptions(students=("2x128", "4x256"), assistant="6x384")
        >>> runs = train_cohort(config, options)                      # doctest: +SKIP
        >>> runs["student0"].predict(["房间很干净"])                  # doctest: +SKIP
        [{'label': '好评', 'score': 0.93, 'scores': {'好评': 0.93, '差评': 0.07}}]
    """
    if not options.students:
        raise ConfigError("there is nobody to teach: type e.g. --students 2x128,4x256")
    specs = learners("+".join(options.students), options.assistant)
    home = Path(config.output)
    claim: dict[str, Any] = {
        "overwrite": config.overwrite, "resume": config.resume, "name": RECIPE,
        "written": to_yaml(config, options),
        "inputs": (config.model, config.train, config.dev, config.test),
    }  # fmt: skip
    check_folder(home, **claim)
    teacher = Backbone.load(config.model)
    for name, spec in specs.items():
        option = "--assistant" if name == ASSISTANT else "--students"
        try:
            find_member(spec, teacher)
        except ModelError as error:
            raise ModelError(
                f"{option}: {error}. A shape is layers x width, as in {option} 2x128"
            ) from error
        except ConfigError as error:
            raise ConfigError(f"{option}: {error}") from error
    claim_folder(home, **claim)
    cohort = home / COHORT
    inner = replace(
        config, output=str(cohort), overwrite=False, method=(_method(options), *config.method)
    )
    whole = train_once(inner, task_config)
    folders = split_cohort(cohort, home, specs, teacher)
    runs = {name: Pipeline.load(path, backend="torch") for name, path in folders.items()}
    splits = read_splits(config, whole.task.fields, ("dev", "test"))
    scores = {
        name: {split: run.evaluate(rows) for split, rows in splits.items()}
        for name, run in runs.items()
    }
    write_json(home / REPORT, {"options": asdict(options), "scores": scores})
    return runs


def _method(options: CohortOptions) -> str:
    given = {**asdict(options), "students": "+".join(options.students)}
    written = ",".join(f"{key}={value}" for key, value in given.items() if value != "")
    return f"{online_distill.__module__}:{online_distill.__qualname__}:{written}"


def split_cohort(
    cohort: Path, home: Path, specs: Mapping[str, str], teacher: Backbone
) -> dict[str, Path]:
    """Write each member of a trained cohort as a run folder; the extra layers are left behind.

    Args:
        cohort: The cohort's run.
        home: Where the runs are written, each under its name.
        specs: Names to models or shapes.
        teacher: What the teacher was made from.

    Raises:
        ModelError: If the run holds no such member.
    """
    pipeline = Pipeline.load(cohort, backend="torch")
    found = {TEACHER: cohort}
    for name, spec in specs.items():
        target = found[name] = home / name
        if (target / META).is_file():
            continue
        member = find_member(spec, teacher)
        task = task_for(pipeline.task, member)
        model = task.build(member)
        state = stored_layer(cohort, f"{COHORT}.{name}")
        if state.keys() != model.state_dict().keys():
            raise ModelError(f"{cohort} holds no member {name} of the shape of {spec}")
        model.load_state_dict(state)
        target.mkdir(parents=True, exist_ok=True)
        (target / "checkpoints").mkdir(exist_ok=True)
        save_weights(target, model, replace(member, tokenizer=task.tokenizer))
        shutil.copyfile(cohort / "train.yaml", target / "train.yaml")  # names the data to check on
        save_meta(target, make_meta(task, base_model=spec, columns=pipeline.meta.get("columns")))
    return found
