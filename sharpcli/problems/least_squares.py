"""Linear least squares, where gradient descent converges to the interpolator that is nearest to its start."""

from __future__ import annotations

import torch
from torch import Tensor

from sharpcli.data import Dataset
from sharpcli.errors import Refusal
from sharpcli.problems.compiled import CompiledToy, descend, output, pull
from sharpcli.problems.problem import Problem
from sharpcli.problems.regression import layout, normal, regression, users_examples


def least_squares(
    seed: int,
    chunk: int,
    data: Dataset | None,
    *,
    d: int,
    n: int,
    spread: float,
    noise: float,
    instance: int | None,
) -> Problem:
    """L(w) = (1/2n) |A w - b|^2 with A [n, d] normal, scaled so that lambda_1 = 1, and b = A beta + `noise`
    N(0, I) [n]; w0 [d] is `spread` times a normal vector of `seed`. A, beta and the noise are drawn from
    `instance`, the seed by default; with data=table A and b are the file's Z and y, unscaled.

    With n < d there are many interpolators, of which gradient descent reaches w0 + A^+ (b - A w0).
    `interpolator_error` is the distance from it, `min_norm_error` that from A^+ b, which does not depend on
    the start; both are relative. Refuses sizes below 1.
    """
    if min(d, n) < 1:
        raise Refusal(f"problem.d={d} problem.n={n}: both at least 1")
    if data is None:
        A, b = _drawn(d, n, noise, seed if instance is None else instance)
    else:
        A, y = users_examples(data, 2, "least_squares")
        b, d = y[:, 0], A.shape[1]
    w0 = spread * normal((d,), seed, "start")
    nearest, of_least_norm = w0 + torch.linalg.pinv(A) @ (b - A @ w0), torch.linalg.pinv(A) @ b

    def scores(w: Tensor) -> dict[str, float]:
        return {
            "interpolator_error": float((w - nearest.to(w)).norm() / nearest.norm()),
            "min_norm_error": float((w - of_least_norm.to(w)).norm() / of_least_norm.norm()),
        }

    compiled = CompiledToy(_output, _pull, A.numpy(), b.numpy(), descend=_descend)
    return regression(
        lambda w, x: (x @ w)[:, None],
        w0,
        A,
        b[:, None],
        chunk,
        layout(w=(d,)),
        compiled=compiled,
        scores=scores,
        better={"interpolator_error": "lower"},
    )


def _drawn(d: int, n: int, noise: float, instance: int) -> tuple[Tensor, Tensor]:
    """A [n, d] and b [n] of the seed `instance`."""
    A = normal((n, d), instance, "least-squares")
    A = A * (n**0.5 / torch.linalg.matrix_norm(A, 2))
    beta = normal((d,), instance, "least-squares-truth")
    return A, A @ beta + noise * normal((n,), instance, "least-squares-noise")


@output
def _output(w, z, c):  # type: ignore[no-untyped-def]
    f = 0.0
    for j in range(z.size):
        f += w[j] * z[j]
    return f


@pull
def _pull(w, z, c, s, g):  # type: ignore[no-untyped-def]
    for j in range(z.size):
        g[j] += s * z[j]


@descend
def _descend(w, z, s, ahead):  # type: ignore[no-untyped-def]
    f = 0.0
    for j in range(z.size):
        w[j] += s * z[j]
        f += w[j] * ahead[j]
    return f
