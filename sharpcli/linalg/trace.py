"""Traces: Hutchinson 1989; Hutch++ (Meyer et al. 2021, arXiv:2010.09649), its rank chosen as it goes after
Persson et al. 2022, arXiv:2109.10659; XTrace (Epperly, Tropp & Webber 2024, arXiv:2301.07825).

Each returns the estimate, its standard error from independent (XTrace: exchangeable) probes, and the products
spent. Each stops when the standard error is at most `rtol` times the estimate, or before it would exceed
`max_products`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from sharpcli.linalg.lanczos import Matvec, Tell, dots, orthonormal

Method = Literal["hutchinson", "hutchpp", "xtrace"]

BLOCK = 4  # probes multiplied at once: more saves little and costs memory
FEWEST = 8  # samples without which no standard error is believed


@dataclass(frozen=True)
class Trace:
    """`value` +- `stderr`, by `products`; `converged` where the standard error is as small as was asked
    for."""

    value: float
    stderr: float
    products: int
    converged: bool


def estimate(
    method: Method,
    matvec: Matvec,
    like: Tensor,
    rng: Generator,
    rtol: float,
    max_products: int,
    tell: Tell | None = None,
) -> Trace:
    """The trace by a method; exact where D products are within `max_products`."""
    if len(like) <= max_products:
        return exact(matvec, like)
    return {"hutchinson": hutchinson, "hutchpp": hutchpp, "xtrace": xtrace}[method](
        matvec, like, rng, rtol, max_products, tell
    )


def signs(rows: int, like: Tensor, rng: Generator) -> Tensor:
    """Rows of independent signs [rows, D]."""
    return torch.randint(0, 2, (rows, len(like)), generator=rng).to(like) * 2 - 1


def exact(matvec: Matvec, like: Tensor) -> Trace:
    """The sum of the D diagonal entries, by D products."""
    total = 0.0
    for rows in torch.arange(len(like), device=like.device).split(BLOCK):
        E = torch.zeros(len(rows), len(like), dtype=like.dtype, device=like.device)
        E[torch.arange(len(rows)), rows] = 1
        total += float((E * matvec(E)).double().sum())
    return Trace(total, 0.0, len(like), True)


def hutchinson(
    matvec: Matvec, like: Tensor, rng: Generator, rtol: float, max_products: int, tell: Tell | None = None
) -> Trace:
    """The mean of z.Az over vectors z of independent signs: mean Tr A, variance 2 sum_{i != j} A_ij^2
    each."""
    return _sampled(matvec, like, rng, rtol, max_products, 0, 0.0, None, tell)


def hutchpp(
    matvec: Matvec, like: Tensor, rng: Generator, rtol: float, max_products: int, tell: Tell | None = None
) -> Trace:
    """Tr Q A Q^T exactly, for Q [r, D] an orthonormal basis of the range of A S; then Hutchinson on what is
    left.

    r grows by blocks while the two products that a row costs save more than two probes, judged by |A|_F^2,
    which the sketch itself estimates, less what Q holds of it.
    """
    Q, AQ = like.new_empty(0, len(like)), like.new_empty(0, len(like))
    squares: list[float] = []
    spent, before = 0, float("inf")
    while spent + 2 * BLOCK <= max_products // 2 and len(Q) + BLOCK <= len(like):
        Y = matvec(signs(BLOCK, like, rng))
        squares += dots(Y, Y).diagonal().tolist()
        for y in Y:
            if (q := orthonormal(y, Q)) is not None:
                Q = torch.cat([Q, q[None]])
        spent += BLOCK + len(Q) - len(AQ)
        AQ = torch.cat([AQ, matvec(Q[len(AQ) :])]) if len(Q) > len(AQ) else AQ
        T = dots(Q, AQ)
        held = 2 * float(dots(AQ, AQ).diagonal().sum()) - float(T.square().sum())
        left = max(sum(squares) / len(squares) - held, 0.0)
        target = (rtol * float(T.trace())) ** 2
        needed = 2 * left / target if target else 0.0  # probes that the rest would take
        if needed <= FEWEST or (len(Q) > BLOCK and before - needed < 2 * BLOCK):
            break
        before = needed
    inside = float(dots(Q, AQ).trace()) if len(Q) else 0.0

    def outside(Z: Tensor) -> Tensor:
        return Z - (dots(Z, Q).to(Z) @ Q if len(Q) else 0)

    return _sampled(matvec, like, rng, rtol, max_products, spent, inside, outside, tell)


def xtrace(
    matvec: Matvec, like: Tensor, rng: Generator, rtol: float, max_products: int, tell: Tell | None = None
) -> Trace:
    """The mean over i of Tr Q_i A Q_i^T + (the rest of w_i).A(the rest of w_i), Q_i a basis of the range of A
    on all Gaussian test vectors but w_i, the rest what lies outside Q_i, scaled to its dimension. Two
    products a vector.

    The samples share their vectors: their spread over sqrt(m), the published error, was seen to be too small
    by up to 1.5 times, and the jackknife's too large by up to 4. The standard error is the geometric mean of
    the two.
    """
    D, spent = len(like), 0
    Q, AQ, W, AW = (like.new_empty(0, D) for _ in range(4))
    while True:
        fresh = torch.randn(BLOCK, D, generator=rng, dtype=torch.float64).to(like)
        W, AW = torch.cat([W, fresh]), torch.cat([AW, matvec(fresh)])
        for y in AW[-BLOCK:]:
            if (q := orthonormal(y, Q)) is not None:
                Q = torch.cat([Q, q[None]])
        spent += BLOCK + len(Q) - len(AQ)
        AQ = torch.cat([AQ, matvec(Q[len(AQ) :])]) if len(Q) > len(AQ) else AQ
        m = len(W)
        if len(Q) < m:  # the range of A is exhausted, and Q holds all of it
            return Trace(float(dots(Q, AQ).trace()), 0.0, spent, True)
        small = (
            dots(AW, Q),
            dots(Q, AQ),
            dots(Q, W),
            dots(AQ, W),
            (W * AW).double().sum(1).cpu(),
            W.double().square().sum(1).cpu(),
        )
        samples = _samples(*small, D)
        mean, stderr = float(samples.mean()), float(samples.std() / m**0.5)
        enough = m >= FEWEST and stderr <= rtol * abs(mean)
        if enough or spent + 2 * BLOCK > max_products or m + BLOCK > D // 2:
            stderr = (stderr * _jackknife(*small, D)) ** 0.5
        done = m >= FEWEST and stderr <= rtol * abs(mean)
        if tell is not None:
            tell(spent, stderr / max(abs(mean), 1e-300))
        if done or spent + 2 * BLOCK > max_products or m + BLOCK > D // 2:
            return Trace(mean, stderr, spent, done)


def _jackknife(R: Tensor, H: Tensor, QW: Tensor, AQW: Tensor, WAW: Tensor, WW: Tensor, D: int) -> float:
    """The standard error of XTrace from its values without each vector in turn (Efron & Stein 1981: never too
    small on average)."""
    m, values = len(R), []
    for i in range(m):
        rest = torch.arange(m) != i
        alone = torch.linalg.inv(R)[:, i : i + 1]  # the direction that only w_i gave Q
        P = torch.linalg.svd(alone)[0][:, 1:].T
        values.append(
            _samples(
                R[rest] @ P.T, P @ H @ P.T, P @ QW[:, rest], P @ AQW[:, rest], WAW[rest], WW[rest], D
            ).mean()
        )
    found = torch.stack(values)
    return float(((m - 1) / m * (found - found.mean()).square().sum()).sqrt())


def _samples(R: Tensor, H: Tensor, QW: Tensor, AQW: Tensor, WAW: Tensor, WW: Tensor, D: int) -> Tensor:
    """XTrace's samples [m], from inner products alone: rows of A W = R Q; s_i is the direction that only w_i
    gave Q."""
    S = torch.linalg.inv(R)
    S = S / S.norm(dim=0)
    X = QW - S * (S * QW).sum(0)
    inside = H.trace() - (S * (H @ S)).sum(0)
    outside = WAW - 2 * (X * AQW).sum(0) + (X * (H @ X)).sum(0)
    length = WW - X.square().sum(0)
    return inside + outside * (D - len(R) + 1) / length


def _sampled(
    matvec: Matvec,
    like: Tensor,
    rng: Generator,
    rtol: float,
    max_products: int,
    spent: int,
    inside: float,
    outside: Callable[[Tensor], Tensor] | None,
    tell: Tell | None,
) -> Trace:
    """`inside` plus the mean of z.Az over signs z, of which only the part `outside` counts."""
    found = torch.empty(0, dtype=torch.float64)
    while True:
        Z = signs(BLOCK, like, rng)
        Z = Z if outside is None else outside(Z)
        found = torch.cat([found, (Z * matvec(Z)).double().sum(1).to("cpu")])
        spent += BLOCK
        value, stderr = inside + float(found.mean()), float(found.std() / len(found) ** 0.5)
        done = stderr <= rtol * abs(value) and len(found) >= FEWEST
        if tell is not None:
            tell(spent, stderr / max(abs(value), 1e-300))
        if done or spent + BLOCK > max_products:
            return Trace(value, stderr, spent, done)
