"""The curvature at which each method stops being stable, and where SAM settles: on quadratics, in closed
form."""

from __future__ import annotations

import math


def gd(lr: float) -> float:
    """2 / lr, for lambda_1."""
    return 2 / lr


def polyak(lr: float, beta: float) -> float:
    """2 (1 + beta) / lr, for lambda_1 and v <- beta v + g. Cohen et al. 2021, arXiv:2103.00065, appendix
    B."""
    return 2 * (1 + beta) / lr


def nesterov(lr: float, beta: float) -> float:
    """2 (1 + beta) / ((1 + 2 beta) lr), for lambda_1. Cohen et al. 2021, appendix B."""
    return 2 * (1 + beta) / ((1 + 2 * beta) * lr)


def batch_one(lr: float) -> float:
    """2 / lr, for Tr H: single-example steps on the (u, v) model with inputs +-1 are unstable in mean square
    above it. Ma & Ying 2021, arXiv:2105.13462."""
    return 2 / lr


def sam_edge(lr: float, rho: float, grad_norm: float) -> float:
    """|g| / (2 rho) (sqrt(1 + 8 rho / (lr |g|)) - 1), for lambda_1 where the gradient has norm |g|: the root
    of lr lambda (1 + rho lambda / |g|) = 2; 2 / lr for rho = 0. Long & Bartlett 2024, arXiv:2309.12488."""
    if rho == 0:
        return 2 / lr
    return grad_norm / (2 * rho) * (math.sqrt(1 + 8 * rho / (lr * grad_norm)) - 1)


def sam_radius(lr: float, rho: float, lambda_1: float) -> float:
    """lr rho lambda_1 / (2 - lr lambda_1): how far from the minimum of a quadratic SAM bounces, along its top
    eigenvector.

    w = -(w - lr lambda (w + rho sign w)). Wen, Ma & Li 2023, arXiv:2211.05729, theorem 4.8."""
    return lr * rho * lambda_1 / (2 - lr * lambda_1)


def least_population_trace(d: int, nuclear: float, depth: int) -> float:
    """min E Tr H over factorizations of X [d, d] with |X|_* = `nuclear`, for A ~ N(0, 1) and half squared
    loss: 2 d |X|_* at depth 2, 3 d^(2/3) |X|_*^(4/3) at depth 3 (Gatmiry et al. 2023, arXiv:2306.13239).
    Raises ValueError at other depths."""
    if depth not in (2, 3):
        raise ValueError(f"depth={depth}: known for 2 and 3")
    return 2 * d * nuclear if depth == 2 else 3 * d ** (2 / 3) * nuclear ** (4 / 3)
