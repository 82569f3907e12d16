"""The curvature above which each method is unstable on a quadratic, and the radius at which SAM settles, in
closed form.

Only the tests use this module: they hold its formulas against simulated steps. An optimizer states its edge
itself (`Momentum.edge`, for example).
"""

from __future__ import annotations

import math


def gd(lr: float) -> float:
    """2 / lr: gradient descent is unstable where lambda_1 is above it."""
    return 2 / lr


def polyak(lr: float, beta: float) -> float:
    """2 (1 + beta) / lr: v <- beta v + g, w <- w - lr v is unstable where lambda_1 is above it. Cohen et al.
    2021, arXiv:2103.00065, appendix B."""
    return 2 * (1 + beta) / lr


def nesterov(lr: float, beta: float) -> float:
    """2 (1 + beta) / ((1 + 2 beta) lr): Nesterov's momentum is unstable where lambda_1 is above it. Cohen et
    al. 2021, arXiv:2103.00065, appendix B."""
    return 2 * (1 + beta) / ((1 + 2 * beta) * lr)


def batch_one(lr: float) -> float:
    """2 / lr: steps on single examples of the (u, v) model with inputs +-1 are unstable in mean square where
    Tr H is above it. Ma & Ying 2021, arXiv:2105.13462."""
    return 2 / lr


def sam_edge(lr: float, rho: float, grad_norm: float) -> float:
    """|g| / (2 rho) (sqrt(1 + 8 rho / (lr |g|)) - 1), |g| = `grad_norm`: SAM is unstable where lambda_1 is
    above it.

    It is the root lambda of lr lambda (1 + rho lambda / |g|) = 2, which for rho = 0 is 2 / lr. Long &
    Bartlett 2024, arXiv:2309.12488.
    """
    if rho == 0:
        return 2 / lr
    return grad_norm / (2 * rho) * (math.sqrt(1 + 8 * rho / (lr * grad_norm)) - 1)


def sam_radius(lr: float, rho: float, lambda_1: float) -> float:
    """lr rho lambda_1 / (2 - lr lambda_1): the distance from the minimum of a quadratic at which SAM jumps
    from side to side along the top eigenvector.

    It is the |w| that solves w - lr lambda_1 (w + rho sign w) = -w. Wen, Ma & Li 2023, arXiv:2211.05729,
    theorem 4.8.
    """
    return lr * rho * lambda_1 / (2 - lr * lambda_1)


def least_population_trace(d: int, nuclear: float, depth: int) -> float:
    """The least E Tr H of half squared loss over the factorizations of an X [d, d] with |X|_* = `nuclear`,
    for measurements A with entries N(0, 1): 2 d |X|_* at depth 2, and 3 d^(2/3) |X|_*^(4/3) at depth 3.
    Gatmiry et al. 2023, arXiv:2306.13239.

    Raises ValueError at other depths.
    """
    if depth not in (2, 3):
        raise ValueError(f"depth={depth}: known for 2 and 3")
    return 2 * d * nuclear if depth == 2 else 3 * d ** (2 / 3) * nuclear ** (4 / 3)
