"""Sparse regression through an elementwise product, f(z) = <u*v, z>, or a square, f(z) = <v*v, z> (HaoChen et
al. 2021, arXiv:2006.08680)."""

from __future__ import annotations

import torch
from torch import Tensor

from sharpcli.data import Dataset
from sharpcli.errors import Refusal
from sharpcli.problems.compiled import CompiledToy, descend, output, pull
from sharpcli.problems.problem import Problem
from sharpcli.problems.regression import layout, normal, regression, signs, sparsest, users_own
from sharpcli.rng import generator


def hadamard(
    seed: int,
    chunk: int,
    data: Dataset | None,
    *,
    d: int,
    n: int,
    k: int,
    start: float,
    spread: float,
    instance: int | None,
) -> Problem:
    """f(z) = <u*v, z>, w = (u, v) [2d]; data, start and refusals as for problem=uv, but u and v at the same
    start s give <s^2, z>: u*v begins at s^2 and not at 0."""
    x, y, beta = _data(data, d, n, k, seed if instance is None else instance, "hadamard", positive=False)
    d = x.shape[1]

    def vector(w: Tensor) -> Tensor:
        u, v = w.split(d)
        return u * v

    return regression(
        lambda w, x: (x @ vector(w))[:, None],
        _start(2 * d, start, spread, seed),
        x,
        y,
        chunk,
        layout(u=(d,), v=(d,)),
        compiled=CompiledToy(_product, _pull_product, x.numpy(), y[:, 0].numpy()),
        scores=lambda w: {
            "recovery_error": float((vector(w) - beta.to(w)).square().sum() / beta.square().sum())
        },
        better={"recovery_error": "lower"},
        norms=lambda w: {"l1_norm": float(vector(w).abs().sum())},
    )


def squares(
    seed: int,
    chunk: int,
    data: Dataset | None,
    *,
    d: int,
    n: int,
    k: int,
    start: float,
    spread: float,
    instance: int | None,
) -> Problem:
    """f(z) = <v*v, z>, w = v [d], with a truth of k ones, or for one's own data the least l1 norm without
    negative entries; on the interpolators, for inputs +-1, Tr H = 4 |v|^2."""
    x, y, beta = _data(data, d, n, k, seed if instance is None else instance, "squares", positive=True)
    d = x.shape[1]
    return regression(
        lambda w, x: (x @ w.square())[:, None],
        _start(d, start, spread, seed),
        x,
        y,
        chunk,
        layout(v=(d,)),
        compiled=CompiledToy(_square, _pull_square, x.numpy(), y[:, 0].numpy(), descend=_descend_square),
        scores=lambda w: {
            "recovery_error": float((w.square() - beta.to(w)).square().sum() / beta.square().sum())
        },
        better={"recovery_error": "lower"},
        norms=lambda w: {"l1_norm": float(w.square().sum())},
    )


def _data(
    data: Dataset | None, d: int, n: int, k: int, instance: int, name: str, positive: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """x [n, d], y [n, 1] and the truth [d]: one's own, or drawn."""
    if data is not None:
        x, y = users_own(data, 2, name)
        return x, y, sparsest(x, y, name, positive)
    if min(d, n, k) < 1 or k > d or n >= d:
        raise Refusal(
            f"problem.d={d} problem.n={n} problem.k={k}: all at least 1, k at most d, and n below d"
        )
    x, beta = signs((n, d), instance, "hadamard-inputs"), torch.zeros(d, dtype=torch.float64)
    truth = torch.ones(k, dtype=torch.float64) if positive else signs((k,), instance, "hadamard-truth")
    beta[torch.randperm(d, generator=generator(instance, "hadamard", 0))[:k]] = truth
    return x, (x @ beta)[:, None], beta


def _start(size: int, start: float, spread: float, seed: int) -> Tensor:
    if start == 0 and spread == 0:
        raise Refusal(
            "problem.start=0: the gradient vanishes there and no coordinate ever moves; take another"
        )
    return start + spread * normal((size,), seed, "start")


@output
def _product(w, z, c):  # type: ignore[no-untyped-def]
    d, f = z.size, 0.0
    for j in range(d):
        f += w[j] * w[d + j] * z[j]
    return f


@pull
def _pull_product(w, z, c, s, g):  # type: ignore[no-untyped-def]
    d = z.size
    for j in range(d):
        g[j] += s * w[d + j] * z[j]
        g[d + j] += s * w[j] * z[j]


@output
def _square(w, z, c):  # type: ignore[no-untyped-def]
    f = 0.0
    for j in range(z.size):
        f += w[j] * w[j] * z[j]
    return f


@pull
def _pull_square(w, z, c, s, g):  # type: ignore[no-untyped-def]
    for j in range(z.size):
        g[j] += 2 * s * w[j] * z[j]


@descend
def _descend_square(w, z, s, ahead):  # type: ignore[no-untyped-def]
    f = 0.0
    for j in range(z.size):
        v = w[j] + 2 * s * w[j] * z[j]
        w[j] = v
        f += v * v * ahead[j]
    return f
