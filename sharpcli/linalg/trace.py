"""Estimates of the trace of a symmetric operator: Hutchinson 1989; Hutch++ (Meyer et al. 2021,
arXiv:2010.09649) with its rank chosen during the run, after Persson et al. 2022, arXiv:2109.10659; XTrace
(Epperly, Tropp & Webber 2024, arXiv:2301.07825).

Each method returns the estimate, its standard error and the number of products spent. It stops when the
standard error is at most `rtol` times |estimate|, or when another block of probes would exceed
`max_products`. The probes of Hutchinson and Hutch++ are independent, those of XTrace exchangeable. In the
signatures `like` [D] is any tensor of the dtype, device and length of the operator's vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Generator, Tensor

from sharpcli.linalg.krylov import Matvec, dots, orthonormal
from sharpcli.linalg.lanczos import Tell

Method = Literal["hutchinson", "hutchpp", "xtrace"]

BLOCK_SIZE = 4  # probes multiplied by A in one call: a larger block saves little time and costs memory
MIN_SAMPLES = 8  # samples below which their standard deviation is too uncertain to stop by
TINY = 1e-300  # lower limit of |estimate| in a relative error, which an estimate of 0 would make infinite


@dataclass(frozen=True)
class Trace:
    """A trace estimate `value` with its standard error `stderr`, the number of `products` spent, and whether
    the standard error `converged` to the one requested."""

    value: float
    stderr: float
    products: int
    converged: bool


def estimate(
    method: Method,
    matvec: Matvec,
    like: Float[Tensor, " D"],
    rng: Generator,
    rtol: float,
    max_products: int,
    tell: Tell | None = None,
) -> Trace:
    """The trace by the named method; the exact trace if `max_products` allows the D products it takes."""
    if len(like) <= max_products:
        return exact(matvec, like)
    return {"hutchinson": hutchinson, "hutchpp": hutchpp, "xtrace": xtrace}[method](
        matvec, like, rng, rtol, max_products, tell
    )


def signs(rows: int, like: Float[Tensor, " D"], rng: Generator) -> Float[Tensor, "rows D"]:
    """Independent entries +1 or -1, each with probability 1/2."""
    return torch.randint(0, 2, (rows, len(like)), generator=rng).to(like) * 2 - 1


def exact(matvec: Matvec, like: Float[Tensor, " D"]) -> Trace:
    """The sum of the diagonal entries e_i.Ae_i, by D products."""
    total = 0.0
    for rows in torch.arange(len(like), device=like.device).split(BLOCK_SIZE):
        E = torch.zeros(len(rows), len(like), dtype=like.dtype, device=like.device)
        E[torch.arange(len(rows)), rows] = 1
        total += float((E * matvec(E)).double().sum())
    return Trace(total, 0.0, len(like), True)


def hutchinson(
    matvec: Matvec,
    like: Float[Tensor, " D"],
    rng: Generator,
    rtol: float,
    max_products: int,
    tell: Tell | None = None,
) -> Trace:
    """The mean of the samples z.Az over probes z of independent signs. A sample has mean Tr A and variance
    2 sum_{i != j} A_ij^2, and takes one product."""
    return _mean_over_probes(matvec, like, rng, rtol, max_products, 0, 0.0, None, tell)


def hutchpp(
    matvec: Matvec,
    like: Float[Tensor, " D"],
    rng: Generator,
    rtol: float,
    max_products: int,
    tell: Tell | None = None,
) -> Trace:
    """Tr Q A Q^T exactly, Q [r, D] an orthonormal basis of products of A with random signs, plus
    Hutchinson's estimate of Tr P A P, P = I - Q^T Q the projection onto the complement.

    A row of Q takes two products. Hutchinson's variance is about 2 |P A P|_F^2, with |A|_F^2 estimated by the
    squared norms of the products A s with signs s; r grows by blocks while the probes this saves are more
    than the products it takes, and at most half of `max_products` goes to Q.
    """
    Q, AQ = like.new_empty(0, len(like)), like.new_empty(0, len(like))
    squared_norms: list[float] = []
    spent, previous_probes = 0, float("inf")
    while spent + 2 * BLOCK_SIZE <= max_products // 2 and len(Q) + BLOCK_SIZE <= len(like):
        Y = matvec(signs(BLOCK_SIZE, like, rng))
        squared_norms += dots(Y, Y).diagonal().tolist()
        Q = _extend_basis(Q, Y)
        spent += BLOCK_SIZE + len(Q) - len(AQ)
        AQ = _extend_products(AQ, Q, matvec)
        T = dots(Q, AQ)
        # |A|_F^2 - |P A P|_F^2 = 2 |Q A|_F^2 - |Q A Q^T|_F^2
        covered = 2 * float(dots(AQ, AQ).diagonal().sum()) - float(T.square().sum())
        remaining = max(sum(squared_norms) / len(squared_norms) - covered, 0.0)
        target_variance = (rtol * float(T.trace())) ** 2
        # The number of probes after which Hutchinson's estimate of Tr P A P would have the target variance.
        probes = 2 * remaining / target_variance if target_variance else 0.0
        if probes <= MIN_SAMPLES or (len(Q) > BLOCK_SIZE and previous_probes - probes < 2 * BLOCK_SIZE):
            break
        previous_probes = probes
    trace_in_Q = float(dots(Q, AQ).trace()) if len(Q) else 0.0

    def complement(Z: Float[Tensor, "m D"]) -> Float[Tensor, "m D"]:
        return Z - dots(Z, Q).to(Z) @ Q if len(Q) else Z

    return _mean_over_probes(matvec, like, rng, rtol, max_products, spent, trace_in_Q, complement, tell)


def xtrace(
    matvec: Matvec,
    like: Float[Tensor, " D"],
    rng: Generator,
    rtol: float,
    max_products: int,
    tell: Tell | None = None,
) -> Trace:
    """The mean over i of the samples Tr Q_i A Q_i^T + (D - m + 1) r_i.Ar_i / |r_i|^2, for m Gaussian vectors
    w_i: Q_i is an orthonormal basis of the span of all A w_j but A w_i, and r_i = w_i - Q_i^T Q_i w_i. Two
    products a vector.

    The samples share their vectors and are not independent. The published error, their standard deviation
    over sqrt(m), was seen to be too small by up to 1.5 times, and the jackknife's too large by up to 4; the
    standard error is the geometric mean of the two.
    """
    D, spent = len(like), 0
    Q, AQ, W, AW = (like.new_empty(0, D) for _ in range(4))
    while True:
        new = torch.randn(BLOCK_SIZE, D, generator=rng, dtype=torch.float64).to(like)
        W, AW = torch.cat([W, new]), torch.cat([AW, matvec(new)])
        Q = _extend_basis(Q, AW[-BLOCK_SIZE:])
        spent += BLOCK_SIZE + len(Q) - len(AQ)
        AQ = _extend_products(AQ, Q, matvec)
        m = len(W)
        if len(Q) < m:  # fewer rows than vectors: Q spans the range of A, and Tr Q A Q^T is the trace
            return Trace(float(dots(Q, AQ).trace()), 0.0, spent, True)
        inner_products = (
            dots(AW, Q),
            dots(Q, AQ),
            dots(Q, W),
            dots(AQ, W),
            (W * AW).double().sum(1).cpu(),
            W.double().square().sum(1).cpu(),
        )
        samples = _xtrace_samples(*inner_products, D)
        mean, stderr = float(samples.mean()), float(samples.std() / m**0.5)
        # Beyond D / 2 vectors, of two products each, the exact trace is cheaper.
        exhausted = spent + 2 * BLOCK_SIZE > max_products or m + BLOCK_SIZE > D // 2
        # The jackknife takes m times the work of the samples: only if the published error would end the run.
        if exhausted or (m >= MIN_SAMPLES and stderr <= rtol * abs(mean)):
            stderr = (stderr * _jackknife(*inner_products, D)) ** 0.5
        converged = m >= MIN_SAMPLES and stderr <= rtol * abs(mean)
        if tell is not None:
            tell(spent, stderr / max(abs(mean), TINY))
        if converged or exhausted:
            return Trace(mean, stderr, spent, converged)


def _extend_basis(Q: Tensor, Y: Tensor) -> Tensor:
    """Q [r, D] with the components of the rows of Y orthogonal to it appended as orthonormal rows."""
    for y in Y:
        if (q := orthonormal(y, Q)) is not None:
            Q = torch.cat([Q, q[None]])
    return Q


def _extend_products(AQ: Tensor, Q: Tensor, matvec: Matvec) -> Tensor:
    """The products of all rows of Q with A, of which AQ holds the first."""
    return torch.cat([AQ, matvec(Q[len(AQ) :])]) if len(Q) > len(AQ) else AQ


def _jackknife(R: Tensor, H: Tensor, QW: Tensor, AQW: Tensor, WAW: Tensor, WW: Tensor, D: int) -> float:
    """The jackknife's standard error of XTrace, sqrt((m - 1) / m sum_i (t_i - mean t)^2), t_i the estimate
    without the vector w_i (Efron & Stein 1981: its square is not too small in expectation). Arguments as in
    `_xtrace_samples`."""
    m, estimates = len(R), []
    for i in range(m):
        others = torch.arange(m) != i
        s = torch.linalg.inv(R)[:, i : i + 1]  # the direction of Q that is orthogonal to A w_j, j != i
        P = torch.linalg.svd(s)[0][:, 1:].T  # an orthonormal basis of its complement
        samples = _xtrace_samples(
            R[others] @ P.T,
            P @ H @ P.T,
            P @ QW[:, others],
            P @ AQW[:, others],
            WAW[others],
            WW[others],
            D,
        )
        estimates.append(samples.mean())
    t = torch.stack(estimates)
    return float(((m - 1) / m * (t - t.mean()).square().sum()).sqrt())


def _xtrace_samples(
    R: Float64[Tensor, "m m"],
    H: Float64[Tensor, "m m"],
    QW: Float64[Tensor, "m m"],
    AQW: Float64[Tensor, "m m"],
    WAW: Float64[Tensor, " m"],
    WW: Float64[Tensor, " m"],
    D: int,
) -> Float64[Tensor, " m"]:
    """XTrace's samples [m] (see `xtrace`), from inner products alone: rows A w_i = R_i Q, H = Q A Q^T, QW = Q
    W^T, AQW = Q A W^T, WAW_i = w_i.Aw_i, WW_i = |w_i|^2.

    The columns of R^-1, normalized, are the directions s_i of Q that are orthogonal to A w_j for all j != i:
    Q_i spans Q without s_i.
    """
    S = torch.linalg.inv(R)
    S = S / S.norm(dim=0)
    X = QW - S * (S * QW).sum(0)  # column i: Q_i^T Q_i w_i in the coordinates of Q
    trace_in_Q = H.trace() - (S * (H @ S)).sum(0)
    rAr = WAW - 2 * (X * AQW).sum(0) + (X * (H @ X)).sum(0)
    rr = WW - X.square().sum(0)
    return trace_in_Q + rAr * (D - len(R) + 1) / rr


def _mean_over_probes(
    matvec: Matvec,
    like: Tensor,
    rng: Generator,
    rtol: float,
    max_products: int,
    spent: int,
    offset: float,
    projection: Callable[[Tensor], Tensor] | None,
    tell: Tell | None,
) -> Trace:
    """`offset` plus the mean of z.Az over probes z of independent signs, to which `projection` is applied
    first. `spent` products count towards `max_products` from the start."""
    samples = torch.empty(0, dtype=torch.float64)
    while True:
        Z = signs(BLOCK_SIZE, like, rng)
        if projection is not None:
            Z = projection(Z)
        samples = torch.cat([samples, (Z * matvec(Z)).double().sum(1).to("cpu")])
        spent += BLOCK_SIZE
        value, stderr = offset + float(samples.mean()), float(samples.std() / len(samples) ** 0.5)
        converged = stderr <= rtol * abs(value) and len(samples) >= MIN_SAMPLES
        if tell is not None:
            tell(spent, stderr / max(abs(value), TINY))
        if converged or spent + BLOCK_SIZE > max_products:
            return Trace(value, stderr, spent, converged)
