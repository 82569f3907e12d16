"""Memory: the refusal when the device runs out of it, and glibc's malloc told to keep what a process has
freed."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import LossSurface

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
LARGE = 2**31 - 1


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
