"""``easynlp models``: what models there are, what one is, and int8 folders made plain or back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from easynlp.cli.command import Command
from easynlp.cli.output import complain, say, say_facts, say_json, say_table
from easynlp.errors import ModelError, did_you_mean

__all__ = ["check", "listing", "pack", "unpack"]


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """Options of ``easynlp models``."""

    text: str = ""
    """Show only models with this in a name."""
    json: bool = False
    """Print as JSON."""


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """Options of ``easynlp models check``."""

    model: str
    """Built-in name, folder, hub id or alias."""
    json: bool = False
    """Print as one line of JSON."""


@dataclass(frozen=True, kw_only=True)
class UnpackOptions:
    """Options of ``easynlp models unpack``."""

    model: str
    """Built-in name, folder, hub id or alias."""
    output: str
    """Folder to write: a plain one, which stock transformers reads."""


@dataclass(frozen=True, kw_only=True)
class PackOptions:
    """Options of ``easynlp models pack``."""

    model: str
    """Built-in name, folder, hub id or alias."""
    output: str
    """Folder to write: int8 rows, which only easynlp reads."""
    matrices: Literal["all", "embeddings"] = "all"
    """What to keep in int8: all matrices, or the embedding tables only."""


def listing(tokens: Sequence[str]) -> Command:
    """Make the command."""
    return Command(
        "models", "List built-in and well-known models: size, shape, licence, where to fetch.",
        (ListOptions,), _list, positional=("text",),
        after="Examples: easynlp models ernie; easynlp models --json\n"
        "Further: easynlp models check MODEL (is its masked-LM head real?), easynlp models unpack "
        "MODEL FOLDER, easynlp models pack MODEL FOLDER",
    )  # fmt: skip


def check(tokens: Sequence[str]) -> Command:
    """Make the command."""
    return Command(
        "models check", "Load a model; say what it is and whether its masked-LM head is real.",
        (CheckOptions,), _check, positional=("model",),
        after="Example: easynlp models check tiny-zh",
    )  # fmt: skip


def unpack(tokens: Sequence[str]) -> Command:
    """Make the command."""
    return Command(
        "models unpack", "Write a model as a plain folder that stock transformers reads.",
        (UnpackOptions,), _unpack, positional=("model", "output"),
        after="Example: easynlp models unpack tiny-zh folder/",
    )  # fmt: skip


def pack(tokens: Sequence[str]) -> Command:
    """Make the command."""
    return Command(
        "models pack", "Write a model with int8 rows: half the bytes of fp16, read by easynlp.",
        (PackOptions,), _pack, positional=("model", "output"),
        after="Example: easynlp models pack runs/mlm/model small/",
    )  # fmt: skip


def _list(options: ListOptions) -> None:
    from easynlp.models.catalogue import catalogue, find_entries

    found = find_entries(options.text)
    if not found:
        names = [name for e in catalogue() for name in (e.name, e.hub, *e.aliases) if name]
        raise ModelError(
            f'no model is called "{options.text}".{did_you_mean(options.text, names)} '
            "All: easynlp models"
        )
    if options.json:
        say_json([asdict(entry) for entry in found])
        return
    from rich.table import Table

    table = Table(title="--model takes the second column; empty: not known")
    for heading in ("name", "model"):
        table.add_column(heading, no_wrap=True)
    for heading in ("M", "layers x width", "masks", "licence", "also", "note"):
        table.add_column(heading)
    for entry in found:
        shape = f"{entry.layers} x {entry.width}" if entry.layers and entry.width else ""
        scope = (f"modelscope:{entry.modelscope}",) if entry.modelscope and entry.hub else ()
        table.add_row(
            entry.name, entry.model, f"{entry.parameters:g}" if entry.parameters else "", shape,
            entry.mask_head, entry.licence, ", ".join((*scope, *entry.aliases)), entry.note,
        )  # fmt: skip
    say_table(table)


def _check(options: CheckOptions) -> None:
    from easynlp.cli.train import prepare_process

    prepare_process()
    from easynlp.models.catalogue import find_entry
    from easynlp.models.catalogue_check import check_model

    facts = check_model(options.model)
    if (entry := find_entry(options.model)) is not None and entry.note:
        facts["note"] = entry.note
    if options.json:
        say_json(facts)
        return
    head = facts.pop("mask_head")
    facts["bytes"] = f"{facts['bytes']:,}"
    facts["parameters"] = f"{facts['parameters']:,}"
    say_facts({key: value for key, value in facts.items() if value not in (None, [], "")},
              as_json=False)  # fmt: skip
    say(f"masked-LM head: {head['verdict']} ({head['why']})")


def _unpack(options: UnpackOptions) -> None:
    from easynlp.models.compact import unpack

    say(str(unpack(_folder(options.model), Path(options.output))))


def _pack(options: PackOptions) -> None:
    from easynlp.models.compact import save_compact

    done = save_compact(_folder(options.model), Path(options.output), options.matrices)
    say(options.output)
    sizes = f"{done['before']:,} -> {done['after']:,} bytes"
    complain(f"{done['matrices']} matrices in int8; weights {sizes}")


def _folder(name: str) -> Path:
    """Return the folder of a model that has weights."""
    from easynlp.models.backbone import Backbone

    folder = Backbone.load(name).folder
    if folder is None:
        raise ModelError(f"{name} has random weights, which are in no folder")
    return folder
