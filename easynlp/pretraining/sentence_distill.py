"""Distil a teacher's sentence vectors into the pooled vector of a small encoder.

The pooled first token is what stock classification heads read, so that is what must hold the
meaning of the text. A linear projection of it, thrown away afterwards, is asked two things: to
point where the teacher's vector points (a cosine loss, where Reimers and Gurevych 2020, "Making
Monolingual Sentence Embeddings Multilingual using Knowledge Distillation", have a squared error),
and to be nearer to its own text's teacher vector than to those of the other texts of the batch
(InfoNCE, van den Oord et al. 2018). Teacher vectors are centred and turned to their principal
axes first (`Axes`): those of contrastive encoders sit in a narrow cone, where all cosines are
alike. The student reads the text with holes, so it also learns to fill in what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from easynlp.errors import ConfigError
from easynlp.pretraining.bag_of_words import with_pooler
from easynlp.pretraining.teacher import Teacher
from easynlp.text.tokenizer import Tokenizer
from easynlp.training.plan import Pass, Plan, Term, row_count

__all__ = ["Axes", "distance", "sentence_distill", "start_embeddings", "turn_to"]

_SAMPLE = 100_000


def sentence_distill(
    plan: Plan, *, weight: float = 3.0, contrast: float = 0.1, temperature: float = 0.05
) -> Plan:
    """Add a pooler to the encoder and a term that makes it say what the teacher says.

    The features must carry a ``vector`` each: `pretrain` gives them with ``--teacher``.

    Args:
        plan: A `language_modeling` plan whose encoder is a BERT (has a ``pooler`` slot).
        weight: Of the term, a mean over texts, beside the mean over hidden tokens.
        contrast: Share of the contrastive loss beside the cosine loss. The negatives are the
            other texts of the micro-batch, so with it accumulation is not exactly a larger batch.
        temperature: Of the contrastive loss.

    Raises:
        ConfigError: If the encoder has no pooler slot or an option is out of range.

    Example:
        >>> plan = sentence_distill(plan, weight=3.0)                 # doctest: +SKIP
    """
    if weight < 0 or contrast < 0 or temperature <= 0:
        raise ConfigError(
            "sentence_distill: weight and contrast must be 0 or more, temperature above 0"
        )
    base = with_pooler(plan, "sentence_distill")
    model: Any = plan.model
    model.to_teacher = torch.nn.Linear(base.config.hidden_size, base.config.hidden_size)

    def compute(run: Pass) -> torch.Tensor:
        if "vector" not in run.batch:
            raise ConfigError("sentence_distill needs a teacher's vectors: give --teacher")
        given = model.to_teacher(run.output["pooler_output"].float())
        return distance(given, run.batch["vector"].float(), contrast, temperature)

    term = Term("sentence_distill", compute, weight, count=row_count)
    return replace(plan, terms=(*plan.terms, term))


def distance(
    given: torch.Tensor, wanted: torch.Tensor, contrast: float = 0.1, temperature: float = 0.05
) -> torch.Tensor:
    """Return how far vectors point from where they should, summed over rows; see the module.

    Args:
        given: Shape (rows, width).
        wanted: Shape (rows, width), each of length 1.
        contrast: See `sentence_distill`.
        temperature: See `sentence_distill`.
    """
    loss = (1.0 - cosine_similarity(given, wanted)).sum()
    if contrast and len(wanted) > 1:
        scores = normalize(given, dim=-1) @ wanted.T / temperature
        own = torch.arange(len(wanted), device=wanted.device)
        loss = loss + contrast * cross_entropy(scores, own, reduction="sum")
    return loss


@dataclass(frozen=True)
class Axes:
    """The principal axes of a teacher's vectors, and how to turn vectors to them.

    Attributes:
        mean: Shape (teacher width,).
        rotation: Shape (teacher width, width): the leading axes; zero columns where the
            student is wider than the teacher.
    """

    mean: np.ndarray
    rotation: np.ndarray

    @classmethod
    def of(cls, vectors: np.ndarray, width: int) -> Axes:
        """Fit the axes to vectors, shape (texts, teacher width), spread over at most 100,000."""
        step = max(1, len(vectors) // _SAMPLE)
        sample = vectors[::step].astype(np.float32)
        mean = sample.mean(0)
        values, axes = np.linalg.eigh(np.cov((sample - mean).T))
        axes = axes[:, np.argsort(-values)]
        # An axis has no direction of its own: fix it, so that every machine gets the same.
        signs = np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])])
        rotation = np.zeros((len(mean), width), np.float32)
        kept = min(width, len(mean))
        rotation[:, :kept] = (axes * signs)[:, :kept]
        return cls(mean, rotation)

    def targets(self, vectors: np.ndarray) -> np.ndarray:
        """Return centred vectors on the axes, each of length 1, shape (texts, width), float16."""
        found = np.empty((len(vectors), self.rotation.shape[1]), np.float16)
        for start in range(0, len(vectors), _SAMPLE):
            part = (vectors[start : start + _SAMPLE].astype(np.float32) - self.mean) @ self.rotation
            part /= np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-6)
            found[start : start + _SAMPLE] = part
        return found


@torch.no_grad()
def turn_to(axes: Axes, layer: Any) -> None:
    """Start a projection as the turn to the axes, for a student made of the teacher's layers.

    Such a student begins in the teacher's own space; a random projection would have to learn the
    turn first, which takes longer than all the rest. The mean that the axes take off is left to
    the bias to learn: the student's vectors are not of length 1 as the teacher's are.

    Args:
        axes: Of the teacher.
        layer: From student's to teacher's vectors; left as it is unless it is linear and
            both are equally wide.
    """
    if isinstance(layer, torch.nn.Linear) and layer.weight.shape == axes.rotation.T.shape:
        layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(axes.rotation.T)))
        layer.bias.zero_()


@torch.no_grad()
def start_embeddings(model: Any, tokenizer: Tokenizer, teacher: Teacher, axes: Axes) -> None:
    """Start token embeddings where the teacher sees the tokens, at the usual scale.

    Each token is read by the teacher as a text of its own (``##`` taken off); its vector on the
    axes, with the axes' spreads evened out by a square root, becomes its embedding. Special
    tokens keep their random ones.

    Args:
        model: A transformers encoder; its input embeddings are changed in place.
        tokenizer: The student's.
        teacher: Whose vectors.
        axes: As wide as the student.
    """
    table = model.get_input_embeddings().weight
    names = [tokenizer.backend.id_to_token(i) or "" for i in range(len(table))]
    plain = [i for i, name in enumerate(names) if not (name.startswith("[") and len(name) > 1)]
    texts = [names[i].removeprefix("##") if len(names[i]) > 2 else names[i] for i in plain]
    found = (teacher.vectors(texts) - axes.mean) @ axes.rotation
    spread = found.std(0)
    found /= np.sqrt(np.maximum(spread, spread.max() * 1e-3))
    found *= model.config.initializer_range / found.std()
    table[plain] = torch.from_numpy(found).to(table)
