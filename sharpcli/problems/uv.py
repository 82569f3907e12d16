"""Sparse regression through f(z) = <u*u - v*v, z>: the model of Woodworth et al. 2020 and of Li, Wang & Arora 2022,
arXiv:2110.06914, section 6, whose flattest interpolators have the least l1 norm."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from sharpcli.data import Dataset
from sharpcli.errors import Refusal
from sharpcli.kernel import Kernel, descend, output, pull
from sharpcli.problem import Problem
from sharpcli.rng import generator
from sharpcli.toys import layout, normal, own, regression, signs, sparsest


def uv(
    seed: int,
    chunk: int,
    data: Dataset | None,
    *,
    d: int,
    n: int,
    k: int,
    inputs: Literal["signs", "normal"],
    start: float,
    spread: float,
    rows: Any,
    instance: int | None,
) -> Problem:
    """n examples z in {-1, 1}^d (or N(0, 1)) with y = <beta, z>, beta having k entries +-1 and zeros else, all drawn
    from `instance`.

    `rows` are one's own examples, [[z_1, ..., z_d, y], ...], or with data=table a file's; the truth is then the interpolator
    of least l1 norm.
    w = (u, v) [2d], every entry `start` + `spread` times a normal number of `seed`. On the interpolators, for inputs +-1,
    Tr H = 4 (|u|^2 + |v|^2). `recovery_error` is |u*u - v*v - beta|^2 / |beta|^2. Refuses sizes below 1, k above d, rows that
    are not n lists of d + 1 numbers, and a start at 0, from where no coordinate moves.
    """
    if data is not None and rows is not None:
        raise Refusal("problem.rows and data=table are both one's own examples; give one of them")
    if data is not None:
        x, y = own(data, 2, "uv")
        (n, d), k = x.shape, 1
    if min(d, n, k) < 1 or k > d:
        raise Refusal(f"problem.d={d} problem.n={n} problem.k={k}: all at least 1, and k at most d")
    if start == 0 and spread == 0:
        raise Refusal("problem.start=0: the gradient vanishes there and no coordinate ever moves; take another")
    instance = seed if instance is None else instance
    rng = generator(instance, "uv", 0)
    if data is None and rows is None:
        x = signs((n, d), instance, "uv-inputs") if inputs == "signs" else normal((n, d), instance, "uv-inputs")
        beta = torch.zeros(d, dtype=torch.float64)
        beta[torch.randperm(d, generator=rng)[:k]] = signs((k,), instance, "uv-truth")
        y = (x @ beta)[:, None]
    else:
        if rows is not None:
            x, y = _own(rows, n, d)
        beta = sparsest(x, y, "uv")
    w0 = torch.full((2 * d,), start, dtype=torch.float64)
    if spread:
        w0 += spread * normal((2 * d,), seed, "start")

    def predict(w: Tensor, x: Tensor) -> Tensor:
        u, v = w[:d], w[d:]
        return (x @ (u.square() - v.square()))[:, None]

    def found(w: Tensor) -> Tensor:
        u, v = w[:d], w[d:]
        return u.square() - v.square()

    return regression(
        predict,
        w0,
        x,
        y,
        chunk,
        layout(u=(d,), v=(d,)),
        kernel=Kernel(_output, _pull, x.numpy(), y[:, 0].numpy(), descend=_descend),
        scores=lambda w: {"recovery_error": float((found(w) - beta.to(w)).square().sum() / beta.square().sum())},
        norms=lambda w: {"l1_norm": float(found(w).abs().sum())},
    )


def _own(rows: Any, n: int, d: int) -> tuple[Tensor, Tensor]:
    try:
        table = torch.tensor(rows, dtype=torch.float64)
    except (TypeError, ValueError):
        table = torch.empty(0)
    if table.shape != (n, d + 1) or not torch.isfinite(table).all():
        raise Refusal(
            f"problem.rows={rows}: with problem.n={n} and problem.d={d} give {n} lists of {d + 1} numbers, y the last"
        )
    return table[:, :d].contiguous(), table[:, d:].contiguous()


@output
def _output(w, z, c):  # type: ignore[no-untyped-def]
    d, f = z.size, 0.0
    for j in range(d):
        f += (w[j] * w[j] - w[d + j] * w[d + j]) * z[j]
    return f


@pull
def _pull(w, z, c, s, g):  # type: ignore[no-untyped-def]
    d = z.size
    for j in range(d):
        g[j] += 2 * s * w[j] * z[j]
        g[d + j] -= 2 * s * w[d + j] * z[j]


@descend
def _descend(w, z, s, ahead):  # type: ignore[no-untyped-def]
    d, f = z.size, 0.0
    for j in range(d):
        u, v = w[j] + 2 * s * w[j] * z[j], w[d + j] - 2 * s * w[d + j] * z[j]
        w[j], w[d + j] = u, v
        f += (u * u - v * v) * ahead[j]
    return f
