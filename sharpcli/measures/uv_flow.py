"""Where a run is with respect to gradient flow and to the limiting flow of label noise; Li, Wang & Arora
2022, arXiv:2110.06914, section 6."""

from __future__ import annotations

import math

import numpy as np

from sharpcli.errors import Refusal, Unreachable
from sharpcli.measures import Estimates, Point, closed_flows


def uv_flow(at: Point, *, rate: float, delta: float, power: int, clock: bool) -> Estimates:
    """With Phi(w) the limit of gradient flow from w, and Y(tau) the limiting flow of `rate` and `delta` from
    the run's start, at tau = lr^`power` step (2 for label noise, 1 for the flow itself):

    `flow_clock` = -(1/2d) sum_j log(u_j v_j / (u_j v_j at the start)), the A in Phi(w) = Phi(e^-A w_0), which
    is exact for inputs +-1 and whose theory is 8 rate delta^2 tau, or for `clock` to the next order in lr
    `flow_clock_theory` (infinite: None); `flow_distance` |w - Phi(w)|^2; `flow_error` |Phi(w) - Y| and
    `flow_raw_error` |w - Y|; `flow_trace` and `flow_sharpness` at Phi(w), `flow_trace_start` at Phi of the
    start, `flow_trace_theory` at Y; `flow_recovery_error` and `flow_l1` at Phi(w).

    Only for a problem that supplies the closed forms of its flows (problem=uv). Without a start (weights of a
    file) or off the region where Phi exists, what is missing is None.
    """
    flows = closed_flows(at, "uv_flow")
    if flows.idle:
        raise Refusal(f"measure=uv_flow: nothing flows: {flows.idle}")
    values: dict[str, float | None] = {}
    try:
        limit = flows.limit(at.w)
    except Unreachable:
        return Estimates({"flow_reached": False})
    values["flow_reached"] = True
    values["flow_distance"] = float(np.sum((limit - at.w).numpy() ** 2))
    values["flow_trace"], values["flow_sharpness"] = flows.trace(limit), flows.sharpness(limit)
    scores = at.problem.scores(limit.to(at.w))
    values |= {f"flow_{name}": value for name, value in scores.items() if name != "train_loss"}
    values["flow_l1"] = flows.l1(limit)
    if at.init is None:
        return Estimates(values)
    values["flow_clock"] = flows.elapsed(at.w, at.init)
    tau = at.lr**power * at.step
    try:
        values["flow_trace_start"] = flows.trace(flows.limit(at.init))
        theory = flows.trace_flow(at.init, tau, rate, delta)
    except Unreachable:  # the products u_j v_j of the flow are no numbers any more
        return Estimates(values)
    values["flow_trace_theory"] = flows.trace(theory)
    values["flow_error"] = float(np.linalg.norm((limit - theory).numpy()))
    values["flow_raw_error"] = float(np.linalg.norm((at.w - theory).numpy()))
    if clock:
        effective = flows.clock(at.init, tau, at.lr, delta)
        values["flow_clock_theory"] = 8 * rate * delta**2 * effective if math.isfinite(effective) else None
    return Estimates(values)
