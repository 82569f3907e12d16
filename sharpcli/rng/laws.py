"""The draws of `rng` in compiled code, and the laws of label noise: each law once, for compiled steps and all
others.

A law is a function (key, step, i) -> xi of mean 0. To add one, write it here with its line in `draw` and its
variance in `VARIANCES`. That each has the moments it states is tested by its words.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import float64, int64, njit, types, uint64
from numpy.typing import NDArray

from sharpcli.rng import FIRST, GOLDEN, SECOND, Stream

# sums may be reordered, so that they vectorize; numbers that are not finite stay what they are
FAST: dict[str, Any] = {
    "fastmath": {"reassoc", "contract", "nsz", "arcp"},
    "error_model": "numpy",
    "nogil": True,
    "cache": True,
}
VARIANCES = {"signs": 1.0, "uniform": 1 / 3, "normal": 1.0, "student": 1.0}
LAWS = tuple(VARIANCES)
LAW = float64(uint64, uint64, int64)


def number(law: str) -> int:
    """The number by which `draw` knows a law. Raises ValueError for an unknown name."""
    return LAWS.index(law)


def draws(law: str, stream: Stream, count: int) -> NDArray[np.float64]:
    """xi_0 ... xi_(count-1) of a law, as compiled steps draw them."""
    out: NDArray[np.float64] = _draws(number(law), np.uint64(stream.key), np.uint64(stream.step), count)
    return out


@njit(uint64(uint64, uint64, uint64), inline="always", **FAST)
def word(key, step, i):  # type: ignore[no-untyped-def]
    """Word i of 64 random bits."""
    x = key + np.uint64(GOLDEN) * ((step << np.uint64(32)) + i + np.uint64(1))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(FIRST)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(SECOND)
    return x ^ (x >> np.uint64(31))


@njit(int64(uint64, uint64, int64, int64), inline="always", **FAST)
def choice(key, step, i, n):  # type: ignore[no-untyped-def]
    """Draw i of 0 ... n - 1, with replacement."""
    return int64(((word(key, step, np.uint64(i)) >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32))


@njit(types.void(int64[::1], uint64, int64), **FAST)
def shuffle(order, key, epoch):  # type: ignore[no-untyped-def]
    """Writes the permutation of an epoch into `order`."""
    n = order.size
    for i in range(n):
        order[i] = i
    for i in range(n):
        bits = word(key, np.uint64(epoch), np.uint64(i)) >> np.uint64(32)
        j = i + int64((bits * np.uint64(n - i)) >> np.uint64(32))
        order[i], order[j] = order[j], order[i]


@njit(LAW, inline="always", **FAST)
def signs(key, step, i):  # type: ignore[no-untyped-def]
    """+-1 each with probability 1/2; variance 1."""
    bits = word(key, step, np.uint64(i >> 6))
    return 2.0 * float((bits >> np.uint64(i & 63)) & np.uint64(1)) - 1.0


@njit(LAW, inline="always", **FAST)
def uniform(key, step, i):  # type: ignore[no-untyped-def]
    """Uniform in [-1, 1); variance 1/3."""
    return float(word(key, step, np.uint64(i)) >> np.uint64(11)) * 2.0**-52 - 1.0


@njit(LAW, inline="always", **FAST)
def normal(key, step, i):  # type: ignore[no-untyped-def]
    """N(0, 1), by Box and Muller, of two words."""
    a = float(word(key, step, np.uint64(2 * i)) >> np.uint64(11)) * 2.0**-53
    b = float(word(key, step, np.uint64(2 * i + 1)) >> np.uint64(11)) * 2.0**-53
    return math.sqrt(-2.0 * math.log1p(-a)) * math.cos(2 * math.pi * b)


@njit(LAW, inline="always", **FAST)
def student(key, step, i):  # type: ignore[no-untyped-def]
    """Student's t with 4 degrees of freedom over sqrt 2: variance 1, infinite fourth moment. By its quantile
    function (Shaw 2006), q = 2 sign(p - 1/2) sqrt(cos(arccos(sqrt a)/3)/sqrt a - 1), a = 4 p (1 - p)."""
    p = (float(word(key, step, np.uint64(i)) >> np.uint64(11)) + 0.5) * 2.0**-53
    root = math.sqrt(4 * p * (1 - p))
    t = math.sqrt(2 * max(math.cos(math.acos(min(root, 1.0)) / 3) / root - 1, 0.0))
    return t if p > 0.5 else -t


@njit(float64(int64, uint64, uint64, int64), inline="always", **FAST)
def draw(law, key, step, i):  # type: ignore[no-untyped-def]
    """xi_i of the law with this number in `LAWS`."""
    if law == 0:
        return signs(key, step, i)
    if law == 1:
        return uniform(key, step, i)
    if law == 2:
        return normal(key, step, i)
    return student(key, step, i)


@njit(float64[::1](int64, uint64, uint64, int64), **FAST)
def _draws(law, key, step, count):  # type: ignore[no-untyped-def]
    out = np.empty(count)
    for i in range(count):
        out[i] = draw(law, key, step, i)
    return out
