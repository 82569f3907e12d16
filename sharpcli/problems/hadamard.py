"""Sparse regression through an elementwise product, f(z) = <u*v, z>, or an elementwise square, f(z) = <v*v,
z>: HaoChen et al. 2021, arXiv:2006.08680."""

from __future__ import annotations

import torch
from torch import Tensor

from sharpcli.data import Dataset
from sharpcli.errors import Refusal
from sharpcli.problems.compiled import CompiledToy, descend, output, pull
from sharpcli.problems.problem import Problem, Recovery
from sharpcli.problems.regression import layout, regression, signs, sparsest, start_around, users_examples
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
    """f(z) = <u*v, z> with w = (u, v) [2d], on n inputs z in {-1, 1}^d labelled by a sparse vector beta.

    beta [d] has k entries +-1 and zeros else; inputs and beta are drawn from `instance`, the seed by default.
    With data=table beta is the vector of least l1 norm that fits the file's examples. Every entry of w starts
    at `start` plus `spread` times a normal number of `seed`; unlike for problem=uv, the vector u*v then
    starts at `start`^2 and not at 0. `recovery_error` is |u*v - beta|^2 / |beta|^2. Refuses sizes below 1, k
    above d, n not below d, and a start at 0, from which no coordinate moves.
    """
    x, y, beta = _examples(data, d, n, k, seed if instance is None else instance, "hadamard", positive=False)
    d = x.shape[1]

    def vector(w: Tensor) -> Tensor:
        u, v = w.split(d)
        return u * v

    return regression(
        lambda w, x: (x @ vector(w))[:, None],
        start_around(start, spread, 2 * d, seed),
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
        recovery=Recovery(beta, vector),
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
    """f(z) = <v*v, z> with w = v [d], on n inputs z in {-1, 1}^d labelled by a sparse vector beta without
    negative entries.

    beta [d] has k ones and zeros else, or with data=table it is the vector of least l1 norm without negative
    entries that fits; all else is as for problem=hadamard. On the interpolators, for inputs +-1, Tr H = 4
    |v|^2.
    """
    x, y, beta = _examples(data, d, n, k, seed if instance is None else instance, "squares", positive=True)
    d = x.shape[1]
    return regression(
        lambda w, x: (x @ w.square())[:, None],
        start_around(start, spread, d, seed),
        x,
        y,
        chunk,
        layout(v=(d,)),
        compiled=CompiledToy(_square, _pull_square, x.numpy(), y[:, 0].numpy(), descend=_descend_square),
        scores=lambda w: {
            "recovery_error": float((w.square() - beta.to(w)).square().sum() / beta.square().sum())
        },
        better={"recovery_error": "lower"},
        recovery=Recovery(beta, torch.square),
        norms=lambda w: {"l1_norm": float(w.square().sum())},
    )


def _examples(
    data: Dataset | None, d: int, n: int, k: int, instance: int, name: str, positive: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """x [n, d], y [n, 1] and beta [d]: of a user's data, or else drawn from `instance`; `positive` as in
    `sparsest`. Refuses sizes out of range."""
    if data is not None:
        x, y = users_examples(data, 2, name)
        return x, y, sparsest(x, y, name, positive)
    if min(d, n, k) < 1 or k > d or n >= d:
        raise Refusal(
            f"problem.d={d} problem.n={n} problem.k={k}: all at least 1, k at most d, and n below d"
        )
    x, beta = signs((n, d), instance, "hadamard-inputs"), torch.zeros(d, dtype=torch.float64)
    entries = torch.ones(k, dtype=torch.float64) if positive else signs((k,), instance, "hadamard-truth")
    beta[torch.randperm(d, generator=generator(instance, "hadamard", 0))[:k]] = entries
    return x, (x @ beta)[:, None], beta


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
