"""Linear least squares, whose gradient descent converges to the interpolator nearest its start."""

from __future__ import annotations

import torch
from torch import Tensor

from sharpcli.data import Dataset
from sharpcli.errors import Refusal
from sharpcli.problems.compiled import CompiledToy, descend, output, pull
from sharpcli.problems.problem import Problem
from sharpcli.problems.regression import layout, normal, regression, users_own


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
    """L(w) = (1/2n) |A w - b|^2, A [n, d] normal and scaled so that lambda_1 = 1, b = A beta + `noise` N(0,
    1); w0 is `spread` times a normal vector of `seed`. With data=table A and b are a file's, as they are.

    With n < d there are many interpolators; gradient descent reaches w0 + A^+ (b - A w0), and
    `interpolator_error` is the distance from it, `min_norm_error` from A^+ b, which forgets the start; both
    relative. Refuses sizes below 1.
    """
    if min(d, n) < 1:
        raise Refusal(f"problem.d={d} problem.n={n}: both at least 1")
    if data is None:
        A, b = _drawn(d, n, noise, seed if instance is None else instance)
    else:
        A, right = users_own(data, 2, "least_squares")
        b, d = right[:, 0], A.shape[1]
    w0 = spread * normal((d,), seed, "start")
    nearest, least = w0 + torch.linalg.pinv(A) @ (b - A @ w0), torch.linalg.pinv(A) @ b

    def scores(w: Tensor) -> dict[str, float]:
        return {
            "interpolator_error": float((w - nearest.to(w)).norm() / nearest.norm()),
            "min_norm_error": float((w - least.to(w)).norm() / least.norm()),
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
    A = normal((n, d), instance, "least-squares")
    A = A * (n**0.5 / torch.linalg.matrix_norm(A, 2))
    return A, A @ normal((d,), instance, "least-squares-truth") + noise * normal(
        (n,), instance, "least-squares-noise"
    )


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
