"""Toys as compiled functions, and the one compiled loop: gradient descent, momentum and SAM on batches of noisy labels.

A toy's file states what one example's output is and what its gradient is; `run` here advances the weights by millions of
steps between two measurements, with the draws of `rng.py`, so that the trajectory is that of the general path up to
rounding. Everything is compiled once and kept on disk by numba.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import boolean, float64, int64, njit, types, uint64
from numpy.typing import NDArray

from sharpcli.rng import FIRST, GOLDEN, SECOND

# sums may be reordered, so that they vectorize; numbers that are not finite stay what they are
FAST: dict[str, Any] = {
    "fastmath": {"reassoc", "contract", "nsz", "arcp"},
    "error_model": "numpy",
    "nogil": True,
    "cache": True,
}
vector, matrix = float64[::1], float64[:, ::1]
OUTPUT, PULL = float64(vector, vector, vector), types.void(vector, vector, vector, float64, vector)
DESCEND = float64(vector, vector, float64, vector)
HUGE = 1e100  # of a residual: from here on every step looks whether the weights are still finite
SIGNS, UNIFORM, NORMAL, STUDENT = 0, 1, 2, 3


def output(function: Callable[..., float]) -> Any:
    """Compiles f(w, z, c), the output of one example z at w; `c` is scratch, which the gradient may read afterwards."""
    return njit(OUTPUT, **FAST)(function)


def pull(function: Callable[..., None]) -> Any:
    """Compiles p(w, z, c, s, g): g += s grad f(w; z), called right after f at the same w and z with its scratch."""
    return njit(PULL, **FAST)(function)


def descend(function: Callable[..., float]) -> Any:
    """Compiles p(w, z, s, ahead): w += s grad f(w; z) in place, then f(w; ahead): a step and the output of the next example in
    one pass over w, for toys whose coordinates move by themselves."""
    return njit(DESCEND, **FAST)(function)


@dataclass(frozen=True)
class Kernel:
    """A toy with half squared loss and one output: its compiled functions, x [n, .], y [n], and the size of its scratch."""

    output: Any
    pull: Any
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    scratch: int = 1
    descend: Any = None


@dataclass(frozen=True)
class Noise:
    """y + delta_t: of a size and a kind, one for each example or one `shared` by the batch; `key` names its draws."""

    delta: float = 0.0
    kind: int = SIGNS
    shared: bool = False
    key: int = 0


@dataclass(frozen=True)
class Rule:
    """v <- beta v + g, w <- w - lr v (lr (g + beta v) for Nesterov), g at w + rho g / |g| for SAM (w + rho g if not
    normalized)."""

    beta: float = 0.0
    nesterov: bool = False
    rho: float = 0.0
    normalized: bool = True


@dataclass(frozen=True)
class Steps:
    """A toy, its batches (all examples where `batch` is n, in an order drawn each epoch or with replacement, of `key`),
    label noise and a rule: all that a step is."""

    kernel: Kernel
    batch: int
    replacement: bool
    key: int
    noise: Noise
    rule: Rule
    lr: float

    def run(self, w: NDArray[np.float64], v: NDArray[np.float64], start: int, stop: int) -> int:
        """Advances w and the momentum v in place from step `start` to `stop`; returns the step reached, which is earlier
        where the weights are no longer finite. Holds no lock of the interpreter."""
        k, noise, rule = self.kernel, self.noise, self.rule
        key, noise_key = np.uint64(self.key), np.uint64(noise.key)
        if k.descend is not None and self.batch == 1 and rule == Rule():
            drawn = self.replacement, key, noise.delta, noise.kind, noise_key
            return _walk(k.descend, k.x, k.y, w, start, stop, *drawn, self.lr)
        return _loop(
            *(k.output, k.pull, k.x, k.y, k.scratch, w, v, start, stop),
            *(self.batch, self.replacement, key),
            *(noise.delta, noise.kind, noise.shared, noise_key),
            *(self.lr, rule.beta, rule.nesterov, rule.rho, rule.normalized),
        )


@njit(uint64(uint64, uint64, uint64), inline="always", **FAST)
def _word(key, step, i):  # type: ignore[no-untyped-def]
    x = key + np.uint64(GOLDEN) * ((step << np.uint64(32)) + i + np.uint64(1))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(FIRST)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(SECOND)
    return x ^ (x >> np.uint64(31))


@njit(int64(uint64, uint64, int64, int64), inline="always", **FAST)
def _any(key, step, b, n):  # type: ignore[no-untyped-def]
    return int64(((_word(key, step, np.uint64(b)) >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32))


@njit(float64(int64, uint64, uint64, int64), inline="always", **FAST)
def _noise(kind, key, step, i):  # type: ignore[no-untyped-def]
    if kind == SIGNS:
        word = _word(key, step, np.uint64(i >> 6))
        return 2.0 * float((word >> np.uint64(i & 63)) & np.uint64(1)) - 1.0
    if kind == UNIFORM:
        return float(_word(key, step, np.uint64(i)) >> np.uint64(11)) * 2.0**-52 - 1.0
    if kind == STUDENT:
        p = (float(_word(key, step, np.uint64(i)) >> np.uint64(11)) + 0.5) * 2.0**-53
        root = math.sqrt(4 * p * (1 - p))
        t = math.sqrt(2 * max(math.cos(math.acos(min(root, 1.0)) / 3) / root - 1, 0.0))
        return t if p > 0.5 else -t
    a = float(_word(key, step, np.uint64(2 * i)) >> np.uint64(11)) * 2.0**-53
    b = float(_word(key, step, np.uint64(2 * i + 1)) >> np.uint64(11)) * 2.0**-53
    return math.sqrt(-2.0 * math.log1p(-a)) * math.cos(2 * math.pi * b)


@njit(types.void(int64[::1], uint64, int64), **FAST)
def _shuffle(order, key, epoch):  # type: ignore[no-untyped-def]
    n = order.size
    for i in range(n):
        order[i] = i
    for i in range(n):
        word = _word(key, np.uint64(epoch), np.uint64(i)) >> np.uint64(32)
        j = i + int64((word * np.uint64(n - i)) >> np.uint64(32))
        order[i], order[j] = order[j], order[i]


@njit(
    int64(
        *(types.FunctionType(DESCEND), matrix, vector, vector, int64, int64),
        *(boolean, uint64, float64, int64, uint64, float64),
    ),
    **FAST,
)
def _walk(descend, x, y, w, start, stop, replacement, key, delta, kind, noise_key, lr):  # type: ignore[no-untyped-def]
    """Plain descent on one example a step: w <- w - lr r grad f(w; x_i), r = f(w; x_i) - y_i - noise.

    Each pass over w does the step before and finds the output for the next; the first step before is one of length zero, and
    what is drawn for `stop` itself is not used.
    """
    n, order, epoch = y.size, np.arange(y.size), -1
    before, s = 0, 0.0
    for step in range(start, stop + 1):
        at = np.uint64(step)
        if replacement:
            i = _any(key, at, 0, n)
        else:
            if step // n != epoch:
                epoch = step // n
                _shuffle(order, key, epoch)
            i = order[step % n]
        r = descend(w, x[before], s, x[i]) - y[i]
        if not abs(r) < HUGE and not math.isfinite(np.sum(w)):
            return step
        if delta != 0.0:
            r -= delta * _noise(kind, noise_key, at, 0)
        before, s = i, -lr * r
    return stop


@njit(
    float64(types.FunctionType(OUTPUT), types.FunctionType(PULL), matrix, vector, int64[::1], vector, vector, vector, vector),
    **FAST,
)
def _gradient(output, pull, x, y, rows, noise, w, c, g):  # type: ignore[no-untyped-def]
    """g = (1/B) sum_b (f(w; x_b) - y_b - noise_b) grad f(w; x_b); returns the largest residual."""
    g[:] = 0.0
    largest = 0.0
    for b in range(rows.size):
        i = rows[b]
        r = output(w, x[i], c) - y[i] - noise[b]
        pull(w, x[i], c, r / rows.size, g)
        if not abs(r) <= largest:
            largest = abs(r)
    return largest


@njit(
    int64(
        *(types.FunctionType(OUTPUT), types.FunctionType(PULL)),
        *(matrix, vector, int64, vector, vector, int64, int64),
        *(int64, boolean, uint64, float64, int64, boolean, uint64),
        *(float64, float64, boolean, float64, boolean),
    ),
    **FAST,
)
def _loop(  # type: ignore[no-untyped-def]  # noqa: PLR0912
    output, pull,
    x, y, scratch, w, v, start, stop,
    batch, replacement, key, delta, kind, shared, noise_key,
    lr, beta, nesterov, rho, normalized,
):  # fmt: skip
    n, per_epoch = y.size, -(-y.size // batch)
    order, rows, noise = np.arange(n), np.arange(batch), np.zeros(batch)
    c, g, up = np.zeros(scratch), np.zeros_like(w), np.zeros_like(w)
    epoch = -1
    for step in range(start, stop):
        at = np.uint64(step)
        if replacement:
            for b in range(batch):
                rows[b] = _any(key, at, b, n)
        elif batch < n:
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                _shuffle(order, key, epoch)
            first = step % per_epoch * batch
            rows = order[first : min(first + batch, n)]
        if delta != 0.0:
            for b in range(rows.size):
                noise[b] = delta * _noise(kind, noise_key, at, 0 if shared else b)
        largest = _gradient(output, pull, x, y, rows, noise, w, c, g)
        if rho != 0.0:
            scale = rho / max(math.sqrt(np.sum(g * g)), 1e-12) if normalized else rho
            for j in range(w.size):
                up[j] = w[j] + scale * g[j]
            largest = max(largest, _gradient(output, pull, x, y, rows, noise, up, c, g))
        if beta != 0.0:
            for j in range(w.size):
                v[j] = beta * v[j] + g[j]
                w[j] -= lr * (g[j] + beta * v[j] if nesterov else v[j])
        else:
            for j in range(w.size):
                w[j] -= lr * g[j]
        if not largest < HUGE and not math.isfinite(np.sum(w)):
            return step + 1
    return stop
