"""How this process gets its memory: freed blocks are kept, since giving them back to the system costs page
faults."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
LARGE = 2**31 - 1


def keep_freed_memory() -> None:
    """Tells glibc's malloc to reuse blocks of any size instead of returning each to the system; elsewhere
    nothing.

    A Hessian product makes and frees hundreds of activations of tens of megabytes. Every one was mapped,
    faulted in page by page, and unmapped: a product of a ResNet-20 at 256 images took 2.1 s, and takes 1.5 s
    so (two cores).
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt") and hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(M_TRIM_THRESHOLD, LARGE)
        libc.mallopt(M_TOP_PAD, 2**26)
