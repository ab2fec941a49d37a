"""Small teachers for the tests: runs and Hugging Face folders made from the tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from easynlp.models.backbone import Backbone
from easynlp.pipeline import make_meta, save_meta
from easynlp.tasks import find_task
from easynlp.training.folder import save_weights


def write(path: Path, rows) -> str:
    """Write JSON lines; return the path."""
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    return str(path)


def save_run(folder: Path, backbone: Backbone, task) -> str:
    """Save a task's untrained model as a run."""
    import torch

    torch.manual_seed(3)
    folder.mkdir(parents=True, exist_ok=True)
    model = task.build(backbone)
    with torch.no_grad():  # answers far from even ones
        for name, weights in model.named_parameters():
            if "classifier" in name and name.endswith("weight"):
                weights.mul_(20)
    save_weights(folder, model, backbone)
    save_meta(folder, make_meta(task, columns={}, scores={}, base_model="tiny", best_step=0))
    return str(folder)


def classifier(folder: Path, backbone: Backbone, labels=("好评", "差评"), **options) -> str:
    """Save a run of text_classify."""
    kind = find_task("text_classify")
    config = kind.Config(
        **{"max_length": 32, "labels": tuple(labels), "pair": False, "pooling": "first", **options}
    )
    return save_run(folder, backbone, kind(config, backbone.tokenizer))


def tagger(folder: Path, backbone: Backbone, labels=("人名", "地名", "机构"), **options) -> str:
    """Save a run of sequence_labeling."""
    kind = find_task("sequence_labeling")
    config = kind.Config(**{"max_length": 16, "overlap": 4, "labels": tuple(labels), **options})
    return save_run(folder, backbone, kind(config, backbone.tokenizer))


def hub_folder(folder: Path, backbone: Backbone, architecture: str, names, **config) -> str:
    """Save a model as stock transformers does, without easynlp.json."""
    import torch

    torch.manual_seed(4)
    labels = dict(enumerate(names))
    model = backbone.with_head(
        architecture, num_labels=len(labels), id2label=labels,
        label2id={v: k for k, v in labels.items()}, **config,
    )  # fmt: skip
    model.classifier.weight.data.mul_(20)
    model.save_pretrained(folder)
    backbone.save_tokenizer(folder)
    return str(folder)


def sure(labels: int, right: int) -> np.ndarray:
    """Return the answer of a teacher that is sure of a label."""
    found = np.full((1, labels), -9.0)
    found[0, right] = -1e-3
    return found
