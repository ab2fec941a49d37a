"""Options of ``easynlp demo``; docstrings are the help of their flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from easynlp.options import Range

__all__ = ["DemoOptions"]


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Options of ``easynlp demo``."""

    output: str = "runs/demo"
    """Folder of the road: report.html, the model to serve in model/, and every stage."""
    overwrite: bool = False
    """Replace the output folder if it exists."""
    model: str = "tiny-zh"
    """What to fine-tune: the built-in encoder, a local folder or a hub id."""
    seed: Annotated[int, Range(0)] = 42
    """Seed of the head and of the order of rows."""
    json: bool = False
    """Print the report as JSON in place of the table."""
