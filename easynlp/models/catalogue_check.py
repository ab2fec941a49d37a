"""What a model is and whether its masked-LM head is real: ``easynlp models check``.

A head is real if the weights hold all of it and it uses the context: in plain sentences with one
word hidden, the hidden characters are likelier to it than they are to it in the mean over all
holes (`Filler.context_gain`; the lower end of the 95% interval over sentences is above 0).
Loading alone shows neither: transformers initialises a missing head at random and says so in a
notice that is easily missed, and a fresh head once saved looks like a trained one. The share of
right guesses is told beside it, with what the commonest hidden character would score.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from easynlp.errors import ModelError
from easynlp.models.backbone import Backbone
from easynlp.models.cloze import By, Filler, Passage, hide_each_word

__all__ = ["check_model", "shipped_passages"]

SENTENCES = Path(__file__).with_name("sentences_zh.txt")
"""Forty plain sentences written for this purpose; no model was trained on them."""


def shipped_passages() -> list[Passage]:
    """Return the shipped sentences, once for each of their words, with that word hidden."""
    texts = SENTENCES.read_text(encoding="utf-8").split()
    return [passage for text in texts for passage in hide_each_word(text)]


def check_model(name: str) -> dict[str, Any]:
    """Load a model and say what it is.

    Args:
        name: A model as ``--model`` takes it; also a local folder.

    Returns:
        ``model``, ``folder``, ``architecture``, ``parameters`` (of the encoder), ``layers``,
        ``width``, ``bytes`` (of the weights on disk), ``format``, ``vocabulary``,
        ``max_length``, ``tokens`` (whether Chinese characters are tokens of their own),
        ``pooler`` and ``mask_head``: with ``verdict`` (``real``, ``unproven``, ``missing`` or
        ``none``), ``why``, and what was measured.

    Raises:
        ModelError: If the model cannot be found or loaded.
    """
    backbone = Backbone.load(name)
    encoder, gaps = backbone.with_head_and_gaps("AutoModel")
    passages = shipped_passages()
    by = _how(backbone, passages)
    config = backbone.config
    weights = sorted(backbone.folder.glob("*.safetensors")) if backbone.folder else []
    size = encoder.num_parameters()
    has_pooler = any(key.startswith("pooler.") for key, _ in encoder.named_parameters())
    pooler_gaps = [gap for gap in gaps if "pooler." in gap]
    other_gaps = [gap for gap in gaps if "pooler." not in gap]
    del encoder  # before the same weights are loaded once more
    return {
        "model": name,
        "folder": str(backbone.folder or backbone.home),
        "architecture": config.model_type,
        "made_as": (config.architectures or [""])[0],
        "parameters": size,
        "layers": getattr(config, "num_hidden_layers", None),
        "width": getattr(config, "hidden_size", None),
        "bytes": sum(path.stat().st_size for path in weights),
        "format": "random" if not weights else _format(weights),
        "vocabulary": backbone.tokenizer.vocab_size,
        "max_length": getattr(config, "max_position_embeddings", None),
        "tokens": "single Chinese characters" if by == "character" else "pieces of words",
        "pooler": "none" if not has_pooler else "untrained" if pooler_gaps else "trained",
        "encoder_lacks": other_gaps if backbone.folder else [],
        "mask_head": _mask_head(backbone, passages, by),
    }


def _mask_head(backbone: Backbone, passages: Sequence[Passage], by: By) -> dict[str, Any]:
    """Return the verdict on a masked-LM head, and the figures it rests on."""
    try:
        filler = Filler(backbone)
    except ModelError as error:
        return {"verdict": "none", "why": str(error).splitlines()[0][:200]}
    share = float(filler.fill(passages, by).mean())
    targets = filler.targets(passages, by)
    _, counts = np.unique(targets, return_counts=True)
    guess = float(counts.max() / counts.sum())
    gain, half = _gain(filler, passages, by)
    measured = {
        "accuracy": share, "commonest": guess, "chance": 1 / backbone.tokenizer.vocab_size,
        "gain": gain, "gain_half_width": half, "holes": len(targets), "by": by,
        "lacks": filler.gaps[:8],
    }  # fmt: skip
    if filler.gaps:
        why = f"the weights lack {len(filler.gaps)} of its parameters, which are random now"
        return {"verdict": "missing", "why": why, **measured}
    why = (
        f"context is worth {gain:+.2f} ± {half:.2f} nats a {by}; guesses {share:.1%} of "
        f"{len(targets)} right, always the commonest: {guess:.1%}"
    )
    return {"verdict": "real" if gain > half else "unproven", "why": why, **measured}


def _gain(filler: Filler, passages: Sequence[Passage], by: By) -> tuple[float, float]:
    """Return the mean gain over sentences and the half-width of its 95% interval."""
    sizes = [len(filler.targets([passage], by)) for passage in passages]
    sentence = np.repeat([passage.text for passage in passages], sizes)
    gains = filler.context_gain(passages, by)
    means = np.array([gains[sentence == text].mean() for text in np.unique(sentence)])
    return float(means.mean()), float(1.96 * means.std(ddof=1) / math.sqrt(len(means)))


def _how(backbone: Backbone, passages: Sequence[Passage]) -> By:
    """Return whether Chinese characters are tokens of their own, or parts of longer ones."""
    texts = sorted({passage.text for passage in passages})
    for item in backbone.tokenizer.encode_batch(texts, 512, offsets=True):
        assert item.offsets is not None
        if int((item.offsets[:, 1] - item.offsets[:, 0]).max(initial=0)) > 1:
            return "piece"
    return "character"


def _format(weights: Sequence[Path]) -> str:
    """Return the number formats of the weights, e.g. ``F16``, from the files' headers."""
    kinds: set[str] = set()
    for path in weights:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        kinds |= {tensor["dtype"] for key, tensor in header.items() if key != "__metadata__"}
    return ", ".join(sorted(kinds))
