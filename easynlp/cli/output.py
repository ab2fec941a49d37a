"""Where the command line writes: results to standard output, all else to standard error."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = [
    "complain",
    "is_main_process",
    "listen",
    "say",
    "say_facts",
    "say_json",
    "say_scores",
    "say_table",
]


def is_main_process() -> bool:
    """Return whether this process speaks for its peers (``torchrun`` starts several)."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """Write a result line to standard output, once for all processes of a run."""
    if is_main_process():
        sys.stdout.write(text + "\n")


def complain(text: str) -> None:
    """Write a message to standard error."""
    sys.stderr.write(text + "\n")


def say_json(value: Any) -> None:
    """Write a result as one line of JSON, Chinese as it is."""
    say(json.dumps(value, ensure_ascii=False))


def say_scores(scores: Mapping[str, Any], *, as_json: bool) -> None:
    """Write named numbers, aligned or as JSON."""
    if as_json:
        say_json(dict(scores))
        return
    width = max((len(name) for name in scores), default=0)
    for name, value in scores.items():
        shown = f"{value:.4f}" if isinstance(value, float) else str(value)
        say(f"{name:<{width}}  {shown}")


def say_facts(facts: Mapping[str, Any], *, as_json: bool) -> None:
    """Write nested facts, as YAML or as JSON."""
    if as_json:
        say_json(dict(facts))
        return
    import yaml

    plain = json.loads(json.dumps(facts))  # tuples to lists, which YAML writes plainly
    say(yaml.safe_dump(plain, allow_unicode=True, sort_keys=False, width=100).rstrip())


def say_table(table: Any) -> None:
    """Write a rich table; into a file or pipe as wide as it needs to be."""
    from rich.console import Console

    if is_main_process():
        console = Console(file=sys.stdout)
        Console(file=sys.stdout, width=None if console.is_terminal else 200).print(table)


def say_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of equal keys as a table; at least one."""
    from rich.table import Table

    table = Table()
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(f"{v:,.1f}" if isinstance(v, float) else str(v) for v in row.values()))
    say_table(table)


def listen() -> None:
    """Show the library's notices on standard error; warnings only from processes but the first."""
    global _handler
    logger = logging.getLogger("easynlp")
    if _handler is not None:
        logger.removeHandler(_handler)
    _handler = logging.StreamHandler(sys.stderr)
    _handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(_handler)
    logger.setLevel(logging.INFO if is_main_process() else logging.WARNING)


_handler: logging.Handler | None = None
