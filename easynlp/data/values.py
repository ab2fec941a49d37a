"""What a column's value becomes in an example, and which values cannot be used.

- **text fields**: a string with something in it besides spaces, kept as it is (offsets of
  entities stay right). Empty, missing, None or NaN is an error, or ``""`` with
  ``on_empty="keep"``, so that predictions keep the rows' order. Another type is an error.
- **targets**: stripped strings. 1, 1.0 and "1" are the same label ``"1"``; True is ``"true"``.
  Empty, None, NaN and the string "nan" are errors. A list of such values is a list of labels;
  a list of objects (entities) or an object passes as it is. Entities written as JSON text in a
  csv cell are parsed. A string of several labels is left to the task (``label_separator``).
- **other optional fields** are left out of the example where they are empty.
"""

from __future__ import annotations

import json
import math
from typing import Any, Literal

from easynlp.tasks.base import Field

__all__ = ["OnEmpty", "canonical_label", "is_nothing", "target_value", "text_value"]

OnEmpty = Literal["error", "keep"]
"""What an empty text does: fail at its line, or stay in its place as ``""``."""


def is_nothing(value: Any) -> bool:
    """Tell whether a value is None, NaN or blank."""
    if isinstance(value, str):
        return not value or value.isspace()
    return value is None or (isinstance(value, float) and math.isnan(value))


def text_value(field: Field, value: Any, on_empty: OnEmpty) -> Any:
    """Return what a field that is not a target holds; None to leave it out.

    Raises:
        ValueError: If it cannot be used; the message continues the field's name.
    """
    is_text = field.required or field.name.startswith("text")
    if is_nothing(value):
        if not is_text:
            return None
        if on_empty == "keep":
            return ""
        said = "empty" if isinstance(value, str) else "NaN" if value is not None else "null"
        raise ValueError(f"is {said}; every row needs a text here")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"holds half of a surrogate pair at character {error.start + 1} "
                f"({value[error.start]!r}), which is no character"
            ) from error
        return value
    if isinstance(value, (list, dict)) and not field.name.startswith("text"):
        return value
    raise ValueError(
        f"is {type(value).__name__} {str(value)[:40]}, not a string; write it in quotes"
    )


def target_value(field: Field, value: Any) -> Any:
    """Return the canonical form of a target.

    Raises:
        ValueError: If there is none; the message continues the field's name.
    """
    if field.name == "entities" and isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f'holds "{value[:40]}", which is not a JSON list: {error}') from error
    if field.name == "entities" and not isinstance(value, list):
        raise ValueError(
            f"is {type(value).__name__} {str(value)[:40]}, not a list like "
            '[{"start": 0, "end": 2, "type": "LOC"}]'
        )
    if isinstance(value, dict):
        return value
    if isinstance(value, (list, tuple)):
        if any(isinstance(item, (dict, list)) for item in value):
            return list(value)
        return [canonical_label(item) for item in value]
    return canonical_label(value)


def canonical_label(value: Any) -> str:
    """Return a label as a string: 1, 1.0 and " 1" are all "1".

    Raises:
        ValueError: If it says nothing.

    Example:
        >>> [canonical_label(value) for value in (1, 1.0, " 1 ", True, 0.5)]
        ['1', '1', '1', 'true', '0.5']
    """
    if is_nothing(value):
        said = "empty" if isinstance(value, str) else "null" if value is None else "NaN"
        raise ValueError(f"is {said}; every row needs one to train or evaluate")
    if isinstance(value, str):
        label = value.strip()
        if label.casefold() == "nan":
            raise ValueError(f'is "{label}": not a number, not a label')
        return label
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if math.isinf(value):
            raise ValueError("is infinite")
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, int):
        return str(value)
    raise ValueError(f"is {type(value).__name__} {str(value)[:40]}, not a label")
