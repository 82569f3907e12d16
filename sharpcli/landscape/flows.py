"""Flows in continuous time by SciPy's adaptive Runge-Kutta solvers: along any vector field for a given time,
and gradient flow to its limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

from sharpcli.errors import NotFinite, Refusal
from sharpcli.landscape.interpolators import Interpolators

Solver = Literal["RK45", "DOP853", "LSODA", "Radau"]
Field = Callable[[Float[Tensor, " D"]], Float[Tensor, " D"]]

# The largest residual max |r| from which Newton's method replaces gradient flow: its limit then differs from
# the flow's by about the square of the residual, and from further away it may be another interpolator.
NEWTON_RESIDUAL = 1e-3
# Solvers that reject a step in which the velocity is not finite, and try a shorter step; the others go on
# with NaN for ever (LSODA) or fail in their linear algebra (Radau).
REJECT_NOT_FINITE = ("RK45", "DOP853")
MAX_FLOW_TIME = 1e5  # gradient flow runs over times 1, 2, 4, ... below this one, and is then given up
# Velocities of one call of `integrate`, and gradients on the way to an interpolator, of which 8,200 were
# the most that a toy took. A flow whose velocity jumps, as at the kinks of ReLU, may ask for any number.
MAX_VELOCITIES = 50_000
MAX_LIMIT_GRADIENTS = 20_000
MAX_SLOPES = 5_000  # of a flow along the interpolators, each of which takes a Jacobian
# Tolerances in units of the rounding of w's dtype: below it an adaptive solver sees errors that no shorter
# step makes smaller.
MIN_TOLERANCE = 10


def integrate(
    field: Field,
    w: Float[Tensor, " D"],
    time: float,
    solver: Solver,
    rtol: float,
    atol: float,
    tol: float = 0.0,
    most: int = MAX_VELOCITIES,
) -> Float[Tensor, " D"]:
    """The solution w(time) of dw/dt = field(w), w(0) = w, with local errors below atol + rtol |w|, and not
    below 10 eps (max |w| + |w|), with eps the rounding of w's dtype. For `tol` > 0 the flow ends earlier
    where |field| has fallen to `tol`.

    Weights that are not finite are returned unchanged. Raises Refusal if the solver does not reach the
    tolerances or needs more than `most` velocities, and NotFinite where the field is not finite: at the start
    for every solver, since the length of the first step would be NaN.
    """
    velocities = 0

    def right_side(_: float, at: NDArray[np.float64]) -> NDArray[np.float64]:
        nonlocal velocities
        velocities += 1
        if velocities > most:
            raise Refusal(
                f"the flow over a time of {time:g} needs more than {most:,} velocities at "
                f"rtol={rtol:g} atol={atol:g} by {solver}; relax them, or take a smaller lr, which is the "
                f"time of a step"
            )
        velocity = field(torch.from_numpy(np.array(at)).to(w)).double().cpu().numpy()
        if solver not in REJECT_NOT_FINITE and not np.isfinite(velocity).all():
            raise NotFinite("the velocity of the flow is not finite")
        return velocity

    if not torch.isfinite(w).all():
        return w
    start = w.double().cpu().numpy()
    if not np.isfinite(right_side(0.0, start)).all():
        raise NotFinite("the velocity of the flow is not finite at its start")

    def speed_above_tol(t: float, at: NDArray[np.float64]) -> float:
        return float(np.linalg.norm(right_side(t, at))) - tol

    speed_above_tol.terminal = True  # type: ignore[attr-defined]  # tells SciPy to stop at its zero
    if tol > 0 and speed_above_tol(0.0, start) <= 0:
        return w
    events = speed_above_tol if tol > 0 else None
    rounding = MIN_TOLERANCE * torch.finfo(w.dtype).eps
    rtol, atol = max(rtol, rounding), max(atol, rounding * float(w.abs().max()))
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # a step whose numbers overflow is tried again, shorter
        path = solve_ivp(
            right_side, (0.0, time), start, method=solver, rtol=rtol, atol=atol, t_eval=[time], events=events
        )
    if path.status == 1:  # stopped by the event
        return torch.from_numpy(path.y_events[0][-1]).to(w)
    if not path.success:
        raise Refusal(
            f"the flow cannot be followed to rtol={rtol} atol={atol} by {solver} ({path.message}); relax them"
        )
    return torch.from_numpy(path.y[:, -1]).to(w)


class _GivenUp(Exception):
    """Gradient flow took `MAX_LIMIT_GRADIENTS` and reached no interpolator."""


def limit(
    interpolators: Interpolators, w: Float[Tensor, " D"], rtol: float, tol: float
) -> tuple[Float[Tensor, " D"], float]:
    """Phi(w), the limit of gradient flow from w, and the largest residual max |r| there.

    Gradient flow runs over doubling times until max |r| <= `NEWTON_RESIDUAL`; Newton's method then continues
    to max |r| <= tol (`Interpolators.project`). If the flow is given up, after a time of `MAX_FLOW_TIME` or
    `MAX_LIMIT_GRADIENTS`, or Newton's method stops early, the residual returned is larger.
    """
    surface, time, gradients = interpolators.surface, 1.0, 0

    def downhill(at: Float[Tensor, " D"]) -> Float[Tensor, " D"]:
        nonlocal gradients
        gradients += 1
        if gradients > MAX_LIMIT_GRADIENTS:
            raise _GivenUp
        return -surface.grad(at)

    residual = float(interpolators.residual(w).abs().max())
    while residual > NEWTON_RESIDUAL and time < MAX_FLOW_TIME:
        try:
            w = integrate(downhill, w, time, "DOP853", rtol, rtol * 1e-3)
        except _GivenUp:
            return w, residual
        time *= 2
        residual = float(interpolators.residual(w).abs().max())
    return interpolators.project(w, tol)
