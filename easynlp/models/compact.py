"""Weights in int8 with one scale a row: half of fp16 on disk, fp32 once loaded.

A compact folder is a model folder whose ``config.json`` says ``"easynlp_weights": "int8-rows"``
and whose weights are ``weights-int8.safetensors`` in place of ``model.safetensors``. In it a
matrix ``name`` is int8 of the same shape, with ``name.scale`` in fp32, one a row: row r is
``name[r] * name.scale[r]``. Vectors (biases, norms) are fp16. Symmetric rounding to nearest, so
no weight moves by more than half of its row's scale, i.e. 1/254 of the row's largest value.

`easynlp.models.backbone.Backbone` reads such folders. Stock transformers cannot, and the file's
name makes it say so rather than read int8 as if it were floats: `unpack` writes a plain folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from easynlp.atomic import write_folder
from easynlp.errors import ModelError
from easynlp.models import light, ngram_bert

__all__ = ["COMPACT_FILE", "COMPACT_KEY", "Matrices", "is_compact", "quantize_rows",
           "read_compact", "save_compact", "stored_layer", "stored_state", "unpack"]  # fmt: skip

COMPACT_KEY, COMPACT_VALUE = "easynlp_weights", "int8-rows"
COMPACT_FILE = "weights-int8.safetensors"
SCALE = ".scale"
_OWN_CODE = {
    "ngram_bert": ngram_bert.__file__,
    **dict.fromkeys(("text_cnn", "bilstm", "hashed_ngram"), light.__file__),
}
"""Architectures of ours, and the file that transformers without easynlp reads them from."""

Matrices = Literal["all", "embeddings"]


def is_compact(folder: Path, config: Any) -> bool:
    """Return whether a model folder's weights are int8 rows; its configuration decides.

    Args:
        folder: The model folder.
        config: Its configuration, with the value of ``easynlp_weights`` as an attribute.

    Raises:
        ModelError: If the configuration and the files do not agree.
    """
    said = getattr(config, COMPACT_KEY, None)
    there = (folder / COMPACT_FILE).is_file()
    if said not in (None, COMPACT_VALUE):
        raise ModelError(
            f'{folder}/config.json: {COMPACT_KEY} is "{said}"; known is "{COMPACT_VALUE}"'
        )
    if said and not there:
        raise ModelError(f"{folder}/config.json promises {COMPACT_FILE}, which is not there")
    if there and not said and not (folder / "model.safetensors").is_file():
        raise ModelError(
            f'{folder} holds {COMPACT_FILE}, but its config.json lacks "{COMPACT_KEY}": '
            f'"{COMPACT_VALUE}"'
        )
    return bool(said)


def quantize_rows(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round a matrix to int8, its largest value in each row to ±127.

    Args:
        matrix: Shape (rows, columns), floating point.

    Returns:
        The int8 matrix and the fp32 scale of each row, shape (rows,); a row of zeros has scale 0.

    Example:
        >>> whole, scale = quantize_rows(torch.tensor([[0.5, -1.27], [0.0, 0.0]]))
        >>> whole.tolist(), scale.tolist()
        ([[50, -127], [0, 0]], [0.009999999776482582, 0.0])
    """
    exact = matrix.float()
    scale = exact.abs().amax(1) / 127
    steps = torch.where(scale > 0, scale, torch.ones_like(scale))
    return (exact / steps[:, None]).round().clamp(-127, 127).to(torch.int8), scale


def stored_state(folder: Path, part: str = "") -> dict[str, torch.Tensor]:
    """Return the tensors of a plain or compact model folder, int8 rows as fp32.

    A folder may hold both kinds of weights; its ``config.json`` says which are meant.

    Args:
        folder: The model folder.
        part: Read only the tensors with this in their names; by default all.

    Raises:
        ModelError: If the configuration cannot be read, or it and the files do not agree.
    """
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from error
    if is_compact(folder, SimpleNamespace(**config)):
        return read_compact(folder, part)
    state: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        if path.name != COMPACT_FILE:
            state.update(_read(path, part))
    return state


def stored_layer(folder: Path | None, name: str) -> dict[str, torch.Tensor]:
    """Return the tensors of one layer under their names in it, int8 rows as fp32.

    For layers of ours that stand beside a transformers model in the same file, and which
    transformers therefore does not load.

    Args:
        folder: A model folder, plain or compact; None has none.
        name: Of the layer, an attribute of the model itself.

    Returns:
        Empty if the folder has no such layer.

    Raises:
        ModelError: See `stored_state`.

    Example:
        >>> stored_layer(folder, "mean_classifier").keys()            # doctest: +SKIP
        dict_keys(['bias', 'weight'])
    """
    start = f"{name}."
    state = stored_state(folder, start) if folder is not None else {}
    return {key.removeprefix(start): v for key, v in state.items() if key.startswith(start)}


def read_compact(folder: Path, part: str = "") -> dict[str, torch.Tensor]:
    """Return a compact folder's tensors by name, fp32; whole numbers and truth values as they are.

    Args:
        folder: The model folder.
        part: Read only the tensors with this in their names; by default all.

    Raises:
        ModelError: If an int8 tensor has no scale, or one of another length.
    """
    raw = _read(folder / COMPACT_FILE, part)
    state: dict[str, torch.Tensor] = {}
    for name, value in raw.items():
        if value.dtype == torch.int8:
            scale = raw.get(name + SCALE)
            if scale is None or scale.shape != value.shape[:1]:
                raise ModelError(f"{folder / COMPACT_FILE}: {name} has no scale for each row")
            state[name] = value.float() * scale.float()[:, None]
        elif not (name.endswith(SCALE) and name.removesuffix(SCALE) in raw):
            state[name] = value.float() if value.is_floating_point() else value
    return state


def save_compact(source: Path, folder: Path, matrices: Matrices = "all") -> dict[str, int]:
    """Write a plain model folder as a compact one, tokenizer and configuration included.

    Args:
        source: A model folder as `pretrain` and ``save_pretrained`` write it.
        folder: To write; must not exist.
        matrices: ``all`` of two dimensions, or only ``embeddings`` (the tables of words,
            positions and types), which lose less and in a small model are most of the bytes.

    Returns:
        ``matrices`` (how many became int8), ``before`` and ``after`` (bytes of weights).

    Raises:
        ModelError: If the folder is taken or holds no weights.
    """
    _check_free(folder)
    state = stored_state(source)
    if not state or not (source / "config.json").is_file():
        raise ModelError(f"{source} is not a model folder: config.json and *.safetensors wanted")
    packed: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        rows = value.ndim == 2 and value.is_floating_point()
        if rows and (matrices == "all" or "embedding" in name):
            packed[name], packed[name + SCALE] = quantize_rows(value)
        else:
            packed[name] = _half(value)

    def fill(target: Path) -> None:
        save_file(packed, target / COMPACT_FILE, metadata={"format": "pt"})
        _copy_rest(source, target, {COMPACT_KEY: COMPACT_VALUE})

    write_folder(folder, fill)
    return {
        "matrices": sum(value.dtype == torch.int8 for value in packed.values()),
        "before": sum(path.stat().st_size for path in source.glob("*.safetensors")),
        "after": (folder / COMPACT_FILE).stat().st_size,
    }


def unpack(source: Path, folder: Path) -> Path:
    """Write a plain model folder, for stock transformers and any other tool; return it.

    Every stored tensor is kept, also those that no single head uses, such as a pooler beside a
    masked-LM head. Int8 rows become fp32; a plain folder is copied as it is.

    Raises:
        ModelError: If the folder is taken or there are no weights.
    """
    _check_free(folder)
    state = stored_state(source)
    if not state:
        raise ModelError(f"{source} holds no *.safetensors weights")

    def fill(target: Path) -> None:
        save_file(state, target / "model.safetensors", metadata={"format": "pt"})
        _copy_rest(source, target, {COMPACT_KEY: None})
        _add_code(target)

    write_folder(folder, fill)
    return folder


def _add_code(folder: Path) -> None:
    """Put an architecture of our own beside its weights, where transformers looks for it."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if (code := _OWN_CODE.get(config.get("model_type"))) is not None:
        shutil.copyfile(code, folder / Path(code).name)


def _check_free(folder: Path) -> None:
    if folder.exists():
        raise ModelError(f"{folder} is there already: name a new folder")


def _half(value: torch.Tensor) -> torch.Tensor:
    """Return a float tensor in fp16, where that holds its values."""
    if not value.is_floating_point() or value.abs().max() > 65_000:
        return value
    return value.half()


def _copy_rest(source: Path, target: Path, changes: Mapping[str, Any]) -> None:
    """Copy all of a model folder but its weights; change keys of its configuration."""
    for path in sorted(source.iterdir()):
        weights = path.name.endswith((".safetensors", ".safetensors.index.json"))
        if path.is_file() and not weights and path.name != "config.json":
            shutil.copyfile(path, target / path.name)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    for key, value in changes.items():
        config.pop(key, None)
        if value is not None:
            config[key] = value
    text = json.dumps(config, ensure_ascii=False, indent=2) + "\n"
    (target / "config.json").write_text(text, encoding="utf-8")


def _read(path: Path, part: str) -> dict[str, torch.Tensor]:
    """Return a file's tensors with `part` in their names; the others are not read."""
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys() if part in name}  # noqa: SIM118
