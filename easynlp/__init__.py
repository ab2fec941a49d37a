"""From a few labels and a pile of Chinese text to a small, fast, served NLP model.

The ten names here are the whole everyday interface; each is imported when first used, so that
``import easynlp`` costs nothing and works without torch.

Example:
    >>> import easynlp
    >>> easynlp.train("text_classify", train="train.jsonl", dev="dev.jsonl",
    ...               output="runs/x")                                    # doctest: +SKIP
    >>> easynlp.load("runs/x").predict(["房间很干净，下次还来"])          # doctest: +SKIP
    [{'label': '好评', 'score': 0.98}]
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from easynlp.api import evaluate, inspect, load, predict, pretrain, serve, train
    from easynlp.deployment.export import export
    from easynlp.errors import EasyNLPError
    from easynlp.pipeline import Pipeline

    __version__: str

__all__ = [
    "EasyNLPError",
    "Pipeline",
    "__version__",
    "evaluate",
    "export",
    "inspect",
    "load",
    "predict",
    "pretrain",
    "serve",
    "train",
]

_HOMES = {
    "EasyNLPError": "easynlp.errors",
    "Pipeline": "easynlp.pipeline",
    "export": "easynlp.deployment.export",
}
"""Where a name lives, if not in `easynlp.api`."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _version()
    elif name in __all__:
        value = getattr(importlib.import_module(_HOMES.get(name, "easynlp.api")), name)
    else:
        raise AttributeError(f"module 'easynlp' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("easynlp")
    except metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "0+source"
