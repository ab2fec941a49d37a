"""Device, number format and threads: what the machine is good at."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from contextlib import AbstractContextManager

import torch

from easynlp.errors import ConfigError

__all__ = ["autocast", "pick_device", "resolve_precision", "tune_allocator"]


def pick_device(name: str = "auto", local_rank: int = 0) -> torch.device:
    """Return the device to train on: a GPU if there is one, else the CPU.

    Raises:
        ConfigError: If the named device does not exist here.
    """
    if name == "auto":
        found = torch.cuda.is_available()
        return torch.device("cuda", local_rank) if found else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f'unknown device "{name}": try auto, cpu, cuda or cuda:1') from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f'device "{name}" was asked for, but torch sees no GPU here')
    return device


def resolve_precision(name: str, device: torch.device) -> str:
    """Return ``bf16`` or ``fp32``; ``auto`` takes bf16 where the hardware multiplies it natively.

    Emulated bf16 is slower than fp32, so a CPU must have AVX512-BF16 or AMX.
    """
    if name not in ("auto", "bf16", "fp32"):
        raise ConfigError(f'unknown precision "{name}". Known: auto, bf16, fp32')
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    cpu = torch.cpu
    native = any(
        getattr(cpu, probe, lambda: False)()
        for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return "bf16" if native else "fp32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which forward passes run."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def tune_allocator() -> bool:
    """Tell glibc to keep freed memory: training on a CPU spends half its time without this.

    Every step allocates and frees the same large activations. By default glibc maps and
    unmaps them, and the kernel clears the pages each time. Called once by the command line
    before the first tensor; the price is that the process does not shrink again.

    Returns:
        Whether anything was set (glibc on Linux only, and not where the user has set
        ``MALLOC_MMAP_MAX_`` or preloaded another allocator).
    """
    if not sys.platform.startswith("linux"):
        return False
    if os.environ.get("LD_PRELOAD") or "MALLOC_MMAP_MAX_" in os.environ:
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    done = [mallopt(mmap_max, 0), mallopt(trim_threshold, 2**31 - 1), mallopt(top_pad, 64 << 20)]
    return all(done)
