"""Learn what goes on inside a teacher: hidden states, attention maps, relations among tokens.

Jiao et al. 2020, TinyBERT (arXiv 1909.10351): every layer of the student has one of the teacher's
to learn from, through a linear projection of its own that is trained with it and not kept;
embeddings count as a layer below the first. Wang et al. 2021, MiniLMv2 (arXiv 2012.15828):
relations among queries, keys and values of the last layers, for which widths and heads need not
agree.

The teacher runs beside the student, on the same texts; its weights never change. Where the two cut
a text differently, a student's token is given what the teacher says of the token that holds its
first character. Attention maps need the same tokens and as many heads on both sides.

Deviations: TinyBERT compares attention before the softmax, here it is after it, as models hand it
out; its code takes means over padding too, here every real token counts once.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch

from easynlp.data.sampling import Source
from easynlp.distillation.logits import EXAMPLE, keep_examples
from easynlp.distillation.losses import attention_mse, hidden_mse, layer_map, relation_kl
from easynlp.errors import ConfigError
from easynlp.models.backbone import Backbone
from easynlp.models.heads import core
from easynlp.pretraining.token_distill import align
from easynlp.tasks.base import Batch, Features
from easynlp.text.tokenizer import Encoded, Tokenizer
from easynlp.training.plan import Pass, Plan, Term

__all__ = ["distill_layers"]

_BESIDE = "beside_teacher"
_INNER = "inner_states"
_PARTS = ("query", "key", "value")
_PROJECTIONS = "distill_projections"


def distill_layers(
    plan: Plan,
    *,
    teacher: str,
    hidden: float = 1.0,
    attention: float = 0.0,
    relation: float = 0.0,
    layers: str = "uniform",
    heads: int = 0,
    max_length: int = 512,
) -> Plan:
    """Learn a teacher's hidden states, attention and relations; apply after `distill`.

    Args:
        plan: Of any task on a BERT-shaped encoder whose rows are texts, pairs or windows of texts.
        teacher: A BERT-shaped encoder: a run, a folder or a hub id.
        hidden: Weight of the hidden states' mean squared distance, a mean over tokens and layers.
        attention: Weight of the attention maps' distance, the same mean.
        relation: Weight of the last layers' relations' divergence, a mean over tokens.
        layers: Layers of the student to layers of the teacher, see `layer_map`.
        heads: Relation heads; 0: the number nearest to 12 that divides both widths.
        max_length: Most tokens the teacher reads of a text, where tokenizers differ.

    Raises:
        ConfigError: If a side is no such encoder, or the two cannot be compared so.
        ModelError: If there is no such teacher.

    Example:
        >>> plan = distill_layers(plan, teacher="runs/large", relation=1)   # doctest: +SKIP
    """
    weights = {"hidden": hidden, "attention": attention, "relation": relation}
    if min(weights.values()) < 0 or not sum(weights.values()):
        raise ConfigError(f"distill_layers: weights {weights}; valid: 0 or more, one of them more")
    if plan.source is not None and not any(term.name == "distill" for term in plan.terms):
        raise ConfigError("distill_layers cannot follow a method that says what a row is")
    large = Backbone.load(teacher)
    side = _Side(plan, large, attention > 0)
    tokens = _Tokens(plan.task, large, max_length)
    pairs = layer_map(layers, side.depth, side.their_depth)
    terms: list[Term] = []
    if hidden:
        terms.append(Term("hidden", _hidden(side, [(-1, -1), *pairs]), hidden, count=_aligned))
    if attention:
        side.check_heads()
        if not tokens.same:
            raise ConfigError("attention maps need the same tokenizer on both sides; type relation")
        terms.append(Term("attention", _attention(side, pairs), attention, count=_aligned))
    if relation:
        compute = _relation(side, heads or side.relation_heads(), pairs[-1])
        terms.append(Term("relation", compute, relation, count=_aligned))
    task = keep_examples(plan.task)
    task.collate = tokens.beside(plan.task.collate)
    before = plan.source

    def source(rows: Source, seed: int) -> Source:
        return _Beside(before(rows, seed) if before else rows)

    return replace(plan, task=task, source=source, terms=(*plan.terms, *terms))


@dataclass(frozen=True)
class _Beside:
    """Training rows, marked: only they are shown to the teacher."""

    rows: Source

    @property
    def lengths(self) -> np.ndarray:
        return self.rows.lengths

    def features(self, index: int, epoch: int) -> Features:
        return {**self.rows.features(index, epoch), _BESIDE: True}


class _Tokens:
    """How a teacher reads the texts of a batch, and which of its tokens are which of ours.

    Args:
        task: The student's.
        large: The teacher.
        max_length: Most tokens it reads, where tokenizers differ.
    """

    def __init__(self, task: Any, large: Backbone, max_length: int) -> None:
        self.ours: Tokenizer = task.tokenizer
        self.theirs = large.tokenizer
        self.same = self.ours.fingerprint() == self.theirs.fingerprint()
        positions = getattr(large.config, "max_position_embeddings", None) or max_length
        self.max_length = min(max_length, positions - 2)
        self.our_length: int = task.config.max_length
        self.pair = bool(getattr(task.config, "pair", False))
        if not self.same and task.name not in ("text_classify", "sequence_labeling"):
            raise ConfigError(
                f"distill_layers: {large.name} has another tokenizer than the student, and rows of "
                f"{task.name} are no plain texts"
            )
        if self.same and self.our_length > positions:
            raise ConfigError(f"{large.name} reads at most {positions} tokens: lower --max-length")

    def beside(self, collate: Callable[[Sequence[Features]], Batch]) -> Callable[..., Batch]:
        """Return a collate that adds the teacher's side of training rows.

        A batch gains ``teacher_ids``, ``teacher_mask``, ``teacher_types`` (rows, teacher tokens),
        and ``aligned`` (rows, tokens): the teacher's token for each of ours, -1 for none.
        """

        def lay_out(features: Sequence[Features]) -> Batch:
            batch = collate(features)
            if all(_BESIDE in item for item in features):
                batch |= self._same(batch) if self.same else self._other(features, batch)
            return batch

        return lay_out

    def _same(self, batch: Batch) -> Batch:
        ids = batch["input_ids"]
        mask = batch.get("attention_mask", np.ones_like(ids))
        places = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        return {
            "teacher_ids": ids, "teacher_mask": mask,
            "teacher_types": batch.get("token_type_ids", np.zeros_like(ids)),
            "aligned": np.where(mask > 0, places, -1),
        }  # fmt: skip

    def _other(self, features: Sequence[Features], batch: Batch) -> Batch:
        examples = [item[EXAMPLE] for item in features]
        texts: Any = [e["text"] for e in examples]
        if self.pair:
            texts = [(e["text"], e["text_b"]) for e in examples]
        theirs = self.theirs.encode_batch(texts, self.max_length, offsets=True)
        gaps = [len(each["text"]) + 1 for each in examples]
        spans = [_spans(item, gap) for item, gap in zip(theirs, gaps, strict=True)]
        shape = batch["input_ids"].shape
        aligned = np.full(shape, -1, np.int64)
        if "windows" in batch:
            owners = np.repeat(np.arange(len(features)), batch["windows"])
            for row, owner in enumerate(owners.tolist()):
                own = np.stack([batch["starts"][row], batch["ends"][row]], 1)
                aligned[row] = align(own, spans[owner])
        else:
            owners = np.arange(len(features))
            ours = self.ours.encode_batch(texts, self.our_length, offsets=True)
            for row, (item, gap) in enumerate(zip(ours, gaps, strict=True)):
                if len(item.ids) > shape[1]:
                    raise ConfigError(
                        "hidden states cannot be compared where a row is no plain text"
                    )
                aligned[row, : len(item.ids)] = align(_spans(item, gap), spans[row])
        width = max(len(item.ids) for item in theirs)
        found = {
            "teacher_ids": np.full((len(theirs), width), self.theirs.pad_id, np.int64),
            "teacher_mask": np.zeros((len(theirs), width), np.int64),
            "teacher_types": np.zeros((len(theirs), width), np.int64),
        }
        for row, item in enumerate(theirs):
            found["teacher_ids"][row, : len(item.ids)] = item.ids
            found["teacher_mask"][row, : len(item.ids)] = 1
            found["teacher_types"][row, : len(item.ids)] = item.type_ids
        return {**{name: array[owners] for name, array in found.items()}, "aligned": aligned}


class _Side:
    """Both sides' inner states of a pass; the teacher's are computed once for all terms.

    Args:
        plan: The student's.
        large: The teacher.
        maps: Whether attention maps are wanted.
    """

    states: ClassVar[tuple[str, ...]] = ("hidden", "attention", *_PARTS)

    def __init__(self, plan: Plan, large: Backbone, maps: bool) -> None:
        self.model = plan.model
        self.name = large.name
        self.teacher: Any = large.with_head("AutoModel").train(False).requires_grad_(False)
        ours: Any = core(plan.model).base_model
        for who, model in (("student", ours), ("teacher", self.teacher)):
            if not hasattr(getattr(model, "encoder", None), "layer"):
                raise ConfigError(f"distill_layers needs a BERT-shaped {who}; use distill alone")
            if maps:
                model.set_attn_implementation("eager")  # the others hand out no maps
        self.config, self.their_config = ours.config, self.teacher.config
        self.depth, self.their_depth = len(ours.encoder.layer), len(self.teacher.encoder.layer)
        self._taken: dict[Any, torch.Tensor] = {}
        self._theirs: dict[Any, torch.Tensor] = {}
        _watch(ours, self._taken)
        _watch(self.teacher, self._theirs)
        # Other terms run the model again: what was taken stays with the output of its own pass.
        plan.model.register_forward_hook(self._attach)
        self._types = "token_type_ids" in inspect.signature(self.teacher.forward).parameters
        self._of: tuple[Any, dict[Any, torch.Tensor]] | None = None

    def check_heads(self) -> None:
        """Refuse sides whose attention maps cannot be compared.

        Raises:
            ConfigError: If they have other numbers of heads.
        """
        ours, theirs = self.config.num_attention_heads, self.their_config.num_attention_heads
        if ours != theirs:
            raise ConfigError(
                f"the student has {ours} attention heads, {self.name} {theirs}: their maps cannot "
                "be compared. Their relations can: give relation instead of attention"
            )

    def relation_heads(self) -> int:
        """Return the number nearest to 12 that divides both widths."""
        shared = math.gcd(self.config.hidden_size, self.their_config.hidden_size)
        return min((n for n in range(1, shared + 1) if shared % n == 0), key=lambda n: abs(n - 12))

    def student(self, run: Pass) -> Mapping[Any, torch.Tensor]:
        """Return the student's states of a pass, by (layer, what)."""
        found: Mapping[Any, torch.Tensor] = run.output[_INNER]
        return found

    def states_of_teacher(self, run: Pass) -> Mapping[Any, torch.Tensor]:
        """Return the teacher's states on a batch, by (layer, what)."""
        batch = run.batch
        if self._of is None or self._of[0] is not batch:
            self.teacher.to(batch["teacher_ids"].device)
            extra = {"token_type_ids": batch["teacher_types"]} if self._types else {}
            if "token_type_ids" in extra and self.their_config.type_vocab_size < 2:
                extra = {}
            with torch.no_grad():
                self.teacher(
                    input_ids=batch["teacher_ids"], attention_mask=batch["teacher_mask"], **extra
                )
            self._of = batch, dict(self._theirs)
        return self._of[1]

    def _attach(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        output[_INNER] = dict(self._taken)
        self._taken.clear()


def _hidden(side: _Side, pairs: Sequence[tuple[int, int]]) -> Callable[[Pass], torch.Tensor]:
    """Return the hidden states' term; its projections become part of the model, not of the run."""
    inner: Any = core(side.model)
    width, theirs = side.config.hidden_size, side.their_config.hidden_size
    projections = torch.nn.ModuleList(torch.nn.Linear(width, theirs) for _ in pairs)
    for each in projections:
        torch.nn.init.zeros_(each.bias)  # type: ignore[arg-type]
        if width == theirs:
            torch.nn.init.eye_(each.weight)  # type: ignore[arg-type]
    setattr(inner, _PROJECTIONS, projections)
    names = [f"{_PROJECTIONS}.{name}" for name in projections.state_dict()]
    inner._keys_to_ignore_on_save = [*(inner._keys_to_ignore_on_save or ()), *names]

    def compute(run: Pass) -> torch.Tensor:
        ours, large = side.student(run), side.states_of_teacher(run)
        rows, places = torch.nonzero(run.batch["aligned"] >= 0, as_tuple=True)
        at = run.batch["aligned"][rows, places]
        total = torch.zeros((), device=rows.device)
        for projection, (low, high) in zip(projections, pairs, strict=True):
            given = projection(_whole(ours[low, "hidden"], run)[rows, places].float())
            total = total + hidden_mse(given, large[high, "hidden"][rows, at]).sum()
        return total / len(pairs)

    return compute


def _attention(side: _Side, pairs: Sequence[tuple[int, int]]) -> Callable[[Pass], torch.Tensor]:
    def compute(run: Pass) -> torch.Tensor:
        ours, large = side.student(run), side.states_of_teacher(run)
        valid = run.batch["aligned"] >= 0
        found = [
            attention_mse(ours[low, "attention"], large[high, "attention"], valid).sum()
            for low, high in pairs
        ]
        return torch.stack(found).mean()

    return compute


def _relation(side: _Side, heads: int, pair: tuple[int, int]) -> Callable[[Pass], torch.Tensor]:
    widths = (side.config.hidden_size, side.their_config.hidden_size)
    if any(width % heads for width in widths):
        raise ConfigError(f"heads={heads} must divide both widths, {widths[0]} and {widths[1]}")

    def compute(run: Pass) -> torch.Tensor:
        ours, large = side.student(run), side.states_of_teacher(run)
        valid = run.batch["aligned"] >= 0
        at = run.batch["aligned"].clamp(min=0)[..., None]
        total = torch.zeros((), device=valid.device)
        for part in _PARTS:
            theirs = large[pair[1], part]
            theirs = torch.gather(theirs, 1, at.expand(-1, -1, theirs.shape[-1]))
            total = total + relation_kl(ours[pair[0], part], theirs, valid, heads).sum()
        return total

    return compute


def _watch(model: Any, into: dict[Any, torch.Tensor]) -> None:
    """Keep what an encoder's embeddings and layers return, and its attention, in every pass."""

    def keep(place: Any, part: int | None = None) -> Any:
        def hook(module: torch.nn.Module, args: Any, output: Any) -> None:
            if part is not None:
                output = output[part] if isinstance(output, tuple) else None
            into[place] = output[0] if isinstance(output, tuple) else output

        return hook

    model.embeddings.register_forward_hook(keep((-1, "hidden")))
    for number, layer in enumerate(model.encoder.layer):
        layer.register_forward_hook(keep((number, "hidden")))
        attention = layer.attention.self
        attention.register_forward_hook(keep((number, "attention"), part=1))
        for name in _PARTS:
            getattr(attention, name).register_forward_hook(keep((number, name)))


def _whole(states: torch.Tensor, run: Pass) -> torch.Tensor:
    return states.view(*run.batch["input_ids"].shape, -1)


def _aligned(batch: Batch) -> int:
    return int((batch["aligned"] >= 0).sum())


def _spans(item: Encoded, gap: int) -> np.ndarray:
    """Return the tokens' characters, those of a second text behind the first one's.

    Args:
        item: A text or a pair, with offsets.
        gap: Where the second text begins.
    """
    assert item.offsets is not None
    spans = item.offsets.astype(np.int64)
    ends = np.flatnonzero(item.ids[1:] == item.ids[-1]) + 1  # the token that ends each text
    if len(ends) > 1:
        second = np.arange(len(spans)) > ends[0]
        spans = np.where((second & (spans[:, 1] > spans[:, 0]))[:, None], spans + gap, spans)
    return spans
