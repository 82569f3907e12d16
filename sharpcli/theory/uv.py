"""The (u, v) model f(z) = <u*u - v*v, z> with half squared loss: the limit of gradient flow, the limiting
flow of label noise, and the flow's time that a run of finite lr has reached (its clock).

Z [n, d] are the inputs and y [n] the labels; u and v [d] have no zeros. Sources: Li, Wang & Arora 2022,
arXiv:2110.06914, section 6, and Woodworth et al. 2020, arXiv:2002.09277; derivations are in docs/theory.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sharpcli.errors import Unreachable

Vector = NDArray[np.float64]
Pair = tuple[Vector, Vector]

NEWTON_STEPS = 1000  # the most steps of Newton's method towards a limit
LARGEST_CHANGE = 3.0  # of an s_j in one step: where u and v are tiny the dual is flat, Newton's step too long
SMALLEST_STEP = 1e-12  # the share of Newton's step below which backtracking gives up
LARGEST_RESIDUAL = 1e-8  # over the labels' scale: beyond it the end point is no interpolator


def limit(u: Vector, v: Vector, Z: Vector, y: Vector, tol: float = 1e-13) -> Pair:
    """Phi(u, v), where gradient flow ends: (u e^-s, v e^s) with s = Z^T a, where a [n] minimizes the strictly
    convex 1/2 sum_j (u_j^2 e^(-2 s_j) + v_j^2 e^(2 s_j)) + y.a.

    Gradient flow moves u_j at the rate -2 u_j (Z^T r)_j / n and v_j at 2 v_j (Z^T r)_j / n, r the residuals,
    so that every u_j v_j is conserved. The gradient of the convex function in a is -r; it is minimized by
    Newton's method with backtracking. Raises Unreachable where max |r| stays above 1e-8 (1 + max |y|);
    Newton's method stops at `tol` (1 + max |y|).
    """
    a, scale = np.zeros(len(y)), 1.0 + np.abs(y).max()

    def dual(a: Vector) -> tuple[float, Vector, Vector]:
        """The convex function at a, and p = u^2 e^(-2 s) and q = v^2 e^(2 s) [d]."""
        s = Z.T @ a
        p, q = u * u * np.exp(-2 * s), v * v * np.exp(2 * s)
        return float(0.5 * np.sum(p + q) + y @ a), p, q

    value, p, q = dual(a)
    for _ in range(NEWTON_STEPS):
        residual = Z @ (p - q) - y
        if np.abs(residual).max() <= tol * scale:
            break
        direction = np.linalg.lstsq((Z * (2 * (p + q))) @ Z.T, residual, rcond=None)[0]
        direction = direction * min(1.0, LARGEST_CHANGE / max(float(np.abs(Z.T @ direction).max()), 1e-300))
        step = 1.0
        while step > SMALLEST_STEP:
            with np.errstate(over="ignore", invalid="ignore"):
                new_value, new_p, new_q = dual(a + step * direction)
            decreases = new_value <= value - 1e-4 * step * float(residual @ direction)
            if np.isfinite(new_value) and (
                decreases  # or, where rounding hides the decrease, the residual falls to less than half
                or np.abs(Z @ (new_p - new_q) - y).max() < 0.5 * np.abs(residual).max()
            ):
                break
            step /= 2
        else:
            break
        a, value, p, q = a + step * direction, new_value, new_p, new_q
    s = Z.T @ a
    u_end, v_end = u * np.exp(-s), v * np.exp(s)
    largest_residual = float(np.abs(Z @ (u_end**2 - v_end**2) - y).max())
    if not largest_residual <= LARGEST_RESIDUAL * scale:
        stuck = int(np.sum((u == 0) | (v == 0)))
        raise Unreachable(
            f"gradient flow reaches no interpolator from here (residual {largest_residual:.1e}, {stuck} "
            f"coordinates at zero)"
        )
    return u_end, v_end


def flow(
    u: Vector, v: Vector, Z: Vector, y: Vector, tau: float, rate: float = 0.25, delta: float = 1.0
) -> Pair:
    """The limiting flow dY/dtau = -rate delta^2 P grad Tr H at time `tau`, from Y(0) = Phi(u, v), P the
    projection to the tangent space of the interpolators.

    It is Phi(e^(-A c) u, e^(-A c) v) with A = 8 rate delta^2 tau and c_j = mean_i z_ij^2. For label noise of
    size `delta` the rate is 1/4 and tau = lr^2 steps.
    """
    shrink = np.exp(-8 * rate * delta**2 * tau * np.mean(Z * Z, axis=0))
    return limit(u * shrink, v * shrink, Z, y)


def sharpest_flow(
    u: Vector, v: Vector, Z: Vector, y: Vector, tau: float, rate: float = 0.5, steps: int = 400
) -> Pair:
    """The flow dY/dtau = -rate P grad lambda_1 at time `tau`, from Y(0) = Phi(u, v), P as in `flow`.

    log u_j and log v_j fall at rate (8/n) (Z^T e)_j^2, e [n] the top eigenvector of the kernel Z diag(u^2 +
    v^2) Z^T. The method is Heun's in `steps` steps: where two eigenvalues meet the field jumps, and an
    adaptive solver would never end.
    """
    n, h = len(y), tau / steps
    fallen = np.zeros_like(u)  # by how much log u and log v have fallen

    def speed(fallen: Vector) -> Vector:
        """d fallen / d tau [d]."""
        u_now, v_now = limit(u * np.exp(-fallen), v * np.exp(-fallen), Z, y)
        e = np.linalg.eigh((Z * (u_now**2 + v_now**2)) @ Z.T)[1][:, -1]
        return rate * (8 / n) * (Z.T @ e) ** 2

    for _ in range(steps):
        at_start = speed(fallen)
        fallen = fallen + h / 2 * (at_start + speed(fallen + h * at_start))
    return limit(u * np.exp(-fallen), v * np.exp(-fallen), Z, y)


def trace(u: Vector, v: Vector, Z: Vector) -> float:
    """Tr H = (4/n) sum_i sum_j z_ij^2 (u_j^2 + v_j^2) at an interpolator."""
    return float(4 * np.mean(Z * Z, axis=0) @ (u * u + v * v))


def sharpness(u: Vector, v: Vector, Z: Vector) -> float:
    """lambda_1 = (4/n) lambda_1(Z diag(u^2 + v^2) Z^T) at an interpolator."""
    return float(4 / len(Z) * np.linalg.eigvalsh((Z * (u * u + v * v)) @ Z.T)[-1])


def clock(u: Vector, v: Vector, Z: Vector, y: Vector, tau: float, lr: float, delta: float = 1.0) -> float:
    """tau_eff, the time of the limiting flow that label noise of batch size 1 and step size lr has reached
    after tau = lr^2 steps.

    d tau_eff / d tau = 1 / (1 - lr Tr(Y) / 2), Tr(Y) the trace at the limiting flow's point Y(tau_eff); to
    leading order in lr, for inputs +-1. Infinity where lr Tr(Y) / 2 reaches 1.
    """
    from scipy.integrate import solve_ivp  # here: the import takes a third of a second, and few runs need it

    def speed(_: float, tau_eff: Vector) -> Vector:
        """d tau_eff / d tau [1]."""
        slowness = 1 - lr * trace(*flow(u, v, Z, y, float(tau_eff[0]), delta=delta), Z) / 2
        return np.array([1 / slowness if slowness > 0 else np.inf])

    if not np.isfinite(speed(0, np.zeros(1))[0]):
        return float("inf")
    return float(solve_ivp(speed, (0, tau), [0.0], rtol=1e-8, atol=1e-10).y[0, -1])


def fluctuation(u: Vector, v: Vector, Z: Vector, lr: float, delta: float, batch: int = 1) -> float:
    """E|x - Phi(x)|^2 = (n lr delta^2 / 2) / (1 - lr Tr H / 2) / batch, of weights x under label noise around
    the limiting flow's point (u, v); to leading order in lr."""
    return len(Z) * lr * delta**2 / 2 / (1 - lr * trace(u, v, Z) / 2) / batch
