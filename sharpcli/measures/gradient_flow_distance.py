"""The distance of a run from gradient flow; Cohen et al. 2021, arXiv:2103.00065, appendix I."""

from __future__ import annotations

from itertools import count

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.flows import integrate
from sharpcli.measures import Estimates, Point, elapsed


def gradient_flow_distance(at: Point, *, rtol: float, atol: float) -> Estimates:
    """The distance of w from W(t), gradient flow on all training examples from the run's start, at the equal
    time t = lr step.

    An adaptive solver with local errors below atol + rtol |W| integrates W, from each measurement to the
    next. Only in training, on small problems. Refuses tolerances that are not above 0, and a
    schedule, under which t is not lr step.

    Columns:
        gradient_flow_distance [-]: |w - W(t)| / |W(t) - W(0)|, and 0 at step 0; null where the flow does not
            move
    """
    if not (rtol > 0 and atol > 0):
        raise Refusal(f"measure.gradient_flow_distance: rtol={rtol} atol={atol}; both above 0")
    if at.init is None:
        raise Refusal("measure=gradient_flow_distance needs a run's start; measure it in training")
    if not at.step:
        return Estimates({"gradient_flow_distance": 0.0})
    left = at.left(2, "gradient_flow_distance")
    flow, time_of_flow = (at.init, 0.0) if left is None else (left[0], float(left[1, 0]))
    time = elapsed(at, "gradient_flow_distance")
    gradients = count()

    def velocity(w: Tensor) -> Tensor:
        next(gradients)
        return -at.problem.surface.grad(w)

    flow = integrate(velocity, flow, time - time_of_flow, "DOP853", rtol, atol)
    moved = float((flow - at.init).norm())
    return Estimates(
        {"gradient_flow_distance": float((at.w - flow).norm()) / moved if moved else None},
        gradients=next(gradients),
        warm=torch.stack([flow, torch.full_like(flow, time)]),
    )
