"""Well-known pre-trained models: their size, shape, licence, and where to fetch them.

The table is ``catalogue.json`` beside this file, read by people and by `catalogue`; a fact that
could not be checked is left empty. EasyNLP's ModelZoo names are aliases, so that its commands
run with ``--model`` as they are: `canonical` gives the name on the hub. Needs no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from easynlp.models.students import STUDENTS

__all__ = ["FAMILIES", "Entry", "aliases", "canonical", "catalogue", "find_entries", "find_entry"]

TABLE = Path(__file__).with_name("catalogue.json")
BUILT_IN = Path(__file__).with_name("builtin")

FAMILIES = {
    "mlm": "encoder, trained to fill masks",
    "discriminator": "encoder, trained to find replaced tokens",
    "embedding": "encoder, trained to give sentence vectors",
    "permuted": "encoder, trained on permuted text",
    "causal": "decoder",
    "seq2seq": "encoder and decoder",
    "image-text": "an image and a text encoder",
    "scratch": "small, from random weights: its sizes stand in the name",
}
"""Kinds of models, and what they were trained for."""


@dataclass(frozen=True)
class Entry:
    """One model; an empty field is not known.

    Attributes:
        name: As people say it, e.g. ``MacBERT base``.
        hub: Hugging Face id, which ``--model`` takes.
        modelscope: ModelScope id, which ``--model modelscope:…`` takes.
        kind: Key of `FAMILIES`.
        parameters: In millions.
        layers: Transformer layers (of the encoder, where there are two stacks).
        width: Hidden size.
        vocabulary: Tokens.
        licence: As its publisher states it.
        mask_head: Whether published weights hold a masked-LM head: ``yes``, ``no``, or empty.
            `easynlp models check` finds out.
        aliases: Other names, those of EasyNLP's ModelZoo among them.
        note: What one should know before using it.
        built_in: Whether it comes with the package.
    """

    name: str
    hub: str = ""
    modelscope: str = ""
    kind: str = "mlm"
    parameters: float | None = None
    layers: int | None = None
    width: int | None = None
    vocabulary: int | None = None
    licence: str = ""
    mask_head: str = ""
    aliases: tuple[str, ...] = field(default=())
    note: str = ""
    built_in: bool = False

    @property
    def model(self) -> str:
        """What to give to ``--model``."""
        if self.hub:
            return self.hub
        return f"modelscope:{self.modelscope}" if self.modelscope else self.name

    def says(self, text: str) -> bool:
        """Return whether any of its names contains the text, whatever the case."""
        names = (self.name, self.hub, self.modelscope, self.kind, *self.aliases)
        return any(text.lower() in name.lower() for name in names)


@lru_cache(maxsize=1)
def catalogue() -> tuple[Entry, ...]:
    """Return all models: the built-in ones first, then the table's in its order."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    listed = [Entry(**{**row, "aliases": tuple(row.get("aliases", ()))}) for row in table]
    return (*_built_in(), *_students(), *listed)


def find_entries(text: str = "") -> list[Entry]:
    """Return the models whose names contain a text; all for an empty one.

    Example:
        >>> [entry.hub for entry in find_entries("macbert-base")]
        ['hfl/chinese-macbert-base']
    """
    return [entry for entry in catalogue() if entry.says(text)]


def find_entry(name: str) -> Entry | None:
    """Return the model of an exact name: its own, a hub's, or an alias."""
    for entry in catalogue():
        if name in (entry.name, entry.hub, f"modelscope:{entry.modelscope}", *entry.aliases):
            return entry
    return None


def canonical(name: str) -> str:
    """Return the hub's name for an alias; any other name is returned as it is.

    Example:
        >>> canonical("bert-base-chinese"), canonical("runs/mine")
        ('google-bert/bert-base-chinese', 'runs/mine')
    """
    return aliases().get(name, name)


@lru_cache(maxsize=1)
def aliases() -> dict[str, str]:
    """Return old and short names of models that do not come with the package, to hub names."""
    return {alias: e.model for e in catalogue() if not e.built_in for alias in e.aliases}


def _built_in() -> Iterator[Entry]:
    for path in sorted(BUILT_IN.glob("*/config.json")):
        config = json.loads(path.read_text(encoding="utf-8"))
        heads = config.get("architectures") or [""]
        yield Entry(
            name=path.parent.name,
            parameters=_parameters(path.parent),
            layers=config.get("num_hidden_layers"),
            width=config.get("hidden_size"),
            vocabulary=config.get("vocab_size"),
            licence="Apache-2.0",
            mask_head="yes" if heads[0].endswith("ForMaskedLM") else "",
            note="comes with the package",
            built_in=True,
        )


def _students() -> Iterator[Entry]:
    for name, sizes in STUDENTS.items():
        options = ",".join(f"{key}={value}" for key, value in vars(sizes()).items())
        yield Entry(
            name=name, kind="scratch", licence="Apache-2.0", built_in=True,
            note=f"from random weights, to be taught: {name}:{options}",
        )  # fmt: skip


def _parameters(folder: Path) -> float | None:
    """Return the millions of numbers in a folder's weights, from the files' headers."""
    count = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, tensor in header.items():
            if name == "__metadata__" or (name.endswith(".scale") and name[:-6] in header):
                continue
            size = 1
            for side in tensor["shape"]:
                size *= side
            count += size
    return round(count / 1e6, 2) if count else None
