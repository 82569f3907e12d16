"""Memory: the refusal when the device runs out of it, and glibc's malloc told to keep what a process has
freed."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import LossSurface

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
LARGE = 2**31 - 1
SIZED = ("problem", "model")  # parts whose settings say how many numbers there are


def keep_freed_memory() -> None:
    """Tells glibc's malloc to reuse blocks of any size instead of returning each to the system; elsewhere
    nothing.

    A Hessian product makes and frees hundreds of activations of tens of megabytes. By default glibc returns
    each block to the system and faults it in again: keeping freed blocks cut a product of a ResNet-20 at 256
    images from 2.1 s to 1.5 s (two cores).
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt") and hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(M_TRIM_THRESHOLD, LARGE)
        libc.mallopt(M_TOP_PAD, 2**26)


@contextmanager
def enough_to_build(config: Mapping[str, Any]) -> Iterator[None]:
    """Turns memory that runs out while the problem of a config is built into one line."""
    try:
        yield
    except (RuntimeError, MemoryError, OverflowError, ValueError) as problem:
        too_large = r"allocate memory|overflow|out of memory|Maximum allowed|too large|array is too big"
        if not isinstance(problem, MemoryError) and not re.search(too_large, str(problem)):
            raise
        parts = {
            name: {k: v for k, v in (config.get(name) or {}).items() if k != "_target_"} for name in SIZED
        }
        sizes = " ".join(f"{name}.{k}={v}" for name, values in parts.items() for k, v in values.items())
        raise Refusal(f"{sizes}: more numbers than this machine has memory for; give smaller sizes") from None


@contextmanager
def enough_memory(surface: LossSurface, device: torch.device, basis_bytes: int) -> Iterator[None]:
    """Turns memory that runs out on a device, while the loss `surface` is evaluated and a Krylov basis of
    `basis_bytes` is held, into one line that says which smaller chunk, graph or basis to try."""
    try:
        yield
    except RuntimeError as problem:  # torch.OutOfMemoryError is one; the CPU's allocator raises a plain one
        if not isinstance(problem, torch.OutOfMemoryError) and "allocate memory" not in str(problem):
            raise
        graph_gb = surface.graph_budget / 1e9
        largest = max(len(y) for _, y in surface.batches)
        raise Refusal(
            f"out of memory at {largest} examples at once and graphs of up to {graph_gb:g} GB on {device}; "
            f"try chunk={max(1, largest // 4)} graph_gb={graph_gb / 4:g}, or basis_gb={basis_bytes / 4e9:g}"
        ) from None
