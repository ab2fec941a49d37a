"""What every app does to its texts: check them, and pad encoded rows into a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from easynlp.data.readers import Row
from easynlp.errors import DataError
from easynlp.tasks.base import Batch, Example, Features, Task

__all__ = ["check_rows", "encode_rows", "pad_rows", "text_of"]

CHECKED = 1000
"""Rows that are checked together."""


def text_of(example: Example, name: str) -> str:
    """Return a text field of an example; it may be empty.

    Raises:
        DataError: If it is missing, not a string, or holds half of a surrogate pair (JSON
            allows writing one; no tokenizer can read it).

    Example:
        >>> text_of({"text": "很好"}, "text")
        '很好'
    """
    if not isinstance(example, Mapping) or name not in example:
        present = ", ".join(map(str, example)) if isinstance(example, Mapping) else "no fields"
        raise DataError(f"`{name}` is missing; this row has: {present}")
    text = example[name]
    if not isinstance(text, str):
        raise DataError(f"`{name}` is {type(text).__name__} {str(text)[:40]}, not a string")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"`{name}` holds half of a surrogate pair at character {error.start + 1}"
            ) from error
    return text


def encode_rows(task: Task, rows: Sequence[tuple[Row, Example]]) -> list[Features]:
    """Encode examples read from files; an error says the line of its row.

    Args:
        task: What encodes.
        rows: Rows and the examples in them.

    Raises:
        DataError: At the file and line of the first row that is wrong.
    """
    together = getattr(task, "encode_batch", None)
    if together is not None:
        try:
            found: list[Features] = together([example for _, example in rows])
            return found
        except DataError:  # again, one by one, to learn which row it is
            pass
    features = []
    for row, example in rows:
        try:
            features.append(task.encode(example))
        except DataError as error:
            raise error.at(row.path, row.line) from error
    return features


def check_rows(task: Task, rows: Sequence[tuple[Row, Example]]) -> list[Example]:
    """Return the examples of rows; a task must know the label of each, and be able to take it.

    Meant for before any work is done. What is encoded is not kept, so memory stays flat.

    Args:
        task: What knows the labels.
        rows: Rows and the examples in them.

    Raises:
        DataError: At the file and line of the first row that is wrong.
    """
    for start in range(0, len(rows), CHECKED):
        encode_rows(task, rows[start : start + CHECKED])
    return [example for _, example in rows]


def pad_rows(
    rows: Sequence[np.ndarray], pad_id: int, type_ids: Sequence[np.ndarray] | None = None
) -> Batch:
    """Pad rows of ids on the right to the longest and stack them; all arrays are int64.

    Rows of one length need no mask and get none: attention is faster without.

    Args:
        rows: Ids of each row, 1-D.
        pad_id: Fills up short rows.
        type_ids: Token type ids of each row, where there are two kinds.

    Example:
        >>> pad_rows([np.array([2, 7, 3]), np.array([2, 3])], 0)["input_ids"].tolist()
        [[2, 7, 3], [2, 3, 0]]
    """
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    width = int(lengths.max(initial=0))
    batch: Batch = {}
    if bool((lengths == width).all()):
        batch["input_ids"] = np.stack(rows).astype(np.int64)
        if type_ids is not None:
            batch["token_type_ids"] = np.stack(type_ids).astype(np.int64)
        return batch
    real = np.arange(width) < lengths[:, None]
    batch["input_ids"] = np.full(real.shape, pad_id, np.int64)
    batch["input_ids"][real] = np.concatenate(rows)
    batch["attention_mask"] = real.astype(np.int64)
    if type_ids is not None:
        batch["token_type_ids"] = np.zeros(real.shape, np.int64)
        batch["token_type_ids"][real] = np.concatenate(type_ids)
    return batch
