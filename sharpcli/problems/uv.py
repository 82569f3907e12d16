"""Sparse regression through f(z) = <u*u - v*v, z>, whose flattest interpolators have the least l1 norm: the
model of Woodworth et al. 2020, arXiv:2002.09277, and of Li, Wang & Arora 2022, arXiv:2110.06914, section
6."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sharpcli.data import Dataset
from sharpcli.errors import Refusal
from sharpcli.problems.compiled import CompiledToy, descend, output, pull
from sharpcli.problems.problem import ClosedFlows, Problem, Recovery
from sharpcli.problems.regression import (
    layout,
    normal,
    regression,
    signs,
    sparsest,
    start_around,
    users_examples,
)
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
    """f(z) = <u*u - v*v, z> with w = (u, v) [2d], on n examples labelled by a sparse vector beta.

    The `inputs` z are in {-1, 1}^d, or N(0, I) for `normal`, and the labels <beta, z>, where beta [d] has k
    entries +-1 and zeros else; inputs and beta are drawn from `instance`, the seed by default. `rows` gives a
    user's examples instead, as [[z_1, ..., z_d, y], ...], and data=table those of a file; beta is then the
    vector of least l1 norm that fits them.

    Every entry of w starts at `start` plus `spread` times a normal number of `seed`. On the interpolators,
    for inputs +-1, Tr H = 4 (|u|^2 + |v|^2). `recovery_error` is |u*u - v*v - beta|^2 / |beta|^2. Refuses
    sizes below 1, k above d, rows that are not n lists of d + 1 numbers, and a start at 0, from which no
    coordinate moves.
    """
    if data is not None and rows is not None:
        raise Refusal("problem.rows and data=table both give the examples; give one of them")
    if data is not None:
        x, y = users_examples(data, 2, "uv")
        (n, d), k = x.shape, 1
    if min(d, n, k) < 1 or k > d:
        raise Refusal(f"problem.d={d} problem.n={n} problem.k={k}: all at least 1, and k at most d")
    w0 = start_around(start, spread, 2 * d, seed)
    if data is None and rows is None:
        x, y, beta = _drawn(d, n, k, inputs, seed if instance is None else instance)
    else:
        if rows is not None:
            x, y = _from_rows(rows, n, d)
        beta = sparsest(x, y, "uv")

    def vector(w: Tensor) -> Tensor:
        """u*u - v*v [d]."""
        u, v = w[:d], w[d:]
        return u.square() - v.square()

    def scores(w: Tensor) -> dict[str, float]:
        return {"recovery_error": float((vector(w) - beta.to(w)).square().sum() / beta.square().sum())}

    def least_norm(w: Tensor, positive: bool) -> dict[str, float]:
        """`least_l1_norm`, the least l1 norm of a vector that fits; `basis_pursuit_error`, the
        `recovery_error` of that vector; and `least_norm_gap`, the solver's relative duality gap."""
        solution, gap = least_l1(x.numpy(), y[:, 0].numpy())
        beta_1 = torch.from_numpy(solution)
        w_1 = torch.cat([beta_1.clamp_min(0).sqrt(), (-beta_1).clamp_min(0).sqrt()])
        return {
            "least_l1_norm": float(abs(solution).sum()),
            "basis_pursuit_error": scores(w_1)["recovery_error"],
            "least_norm_gap": gap,
        }

    return regression(
        lambda w, x: (x @ vector(w))[:, None],
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
        recovery=Recovery(beta, vector),
    )


def _drawn(
    d: int, n: int, k: int, inputs: Literal["signs", "normal"], instance: int
) -> tuple[Tensor, Tensor, Tensor]:
    """x [n, d], y [n, 1] and beta [d] of the seed `instance`."""
    draw = signs if inputs == "signs" else normal
    x, beta = draw((n, d), instance, "uv-inputs"), torch.zeros(d, dtype=torch.float64)
    entries = torch.randperm(d, generator=generator(instance, "uv", 0))[:k]
    beta[entries] = signs((k,), instance, "uv-truth")
    return x, (x @ beta)[:, None], beta


def _flows(x: Tensor, y: Tensor) -> ClosedFlows:
    """The closed forms of `theory.uv` for inputs x [n, d] and labels y [n], as functions of w = (u, v)
    [2d]."""
    Z, labels = x.numpy(), y.numpy()
    n, d = Z.shape

    def pair(w: Tensor) -> theory.Pair:
        u, v = w.numpy()[:d], w.numpy()[d:]
        return u, v

    def flat(pair: theory.Pair) -> Tensor:
        return torch.from_numpy(np.concatenate(pair))

    def elapsed(w: Tensor, start: Tensor) -> float | None:
        """A = -(1/2d) sum_j log(u_j v_j / (u_j v_j at the start)); None where a product u_j v_j has changed
        its sign or is 0."""
        (u, v), (u0, v0) = pair(w), pair(start)
        with np.errstate(invalid="ignore", divide="ignore"):
            A = -0.5 * np.mean(np.log((u * v) / (u0 * v0)))
        return float(A) if np.isfinite(A) else None

    idle = f"with n = {n} >= d = {d} examples a single vector interpolates; take n below d" if n >= d else ""
    return ClosedFlows(
        limit=lambda w: flat(theory.limit(*pair(w), Z, labels)),
        trace=lambda w: theory.trace(*pair(w), Z),
        sharpness=lambda w: theory.sharpness(*pair(w), Z),
        trace_flow=lambda w, tau, rate, delta: flat(theory.flow(*pair(w), Z, labels, tau, rate, delta)),
        sharpness_flow=lambda w, tau, rate: flat(theory.sharpest_flow(*pair(w), Z, labels, tau, rate)),
        elapsed=elapsed,
        clock=lambda w, tau, lr, delta: theory.clock(*pair(w), Z, labels, tau, lr, delta),
        l1=lambda w: float(np.abs(pair(w)[0] ** 2 - pair(w)[1] ** 2).sum()),
        idle=idle,
    )


def _from_rows(rows: Any, n: int, d: int) -> tuple[Tensor, Tensor]:
    """x [n, d] and y [n, 1] of lists [z_1, ..., z_d, y]. Refuses anything but n lists of d + 1 finite
    numbers."""
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
