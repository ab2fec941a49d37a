"""Contrastive pruning: what a pruned model says of a text stays nearest to what others said of it.

Xu et al. 2022, "From Dense to Sparse: Contrastive Pruning for Better Pre-trained Language Model
Compression" (CAP, arXiv 2112.07198). While a model is pruned in steps, its vector of a text (the
first token's last state) is drawn towards the vectors that other models have of it, and away from
theirs of other texts: those of the pre-trained model (PrC, what is known beyond the task), of the
models at earlier steps (SnC), and of the fine-tuned model (FiC, what is known of the task). With z
the pruned model's vector and v another model's, both of length 1::

    unsupervised = -log exp(z_i v_i / t) / sum_j exp(z_i v_j / t)
    supervised   = -mean over p with the label of i of log exp(z_i v_p / t) / sum_j exp(z_i v_j / t)

where j and p go over stored vectors of up to 4096 training rows, as in the paper's published
code, with the row itself among them once. The other models do not change, so the vectors are made
once, and a batch's loss does not depend on how it is cut up. Each model adds both parts, and the
models' sums are averaged. Deviation: rows without one label (entities, several labels) have the
unsupervised part alone. `easynlp.compression.compress` prunes in steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from easynlp.compression.recover import Guide, watch_layers
from easynlp.data.sampling import Source, micro_batches
from easynlp.errors import ConfigError
from easynlp.models.backbone import Backbone
from easynlp.tasks.base import Task
from easynlp.training.loop import to_tensors
from easynlp.training.plan import Pass, Plan, Term, row_count

__all__ = ["STORED", "cap", "contrast", "with_contrast"]

STORED = 4096
"""Most training rows whose vectors are stored."""
_ODD = 0x5851F42D4C957F2D
"""Multiplier of the hash by which a text's ids are known again; any large odd number would do."""


def contrast(
    ours: torch.Tensor,
    theirs: torch.Tensor,
    bank: torch.Tensor,
    itself: torch.Tensor,
    alike: torch.Tensor | None,
    temperature: float,
) -> torch.Tensor:
    """Return the unsupervised and, with labels, the supervised contrastive loss, per row.

    Args:
        ours: The pruned model's vectors, shape (rows, width).
        theirs: Another model's vectors of the same texts; no gradient reaches them.
        bank: That model's vectors of training rows, (stored, width), of length 1.
        itself: Which stored rows are a row's own text, (rows, stored) bool; it counts once.
        alike: Which stored rows have a row's label, (rows, stored) bool; None: not known.
        temperature: Lower looks at the nearest alone.

    Example:
        >>> same = torch.eye(2)
        >>> contrast(same, same, same, same > 0, None, 0.1).max().item() < 1e-4
        True
    """
    z = normalize(ours.float(), dim=-1)
    own = normalize(theirs.detach().float(), dim=-1)
    scores = (z @ bank.T / temperature).masked_fill(itself, -torch.inf)
    nearest = (z * own).sum(-1, keepdim=True) / temperature
    total = torch.cat([nearest, scores], 1).logsumexp(1, keepdim=True)
    loss = (total - nearest)[:, 0]
    if alike is None:
        return loss
    mates = alike & ~itself
    logs = (scores - total).masked_fill(~mates, 0.0)
    return loss + (loss - logs.sum(1)) / (1 + mates.sum(1))


def with_contrast(
    plan: Plan, guides: Sequence[Guide], *, weight: float = 0.3, temperature: float = 0.1
) -> Plan:
    """Add the contrastive term against other models.

    Args:
        plan: Of the pruned model.
        guides: The pre-trained, earlier and fine-tuned models.
        weight: Of the term, a mean over rows and models.
        temperature: See `contrast`.

    Raises:
        ConfigError: If there is nobody to compare with, or a number makes no sense.

    Example:
        >>> plan = with_contrast(plan, [pretrained, tuned])           # doctest: +SKIP
    """
    if not guides or temperature <= 0 or weight < 0:
        raise ConfigError(
            f"cap: {len(guides)} models to compare with, temperature {temperature:g}, weight "
            f"{weight:g}; wanted: one or more, above 0, 0 or more"
        )
    watch_layers(plan.model)

    banks = [_Bank(guide, plan.task) for guide in guides]

    def compute(run: Pass) -> torch.Tensor:
        ours = run.output.layer_states[-1][:, 0]
        parts = []
        for bank in banks:
            stored, itself, alike = bank.of(run)
            theirs = bank.guide.output(run).layer_states[-1][:, 0]
            parts.append(contrast(ours, theirs, stored, itself, alike, temperature))
        return torch.stack(parts).mean(0).sum()

    def source(rows: Source, seed: int) -> Source:
        made = plan.source(rows, seed) if plan.source else rows
        for bank in banks:
            bank.source, bank.seed = made, seed
        return made

    term = Term("cap", compute, weight, count=row_count)
    return replace(plan, terms=(*plan.terms, term), source=source)


class _Bank:
    """A model's vectors of training rows, made when first asked for.

    Args:
        guide: The model.
        task: Collates.
    """

    def __init__(self, guide: Guide, task: Task) -> None:
        self.guide, self.task = guide, task
        self.source: Source | None = None
        self.seed = 0
        self._vectors: torch.Tensor | None = None
        self._texts: torch.Tensor | None = None
        self._labels: torch.Tensor | None = None

    def of(self, run: Pass) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return the vectors, (stored, width), and which of them are of the batch's rows.

        Of the same text, and of the same label where there are labels; both (rows, stored).
        """
        if self._vectors is None:
            self._fill(run)
        assert self._vectors is not None
        assert self._texts is not None
        # Known by its ids: in half precision its vector depends on the padding beside it.
        itself = _text_keys(run.batch)[:, None] == self._texts[None, :]
        target = run.batch.get("target")
        if self._labels is None or target is None or target.dim() != 1:
            return self._vectors, itself, None
        return self._vectors, itself, target[:, None] == self._labels[None, :]

    def _fill(self, run: Pass) -> None:
        assert self.source is not None
        lengths, device = self.source.lengths, run.batch["input_ids"].device
        rows = np.random.default_rng(self.seed).permutation(len(lengths))[:STORED]
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        vectors: list[torch.Tensor] = []
        texts: list[torch.Tensor] = []
        labels: list[torch.Tensor] = []
        for part in micro_batches(rows, lengths, max_tokens=16_384):
            batch = self.task.collate([self.source.features(int(i), 0) for i in part])
            tensors = to_tensors(batch, device)
            states = self.guide.output(replace(run, batch=tensors)).layer_states
            vectors.append(normalize(states[-1][:, 0].float(), dim=-1))
            texts.append(_text_keys(tensors))
            if "target" in tensors and tensors["target"].dim() == 1:
                labels.append(tensors["target"])
        self._vectors, self._texts = torch.cat(vectors), torch.cat(texts)
        found = torch.cat(labels) if labels else None
        self._labels = found if found is not None and len(found) == len(self._vectors) else None


def _text_keys(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return a number for each row that equal ids have in common, whatever the padding; (rows,)."""
    ids = batch["input_ids"].long()
    real = batch.get("attention_mask", torch.ones_like(ids))
    powers = torch.full_like(ids[0], _ODD).cumprod(0)  # wraps around, as it may
    return ((ids + 1) * (real > 0) * powers).sum(1)


def cap(plan: Plan, *, pretrained: str = "", weight: float = 0.3, temperature: float = 0.1) -> Plan:
    """Hold a model's vectors of texts to those of the model it is trained from.

    Alone, with ``easynlp train --method cap``, this is the paper's PrC: the model stays near what
    it knew. ``easynlp compress --method cap`` adds the fine-tuned model and earlier steps.

    Args:
        plan: What to change.
        pretrained: A model with the same tokens and width; by default the one training starts from.
        weight: See `with_contrast`.
        temperature: See `contrast`.

    Raises:
        ConfigError: If the two have other tokens, or there is no model to start from.

    Example:
        >>> plan = cap(plan, weight=0.1)                              # doctest: +SKIP
    """
    start = Backbone.load(pretrained) if pretrained else plan.backbone
    if start is None:
        raise ConfigError("cap needs a pre-trained model: write cap:pretrained=...")
    if start.tokenizer.fingerprint() != plan.task.tokenizer.fingerprint():
        raise ConfigError(f"cap: {start.name} has other tokens than the model that is trained")
    other: Any = start.with_head("AutoModel")
    layers = range(int(start.config.num_hidden_layers))
    return with_contrast(plan, [Guide(other, None, layers)], weight=weight, temperature=temperature)
