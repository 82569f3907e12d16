"""Sets of interpolators for labels drawn at random, and for labels at which such a set has a singular
point."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.optimize import least_squares

from sharpcli.claims.tables import Array, sparse_instance
from sharpcli.theory.convex import least_l1

NEARBY = 1e-6  # standard deviation of the weights of the cloud around a point
RANK_CUT = 1e-6  # of the largest singular value: beyond it one counts for the rank
ZERO = 1e-8  # entries of the linear program's solution below it are rounding
NEWTON_STEPS = 100
STARTS = 20  # of the network, at most
NEAR_COST = 1e-6  # half the squared residuals from which Gauss-Newton steps converge
INPUTS = 3  # dimensions of the network's inputs


class Model(NamedTuple):
    """Outputs F(x) [n] of weights x [D], and their Jacobian J(x) [n, D]."""

    outputs: Callable[[Array], Array]
    jacobian: Callable[[Array], Array]


def label_genericity(
    *,
    model: Literal["uv", "tanh"],
    labels: Literal["random", "singular"],
    n: int,
    width: int,
    draws: int,
    seeds: list[int],
) -> list[dict[str, Any]]:
    """A row for each seed and each of `draws` vectors of n labels y: the set {x : F(x) = y} at one point.

    `uv`: F = Z (u*u - v*v), Z [n, `width`] of signs, D = 2 `width`; the point is the interpolator of least
    trace, by a linear program. Labels are N(0, 1), or, `singular`, those of a vector with two entries that
    are not 0. `tanh`: F_i = sum_j a_j tanh(W_j.z_i) with `width` neurons on inputs of 3 dimensions; labels
    are N(0, 1) and the point is reached from a random start, or, `singular`, labels and point are 0.

    Columns: `rank`, of J(x), by singular values above 1e-6 of the largest; `dimension` of the set around x,
    without J: how many singular values of a cloud of interpolators, to which points at a distance of about
    1e-6 sqrt(D) are projected, are of the cloud's size and not of its square; `parameters`, D.
    """
    rows = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        for _ in range(draws):
            function, x, y = (_uv if model == "uv" else _tanh)(rng, n, width, labels == "singular")
            D = len(x)
            moved = x + NEARBY * rng.normal(size=(4 * D, D))
            cloud = np.array([_projected(function, start, y) for start in moved]) - x
            spread = np.linalg.svd(cloud, compute_uv=False) / (NEARBY * len(cloud) ** 0.5)
            rows.append(
                {
                    "seed": seed,
                    "rank": _rank(function.jacobian(x)),
                    "dimension": int((spread > NEARBY**0.5).sum()),
                    "parameters": D,
                }
            )
    return rows


def _uv(rng: np.random.Generator, n: int, d: int, singular: bool) -> tuple[Model, Array, Array]:
    Z, beta = sparse_instance(rng, n, d, 2)
    y = Z @ beta if singular else rng.normal(size=n)
    w = least_l1(Z, y)[0]
    w[np.abs(w) < ZERO] = 0
    x = np.sqrt(np.concatenate([np.maximum(w, 0), np.maximum(-w, 0)]))

    def outputs(x: Array) -> Array:
        return np.asarray(Z @ (x[:d] ** 2 - x[d:] ** 2))

    def jacobian(x: Array) -> Array:
        return 2 * np.hstack([Z * x[:d], -Z * x[d:]])

    return Model(outputs, jacobian), x, y


def _tanh(rng: np.random.Generator, n: int, width: int, singular: bool) -> tuple[Model, Array, Array]:
    z = rng.normal(size=(n, INPUTS))

    def active(x: Array) -> Array:
        return np.tanh(z @ x[width:].reshape(width, INPUTS).T)

    def outputs(x: Array) -> Array:
        return np.asarray(active(x) @ x[:width])

    def jacobian(x: Array) -> Array:
        t = active(x)
        inner = ((1 - t**2) * x[:width])[:, :, None] * z[:, None, :]
        return np.hstack([t, inner.reshape(n, -1)])

    model, start = Model(outputs, jacobian), rng.normal(size=width * (1 + INPUTS))
    if singular:
        return model, np.zeros_like(start), np.zeros(n)
    y = rng.normal(size=n)
    for _ in range(STARTS):
        reached = least_squares(lambda x: outputs(x) - y, start, jacobian)
        if reached.cost < NEAR_COST:
            break
        start = rng.normal(size=len(start))  # a local minimum that does not fit
    return model, _projected(model, reached.x, y), y


def _projected(model: Model, x: Array, y: Array) -> Array:
    """The interpolator that Gauss-Newton steps of least norm reach from x; raises RuntimeError where they
    reach none."""
    for _ in range(NEWTON_STEPS):
        residual = model.outputs(x) - y
        if np.abs(residual).max() < 1e-13 * max(1.0, np.abs(y).max()):
            return x
        x = x - np.linalg.lstsq(model.jacobian(x), residual, rcond=1e-12)[0]
    if np.abs(model.outputs(x) - y).max() > 1e-9:
        raise RuntimeError("Gauss-Newton steps reached no interpolator")
    return x


def _rank(J: Array) -> int:
    values = np.linalg.svd(J, compute_uv=False)
    return int((values > RANK_CUT * values[0]).sum()) if values[0] else 0
