"""The (u, v) model f(z) = <u*u - v*v, z> with half squared loss: gradient flow's limit, the flow of label
noise, its clock.

Z [n, d] are the inputs and y [n] the labels; u, v [d] have no zeros. From Li, Wang & Arora 2022,
arXiv:2110.06914, section 6, and Woodworth et al. 2020, arXiv:2002.09277; derivations are in docs/theory.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

from sharpcli.errors import Unreachable

Vector = NDArray[np.float64]
Pair = tuple[Vector, Vector]


def limit(u: Vector, v: Vector, Z: Vector, y: Vector, tol: float = 1e-13) -> Pair:
    """Phi(u, v), where gradient flow ends: (u e^-s, v e^s), s = Z^T a, a minimizing the strictly convex
    1/2 sum_j (u_j^2 e^(-2 s_j) + v_j^2 e^(2 s_j)) + y.a.

    Gradient flow moves u_j by -2 u_j (Z^T r)_j / n and v_j by the opposite, so that u_j v_j is conserved, and
    the gradient of the dual in a is the residual: Newton with backtracking. Raises Unreachable where the
    residual does not fall to `tol` of the labels' scale.
    """
    a, scale = np.zeros(len(y)), 1.0 + np.abs(y).max()

    def dual(a: Vector) -> tuple[float, Vector, Vector]:
        s = Z.T @ a
        p, q = u * u * np.exp(-2 * s), v * v * np.exp(2 * s)
        return float(0.5 * np.sum(p + q) + y @ a), p, q

    value, p, q = dual(a)
    for _ in range(1000):
        residual = Z @ (p - q) - y
        if np.abs(residual).max() <= tol * scale:
            break
        newton = np.linalg.lstsq((Z * (2 * (p + q))) @ Z.T, residual, rcond=None)[0]
        newton, step = (
            newton * min(1.0, 3.0 / max(float(np.abs(Z.T @ newton).max()), 1e-300)),
            1.0,
        )  # where u, v are tiny the dual is flat
        while step > 1e-12:
            with np.errstate(over="ignore", invalid="ignore"):
                new, new_p, new_q = dual(a + step * newton)
            lower = new <= value - 1e-4 * step * float(
                residual @ newton
            )  # or, where rounding hides that, a smaller residual
            if np.isfinite(new) and (
                lower or np.abs(Z @ (new_p - new_q) - y).max() < 0.5 * np.abs(residual).max()
            ):
                break
            step /= 2
        else:
            break
        a, value, p, q = a + step * newton, new, new_p, new_q
    s = Z.T @ a
    out = u * np.exp(-s), v * np.exp(s)
    left = float(np.abs(Z @ (out[0] ** 2 - out[1] ** 2) - y).max())
    if not left <= 1e-8 * scale:
        stuck = int(np.sum((u == 0) | (v == 0)))
        raise Unreachable(
            f"gradient flow reaches no interpolator from here (residual {left:.1e}, {stuck} coordinates at "
            f"zero)"
        )
    return out


def flow(
    u: Vector, v: Vector, Z: Vector, y: Vector, tau: float, rate: float = 0.25, delta: float = 1.0
) -> Pair:
    """The limiting flow dY/dtau = -rate delta^2 (projected) grad Tr H from Phi(u, v), at tau: Phi(e^(-A c)
    (u, v)) with A = 8 rate delta^2 tau and c_j = mean_i z_ij^2; tau = lr^2 steps for label noise, whose rate
    is 1/4."""
    shrink = np.exp(-8 * rate * delta**2 * tau * np.mean(Z * Z, axis=0))
    return limit(u * shrink, v * shrink, Z, y)


def sharpest_flow(
    u: Vector, v: Vector, Z: Vector, y: Vector, tau: float, rate: float = 0.5, steps: int = 400
) -> Pair:
    """The flow dY/dtau = -rate (projected) grad lambda_1 from Phi(u, v), at tau: log u_j and log v_j fall at
    rate (8/n) (Z^T e)_j^2, e the top eigenvector of the kernel Z diag(u^2 + v^2) Z^T.

    Heun's method in `steps` steps: once two eigenvalues meet the field jumps, and an adaptive solver would
    never end.
    """
    n, shrink, h = len(y), np.zeros_like(u), tau / steps

    def pull(shrink: Vector) -> Vector:
        here = limit(u * np.exp(-shrink), v * np.exp(-shrink), Z, y)
        e = np.linalg.eigh((Z * (here[0] ** 2 + here[1] ** 2)) @ Z.T)[1][:, -1]
        return rate * (8 / n) * (Z.T @ e) ** 2

    for _ in range(steps):
        first = pull(shrink)
        shrink = shrink + h / 2 * (first + pull(shrink + h * first))
    return limit(u * np.exp(-shrink), v * np.exp(-shrink), Z, y)


def trace(u: Vector, v: Vector, Z: Vector) -> float:
    """Tr H = (4/n) sum_i sum_j z_ij^2 (u_j^2 + v_j^2) at an interpolator."""
    return float(4 * np.mean(Z * Z, axis=0) @ (u * u + v * v))


def sharpness(u: Vector, v: Vector, Z: Vector) -> float:
    """lambda_1 = (4/n) lambda_1(Z diag(u^2 + v^2) Z^T) at an interpolator."""
    return float(4 / len(Z) * np.linalg.eigvalsh((Z * (u * u + v * v)) @ Z.T)[-1])


def clock(u: Vector, v: Vector, Z: Vector, y: Vector, tau: float, lr: float, delta: float = 1.0) -> float:
    """tau_eff after tau = lr^2 steps of batch-1 label noise: d tau_eff / d tau = 1 / (1 - lr Tr(Y) / 2), Y
    the limiting flow at tau_eff; to leading order in lr, for inputs +-1. Infinity where lr Tr / 2 reaches
    1."""

    def speed(_: float, eff: Vector) -> Vector:
        slack = 1 - lr * trace(*flow(u, v, Z, y, float(eff[0]), delta=delta), Z) / 2
        return np.array([1 / slack if slack > 0 else np.inf])

    if not np.isfinite(speed(0, np.zeros(1))[0]):
        return float("inf")
    return float(solve_ivp(speed, (0, tau), [0.0], rtol=1e-8, atol=1e-10).y[0, -1])


def fluctuation(u: Vector, v: Vector, Z: Vector, lr: float, delta: float, batch: int = 1) -> float:
    """E|x - Phi(x)|^2 = (n lr delta^2 / 2) / (1 - lr Tr / 2), over the batch, around the flow; to leading
    order in lr."""
    return len(Z) * lr * delta**2 / 2 / (1 - lr * trace(u, v, Z) / 2) / batch
