"""Training methods that are not tied to one stage: functions ``Plan -> Plan``.

An entry is one file and one line. On the command line: ``--method r_drop:alpha=4 --method fgm``.
"""

from __future__ import annotations

from typing import Any

from easynlp.registry import resolve

METHODS: dict[str, str] = {
    "r_drop": "easynlp.methods.r_drop:r_drop",
    "fgm": "easynlp.methods.fgm:fgm",
    "bag_of_words": "easynlp.pretraining.bag_of_words:bag_of_words",
}

__all__ = ["METHODS", "find_method"]


def find_method(name: str) -> Any:
    """Return the method of a name in `METHODS`, or of ``package.module:name``."""
    return resolve(name, METHODS, kind="method")
