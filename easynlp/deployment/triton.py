"""A Triton model repository of a classifier: text in, label and scores out, by an ensemble.

Three models one after another: ``NAME_encode`` (Python backend) makes ids of text, by the very code
that trains and serves here; ``NAME_model`` (ONNX Runtime backend) computes; ``NAME_decode`` (Python
backend) makes labels and calibrated scores. ``NAME`` is the ensemble clients ask. The Python
backend's environment needs the base install of easynlp, which has no torch.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from easynlp.errors import ConfigError
from easynlp.models.runtime import OnnxModel
from easynlp.pipeline import Pipeline
from easynlp.tasks.base import INPUT_NAMES, Task
from easynlp.tasks.text_classify import TextClassify

__all__ = ["check_task", "write_repository"]

MAX_BATCH = 32
DELAY = 1000
"""Microseconds Triton waits for a fuller batch."""
MODEL = '''\
"""Runs easynlp's own code; see easynlp.deployment.triton_models."""

from easynlp.deployment.triton_models import {name} as TritonPythonModel  # noqa: F401
'''
README = """\
# {name}: a Triton model repository

```
pip install easynlp            # the base install, where the Python backend looks for packages
tritonserver --model-repository models
```

Ask the ensemble `{name}`: {inputs} (BYTES, shape [rows, 1], at most {batch} rows a request) gives
LABEL (BYTES, [rows, 1]), SCORE (FP32, [rows, 1]) and SCORES (FP32, [rows, {count}]) in the order
{labels}. A score below the parameter `threshold` of `{name}_decode` gives an empty LABEL.
{note}
`{name}_model` alone takes ids and gives logits, for clients that tokenize themselves.
"""
INT8 = """
An int8 model scales activations by the largest value of a batch, so an answer would depend on its
neighbours: it takes one text a request.
"""


@dataclass(frozen=True)
class _Tensor:
    """A tensor of a configuration, its batch dimension left out."""

    name: str
    kind: str
    dims: tuple[int, ...]

    def text(self) -> str:
        dims = ", ".join(map(str, self.dims))
        return f'  {{ name: "{self.name}" data_type: {self.kind} dims: [ {dims} ] }}'


def check_task(task: Task, inputs: Collection[str] = ()) -> None:
    """Refuse a task that no repository can be made of; told before a model is traced for it.

    Args:
        task: The run's.
        inputs: What its exported model takes, if that is known.

    Raises:
        ConfigError: If it is no classifier of texts with one label each.
    """
    suits = isinstance(task, TextClassify) and not task.config.multi_label
    if not suits or not set(inputs) <= set(INPUT_NAMES):
        raise ConfigError(
            f"a Triton repository is made of text_classify with one label a text, not of "
            f"{task.name}; its ONNX file alone can be served there: type --format onnx"
        )


def write_repository(folder: Path, name: str) -> None:
    """Turn the export in ``model/`` into ``models/``, a repository, and say how to use it.

    Args:
        folder: Holds the export in ``model/``, whose files are moved.
        name: What clients ask for.

    Raises:
        ConfigError: If the run is no classifier of texts with one label each.
    """
    home = folder / "model"
    pipeline = Pipeline.load(home)
    task, model = pipeline.task, pipeline.model
    check_task(task, model.inputs)
    assert isinstance(task, TextClassify)
    assert isinstance(model, OnnxModel)
    batch = 1 if model.row_wise else MAX_BATCH
    texts = [_Tensor(each.upper(), "TYPE_STRING", (1,)) for each in _texts(task)]
    ids = [_Tensor(each, "TYPE_INT64", (-1,)) for each in model.inputs]
    count = len(task.labels)
    logits = [_Tensor("logits", "TYPE_FP32", (count,))]
    answers = [
        _Tensor("LABEL", "TYPE_STRING", (1,)),
        _Tensor("SCORE", "TYPE_FP32", (1,)),
        _Tensor("SCORES", "TYPE_FP32", (count,)),
    ]
    kept = pipeline.calibration.abstention if pipeline.calibration else None
    models = folder / "models"
    on_cpu = "instance_group [ { count: 1 kind: KIND_CPU } ]\n"
    waits = f"dynamic_batching {{ max_queue_delay_microseconds: {DELAY} }}\n" if batch > 1 else ""
    threshold = (
        'parameters { key: "threshold" value { string_value: '
        f'"{0.0 if kept is None else kept.threshold}" }} }}\n'
    )
    _write(
        models / f"{name}_encode", "Encode",
        _config(f"{name}_encode", 'backend: "python"', batch, texts, ids) + on_cpu,
    )  # fmt: skip
    _write(
        models / f"{name}_decode", "Decode",
        _config(f"{name}_decode", 'backend: "python"', batch, logits, answers) + on_cpu + threshold,
    )  # fmt: skip
    _write(
        models / f"{name}_model", None,
        _config(f"{name}_model", 'platform: "onnxruntime_onnx"', batch, ids, logits)
        + on_cpu + waits,
    )  # fmt: skip
    steps = "".join(
        _step(f"{name}_{part}", given, made)
        for part, given, made in (
            ("encode", texts, ids), ("model", ids, logits), ("decode", logits, answers),
        )
    )  # fmt: skip
    _write(
        models / name, None,
        _config(name, 'platform: "ensemble"', batch, texts, answers)
        + "ensemble_scheduling {\n  step [\n" + steps.removesuffix(",\n") + "\n  ]\n}\n",
    )  # fmt: skip
    (models / name / "1" / ".keep").touch()  # an empty version folder is lost by git and zip
    model.path.rename(models / f"{name}_model" / "1" / "model.onnx")
    for file in home.iterdir():  # the description, and the tokenizer's file, of whatever kind it is
        for part in ("encode", "decode"):
            (models / f"{name}_{part}" / "1" / file.name).write_bytes(file.read_bytes())
        file.unlink()
    home.rmdir()
    said = README.format(
        name=name, inputs=" and ".join(each.name for each in texts), batch=batch, count=count,
        labels=", ".join(task.labels), note=INT8 if batch == 1 else "",
    )  # fmt: skip
    (folder / "README.md").write_text(said, encoding="utf-8")


def _texts(task: TextClassify) -> list[str]:
    return [each.name for each in task.fields if not each.target]


def _config(
    name: str, kind: str, batch: int, inputs: Sequence[_Tensor], outputs: Sequence[_Tensor]
) -> str:
    """Return a ``ModelConfig`` in protobuf's text format."""
    given, made = (",\n".join(each.text() for each in tensors) for tensors in (inputs, outputs))
    return (
        f'name: "{name}"\n{kind}\nmax_batch_size: {batch}\n'
        f"input [\n{given}\n]\noutput [\n{made}\n]\n"
    )


def _step(name: str, inputs: Sequence[_Tensor], outputs: Sequence[_Tensor]) -> str:
    maps = [
        f'      {kind}_map {{ key: "{each.name}" value: "{each.name}" }}\n'
        for kind, tensors in (("input", inputs), ("output", outputs))
        for each in tensors
    ]
    head = f'      model_name: "{name}"\n      model_version: -1\n'
    return "    {\n" + head + "".join(maps) + "    },\n"


def _write(folder: Path, python: str | None, config: str) -> None:
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(config, encoding="utf-8")
    if python is not None:
        (folder / "1" / "model.py").write_text(MODEL.format(name=python), encoding="utf-8")
