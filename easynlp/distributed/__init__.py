"""Processes: who we are, how models and sums are shared. Launch with torchrun."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

__all__ = ["World", "all_sum", "no_sync", "process_group", "wrap"]


@dataclass(frozen=True)
class World:
    """This process among its peers; ``World()`` is a process alone."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def from_environment(cls) -> World:
        """Read what torchrun set; a process alone if it set nothing."""
        get = os.environ.get
        return cls(int(get("RANK", 0)), int(get("WORLD_SIZE", 1)), int(get("LOCAL_RANK", 0)))

    @property
    def is_main(self) -> bool:
        """True in the one process that writes files and talks."""
        return self.rank == 0

    def wait(self) -> None:
        """Return when every process has come here: before reading what the main one wrote."""
        if self.size > 1:
            dist.barrier()


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[World]:
    """Join the processes torchrun started for the duration of the block."""
    world = World.from_environment()
    if world.size == 1 or dist.is_initialized():
        yield world
        return
    # The main process may prepare a corpus for hours while the others wait.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(days=7))
    try:
        yield world
    finally:
        dist.destroy_process_group()


def wrap(model: torch.nn.Module, world: World) -> torch.nn.Module:
    """Return the model, wrapped in DDP where there are several processes."""
    if world.size == 1:
        return model
    # Buffers are constants in encoders (position ids); broadcasting them would break
    # terms that run several forwards before one backward.
    return DistributedDataParallel(model, forward_sync_buffers=False)


def no_sync(model: torch.nn.Module, last: bool) -> AbstractContextManager[None]:
    """Return the context for one micro-batch: gradients are exchanged at the last only."""
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return contextlib.nullcontext()


def all_sum(values: torch.Tensor, world: World) -> torch.Tensor:
    """Return the sum of a tensor over all processes."""
    if world.size > 1:
        dist.all_reduce(values)
    return values
