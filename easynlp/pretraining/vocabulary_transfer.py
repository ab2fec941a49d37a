"""Change a model's vocabulary and keep what it knows: swap in another, or cut it down.

Every parameter that has a row for each token (embeddings, output layer, output bias) is carried
over: a token of both vocabularies keeps its rows, a new one starts as the mean of the rows of the
pieces the old tokenizer cuts it into. Special tokens are matched by what they are for: ``[CLS]``
is ``<s>``.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedModel

from easynlp.errors import ConfigError, ModelError
from easynlp.models.heads import first_position
from easynlp.models.ngram_bert import token_code
from easynlp.text.tokenizer import Tokenizer

__all__ = ["count_tokens", "cut_vocabulary", "sources", "transfer_vocabulary"]

SAME = (("[PAD]", "<pad>"), ("[UNK]", "<unk>"), ("[CLS]", "<s>"), ("[SEP]", "</s>"),
        ("[MASK]", "<mask>"))  # fmt: skip
"""Names of special tokens that are for the same thing."""
_BATCH = 1024


def transfer_vocabulary(model: PreTrainedModel, old: Tokenizer, new: Tokenizer) -> PreTrainedModel:
    """Return the same model over another vocabulary; `model` is left as it is.

    Args:
        model: A transformers model with whatever head.
        old: Its tokenizer.
        new: The tokenizer to give it.

    Raises:
        ModelError: If the position ids of the model depend on the padding token's id, and that
            changes.

    Example:
        >>> model = transfer_vocabulary(model, old, new)              # doctest: +SKIP
    """
    kind: Any = type(model)
    config: Any = copy.deepcopy(model.config)
    rows = int(config.vocab_size)
    grown = copy.deepcopy(config)
    grown.vocab_size = rows + 1
    with torch.device("meta"):  # shapes alone: which parameters have a row for each token?
        larger = kind(grown).state_dict()
    before = model.state_dict()
    per_token = {name for name, value in before.items() if larger[name].shape != value.shape}

    config.vocab_size = new.vocab_size
    for name in ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id",
                 "decoder_start_token_id"):  # fmt: skip
        found = getattr(config, name, None)
        if isinstance(found, int):
            setattr(config, name, _same_token(found, old, new))
    if first_position(config) != first_position(model.config):
        raise ModelError(
            "this model counts positions from the padding token's id, which the new vocabulary "
            f"moves from {model.config.pad_token_id} to {config.pad_token_id}: put it there"
        )
    found = sources(old, new)
    state = {
        name: (_carried if value.is_floating_point() else _codes)(value, found, new)
        if name in per_token
        else value
        for name, value in before.items()
    }
    made: Any = kind(config)
    made.load_state_dict(state)
    made.tie_weights()
    return made.train(model.training)  # type: ignore[no-any-return]


def sources(old: Tokenizer, new: Tokenizer) -> list[list[int]]:
    """Return for each new token the old tokens its rows are the mean of; empty: of all.

    A token of both is its own source. Another is cut up by the old tokenizer as a text; of a
    WordPiece continuation ``##x`` the pieces are continuations too, where there are such.
    """
    before: dict[str, int] = old.backend.get_vocab()
    unknown = {i for name in SAME[1] if (i := before.get(name)) is not None}
    special = {name: pair for pair in SAME for name in pair}
    found: list[list[int]] = []
    for token, _ in sorted(new.backend.get_vocab().items(), key=lambda item: item[1]):
        alike = [before[name] for name in special.get(token, (token,)) if name in before]
        if alike:
            found.append(alike[:1])
            continue
        continued = token.startswith("##") and len(token) > 2
        text = token[2:] if continued else token.removeprefix("▁")
        (cut,) = old.pieces([text])
        # By id and not by name: of what it does not know, Unigram gives the text as the name.
        ids = list(cut.ids)
        if continued and ids:
            ids[0] = before.get(f"##{cut.tokens[0]}", ids[0])
        found.append([i for i in ids if i not in unknown])
    return found


def count_tokens(texts: Iterable[str], tokenizer: Tokenizer) -> Counter[int]:
    """Return how often each token occurs in texts, special tokens left out."""
    counts: Counter[int] = Counter()
    batch: list[str] = []

    def count() -> None:
        for item in tokenizer.pieces(batch):
            counts.update(item.ids)
        batch.clear()

    for text in texts:
        batch.append(text)
        if len(batch) == _BATCH:
            count()
    count()
    return counts


def cut_vocabulary(
    tokenizer: Tokenizer, counts: Counter[int], size: int, *, option: str = "--cut-vocab"
) -> Tokenizer:
    """Return a tokenizer that keeps at most the `size` tokens used most; all else of it stays.

    Special and added tokens always stay, in front of the others and in their order. A text all
    of whose tokens stay is cut into the same tokens as before. Single characters (of WordPiece
    also those inside a word, ``##o``) come before words, up to half of the room, in the order of
    how often the texts hold them: a word that goes is spelled by its characters, but a character
    that goes is unknown, and with WordPiece so is every word that needs it.

    Args:
        tokenizer: A WordPiece or Unigram tokenizer.
        counts: How often each id is used.
        size: Most tokens to keep, special ones included; what neither is used nor spells what is
            used goes in any case.
        option: How the caller's user gives `size`, for errors.

    Raises:
        ConfigError: If its model is of another kind (byte pairs depend on each other), or `size`
            leaves no room.
    """
    settings = json.loads(tokenizer.backend.to_str())
    model = settings["model"]
    if model["type"] not in ("WordPiece", "Unigram"):
        raise ConfigError(
            f"a {model['type']} vocabulary cannot be cut: its tokens are made of each other"
        )
    names = {i: t for t, i in tokenizer.backend.get_vocab(with_added_tokens=True).items()}
    fixed = {item["id"] for item in settings["added_tokens"]}
    fixed |= {i for pair in SAME for t in pair if (i := tokenizer.id_of(t)) is not None}
    if size <= len(fixed):
        raise ConfigError(
            f"{option} {size} has no room beside {len(fixed)} special tokens; "
            f"valid: {len(fixed) + 1} or more, or 0 for all"
        )
    room = size - len(fixed)
    used = [i for i, _ in counts.most_common() if i not in fixed]
    spelled: Counter[str] = Counter()
    for i in used:
        for character in _spelling(names[i], model["type"]):
            spelled[character] += counts[i]
    vocabulary = tokenizer.backend.get_vocab()
    single = [vocabulary[c] for c, _ in spelled.most_common() if c in vocabulary]
    chosen = dict.fromkeys([i for i in single if i not in fixed][: room // 2])
    kept = sorted(fixed | set([*chosen, *(i for i in used if i not in chosen)][:room]))
    place = {old: number for number, old in enumerate(kept)}
    if model["type"] == "WordPiece":
        model["vocab"] = {names[old]: place[old] for old in kept}
    else:
        scores = {name: score for name, score in model["vocab"]}
        model["vocab"] = [[names[old], scores.get(names[old], 0.0)] for old in kept]
        if model.get("unk_id") is not None:
            model["unk_id"] = place[model["unk_id"]]
    for item in settings["added_tokens"]:
        item["id"] = place[item["id"]]
    _renumber(settings.get("post_processor"), place)
    return Tokenizer(Backend.from_str(json.dumps(settings)))


def _spelling(token: str, kind: str) -> list[str]:
    """Return the tokens of single characters that a token would be cut into without it."""
    if kind != "WordPiece":
        return list(token)
    inside = token.startswith("##") and len(token) > 2
    text = token[2:] if inside else token
    return [f"##{c}" if inside or number else c for number, c in enumerate(text)]


def _renumber(processor: Any, place: dict[int, int]) -> None:
    """Change the ids in a post-processor, whatever its kind, in place."""
    if not isinstance(processor, dict):
        return
    for key in ("cls", "sep"):  # BertProcessing, RobertaProcessing
        if key in processor:
            processor[key] = [processor[key][0], place[processor[key][1]]]
    tokens = processor.get("special_tokens")
    if isinstance(tokens, dict):  # TemplateProcessing
        for item in tokens.values():
            item["ids"] = [place[i] for i in item["ids"]]
    for inner in processor.get("processors", ()):  # Sequence
        _renumber(inner, place)


def _same_token(number: int, old: Tokenizer, new: Tokenizer) -> int | None:
    token = old.backend.id_to_token(number)
    names = next((pair for pair in SAME if token in pair), (token,))
    return next((i for name in names if name and (i := new.id_of(name)) is not None), None)


def _codes(value: torch.Tensor, found: list[list[int]], new: Tokenizer) -> torch.Tensor:
    """Return what tokens are hashed by: as before, new ones by their names."""
    codes = [
        int(value[ids[0]]) if len(ids) == 1 else token_code(name)
        for name, ids in zip(new.tokens(), found, strict=True)
    ]
    return torch.tensor(codes, dtype=value.dtype)


def _carried(value: torch.Tensor, found: list[list[int]], new: Tokenizer) -> torch.Tensor:
    """Return the rows of new tokens: means of rows of old ones."""
    everything = value.float().mean(0)
    rows = [value[ids[0]] if len(ids) == 1 else value[ids].float().mean(0) if ids else everything
            for ids in found]  # fmt: skip
    return torch.stack([row.to(value.dtype) for row in rows])
