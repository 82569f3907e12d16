"""Sparse regression through f(z) = <u*u - v*v, z>: the model of Woodworth et al. 2020 and of Li, Wang & Arora
2022, arXiv:2110.06914, section 6, whose flattest interpolators have the least l1 norm."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sharpcli.data import Dataset
from sharpcli.errors import Refusal
from sharpcli.problems.compiled import CompiledToy, descend, output, pull
from sharpcli.problems.problem import ClosedFlows, Problem
from sharpcli.problems.regression import layout, normal, regression, signs, sparsest, users_own
from sharpcli.rng import generator
from sharpcli.theory import uv as theory
from sharpcli.theory.convex import least_l1


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
    """n examples z in {-1, 1}^d (or N(0, 1)) with y = <beta, z>, beta having k entries +-1 and zeros else,
    all drawn from `instance`.

    `rows` are one's own examples, [[z_1, ..., z_d, y], ...], or with data=table a file's; the truth is then
    the interpolator of least l1 norm. w = (u, v) [2d], every entry `start` + `spread` times a normal number
    of `seed`. On the interpolators, for inputs +-1, Tr H = 4 (|u|^2 + |v|^2). `recovery_error` is |u*u - v*v
    - beta|^2 / |beta|^2. Refuses sizes below 1, k above d, rows that are not n lists of d + 1 numbers, and a
    start at 0, from where no coordinate moves.
    """
    if data is not None and rows is not None:
        raise Refusal("problem.rows and data=table are both one's own examples; give one of them")
    if data is not None:
        x, y = users_own(data, 2, "uv")
        (n, d), k = x.shape, 1
    if min(d, n, k) < 1 or k > d:
        raise Refusal(f"problem.d={d} problem.n={n} problem.k={k}: all at least 1, and k at most d")
    if start == 0 and spread == 0:
        raise Refusal(
            "problem.start=0: the gradient vanishes there and no coordinate ever moves; take another"
        )
    instance = seed if instance is None else instance
    rng = generator(instance, "uv", 0)
    if data is None and rows is None:
        x = (
            signs((n, d), instance, "uv-inputs")
            if inputs == "signs"
            else normal((n, d), instance, "uv-inputs")
        )
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

    def vector(w: Tensor) -> Tensor:
        u, v = w[:d], w[d:]
        return u.square() - v.square()

    def scores(w: Tensor) -> dict[str, float]:
        return {"recovery_error": float((vector(w) - beta.to(w)).square().sum() / beta.square().sum())}

    def least_norm(w: Tensor, positive: bool) -> dict[str, float]:
        """`least_l1_norm`, that of basis pursuit, with the solver's relative duality gap, and
        `basis_pursuit_error`, its error as `recovery_error`."""
        least, gap = least_l1(x.numpy(), y[:, 0].numpy())
        at_least = torch.from_numpy(least)
        error = scores(torch.cat([at_least.clamp_min(0).sqrt(), (-at_least).clamp_min(0).sqrt()]))[
            "recovery_error"
        ]
        return {"least_l1_norm": float(abs(least).sum()), "basis_pursuit_error": error, "least_norm_gap": gap}

    return regression(
        predict,
        w0,
        x,
        y,
        chunk,
        layout(u=(d,), v=(d,)),
        compiled=CompiledToy(_output, _pull, x.numpy(), y[:, 0].numpy(), descend=_descend),
        scores=scores,
        better={"recovery_error": "lower"},
        norms=lambda w: {"l1_norm": float(vector(w).abs().sum())},
        flows=_flows(x, y[:, 0]),
        least_norm=least_norm,
    )


def _flows(x: Tensor, y: Tensor) -> ClosedFlows:
    """The closed forms of `theory.uv` in the flat weights (u, v)."""
    Z, labels = x.numpy(), y.numpy()
    n, d = Z.shape

    def pair(w: Tensor) -> theory.Pair:
        u, v = w.numpy()[:d], w.numpy()[d:]
        return u, v

    def flat(pair: theory.Pair) -> Tensor:
        return torch.from_numpy(np.concatenate(pair))

    def elapsed(w: Tensor, start: Tensor) -> float | None:
        """-(1/2d) sum_j log(u_j v_j / (u_j v_j at the start)); None where a product has changed its sign or
        is 0."""
        (u, v), (u0, v0) = pair(w), pair(start)
        with np.errstate(invalid="ignore", divide="ignore"):
            shrunk = -0.5 * np.mean(np.log((u * v) / (u0 * v0)))
        return float(shrunk) if np.isfinite(shrunk) else None

    return ClosedFlows(
        limit=lambda w: flat(theory.limit(*pair(w), Z, labels)),
        trace=lambda w: theory.trace(*pair(w), Z),
        sharpness=lambda w: theory.sharpness(*pair(w), Z),
        trace_flow=lambda w, tau, rate, delta: flat(theory.flow(*pair(w), Z, labels, tau, rate, delta)),
        sharpness_flow=lambda w, tau, rate: flat(theory.sharpest_flow(*pair(w), Z, labels, tau, rate)),
        elapsed=elapsed,
        clock=lambda w, tau, lr, delta: theory.clock(*pair(w), Z, labels, tau, lr, delta),
        l1=lambda w: float(np.abs(pair(w)[0] ** 2 - pair(w)[1] ** 2).sum()),
        idle=f"with n = {n} >= d = {d} examples a single vector interpolates; take n below d"
        if n >= d
        else "",
    )


def _own(rows: Any, n: int, d: int) -> tuple[Tensor, Tensor]:
    try:
        table = torch.tensor(rows, dtype=torch.float64)
    except (TypeError, ValueError):
        table = torch.empty(0)
    if table.shape != (n, d + 1) or not torch.isfinite(table).all():
        raise Refusal(
            f"problem.rows={rows}: with problem.n={n} and problem.d={d} give {n} lists of {d + 1} numbers, "
            f"y the last"
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
