"""Candidates: which shapes to try, what was measured of each, and which is best under a budget."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from easynlp.atomic import write_text
from easynlp.compression.prune import can_lose_heads, kept_count
from easynlp.compression.settings import CompressConfig
from easynlp.errors import ModelError

__all__ = [
    "WIDTHS",
    "Candidate",
    "Candidates",
    "Kind",
    "Shape",
    "choose",
    "estimate_bytes",
    "grid",
    "pareto",
    "shapes_to_try",
    "why_chosen",
]  # fmt: skip

Kind = Literal["fp32", "int8", "static", "qat"]
WIDTHS = (1.0, 0.75, 0.5, 0.25)
"""Widths that are tried for a target size."""
_GRAPH, _LAYER = 60_000, 20_000
"""Bytes of an exported graph beside its weights, and of ``easynlp.json``; about."""


@dataclass(frozen=True)
class Shape:
    """What is cut of a run, whatever its number format.

    Attributes:
        width: Share of heads and neurons.
        depth: Layers.
        vocab: Whether tokens and positions are cut.
    """

    width: float
    depth: int
    vocab: bool

    @property
    def name(self) -> str:
        """A folder's name."""
        return f"w{self.width:g}-d{self.depth}" + ("-v" if self.vocab else "")


@dataclass(frozen=True)
class Candidate:
    """What was measured; a line of ``candidates.jsonl``.

    Attributes:
        name: Shape and number format; of the run itself ``run``.
        shape: What was cut.
        kind: ``fp32``, ``int8`` (dynamic), ``static`` (QDQ) or ``qat`` (dynamic, trained for it).
        score: On dev.
        low: End of its 95% interval.
        high: The other end.
        drop: Points of 100 below the run in fp32.
        bytes: Of all files that are served.
        parameters: Of the model.
        tokens: In its vocabulary.
        unknown: Share of dev's tokens that are unknown; ``unknown_unlabeled`` of unlabelled text.
        p50_ms: One text, one thread.
        p99_ms: The same.
        speedup: How many times as fast as the run in fp32, text by text in turn.
        memory_mb: What loading and running it adds to a process.
        home: Run folder of its weights.
        export: Folder that is served.
    """

    name: str
    shape: Shape
    kind: Kind
    score: float
    low: float
    high: float
    drop: float
    bytes: int
    parameters: int
    tokens: int
    unknown: float
    unknown_unlabeled: float | None
    p50_ms: float
    p99_ms: float
    speedup: float
    memory_mb: float
    home: str
    export: str


class Candidates:
    """The measured candidates of an output folder, kept in ``candidates.jsonl``.

    Args:
        path: The file; what is in it is read.

    Raises:
        ModelError: If it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, Candidate] = {}
        if not path.is_file():
            return
        try:
            for line in path.read_text(encoding="utf-8").splitlines():
                raw = json.loads(line)
                found = Candidate(**{**raw, "shape": Shape(**raw["shape"])})
                self.rows[found.name] = found
        except (ValueError, TypeError, KeyError) as error:
            raise ModelError(f"{path} is damaged: {error}. Start anew with --overwrite") from error

    def add(self, candidate: Candidate) -> Candidate:
        """Note a candidate; the file is written whole."""
        self.rows[candidate.name] = candidate
        lines = [json.dumps(dataclasses.asdict(row), ensure_ascii=False) + "\n"
                 for row in self.rows.values()]  # fmt: skip
        write_text(self.path, "".join(lines))
        return candidate


def pareto(rows: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that no other beats in both size and score, the smallest first."""
    front: list[Candidate] = []
    for row in sorted(rows, key=lambda r: (r.bytes, -r.score)):
        if not front or row.score > front[-1].score:
            front.append(row)
    return front


def choose(rows: Sequence[Candidate], budget: int | None, max_drop: float) -> Candidate | None:
    """Return the best candidate that keeps to a budget; None if none does.

    With a size to keep to: the best on dev, of equal ones the fastest. Without: the smallest.
    """
    fit = [
        row
        for row in rows
        if row.drop <= max_drop + 1e-9 and (budget is None or row.bytes <= budget)
    ]
    if not fit:
        return None
    if budget is None:
        return min(fit, key=lambda row: (row.bytes, -row.score, row.p50_ms))
    return min(fit, key=lambda row: (-row.score, row.p50_ms, row.bytes))


def estimate_bytes(
    config: Any, shape: Shape, *, tokens: int, tokenizer: int, positions: int, matrices: int = 1,
    other: int = 0,
) -> int:  # fmt: skip
    """Return about how large the export of a shape will be.

    Args:
        config: Of the whole model.
        shape: What is cut.
        tokens: Vocabulary after the cut.
        tokenizer: Bytes of its file.
        positions: Positions after the cut.
        matrices: Bytes of a weight: 1 for int8, 4 for fp32.
        other: Weights of matrices outside tables and layers, such as the pooler's.
    """
    width = int(config.hidden_size)
    size = width // int(config.num_attention_heads)
    there = int(getattr(config, "kept_heads", config.num_attention_heads))
    heads = kept_count(there, shape.width) if can_lose_heads(config) else there
    neurons = kept_count(int(config.intermediate_size), shape.width, 32)
    layer = 4 * width * heads * size + 2 * width * neurons
    vectors = 4 * (9 * width + 3 * heads * size + neurons) * (4 if matrices == 1 else 1)
    rows = tokens + positions + int(getattr(config, "type_vocab_size", 0))
    graph = _GRAPH + shape.depth * _LAYER
    return graph + tokenizer + matrices * (rows * width + shape.depth * layer + other) + vectors


def shapes_to_try(
    config: CompressConfig, layers: int, size_of: Mapping[Shape, int] | None = None
) -> list[Shape]:
    """Return the shapes a configuration asks for, the largest first.

    Args:
        config: Explicit widths and depths are all combined. With a target size and neither, widths
            and depths are searched: whole vocabularies where they fit, else cut ones.
        layers: Of the run.
        size_of: Estimated bytes of the int8 export of every shape of `grid`; for a target size.
    """
    if config.budget is None:
        widths, depths = config.width or (1.0,), config.depth or (layers,)
        return [Shape(w, d, config.vocab) for w, d in itertools.product(widths, depths)]
    assert size_of is not None
    found: list[Shape] = []
    for (_, _), group in itertools.groupby(size_of, key=lambda s: (s.width, s.depth)):
        fit = [s for s in group if size_of[s] <= config.budget]
        found += sorted(fit, key=lambda s: s.vocab)[:1]
    # What the layers hold is what was learned of the task; of the table most is never read.
    # Of shapes that hold as much, the deepest.
    found.sort(key=lambda s: (-s.width * s.depth, -s.depth, s.vocab))
    return found[: config.candidates] or [min(size_of, key=lambda s: size_of[s])]


def grid(config: CompressConfig, layers: int) -> list[Shape]:
    """Return all shapes that a search for a target size considers."""
    widths = config.width or WIDTHS
    depths = config.depth or tuple(sorted({-(-layers * n // 4) for n in (1, 2, 3, 4)}))
    cuts = (True,) if config.vocab else (False, True)
    return [Shape(w, d, v) for w, d in itertools.product(widths, depths) for v in cuts]


def why_chosen(
    best: Candidate | None, baseline: Candidate, tried: Sequence[Candidate], budget: int | None,
    allowed: float,
) -> str:  # fmt: skip
    """Say which candidate is kept and at what price, or what stands in the way of all."""
    if best is not None:
        return (
            f"{best.name} is kept: {best.bytes / 1e6:.2f} MB of {baseline.bytes / 1e6:.2f} "
            f"({100 * (best.bytes / baseline.bytes - 1):+.1f} %), {0.0 - best.drop:+.2f} points "
            "on dev, "
            f"{best.speedup:.1f} times as fast as fp32."
        )
    if not tried:
        return "No candidate was made."
    wanted = f"at most {allowed:.3g} points lost"
    if budget is not None:  # in its own words --target-size may be a bare count of bytes
        wanted += f" and {budget / 1e6:.2f} MB"
    smallest = min(tried, key=lambda row: row.bytes)
    closest = min(tried, key=lambda row: (row.drop, row.bytes))
    least = (
        "no other loses less" if closest is smallest else
        f"the one that loses least, {closest.name}, has {closest.bytes / 1e6:.2f} MB and loses "
        f"{closest.drop:.2f}"
    )  # fmt: skip
    return (
        f"No candidate keeps to the budget ({wanted}). The smallest, {smallest.name}, has "
        f"{smallest.bytes / 1e6:.2f} MB and loses {smallest.drop:.2f} points; {least}. More text "
        "to recover on (--unlabeled), longer training, a larger --target-size or --max-drop may "
        "help."
    )
