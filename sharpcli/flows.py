"""Flows in continuous time, by SciPy's adaptive Runge-Kutta solvers: along any field, and gradient flow to its limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.interpolators import Interpolators, lambda_1

if TYPE_CHECKING:
    from sharpcli.kernel import Kernel

Solver = Literal["RK45", "DOP853", "LSODA", "Radau"]
Field = Callable[[Tensor], Tensor]
NEAR, LONGEST = 1e-3, 1e5  # the largest residual from which Newton's steps go on; the time after which flow is given up


def integrate(field: Field, w: Tensor, time: float, solver: Solver, rtol: float, atol: float, tol: float = 0.0) -> Tensor:
    """w(time) of dw/dt = field(w) from w(0) = w, with local errors below atol + rtol |w|; for a `tol` above 0 no further than
    where |field| falls to it. Weights that are not finite are handed on. Refuses a tolerance that the solver does not reach."""

    def right(_: float, at: NDArray[np.float64]) -> NDArray[np.float64]:
        return field(torch.from_numpy(np.array(at)).to(w)).double().cpu().numpy()

    if not torch.isfinite(w).all():
        return w
    start = w.double().cpu().numpy()

    def still(t: float, at: NDArray[np.float64]) -> float:
        return float(np.linalg.norm(right(t, at))) - tol

    still.terminal = True  # type: ignore[attr-defined]
    if tol > 0 and still(0.0, start) <= 0:
        return w
    events = still if tol > 0 else None
    found = solve_ivp(right, (0.0, time), start, method=solver, rtol=rtol, atol=atol, t_eval=[time], events=events)
    if found.status == 1:  # stopped
        return torch.from_numpy(found.y_events[0][-1]).to(w)
    if not found.success:
        raise Refusal(f"the flow cannot be followed to rtol={rtol} atol={atol} by {solver} ({found.message}); relax them")
    return torch.from_numpy(found.y[:, -1]).to(w)


def limit(there: Interpolators, w: Tensor, rtol: float, tol: float) -> tuple[Tensor, float]:
    """Phi(w), where gradient flow of half squared loss ends, and max |r| there: by the flow until the residuals are below
    1e-3, over doubling times, then by Newton's steps, which leave Phi by no more than about the square of that."""
    surface, time = there.surface, 1.0
    while float(there.residual(w).abs().max()) > NEAR and time < LONGEST:
        w = integrate(lambda at: -surface.grad(at), w, time, "DOP853", rtol, rtol * 1e-3)
        time *= 2
    return there.project(w, tol)


def descend(there: Interpolators, w: Tensor, kernel: Kernel | None, steps: int, tol: float) -> tuple[Tensor, float]:
    """About Phi(w), and max |r| there: by at most `steps` steps of gradient descent of size 1/lambda_1, compiled where there
    is a kernel, until the residuals are below 1e-3, then by Newton's. ReLU's kinks make solvers of flows crawl."""
    surface = there.surface
    lr = 1 / max(float(lambda_1(there.jacobian(w), surface.examples)), 1e-12)
    at_once = max(1, steps // 20)
    for _ in range(20):
        if float(there.residual(w).abs().max()) <= NEAR:
            break
        if kernel is not None:
            from sharpcli.kernel import Noise, Rule, Steps

            new = w.numpy().copy()
            Steps(kernel, len(kernel.y), False, 0, Noise(), Rule(), lr).run(new, np.zeros(len(new)), 0, at_once)
            w = torch.from_numpy(new)
        else:
            for _ in range(at_once):
                w = w - lr * surface.grad(w)
    return there.project(w, tol)
