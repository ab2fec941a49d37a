"""A large encoder's sentence vectors of a corpus, computed once and kept on disk.

Block by block, each an ``.npy`` file written whole or not at all: what was interrupted goes on
where it stopped, and runs that share the folder share the work.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import MODEL_FOR_MASKED_LM_MAPPING

from easynlp.atomic import write_json
from easynlp.data.blocks import fill_blocks, save_array
from easynlp.errors import DataError, ModelError
from easynlp.models.backbone import Backbone
from easynlp.models.heads import mean_of_tokens
from easynlp.text.tokenizer import Encoded
from easynlp.training.precision import autocast

__all__ = ["Teacher", "check_teacher", "teach"]

BLOCK = 4096
"""Texts of one file; sorted by length inside, so next to nothing is padded."""


class Teacher:
    """A frozen encoder that turns texts into vectors.

    Args:
        name: Any encoder `Backbone.load` finds; its tokenizer may differ from the student's.
        pooling: ``mean`` over tokens, or the first token (``cls``).
        prefix: Put before every text; the E5 family wants ``query: ``.
        max_length: Most tokens read of a text.
        precision: ``bf16`` or ``fp32``.
        device: Where to compute.

    Example:
        >>> Teacher("tiny-zh").vectors(["很好"]).shape      # doctest: +SKIP
        (1, 256)
    """

    def __init__(
        self,
        name: str,
        *,
        pooling: Literal["mean", "cls"] = "mean",
        prefix: str = "",
        max_length: int = 128,
        precision: str = "fp32",
        device: torch.device | None = None,
    ) -> None:
        backbone = Backbone.load(name)
        check_teacher(backbone)
        self.tokenizer = backbone.tokenizer
        self.device = device or torch.device("cpu")
        self.model: Any = backbone.with_head("AutoModel").train(False)
        self.model.to(self.device)
        self.pooling, self.prefix, self.precision = pooling, prefix, precision
        self.max_length = max_length
        self.width = int(backbone.config.hidden_size)
        digest = hashlib.sha256(
            f"{pooling}|{prefix}|{max_length}|{self.width}|{precision}".encode()
        )
        digest.update(self.tokenizer.fingerprint().encode())
        if backbone.folder is None:
            raise ModelError(f"{name} has random weights, and nothing to teach")
        for file in sorted(backbone.folder.glob("*.safetensors")):
            with file.open("rb") as handle:
                digest.update(hashlib.file_digest(handle, "sha256").digest())
        self.fingerprint = digest.hexdigest()
        """Of all that decides a vector: those of one teacher are not those of another."""

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Return the texts, prefix included, as the teacher reads them, with offsets."""
        return self.tokenizer.encode_batch([self.prefix + t for t in texts], self.max_length, True)

    @torch.no_grad()
    def vectors(self, texts: Sequence[str], tokens: int = 4096) -> np.ndarray:
        """Return a vector a text, shape (texts, width), float32, each of length 1.

        Args:
            texts: Any number.
            tokens: Most tokens, padding included, in one forward pass.
        """
        encoded = self.tokenizer.encode_batch([self.prefix + t for t in texts], self.max_length)
        order = sorted(range(len(texts)), key=lambda i: len(encoded[i].ids))
        sizes = [len(encoded[i].ids) for i in order]
        found = np.empty((len(texts), self.width), np.float32)
        start = 0
        while start < len(order):
            stop = start + 1
            while stop < len(order) and (stop + 1 - start) * sizes[stop] <= tokens:
                stop += 1
            part = order[start:stop]
            found[part] = self._forward([encoded[i].ids for i in part])
            start = stop
        return found

    def _forward(self, rows: list[np.ndarray]) -> np.ndarray:
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        width = int(lengths.max())
        ids = torch.full((len(rows), width), self.tokenizer.pad_id, device=self.device)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.from_numpy(row.astype(np.int64))
        mask = torch.arange(width, device=self.device) < lengths[:, None]
        full = bool(mask.all())
        with autocast(self.precision, self.device):
            hidden = self.model(input_ids=ids, attention_mask=None if full else mask.long())[0]
        hidden = hidden.float()
        pooled = hidden[:, 0] if self.pooling == "cls" else mean_of_tokens(hidden, mask)
        return torch.nn.functional.normalize(pooled, dim=-1).cpu().numpy()  # type: ignore[no-any-return]


def check_teacher(backbone: Backbone) -> None:
    """Refuse what does not read a text in both directions.

    Raises:
        ModelError: If it is a decoder or has one.
    """
    kind = type(backbone.config)
    if backbone.config.is_encoder_decoder or kind not in MODEL_FOR_MASKED_LM_MAPPING:
        raise ModelError(
            f"{backbone.name} ({backbone.config.model_type}) cannot teach: a teacher is an "
            "encoder, such as BERT, RoBERTa, ELECTRA or an E5 or BGE model of that shape"
        )


def teach(
    teacher: Teacher,
    texts: Sequence[str],
    folder: Path,
    *,
    key: str,
    progress: Callable[[str], None] | None = None,
) -> np.ndarray:
    """Compute the vectors of all texts into a folder, or go on with what is there.

    Args:
        teacher: Whose vectors.
        texts: The texts; read a block at a time.
        folder: Where the blocks are kept, as float16.
        key: Fingerprint of the texts.
        progress: Called with a line of text after every block.

    Returns:
        All vectors, shape (texts, width), float16.

    Raises:
        DataError: If the folder holds vectors of other texts or another teacher.
    """
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "teacher.json"
    made_from = f"{teacher.fingerprint} {key}"
    if note.is_file():
        if json.loads(note.read_text("utf-8"))["made_from"] != made_from:
            raise DataError(
                "holds vectors of other texts or another teacher (or prefix, pooling, row length, "
                "precision); give another --cache or --output",
                path=str(folder),
            )
    else:
        write_json(note, {"made_from": made_from, "texts": len(texts)})
    paths = [folder / f"{block:06d}.npy" for block in range(-(-len(texts) // BLOCK))]

    def write(block: int) -> int:
        first = block * BLOCK
        chosen = [texts[i] for i in range(first, min(first + BLOCK, len(texts)))]
        save_array(paths[block], teacher.vectors(chosen).astype(np.float16))
        return len(chosen)

    fill_blocks(paths, write, progress=progress, what="texts")
    return np.concatenate([np.load(path) for path in paths])
