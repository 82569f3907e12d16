"""A toy as compiled functions: what one example's output is, and what its gradient is.

`compiled_loop` advances the weights by millions of steps with them. Everything is compiled once and kept on
disk by numba.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import float64, njit, types
from numpy.typing import NDArray

from sharpcli.rng.laws import FAST

vector, matrix = float64[::1], float64[:, ::1]
OUTPUT, PULL = float64(vector, vector, vector), types.void(vector, vector, vector, float64, vector)
DESCEND = float64(vector, vector, float64, vector)


def output(function: Callable[..., float]) -> Any:
    """Compiles f(w, z, c), the output of one example z at w; `c` is scratch, which the gradient may read
    afterwards."""
    return njit(OUTPUT, **FAST)(function)


def pull(function: Callable[..., None]) -> Any:
    """Compiles p(w, z, c, s, g): g += s grad f(w; z), called right after f at the same w and z with its
    scratch."""
    return njit(PULL, **FAST)(function)


def descend(function: Callable[..., float]) -> Any:
    """Compiles p(w, z, s, ahead): w += s grad f(w; z) in place, then f(w; ahead): a step and the output of
    the next example in one pass over w, for toys whose coordinates move by themselves."""
    return njit(DESCEND, **FAST)(function)


@dataclass(frozen=True)
class CompiledToy:
    """A toy with half squared loss and one output: its compiled functions, x [n, .], y [n], and the size of
    its scratch."""

    output: Any
    pull: Any
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    scratch: int = 1
    descend: Any = None
