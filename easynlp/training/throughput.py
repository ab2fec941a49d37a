"""How fast training is, against what the machine can do: FLOPs counted, peak measured.

The share of the peak (model FLOPs utilisation, Chowdhery et al. 2022) counts what the model
needs for real tokens: no padding, no recomputation. The peak is not a data sheet's but that of
large square matrix products in the precision, on the device and threads in use.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from easynlp.atomic import write_json
from easynlp.data.sampling import Source
from easynlp.distributed import World
from easynlp.models.heads import core
from easynlp.training.loop import make_forward, to_tensors
from easynlp.training.plan import Pass, Plan

__all__ = [
    "Throughput",
    "counted_flops_per_token",
    "flops_per_token",
    "measure_peak",
    "peak_of_run",
    "pick_clock",
    "throughput_of_run",
]

log = logging.getLogger("easynlp")
_COUNTED_ROWS = 8
SIZES = {"cpu": 1024, "cuda": 8192}
"""Rows and columns of the measured product: large enough for all of a device's speed."""


@dataclass(frozen=True)
class Throughput:
    """What turns tokens a second into a share of the peak.

    Attributes:
        flops_per_token: Of the model trained, forward and backward.
        peak: Measured FLOPs a second of one process.
        processes: That train together.
    """

    flops_per_token: float
    peak: float
    processes: int = 1

    def share(self, tokens_per_second: float) -> float:
        """Return the share of the peak.

        Example:
            >>> Throughput(flops_per_token=2e6, peak=1e10).share(2000)
            0.4
        """
        return tokens_per_second * self.flops_per_token / (self.peak * self.processes)


def throughput_of_run(
    flops: float, folder: Path, *, device: torch.device, precision: str, world: World
) -> Throughput:
    """Measure a run's machine beside the FLOPs a token of its model.

    All processes measure at once, as they will compute at once; the main one keeps the figure.

    Args:
        flops: See `flops_per_token` and `counted_flops_per_token`.
        folder: Run folder.
        device: Where the run computes.
        precision: ``bf16`` or ``fp32``.
        world: This process among its peers.
    """
    peak = (
        peak_of_run(folder, device, precision) if world.is_main else measure_peak(device, precision)
    )
    return Throughput(flops, peak, world.size)


def flops_per_token(
    model: torch.nn.Module, lengths: np.ndarray, *, predicted: float = 1.0
) -> float:
    """Count the FLOPs of a training step per real token: matrix products only.

    Each weight of a product costs 2 FLOPs forward and 4 backward; attention costs 12 times
    width times the row's length a layer; what stands behind the encoder (the vocabulary's
    projection) is paid at the predicted positions only. Weights shared by layers (ALBERT) count
    once a layer.

    Args:
        model: A transformers encoder with its head, or a task's model around one.
        lengths: Tokens of the rows, shape (rows,).
        predicted: Predicted positions a token.

    Example:
        >>> from transformers import BertConfig, BertForMaskedLM
        >>> shape = BertConfig(vocab_size=10, hidden_size=4, num_hidden_layers=1,
        ...     num_attention_heads=1, intermediate_size=8)
        >>> flops_per_token(BertForMaskedLM(shape), np.array([16, 16]), predicted=0.25)
        1620.0
    """
    inner: Any = core(model)
    encoder, config = inner.base_model, inner.config
    inside = {id(module) for module in encoder.modules()}
    layers = config.num_hidden_layers
    # ALBERT runs a few groups of layers again and again.
    again = layers / getattr(config, "num_hidden_groups", layers)
    layers *= getattr(config, "inner_group_num", 1)
    body = head = 0.0
    for name, module in inner.named_modules():
        if not _multiplies(module) or "pooler" in name:
            continue  # a pooler is paid once a row, and pre-training has none
        if id(module) not in inside:
            head += module.weight.numel()
        elif "layer_groups" in name:
            body += module.weight.numel() * again
        else:
            body += module.weight.numel()
    context = float(np.square(lengths, dtype=np.float64).sum() / np.sum(lengths, dtype=np.float64))
    attention: float = 12.0 * layers * config.hidden_size * context
    return 6.0 * (body + head * predicted) + attention


def counted_flops_per_token(plan: Plan, source: Source, device: torch.device) -> float:
    """Count the FLOPs of a training step per real token by PyTorch's own counter.

    For what `flops_per_token` cannot tell from a configuration: two encoders, or an encoder and a
    decoder. A few rows, spread over the lengths, are run forward and backward one by one, so
    nothing is padded; gradients and random state are left as they were.

    Args:
        plan: What is trained; without gradients yet.
        source: Its rows.
        device: Where to compute.
    """
    order = np.argsort(source.lengths, kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, min(_COUNTED_ROWS, len(order))).astype(int)]
    forward = make_forward(plan.model.to(device), "fp32", device)
    flops = 0
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        for row in chosen:
            batch = to_tensors(plan.task.collate([source.features(int(row), 0)]), device)
            with FlopCounterMode(display=False) as counter:
                total, _ = plan.total(Pass(forward, plan.model, batch, forward(batch)))
                total.backward()  # type: ignore[no-untyped-call]
            flops += counter.get_total_flops()
    plan.model.zero_grad(set_to_none=True)
    return flops / float(source.lengths[chosen].sum())


def measure_peak(device: torch.device, precision: str, *, seconds: float = 1.0) -> float:
    """Measure the FLOPs a second of matrix products; the best of many tries.

    Args:
        device: Where to compute.
        precision: ``bf16`` or ``fp32``.
        seconds: How long to try.
    """
    size = SIZES.get(device.type, SIZES["cpu"])
    format = torch.bfloat16 if precision == "bf16" else torch.float32
    one, other = (
        torch.randn(size, size, generator=torch.Generator().manual_seed(seed)).to(device, format)
        for seed in (0, 1)
    )
    best = 0.0
    began = time.perf_counter()
    tries = 0
    clock = pick_clock(device)
    while tries < 3 or time.perf_counter() - began < seconds:
        _finish(device)
        started = clock()
        torch.mm(one, other)
        _finish(device)
        best = max(best, 2.0 * size**3 / max(clock() - started, 1e-9))
        tries += 1
    return best


def pick_clock(device: torch.device) -> Callable[[], float]:
    """Return the clock of a measurement: the processor's time, where one thread computes.

    What a single thread can do does not depend on what else runs on its core meanwhile; with
    several threads, or a GPU, only the clock on the wall knows how long they took together.
    """
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter


def peak_of_run(folder: Path, device: torch.device, precision: str) -> float:
    """Return the measured peak, kept in ``peak.json`` of the run folder for a resumed run.

    Args:
        folder: Run folder.
        device: Where the run computes; another one, or other threads, is measured anew.
        precision: ``bf16`` or ``fp32``.
    """
    path = folder / "peak.json"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    key = {"device": name, "precision": precision, "threads": torch.get_num_threads()}
    if path.is_file():
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            if {part: saved.get(part) for part in key} == key:
                return float(saved["flops_per_second"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            log.warning("%s is damaged: measuring the machine's peak again", path)
    peak = measure_peak(device, precision)
    write_json(path, {**key, "flops_per_second": peak})
    log.info("measured peak: %.0f GFLOPS (%s)", peak / 1e9, precision)
    return peak


def _multiplies(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
