"""The one compiled loop of all toys: gradient descent, momentum and SAM on batches of noisy labels.

With the draws of `rng` its trajectory is that of the general path (`engine.steps`) up to rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import float64, int64, njit, typeof, types
from numpy.typing import NDArray

from sharpcli.objectives import Noise
from sharpcli.optimizers import Rule
from sharpcli.problems.compiled import DESCEND, OUTPUT, PULL, CompiledToy, matrix, vector
from sharpcli.rng.laws import FAST, choice, draw, shuffle

NO_NOISE, PLAIN_DESCENT = Noise(), Rule()
HUGE = 1e100  # of a residual: from here on every step looks whether the weights are still finite


class Batches(NamedTuple):
    """The examples of a step: `size` of n, in an order drawn each epoch or with replacement; `key` names the
    draws."""

    size: int
    replacement: bool = False
    key: int = 0


class Examples(NamedTuple):
    """x [n, .] and y [n] of a toy."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]


@dataclass(frozen=True)
class Steps:
    """All that a step of a compiled toy is, but for its learning rate."""

    toy: CompiledToy
    batch_size: int
    replacement: bool = False
    key: int = 0
    noise: Noise = NO_NOISE
    rule: Rule = PLAIN_DESCENT

    def run(
        self, w: NDArray[np.float64], v: NDArray[np.float64], start: int, stop: int, lr: NDArray[np.float64]
    ) -> int:
        """Advances w and the momentum v in place from step `start` to `stop`, by `lr` [stop - start]; returns
        the step reached, which is earlier where the weights are no longer finite. Holds no lock of the
        interpreter."""
        toy, noise, rule = self.toy, _typed_noise(self.noise), _typed_rule(self.rule)
        batches = Batches(self.batch_size, self.replacement, np.uint64(self.key))  # type: ignore[arg-type]
        examples = Examples(toy.x, toy.y)
        if toy.descend is not None and self.batch_size == 1 and self.rule == PLAIN_DESCENT:
            return _walk(toy.descend, examples, batches, noise, lr, w, start, stop)
        return _loop(toy.output, toy.pull, toy.scratch, examples, batches, noise, rule, lr, w, v, start, stop)


def _typed_noise(noise: Noise) -> Noise:
    return Noise(float(noise.delta), noise.law, noise.shared, np.uint64(noise.key))  # type: ignore[arg-type]


def _typed_rule(rule: Rule) -> Rule:
    return Rule(float(rule.beta), rule.nesterov, float(rule.rho), rule.normalized)


BATCHES, NOISE = typeof(Batches(1, False, np.uint64(0))), typeof(_typed_noise(Noise()))  # type: ignore[arg-type]
RULE, EXAMPLES = typeof(_typed_rule(Rule())), types.NamedTuple([matrix, vector], Examples)


@njit(
    int64(types.FunctionType(DESCEND), EXAMPLES, BATCHES, NOISE, vector, vector, int64, int64),
    **FAST,
)
def _walk(descend, examples, batches, noise, lr, w, start, stop):  # type: ignore[no-untyped-def]
    """Plain descent on one example a step: w <- w - lr r grad f(w; x_i), r = f(w; x_i) - y_i - noise.

    Each pass over w does the step before and computes the output for the next; the first step before is one
    of length zero, and what is drawn for `stop` itself is not used.
    """
    x, y, n = examples.x, examples.y, examples.y.size
    order, epoch = np.arange(n), -1
    before, s = 0, 0.0
    for step in range(start, stop + 1):
        if batches.replacement:
            i = choice(batches.key, np.uint64(step), 0, n)
        else:
            if step // n != epoch:
                epoch = step // n
                shuffle(order, batches.key, epoch)
            i = order[step % n]
        r = descend(w, x[before], s, x[i]) - y[i]
        if not abs(r) < HUGE and not math.isfinite(np.sum(w)):
            return step
        if step == stop:
            break
        if noise.delta != 0.0:
            r -= noise.delta * draw(noise.law, noise.key, np.uint64(step), 0)
        before, s = i, -lr[step - start] * r
    return stop


@njit(
    float64(
        types.FunctionType(OUTPUT),
        types.FunctionType(PULL),
        EXAMPLES,
        int64[::1],
        vector,
        vector,
        vector,
        vector,
    ),
    **FAST,
)
def _gradient(output, pull, examples, rows, xi, w, c, g):  # type: ignore[no-untyped-def]
    """g = (1/B) sum_b (f(w; x_b) - y_b - xi_b) grad f(w; x_b); returns the largest residual."""
    g[:] = 0.0
    largest = 0.0
    for b in range(rows.size):
        i = rows[b]
        r = output(w, examples.x[i], c) - examples.y[i] - xi[b]
        pull(w, examples.x[i], c, r / rows.size, g)
        if not abs(r) <= largest:
            largest = abs(r)
    return largest


@njit(
    int64(
        *(types.FunctionType(OUTPUT), types.FunctionType(PULL), int64, EXAMPLES, BATCHES, NOISE, RULE),
        *(vector, vector, vector, int64, int64),
    ),
    **FAST,
)
def _loop(output, pull, scratch, examples, batches, noise, rule, lr, w, v, start, stop):  # type: ignore[no-untyped-def]  # noqa: PLR0912
    n, size = examples.y.size, batches.size
    per_epoch, epoch = -(-n // size), -1
    order, rows, xi = np.arange(n), np.arange(size), np.zeros(size)
    c, g, ascent = np.zeros(scratch), np.zeros_like(w), np.zeros_like(w)
    for step in range(start, stop):
        at = np.uint64(step)
        if batches.replacement:
            for b in range(size):
                rows[b] = choice(batches.key, at, b, n)
        elif size < n:
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                shuffle(order, batches.key, epoch)
            first = step % per_epoch * size
            rows = order[first : min(first + size, n)]
        if noise.delta != 0.0:
            for b in range(rows.size):
                xi[b] = noise.delta * draw(noise.law, noise.key, at, 0 if noise.shared else b)
        largest = _gradient(output, pull, examples, rows, xi, w, c, g)
        if rule.rho != 0.0:
            scale = rule.rho / max(math.sqrt(np.sum(g * g)), 1e-12) if rule.normalized else rule.rho
            for j in range(w.size):
                ascent[j] = w[j] + scale * g[j]
            largest = max(largest, _gradient(output, pull, examples, rows, xi, ascent, c, g))
        rate = lr[step - start]
        if rule.beta != 0.0:
            for j in range(w.size):
                v[j] = rule.beta * v[j] + g[j]
                w[j] -= rate * (g[j] + rule.beta * v[j] if rule.nesterov else v[j])
        else:
            for j in range(w.size):
                w[j] -= rate * g[j]
        if not largest < HUGE and not math.isfinite(np.sum(w)):
            return step + 1
    return stop
