"""Flows in continuous time, by SciPy's adaptive Runge-Kutta solvers: along any field, and gradient flow to
its limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.interpolators import Interpolators

Solver = Literal["RK45", "DOP853", "LSODA", "Radau"]
Field = Callable[[Tensor], Tensor]
NEAR = 1e-3  # the largest residual from which Newton's steps go on
LONGEST = 1e5  # the time after which gradient flow is given up


def integrate(
    field: Field, w: Tensor, time: float, solver: Solver, rtol: float, atol: float, tol: float = 0.0
) -> Tensor:
    """w(time) of dw/dt = field(w) from w(0) = w, with local errors below atol + rtol |w|; for a `tol` above 0
    no further than where |field| falls to it. Weights that are not finite are returned as they are. Refuses a
    tolerance that the solver does not reach."""

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
    path = solve_ivp(
        right, (0.0, time), start, method=solver, rtol=rtol, atol=atol, t_eval=[time], events=events
    )
    if path.status == 1:  # an event stopped it
        return torch.from_numpy(path.y_events[0][-1]).to(w)
    if not path.success:
        raise Refusal(
            f"the flow cannot be followed to rtol={rtol} atol={atol} by {solver} ({path.message}); relax them"
        )
    return torch.from_numpy(path.y[:, -1]).to(w)


def limit(interpolators: Interpolators, w: Tensor, rtol: float, tol: float) -> tuple[Tensor, float]:
    """Phi(w), where gradient flow ends, and max |r| at it: by the flow until the residuals are below 1e-3,
    over doubling times, then by Newton's steps, which leave Phi by no more than about the square of that."""
    surface, time = interpolators.surface, 1.0
    while float(interpolators.residual(w).abs().max()) > NEAR and time < LONGEST:
        w = integrate(lambda at: -surface.grad(at), w, time, "DOP853", rtol, rtol * 1e-3)
        time *= 2
    return interpolators.project(w, tol)
