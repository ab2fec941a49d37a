"""How much a model's answers hang on each attention head and feed-forward neuron.

Hou et al. 2020, "DynaBERT: Dynamic BERT with Adaptive Width and Depth" (arXiv 2004.04037): the
first-order change of the loss if a part were not there, |gradient x weight|. For a head that is the
gradient of a mask of 1 on its output; for neuron j with input weights W1[j], bias b1[j] and output
weights W2[:, j]::

    |sum W1[j] dW1[j] + b1[j] db1[j]| + |sum W2[:, j] dW2[:, j]|

The absolute values are summed over batches. Deviations: the gradients are cleared between batches
(published implementations let them run on, so that early batches count many times), and the rows
are labelled training rows, so that dev still says something about the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from easynlp.data.sampling import Source, micro_batches
from easynlp.errors import ModelError
from easynlp.models.heads import core
from easynlp.tasks.base import Task
from easynlp.training.loop import make_forward, to_tensors

__all__ = ["Importance", "encoder_layers", "measure_importance"]

ROWS = 1024
"""Rows that are plenty to rank a few hundred neurons a layer."""


@dataclass(frozen=True)
class Importance:
    """Scores within a layer; those of different layers are not compared.

    Attributes:
        heads: Shape (layers, heads).
        neurons: Shape (layers, neurons).
    """

    heads: torch.Tensor
    neurons: torch.Tensor


def encoder_layers(model: torch.nn.Module) -> list[Any]:
    """Return the layers of a BERT-shaped encoder.

    Args:
        model: A task's model, or the transformers model in it.

    Raises:
        ModelError: If it is of another shape.
    """
    base: Any = getattr(core(model), "base_model", model)
    found = getattr(getattr(base, "encoder", None), "layer", None)
    parts = ("attention", "intermediate", "output")
    if found is None or not all(hasattr(layer, part) for layer in found for part in parts):
        kind = getattr(getattr(base, "config", None), "model_type", type(base).__name__)
        raise ModelError(
            f"pruning works on encoders shaped like BERT (bert, roberta, electra …), not on "
            f"{kind}; --int8 alone works on every model that exports"
        )
    return list(found)


def measure_importance(
    task: Task,
    model: torch.nn.Module,
    source: Source,
    *,
    batch_size: int = 32,
    most: int = ROWS,
    seed: int = 0,
) -> Importance:
    """Return how important the heads and neurons of a trained model are to it.

    Args:
        task: Collates and says the loss.
        model: The trained model; its weights and mode are left as they were.
        source: Labelled rows.
        batch_size: Rows of a batch: the absolute value is taken of a batch's sum.
        most: Rows that are looked at; of more, some are drawn.
        seed: Of the draw.

    Raises:
        ModelError: If the model is not shaped like BERT.

    Example:
        >>> measure_importance(task, model, rows).heads.shape         # doctest: +SKIP
        torch.Size([4, 12])
    """
    layers = encoder_layers(model)
    device = next(model.parameters()).device
    rows = np.arange(len(source.lengths))
    if len(rows) > most:
        rows = np.random.default_rng(seed).permutation(rows)[:most]
    rows = rows[np.argsort(source.lengths[rows], kind="stable")]
    forward = make_forward(model, "fp32", device)
    scores = [_LayerScores(layer) for layer in layers]
    was_training = model.training
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    model.eval().requires_grad_(True)
    try:
        for start in range(0, len(rows), batch_size):
            chosen = rows[start : start + batch_size]
            model.zero_grad(set_to_none=True)
            for part in micro_batches(chosen, source.lengths, max_tokens=16_384):
                batch = task.collate([source.features(int(i), 0) for i in part])
                tensors = to_tensors(batch, device)
                loss = task.loss(forward(tensors), tensors) / len(chosen)
                loss.backward()  # type: ignore[no-untyped-call]
            for score in scores:
                score.take()
    finally:
        model.zero_grad(set_to_none=True)
        model.train(was_training)
        for parameter in frozen:
            parameter.requires_grad_(False)
        for score in scores:
            score.handle.remove()
    return Importance(
        torch.stack([score.heads for score in scores]),
        torch.stack([score.neurons for score in scores]),
    )


class _LayerScores:
    """What is summed up for one layer.

    A mask on a head's output multiplies columns of what the output matrix reads, so its gradient
    is the sum over those of value x gradient: a hook sees both.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.count = int(layer.attention.self.num_attention_heads)
        self.heads = torch.zeros(self.count)
        self.neurons = torch.zeros(layer.intermediate.dense.out_features)
        self._mask: list[torch.Tensor] = []
        self.handle = layer.attention.output.dense.register_forward_pre_hook(self._watch)

    def _watch(self, module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        value = args[0]
        value.register_hook(lambda gradient: self._add(value.detach(), gradient))

    def _add(self, value: torch.Tensor, gradient: torch.Tensor) -> None:
        by_head = (value * gradient).float().reshape(-1, self.count, value.shape[-1] // self.count)
        self._mask.append(by_head.sum((0, 2)).cpu())

    @torch.no_grad()
    def take(self) -> None:
        """Add a batch's scores to the sums."""
        self.heads += torch.stack(self._mask).sum(0).abs()
        self._mask.clear()
        first, second = self.layer.intermediate.dense, self.layer.output.dense
        inward = (first.weight * first.weight.grad).sum(1) + first.bias * first.bias.grad
        outward = (second.weight * second.weight.grad).sum(0)
        self.neurons += (inward.abs() + outward.abs()).cpu()
