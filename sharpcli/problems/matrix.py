"""Matrix factorization and sensing of any depth, f(A) = <A, W_L ... W_1>: Gunasekar et al. 2017,
arXiv:1705.09280; Ding et al. 2024, arXiv:2209.01750; Gatmiry et al. 2023, arXiv:2306.13239."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sharpcli.data import Dataset
from sharpcli.errors import Refusal
from sharpcli.problems.compiled import CompiledToy, output, pull
from sharpcli.problems.problem import Problem, Recovery
from sharpcli.problems.regression import layout, normal, regression, users_examples
from sharpcli.theory.convex import least_nuclear, least_trace

Measurements = Literal["normal", "symmetric", "commuting", "entries"]


def matrix(
    seed: int,
    chunk: int,
    data: Dataset | None,
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
    """f(A) = <A, X> with X = W_L ... W_1, all [d, d], w = (W_1, ..., W_L) [L d^2] and L = `depth`, on n
    measurements y_i = <A_i, X*> of a matrix X* [d, d] of rank `rank` and nuclear norm `nuclear`.

    The `measurements` A_i are `normal` matrices with entries N(0, 1); the `symmetric` parts of such matrices,
    for an X* that is positive semidefinite; `commuting` matrices Q diag(N(0, 1)) Q^T, for an X* that commutes
    with them; or `entries`, where the y_i are all d^2 entries of X* (n is then d^2): plain factorization. A_i
    and X* are drawn from `instance`, the seed by default. The W_l start at `scale` times matrices with
    entries N(0, 1)/sqrt(d), or times the identity. With data=table the A_i and y are the file's Z and y, and
    X* is the matrix of least nuclear norm that fits them. `recovery_error` is |X - X*|_F / |X*|_F. Refuses
    sizes below 1, a rank above d, a depth below 2, and a scale of 0, which is a saddle.
    """
    if min(d, n, rank) < 1 or rank > d or depth < 2:
        raise Refusal(
            f"problem.d={d} n={n} rank={rank} depth={depth}: sizes at least 1, rank at most d, depth at "
            f"least 2"
        )
    if scale == 0:
        raise Refusal("problem.scale=0: the gradient vanishes there and nothing ever moves; take another")
    if data is None:
        A, truth = _measured(d, n, rank, measurements, seed if instance is None else instance)
        truth = truth * (nuclear / torch.linalg.matrix_norm(truth, "nuc"))
        y = (A.flatten(1) @ truth.flatten())[:, None]
    else:
        A, y = users_examples(data, 3, "matrix")
        d = A.shape[1]
        try:
            truth = torch.from_numpy(least_nuclear(A.numpy(), y[:, 0].numpy())[0])
        except ValueError as problem:
            raise Refusal(f"problem=matrix_sensing: {problem}; give labels that some matrix fits") from None
    shape = (depth, d, d)
    if init == "normal":
        w0 = normal(shape, seed, "start") / d**0.5
    else:
        w0 = torch.eye(d, dtype=torch.float64).expand(shape)

    def product(w: Tensor) -> Tensor:
        """X = W_L ... W_1 [d, d]."""
        X, *others = w.view(shape)
        for W in others:
            X = W @ X
        return X

    def scores(w: Tensor) -> dict[str, float]:
        X = product(w)
        return {"recovery_error": float((X - truth.to(w)).norm() / truth.norm())}

    def norms(w: Tensor) -> dict[str, float]:
        return {"nuclear_norm": float(torch.linalg.matrix_norm(product(w), "nuc"))}

    def least_norm(w: Tensor, positive: bool) -> dict[str, float]:
        """`least_nuclear_norm`, the least of the matrices that fit (of the positive semidefinite matrices for
        `positive`), and `least_norm_gap`, the solver's relative duality gap; `nuclear_excess`, by which share
        the nuclear norm of this X is above it; at depth 2 `least_trace`, the least Tr H of an
        interpolator."""
        least_X, gap = least_nuclear(A.numpy(), y[:, 0].numpy(), positive)
        least = float(torch.linalg.matrix_norm(torch.from_numpy(least_X), "nuc"))
        values = {"least_nuclear_norm": least, "least_norm_gap": gap}
        values["nuclear_excess"] = norms(w)["nuclear_norm"] / least - 1
        if depth == 2:
            values["least_trace"], values["least_trace_gap"] = least_trace(A.numpy(), y[:, 0].numpy())
        return values

    return regression(
        lambda w, x: (x @ product(w).flatten())[:, None],
        (scale * w0).flatten(),
        A.flatten(1),
        y,
        chunk,
        layout(**{f"W_{i + 1}": (d, d) for i in range(depth)}),
        compiled=CompiledToy(
            _output,
            _pull,
            A.flatten(1).contiguous().numpy(),
            y[:, 0].numpy(),
            scratch=(2 * depth - 1) * d * d,
        ),
        scores=scores,
        better={"recovery_error": "lower"},
        norms=norms,
        least_norm=least_norm,
        recovery=Recovery(truth, product),
    )


def _measured(d: int, n: int, rank: int, kind: Measurements, instance: int) -> tuple[Tensor, Tensor]:
    """The A_i [n, d, d] of the named `kind`, and X* [d, d], not yet of the nuclear norm that is asked for;
    both of the seed `instance`."""
    P, R = normal((d, rank), instance, "matrix-left"), normal((d, rank), instance, "matrix-right")
    if kind == "entries":
        return torch.eye(d * d, dtype=torch.float64).view(d * d, d, d), P @ R.T
    A = normal((n, d, d), instance, "matrix")
    if kind == "commuting":
        Q = torch.linalg.qr(normal((d, d), instance, "matrix-basis"))[0]
        truth = Q[:, :rank] @ torch.diag(P[:rank, 0].abs()) @ Q[:, :rank].T
        return Q @ torch.diag_embed(A[:, 0]) @ Q.T, truth
    if kind == "symmetric":
        return (A + A.mT) / 2, P @ P.T
    return A, P @ R.T


# With B_L = A and B_l = W_(l+1)^T B_(l+1), f = <B_1, W_1> and grad_(W_l) f = B_l (W_(l-1) ... W_1)^T. The
# scratch c holds B_1 ... B_(L-1), the products W_(l-1) ... W_1 for l = 3 ... L, and one gradient. BLAS is
# twice as fast as loops, for d = 8 and 10 too.


@output
def _output(w, z, c):  # type: ignore[no-untyped-def]
    size = z.size
    d, depth = round(size**0.5), w.size // size
    for layer in range(depth - 1, 0, -1):
        B = z if layer == depth - 1 else c[layer * size : (layer + 1) * size]
        W, B_below = w[layer * size : (layer + 1) * size], c[(layer - 1) * size : layer * size]
        np.dot(W.reshape(d, d).T, B.reshape(d, d), B_below.reshape(d, d))
    f = 0.0
    for a in range(size):
        f += c[a] * w[a]
    return f


@pull
def _pull(w, z, c, s, g):  # type: ignore[no-untyped-def]
    size = z.size
    d, depth = round(size**0.5), w.size // size
    for a in range(size):
        g[a] += s * c[a]
    product, products = w[:size], (depth - 1) * size  # W_1; where the scratch's products begin
    gradient = c[2 * products : 2 * products + size]
    for layer in range(1, depth):
        if layer > 1:
            W = w[(layer - 1) * size : layer * size]
            next_product = c[products + (layer - 1) * size : products + layer * size]
            np.dot(W.reshape(d, d), product.reshape(d, d), next_product.reshape(d, d))
            product = next_product
        B = z if layer == depth - 1 else c[layer * size : (layer + 1) * size]
        np.dot(B.reshape(d, d), product.reshape(d, d).T, gradient.reshape(d, d))
        for a in range(size):
            g[layer * size + a] += s * gradient[a]
