"""Losses of two parameters (u, v) with a curve of minima along which the sharpness varies."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.problems.compiled import CompiledToy, output, pull
from sharpcli.problems.problem import Problem
from sharpcli.problems.regression import layout, regression
from sharpcli.rng import generator


def valley(seed: int, chunk: int, *, start: list[float], box: float) -> Problem:
    """L(u, v) = 1/2 (u v - 1)^2; at a minimum lambda_1 = Tr H = u^2 + v^2, whose least value is 2, at u = v =
    +-1.

    Training begins at `start` = [u, v] plus two numbers uniform in [-`box`, `box`] that `seed` draws. `u` and
    `v` are scores. Refuses a start that is not two numbers.
    """
    compiled = CompiledToy(_uv, _pull_uv, *_one_example(0.0, 1.0))
    return _plane(lambda w: w[0] * w[1], 1.0, compiled, seed, chunk, start, box)


def quartic(seed: int, chunk: int, *, start: list[float], box: float) -> Problem:
    """L(u, v) = 1/4 (u^2 v^2 - 1)^2; at a minimum lambda_1 = 2 (u^2 + v^2), at least 4. Its third derivative
    along the sharpest direction keeps gradient descent at lambda_1 = 2/lr, which that of problem=valley does
    not. Start and scores are those of problem=valley."""
    root = 0.5**0.5
    compiled = CompiledToy(_squared, _pull_squared, *_one_example(0.0, root))
    return _plane(lambda w: root * (w[0] * w[1]).square(), root, compiled, seed, chunk, start, box)


def two_well(seed: int, chunk: int, *, start: list[float], box: float, tilt: float) -> Problem:
    """L(u, v) = 1/2 v^2 h(u) with h(u) = 2 + (u^2 - 1)^2 + tilt u: every (u, 0) is a minimum, with Tr H =
    h(u).

    The wells of h are near u = -1 and u = 1, and that near -1 is deeper for tilt > 0; the flow of u down h
    ends in the well on its side of h's local maximum. Start and scores are those of problem=valley. Refuses
    |tilt| above 1: one well vanishes at |tilt| = 8 / (3 sqrt 3) = 1.54.
    """
    if abs(tilt) > 1:
        raise Refusal(f"problem.tilt={tilt}: between -1 and 1, so that there are two wells")

    def f(w: Tensor) -> Tensor:
        return w[1] * (2 + (w[0].square() - 1).square() + tilt * w[0]).sqrt()

    compiled = CompiledToy(_wells, _pull_wells, *_one_example(tilt, 0.0))
    return _plane(f, 0.0, compiled, seed, chunk, start, box)


def _one_example(z: float, y: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The only example of a loss of two parameters: its input [1, 1] and its label [1]."""
    return np.full((1, 1), z, dtype=np.float64), np.full(1, y, dtype=np.float64)


def _plane(
    f: Callable[[Tensor], Tensor],
    y: float,
    compiled: CompiledToy,
    seed: int,
    chunk: int,
    start: list[float],
    box: float,
) -> Problem:
    """The problem 1/2 (f(w) - y)^2 of w = (u, v), f scalar, and the same as `compiled` functions; `start` and
    `box` as in `valley`."""
    if len(start) != 2:
        raise Refusal(f"problem.start={list(start)}: there are two parameters; give [u, v]")
    w0 = torch.tensor(start, dtype=torch.float64)
    w0 = w0 + box * (2 * torch.rand(2, generator=generator(seed, "start", 0), dtype=torch.float64) - 1)
    x, target = torch.zeros(1, 1, dtype=torch.float64), torch.full((1, 1), y, dtype=torch.float64)
    return regression(
        lambda w, x: f(w)[None, None].expand(len(x), 1),
        w0,
        x,
        target,
        chunk,
        layout(w=(2,)),
        compiled=compiled,
        scores=lambda w: {"u": float(w[0]), "v": float(w[1])},
        better={"u": "neither", "v": "neither"},
    )


@output
def _uv(w, z, c):  # type: ignore[no-untyped-def]
    return w[0] * w[1]


@pull
def _pull_uv(w, z, c, s, g):  # type: ignore[no-untyped-def]
    g[0] += s * w[1]
    g[1] += s * w[0]


@output
def _squared(w, z, c):  # type: ignore[no-untyped-def]
    return 0.5**0.5 * (w[0] * w[1]) ** 2


@pull
def _pull_squared(w, z, c, s, g):  # type: ignore[no-untyped-def]
    slope = s * 2.0**0.5 * w[0] * w[1]
    g[0] += slope * w[1]
    g[1] += slope * w[0]


@output
def _wells(w, z, c):  # type: ignore[no-untyped-def]
    u = w[0]
    c[0] = (2.0 + (u * u - 1.0) ** 2 + z[0] * u) ** 0.5
    return w[1] * c[0]


@pull
def _pull_wells(w, z, c, s, g):  # type: ignore[no-untyped-def]
    u = w[0]
    g[0] += s * w[1] * (4.0 * u * (u * u - 1.0) + z[0]) / (2.0 * c[0])
    g[1] += s * c[0]
