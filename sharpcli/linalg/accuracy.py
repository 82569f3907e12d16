"""What a stated error must include: the rounding of the sums behind a number, and the few samples behind a
mean.

A column `_stderr` is half the half width of an interval: value ± 2 stderr holds the truth in at least 95 of
100 cases. Where samples are many it is their standard deviation over sqrt(m), times 1.12: the intervals are
made for 97.5 %, which leaves room for what no formula includes, such as that an estimate stops when its own
error is small. `benchmarks/coverage.py` measures the shares.
"""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

# A product A v in precision eps is off by a few eps |A|, whatever the residuals say: 34 eps |A| at most was
# seen in eigenvalues of networks (mlp, cnn, mixer, resnets of 8 to 20 layers; 512 to 318,410 weights; trained
# to losses down to 1e-5), float32 compared with float64, and 19 eps |A| between Lanczos and LAPACK, both in
# float64.
EIGENVALUE_EPS = 64.0
# The same for traces, in units of eps |A|_F: 35 eps |A|_F was seen.
TRACE_EPS = 64.0
# A loss is a mean over examples of what is computed in the weights' precision.
LOSS_EPS = 2.0
# z.Az is most skewed where a single eigenvalue dominates: a multiple of the square of a normal number. For m
# samples of that law a 95 % interval is t (1 + SKEWNESS / m) s / sqrt(m), t Student's quantile: by simulation
# within 2 % for m from 4 to 1,000.
SKEWNESS = 8.7


def eps(like: Tensor) -> float:
    """The machine epsilon of a tensor's precision."""
    return torch.finfo(like.dtype).eps


def eigenvalue_rounding(spectral_norm: float, like: Tensor) -> float:
    """What rounding can do to an eigenvalue of A: `EIGENVALUE_EPS` eps |A|, eps that of the products."""
    return EIGENVALUE_EPS * eps(like) * spectral_norm


def trace_rounding(frobenius_norm: float, like: Tensor) -> float:
    """What rounding can do to a trace, as a standard error: half of `TRACE_EPS` eps |A|_F."""
    return 0.5 * TRACE_EPS * eps(like) * frobenius_norm


def loss_rounding(value: float, like: Tensor) -> float:
    """What rounding can do to the difference of two losses around `value`, as a standard error."""
    return LOSS_EPS * eps(like) * abs(value)


def widening(degrees: float) -> float:
    """Half of Student's quantile for an interval of 97.5 %: what a standard error estimated with so many
    degrees of freedom is multiplied by, so that two of it are the interval's half width. 1.12 for many, 1.37
    for 8."""
    from scipy.special import stdtrit  # here: the import takes a fifth of a second, and traces alone need it

    return 0.5 * float(stdtrit(max(degrees, 1.0), 0.5 + 0.975 / 2))


def mean_and_stderr(samples: Tensor | list[float]) -> tuple[float, float]:
    """The mean of m independent samples, and half the half width of its interval, which covers for
    samples as skewed as the square of a normal number. NaN for a single sample."""
    values = torch.as_tensor(samples, dtype=torch.float64)
    m = len(values)
    if m < 2:
        return float(values.mean()), float("nan")
    return float(values.mean()), float(values.std()) / m**0.5 * widening(float(m - 1)) * (1 + SKEWNESS / m)


def stderr_by_variances(variances: Float64[Tensor, " k"], m: int) -> float:
    """Half the half width of the interval of a mean over m samples whose variance is the mean of k
    independent unbiased estimates `variances`.

    Student's degrees of freedom are Satterthwaite's, 2 k mean^2 / var: many where the estimates agree, about
    m for z.Az of a matrix with one large eigenvalue.
    """
    mean = float(variances.mean().clamp_min(0))
    if not mean > 0:
        return 0.0 if mean == 0 else float("nan")
    spread = float(variances.var()) if len(variances) > 1 else mean**2 * 2
    degrees = 2 * len(variances) * mean**2 / spread if spread > 0 else float("inf")
    return (mean / m) ** 0.5 * widening(min(degrees, 1e6))
