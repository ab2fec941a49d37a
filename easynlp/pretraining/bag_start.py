"""Let token embeddings learn alone first: their sum should point where the teacher points.

A bag of words needs no layers, so it learns from two passes over the texts in minutes what the
whole encoder would need hours for; the encoder then starts from there. It is the static embedding
model of Tissier et al. 2017 and of Model2Vec (van Dongen and Tulkens 2024), except that it is
trained against the teacher's vectors of whole texts instead of computed from those of its tokens.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from easynlp.data.sampling import Source
from easynlp.distributed import World
from easynlp.models.heads import core, pass_through
from easynlp.pretraining.sentence_distill import distance
from easynlp.training.loop import FitOptions, State, fit
from easynlp.training.plan import Pass, Plan, Term, row_count

__all__ = ["BAG", "start_as_bag"]

BAG = "bag.safetensors"
_BATCH, _RATE, _SCALE = 256, 5e-3, 5.0
log = logging.getLogger("easynlp")


class _Bag(torch.nn.Module):
    """The sum of a row's embeddings; only the tables are its parameters."""

    def __init__(self, embeddings: Any, special: torch.Tensor) -> None:
        super().__init__()
        self.words = embeddings.word_embeddings
        self.ngrams = getattr(embeddings, "ngram_embeddings", None)
        self.special: torch.Tensor
        self.register_buffer("special", special, persistent=False)
        self._embeddings = (embeddings,)  # a tuple, so its other parameters are not ours

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        if self.ngrams is not None:
            bag: torch.Tensor = self._embeddings[0].content_and_bag(input_ids)[1]
            return bag
        kept = ~torch.isin(input_ids, self.special)
        vectors: torch.Tensor = self.words(input_ids)
        return (vectors * kept[..., None]).sum(1)

    def tables(self) -> dict[str, torch.Tensor]:
        found = {"words": self.words.weight}
        return found if self.ngrams is None else {**found, "ngrams": self.ngrams.weight}


def start_as_bag(
    plan: Plan,
    source: Source,
    path: Path,
    *,
    epochs: float,
    seed: int,
    device: torch.device,
    world: World,
    progress: Callable[..., None] = log.info,
) -> None:
    """Train the token embeddings of a plan's encoder as a bag, in place.

    Directions are all that the encoder takes over: it evens out lengths. So all embeddings are
    then set to one scale, `_SCALE` times the initial one: AdamW moves a weight by its rate whatever
    its size, so what is larger is kept longer, and at the initial scale a rate that is right for
    new layers undoes in a few hundred steps what the tables had learned. Special tokens keep what
    they had.

    Args:
        plan: Over a BERT with or without bigrams; its task hides words, here as everywhere.
        source: Rows with a ``vector`` each.
        path: Where the embeddings are kept; if they are there already they are read.
        epochs: Passes over the rows.
        seed: Of the order.
        device: Where to compute.
        world: This process among its peers.
        progress: Called with a line of text now and then, as `logging` takes it.
    """
    task: Any = plan.task
    embeddings: Any = core(plan.model).base_model.embeddings
    bag = _Bag(embeddings, torch.from_numpy(task.special))
    scale = _SCALE * embeddings.word_embeddings.weight.std()
    # With bigrams the first token is the bag, so what the tables have learned comes out at once,
    # and the first gradients mend it; random matrices would undo it.
    pass_through(getattr(getattr(core(plan.model).base_model, "pooler", None), "dense", None))
    pass_through(getattr(plan.model, "to_teacher", None), 1.0)
    with torch.no_grad():
        for name, value in embeddings.named_parameters():
            if "LayerNorm" not in name and not any(value is t for t in bag.tables().values()):
                value *= _SCALE
    if path.is_file():
        with torch.no_grad():
            for name, value in load_file(path).items():
                bag.tables()[name].copy_(value)
        return

    def compute(run: Pass) -> torch.Tensor:
        return distance(run.output.float(), run.batch["vector"].float())

    steps = max(1, round(epochs * len(source.lengths) / _BATCH))
    options = FitOptions(
        steps=steps, batch_size=_BATCH, batch_tokens=_BATCH * int(source.lengths.max()), lr=_RATE,
        weight_decay=0.0, warmup=0.02, max_grad_norm=0.0, seed=seed,
    )  # fmt: skip
    alone = Plan(plan.task, bag, (Term("bag", compute, count=row_count),))
    for event in fit(alone, source, options, state=State(), device=device, world=world):
        if event.step % max(1, steps // 20) == 0 or event.step == steps:
            progress("bag: step %d of %d, distance %.4f", event.step, steps, event.losses["bag"])
    with torch.no_grad():
        others = _SCALE * bag.words.weight[bag.special]  # as they were: no bag holds them
        factor = scale / bag.words.weight.std()
        for table in bag.tables().values():
            table *= factor
        bag.words.weight[bag.special] = others
    if world.is_main:
        tables = {name: value.detach().cpu() for name, value in bag.tables().items()}
        beside = path.with_name(f".{path.name}")
        save_file(tables, beside)
        os.replace(beside, path)
