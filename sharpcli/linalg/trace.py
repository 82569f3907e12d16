"""Estimates of the trace of a symmetric operator: Hutchinson 1989; Hutch++ (Meyer et al. 2021,
arXiv:2010.09649) with its rank chosen during the run, after Persson et al. 2022, arXiv:2109.10659; XTrace
(Epperly, Tropp & Webber 2024, arXiv:2301.07825).

Each method returns the estimate, its error and the number of products spent. The error `stderr` is half the
half width of an interval (`accuracy`). A method stops when `stderr` is at most `rtol` times |estimate|,
or when another block of probes would exceed `max_products`.

The variance of a sample z.Az is not that of the few samples seen, which is too small whenever they happen to
be alike, but what the products A z say of it: 2 sum_{i != j} A_ij^2 for signs z, 2 |A|_F^2 for Gaussian z. So
an estimate stopped by a small variance is not stopped by chance. In the signatures `like` [D] is any tensor
of the dtype, device and length of the operator's vectors. A product that is not finite raises
FloatingPointError.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Generator, Tensor

from sharpcli.linalg.accuracy import eps, stderr_by_variances, trace_rounding
from sharpcli.linalg.krylov import DEPENDENT_EPS, Matvec, Stack, dots, finite, orthonormal
from sharpcli.linalg.lanczos import Tell
from sharpcli.linalg.split import added, dimension, own

Method = Literal["hutchinson", "hutchpp", "xtrace"]

FIRST_ROWS = 8  # rows for which memory is allocated at first
BLOCK_SIZE = 4  # probes multiplied by A in one call: a larger block saves little time and costs memory
MIN_SAMPLES = 8  # samples below which their variance is too uncertain to stop by
# Entries far from the diagonal may by chance have the same sign in all of 8 probes and look as if they lay on
# it: where most of |A|_F seems to lie on the diagonal, a decision waits for so many samples.
MIN_SAMPLES_DIAGONAL = 16
TINY = 1e-300  # lower limit of |estimate| in a relative error, which an estimate of 0 would make infinite
# XTrace's samples share their vectors: the standard deviation of their mean over many seeds was 1.0 to 1.5
# times what independent samples would have, on matrices of 14 kinds, for 8, 12 and 24 vectors.
XTRACE_DEPENDENCE = 1.35


@dataclass(frozen=True)
class Trace:
    """A trace estimate `value` with its error `stderr` (value ± 2 stderr is an interval, see `accuracy`), the
    number of `products` spent, and whether the error `converged` to the one requested."""

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
    room: int | float = math.inf,
) -> Trace:
    """The trace by the named method; the exact trace if `max_products` allows the D products it takes. No
    more than `room` vectors [D] are kept: Hutch++ then goes on with probes alone, XTrace ends."""
    if dimension(like) <= max_products:
        exactly = exact(matvec, like)
        return replace(exactly, converged=exactly.stderr <= rtol * abs(exactly.value))
    return {"hutchinson": hutchinson, "hutchpp": hutchpp, "xtrace": xtrace}[method](
        matvec, like, rng, rtol, max_products, tell, room
    )


def signs(rows: int, like: Float[Tensor, " D"], rng: Generator) -> Float[Tensor, "rows D"]:
    """Independent entries +1 or -1, each with probability 1/2."""
    drawn = torch.randint(0, 2, (rows, dimension(like)), generator=rng, dtype=like.dtype)  # as integers draw
    return own(drawn).to(like.device).mul_(2).sub_(1)


def exact(matvec: Matvec, like: Float[Tensor, " D"]) -> Trace:
    """The sum of the diagonal entries e_i.Ae_i, by D products; its error is rounding alone."""
    total = squared_norm = 0.0
    D = dimension(like)
    for rows in torch.arange(D, device=like.device).split(BLOCK_SIZE):
        E = torch.zeros(len(rows), D, dtype=like.dtype, device=like.device)
        E[torch.arange(len(rows)), rows] = 1
        E = own(E)
        AE = matvec(E)
        total += finite(_sum(E * AE))
        squared_norm += _sum(AE.double().square())
    return Trace(total, trace_rounding(squared_norm**0.5, like), D, True)


def _sum(products: Float[Tensor, "*m D"]) -> float:
    """The sum of the entries, in float64."""
    return float(added(products.double().sum()))


def hutchinson(
    matvec: Matvec,
    like: Float[Tensor, " D"],
    rng: Generator,
    rtol: float,
    max_products: int,
    tell: Tell | None = None,
    room: int | float = math.inf,
) -> Trace:
    """The mean of the samples z.Az over probes z of independent signs. A sample has mean Tr A and variance
    2 sum_{i != j} A_ij^2, and takes one product."""
    return _mean_over_probes(matvec, like, rng, rtol, max_products, 0, 0.0, None, 0.0, tell)


def hutchpp(
    matvec: Matvec,
    like: Float[Tensor, " D"],
    rng: Generator,
    rtol: float,
    max_products: int,
    tell: Tell | None = None,
    room: int | float = math.inf,
) -> Trace:
    """Tr Q A Q^T exactly, Q [r, D] an orthonormal basis of products of A with random signs, plus
    Hutchinson's estimate of Tr P A P, P = I - Q^T Q the projection onto the complement.

    A row of Q takes two products. Hutchinson's variance is about 2 |P A P|_F^2, with |A|_F^2 estimated by the
    squared norms of the products A s with signs s; r grows by blocks while the probes this saves are more
    than the products it takes, and at most half of `max_products` goes to Q.
    """
    Q, AQ = Stack(like, FIRST_ROWS), Stack(like, FIRST_ROWS)
    squared_norms: list[float] = []
    spent, previous_probes = 0, float("inf")
    most = min(dimension(like), room / 2)  # rows of Q; as many of AQ are kept
    while spent + 2 * BLOCK_SIZE <= max_products // 2 and len(Q) + BLOCK_SIZE <= most:
        Y = matvec(signs(BLOCK_SIZE, like, rng))
        squared_norms += [finite(x) for x in dots(Y, Y).diagonal().tolist()]
        _extend_basis(Q, Y)
        spent += BLOCK_SIZE + len(Q) - len(AQ)
        _extend_products(AQ, Q, matvec)
        T = dots(Q.rows, AQ.rows)
        # |A|_F^2 - |P A P|_F^2 = 2 |Q A|_F^2 - |Q A Q^T|_F^2
        covered = 2 * float(dots(AQ.rows, AQ.rows).diagonal().sum()) - float(T.square().sum())
        remaining = max(sum(squared_norms) / len(squared_norms) - covered, 0.0)
        target_variance = (rtol * finite(float(T.trace()))) ** 2
        # The number of probes after which Hutchinson's estimate of Tr P A P would have the target variance.
        probes = 2 * remaining / target_variance if target_variance else 0.0
        if probes <= MIN_SAMPLES or (len(Q) > BLOCK_SIZE and previous_probes - probes < 2 * BLOCK_SIZE):
            break
        previous_probes = probes
    trace_in_Q = float(dots(Q.rows, AQ.rows).trace()) if len(Q) else 0.0
    norm_in_Q = float(dots(AQ.rows, AQ.rows).trace()) ** 0.5 if len(Q) else 0.0
    del AQ  # the probes need Q alone

    def complement(Z: Float[Tensor, "m D"]) -> Float[Tensor, "m D"]:
        return Z - dots(Z, Q.rows).to(Z) @ Q.rows if len(Q) else Z

    return _mean_over_probes(
        matvec, like, rng, rtol, max_products, spent, trace_in_Q, complement, norm_in_Q, tell
    )


def xtrace(
    matvec: Matvec,
    like: Float[Tensor, " D"],
    rng: Generator,
    rtol: float,
    max_products: int,
    tell: Tell | None = None,
    room: int | float = math.inf,
) -> Trace:
    """The mean over i of the samples Tr Q_i A Q_i^T + (D - m + 1) r_i.Ar_i / |r_i|^2, for m Gaussian vectors
    w_i: Q_i is an orthonormal basis of the span of all A w_j but A w_i, and r_i = w_i - Q_i^T Q_i w_i. Two
    products a vector.

    The variance of a sample follows from |P_i A r_i|, P_i = I - Q_i^T Q_i (see `_xtrace_samples`). The
    samples share their vectors, so that the mean over m of them varies `XTRACE_DEPENDENCE` times as much as
    over independent samples.
    """
    D, spent = dimension(like), 0
    Q, AQ, W, AW = (Stack(like, FIRST_ROWS) for _ in range(4))
    while True:  # m grows by BLOCK_SIZE until D / 2 at the latest
        new = own(torch.randn(BLOCK_SIZE, D, generator=rng, dtype=torch.float64)).to(like)
        W.append(new)
        AW.append(matvec(new))
        squared_norm = finite(float(dots(AW.rows, AW.rows).diagonal().mean()))  # estimates |A|_F^2
        _extend_basis(Q, AW.rows[-BLOCK_SIZE:])
        spent += BLOCK_SIZE + len(Q) - len(AQ)
        _extend_products(AQ, Q, matvec)
        rounding = trace_rounding(squared_norm**0.5, like)
        m = len(W)
        if len(Q) < m:  # fewer rows than vectors: Q spans the range of A, and Tr Q A Q^T is the trace
            # up to what is below the rounding of a product: |P A P|_F <= DEPENDENT_EPS eps |A|_F
            beyond = (D * squared_norm) ** 0.5 * DEPENDENT_EPS * eps(like) / 2
            value, stderr = finite(float(dots(Q.rows, AQ.rows).trace())), math.hypot(rounding, beyond)
            return Trace(value, stderr, spent, stderr <= rtol * abs(value))
        samples, variances = _xtrace_samples(
            dots(AW.rows, Q.rows),
            dots(Q.rows, AQ.rows),
            dots(Q.rows, W.rows),
            dots(AQ.rows, W.rows),
            dots(AQ.rows, AQ.rows),
            added((W.rows * AW.rows).double().sum(1)).cpu(),
            added(W.rows.double().square().sum(1)).cpu(),
            D,
        )
        value = finite(float(samples.mean()))
        stderr = math.hypot(XTRACE_DEPENDENCE * stderr_by_variances(variances, m), rounding)
        converged = m >= MIN_SAMPLES and stderr <= rtol * abs(value)
        if tell is not None:
            tell(spent, stderr / max(abs(value), TINY))
        # Beyond D / 2 vectors, of two products each, the exact trace is cheaper.
        if converged or spent + 2 * BLOCK_SIZE > max_products or m + BLOCK_SIZE > min(D // 2, room / 4):
            return Trace(value, stderr, spent, converged)


def _extend_basis(Q: Stack, Y: Tensor) -> None:
    """Appends the components of the rows of Y orthogonal to the orthonormal rows of Q, as unit vectors."""
    for y in Y:
        if (q := orthonormal(y, Q.rows)) is not None:
            Q.append(q[None])


def _extend_products(AQ: Stack, Q: Stack, matvec: Matvec) -> None:
    """Appends to AQ, the products of the first rows of Q with A, those of the others."""
    if len(Q) > len(AQ):
        AQ.append(matvec(Q.rows[len(AQ) :]))


def _xtrace_samples(
    R: Float64[Tensor, "m m"],
    H: Float64[Tensor, "m m"],
    QW: Float64[Tensor, "m m"],
    AQW: Float64[Tensor, "m m"],
    AQAQ: Float64[Tensor, "m m"],
    WAW: Float64[Tensor, " m"],
    WW: Float64[Tensor, " m"],
    D: int,
) -> tuple[Float64[Tensor, " m"], Float64[Tensor, " m"]]:
    """XTrace's samples [m] (see `xtrace`), and an estimate of the variance of each, from inner products
    alone: rows A w_i = R_i Q, H = Q A Q^T, QW = Q W^T, AQW = Q A W^T, AQAQ = Q A A Q^T, WAW_i = w_i.Aw_i,
    WW_i = |w_i|^2.

    The columns of R^-1, normalized, are the directions s_i of Q that are orthogonal to A w_j for all j != i:
    Q_i spans Q without s_i. The direction x = r_i / |r_i| is uniform on the unit sphere of the K = D - m + 1
    dimensions of the complement, B = P_i A P_i, so that K x.Bx varies by 2 K / (K + 2) (|B|_F^2 - (Tr B)^2 /
    K), which K |Bx|^2 and K x.Bx estimate.
    """
    K = D - len(R) + 1
    S = torch.linalg.inv(R)
    S = S / S.norm(dim=0)
    X = QW - S * (S * QW).sum(0)  # column i: Q_i^T Q_i w_i in the coordinates of Q
    trace_in_Q = H.trace() - (S * (H @ S)).sum(0)
    rAr = WAW - 2 * (X * AQW).sum(0) + (X * (H @ X)).sum(0)
    rr = WW - X.square().sum(0)
    # P_i A r_i has a part outside Q, of the rows of A Q, and a part along s_i.
    outside = (X * ((AQAQ - H @ H.T) @ X)).sum(0)
    along = (S * (R.T - H @ X)).sum(0)
    BxBx = (outside.clamp_min(0) + along.square()) / rr
    xBx = rAr / rr
    return trace_in_Q + K * xBx, 2 * K**2 / (K + 2) * (BxBx - xBx.square()).clamp_min(0)


class SignSamples:
    """The samples z.Az [m] of probes z of independent signs, with the variance that the products tell.

    The entries of d = z * Az have the means A_ii and the variances sum_{j != i} A_ij^2, which add up to half
    of the variance 2 sum_{i != j} A_ij^2 of a sample. Each probe after the first gives an unbiased estimate
    of that sum from its distance to the mean of the earlier d (Welford 1962); for a diagonal A all d are
    equal, and the error is rounding alone.
    """

    def __init__(self, like: Float[Tensor, " D"]) -> None:
        self.like, self.samples, self.variances = like, list[float](), list[float]()
        self.mean_entries = torch.zeros_like(like)
        self.squared_norm = 0.0  # the mean of |Az|^2, which estimates |A|_F^2

    def add(self, Z: Float[Tensor, "m D"], AZ: Float[Tensor, "m D"]) -> None:
        """Takes in the rows z of Z and Az of AZ."""
        for z, Az in zip(Z, AZ, strict=True):
            d = z * Az
            self.samples.append(finite(_sum(d)))
            m = len(self.samples)
            self.squared_norm += (_sum(d.double().square()) - self.squared_norm) / m
            step = d - self.mean_entries
            self.mean_entries += step / m
            if m > 1:
                self.variances.append(2 * (m - 1) / m * _sum(step.double().square()))

    @property
    def mean(self) -> float:
        """The estimate of Tr A."""
        return sum(self.samples) / len(self.samples)

    @property
    def enough(self) -> bool:
        """Whether the samples are enough to believe their variance."""
        seen = sum(self.variances) / max(len(self.variances), 1) / 2  # sum_{i != j} A_ij^2
        diagonal = seen < 0.5 * self.squared_norm
        return len(self.samples) >= (MIN_SAMPLES_DIAGONAL if diagonal else MIN_SAMPLES)

    def stderr(self, more_norm: float = 0.0) -> float:
        """Its error, with what rounding does to a matrix of norm |A|_F or `more_norm`, if that is larger."""
        variances = torch.tensor(self.variances, dtype=torch.float64)
        rounding = trace_rounding(max(self.squared_norm**0.5, more_norm), self.like)
        return math.hypot(stderr_by_variances(variances, len(self.samples)), rounding)


def _mean_over_probes(
    matvec: Matvec,
    like: Tensor,
    rng: Generator,
    rtol: float,
    max_products: int,
    spent: int,
    offset: float,
    projection: Callable[[Tensor], Tensor] | None,
    norm: float,
    tell: Tell | None,
) -> Trace:
    """`offset` plus the mean of z.Az over probes z of independent signs, to which `projection` is applied
    first. `spent` products count towards `max_products` from the start; `norm` is |A|_F, or a part of it."""
    samples = SignSamples(like)
    while True:  # each round spends BLOCK_SIZE of `max_products`
        signed = signs(BLOCK_SIZE, like, rng)
        if projection is None:
            samples.add(signed, matvec(signed))
        else:
            samples.add(signed, projection(matvec(projection(signed))))
        spent += BLOCK_SIZE
        value, stderr = offset + samples.mean, samples.stderr(norm)
        converged = samples.enough and stderr <= rtol * abs(value)
        if tell is not None:
            tell(spent, stderr / max(abs(value), TINY))
        if converged or spent + BLOCK_SIZE > max_products:
            return Trace(value, stderr, spent, converged)
