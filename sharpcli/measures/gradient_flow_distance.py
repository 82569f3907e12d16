"""How far a run has left gradient flow; Cohen et al. 2021, arXiv:2103.00065, appendix I."""

from __future__ import annotations

import torch

from sharpcli.errors import Refusal
from sharpcli.landscape.flows import integrate
from sharpcli.measures import Estimates, Point


def gradient_flow_distance(at: Point, *, rtol: float, atol: float) -> Estimates:
    """`gradient_flow_distance` = |w - W(t)| / |W(t) - W(0)|, W gradient flow from the run's start at the
    equal time t = lr step, by an adaptive solver with local errors below atol + rtol |W|, carried on from one
    measurement to the next. W is that of all training examples; 0 at the start. Only in training, on small
    problems. Refuses tolerances that are not above 0, and a step size that falls, with which t = lr step runs
    backwards.
    """
    if not (rtol > 0 and atol > 0):
        raise Refusal(f"measure.gradient_flow_distance: rtol={rtol} atol={atol}; both above 0")
    if at.init is None:
        raise Refusal("measure=gradient_flow_distance needs a run's start; measure it in training")
    if not at.step:
        return Estimates({"gradient_flow_distance": 0.0})
    flow, done = (at.init, 0.0) if at.warm is None else (at.warm[0], float(at.warm[1, 0]))
    if at.lr * at.step < done:
        raise Refusal(
            "measure=gradient_flow_distance: with this schedule t = lr step runs backwards; take "
            "schedule=constant"
        )
    flow = integrate(
        lambda w: -at.problem.surface.grad(w), flow, at.lr * at.step - done, "DOP853", rtol, atol
    )
    value = float((at.w - flow).norm() / (flow - at.init).norm())
    return Estimates(
        {"gradient_flow_distance": value}, warm=torch.stack([flow, torch.full_like(flow, at.lr * at.step)])
    )
