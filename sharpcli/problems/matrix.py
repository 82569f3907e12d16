"""Matrix factorization and sensing of any depth, f(A) = <A, W_L ... W_1>: Gunasekar et al. 2017, arXiv:1705.09280; Ding et
al. 2024, arXiv:2209.01750; Gatmiry et al. 2023, arXiv:2306.13239."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.kernel import Kernel, output, pull
from sharpcli.problem import Problem
from sharpcli.toys import layout, normal, regression

Measurements = Literal["normal", "symmetric", "commuting", "entries"]


def matrix(
    seed: int,
    chunk: int,
    *,
    d: int,
    n: int,
    rank: int,
    depth: int,
    nuclear: float,
    measurements: Measurements,
    init: Literal["normal", "identity"],
    scale: float,
    instance: int | None,
) -> Problem:
    """n measurements y_i = <A_i, X*> of a matrix X* [d, d] of `rank` and nuclear norm `nuclear`, seen through
    X = W_L ... W_1, all [d, d]; w is (W_1, ..., W_L) [L d^2].

    The A_i are `normal` with entries N(0, 1), their `symmetric` parts (X* then is positive semidefinite), `commuting` ones
    Q diag(N(0, 1)) Q^T, or `entries`, all d^2 of them (n is then d^2): plain factorization. The start is `scale` times
    N(0, 1)/sqrt(d), or times the identity. `recovery_error` is |X - X*|_F / |X*|_F. Refuses sizes below 1, a rank above d,
    depth below 2, and a scale of 0, which is a saddle.
    """
    if min(d, n, rank) < 1 or rank > d or depth < 2:
        raise Refusal(f"problem.d={d} n={n} rank={rank} depth={depth}: sizes at least 1, rank at most d, depth at least 2")
    if scale == 0:
        raise Refusal("problem.scale=0: the gradient vanishes there and nothing ever moves; take another")
    A, truth = _measured(d, n, rank, measurements, seed if instance is None else instance)
    truth = truth * (nuclear / torch.linalg.matrix_norm(truth, "nuc"))
    y = (A.flatten(1) @ truth.flatten())[:, None]
    shape = (depth, d, d)
    w0 = normal(shape, seed, "start") / d**0.5 if init == "normal" else torch.eye(d, dtype=torch.float64).expand(shape)

    def product(w: Tensor) -> Tensor:
        X, *others = w.view(shape)
        for W in others:
            X = W @ X
        return X

    def scores(w: Tensor) -> dict[str, float]:
        X = product(w)
        return {"recovery_error": float((X - truth.to(w)).norm() / truth.norm())}

    return regression(
        lambda w, x: (x @ product(w).flatten())[:, None],
        (scale * w0).flatten(),
        A.flatten(1),
        y,
        chunk,
        layout(**{f"W_{i + 1}": (d, d) for i in range(depth)}),
        kernel=Kernel(_output, _pull, A.flatten(1).contiguous().numpy(), y[:, 0].numpy(), scratch=(2 * depth + 2) * d * d),
        scores=scores,
        norms=lambda w: {"nuclear_norm": float(torch.linalg.matrix_norm(product(w), "nuc"))},
    )


def _measured(d: int, n: int, rank: int, kind: Measurements, instance: int) -> tuple[Tensor, Tensor]:
    left, right = normal((d, rank), instance, "matrix-left"), normal((d, rank), instance, "matrix-right")
    if kind == "entries":
        return torch.eye(d * d, dtype=torch.float64).view(d * d, d, d), left @ right.T
    A = normal((n, d, d), instance, "matrix")
    if kind == "commuting":
        Q = torch.linalg.qr(normal((d, d), instance, "matrix-basis"))[0]
        return Q @ torch.diag_embed(A[:, 0]) @ Q.T, Q[:, :rank] @ torch.diag(left[:rank, 0].abs()) @ Q[:, :rank].T
    if kind == "symmetric":
        return (A + A.mT) / 2, left @ left.T
    return A, left @ right.T


@output
def _output(w, z, c):  # type: ignore[no-untyped-def]
    # c: the products W_l ... W_1 for l = 1 ... L, then room for the way back
    size = z.size
    d, depth = round(size**0.5), w.size // size
    for a in range(size):
        c[a] = w[a]
    for layer in range(1, depth):
        here, before, W = layer * size, (layer - 1) * size, layer * size
        for i in range(d):
            for j in range(d):
                c[here + i * d + j] = 0.0
            for m in range(d):
                factor = w[W + i * d + m]
                for j in range(d):
                    c[here + i * d + j] += factor * c[before + m * d + j]
    f, top = 0.0, (depth - 1) * size
    for a in range(size):
        f += z[a] * c[top + a]
    return f


@pull
def _pull(w, z, c, s, g):  # type: ignore[no-untyped-def]
    # with B = (W_L ... W_{l+1})^T A: the gradient in W_l is B (W_{l-1} ... W_1)^T, then B <- W_l^T B
    size = z.size
    d, depth = round(size**0.5), w.size // size
    B, T = depth * size, (depth + 1) * size
    for a in range(size):
        c[B + a] = s * z[a]
    for layer in range(depth - 1, 0, -1):
        below, W = (layer - 1) * size, layer * size
        for i in range(d):
            for m in range(d):
                total = 0.0
                for j in range(d):
                    total += c[B + i * d + j] * c[below + m * d + j]
                g[W + i * d + m] += total
        for a in range(size):
            c[T + a] = 0.0
        for i in range(d):
            for m in range(d):
                factor = w[W + i * d + m]
                for j in range(d):
                    c[T + m * d + j] += factor * c[B + i * d + j]
        for a in range(size):
            c[B + a] = c[T + a]
    for a in range(size):
        g[a] += c[B + a]
