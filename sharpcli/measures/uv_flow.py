"""Where a run on the (u, v) model is with respect to gradient flow and to the limiting flow of label noise; Li, Wang & Arora
2022, arXiv:2110.06914, section 6."""

from __future__ import annotations

import numpy as np

from sharpcli.errors import Refusal
from sharpcli.measures import Estimates, Point
from sharpcli.theory import uv


def uv_flow(at: Point, *, rate: float, delta: float, power: int, clock: bool) -> Estimates:
    """With x = (u, v), Phi(x) the limit of gradient flow from x, and Y(tau) the limiting flow of `rate` and `delta` from the
    run's start, at tau = lr^`power` step (2 for label noise, 1 for the flow itself):

    `flow_clock` = -(1/2d) sum_j log(u_j v_j / (u_j v_j at the start)), the A in Phi(x) = Phi(e^-A x_0), which is exact for
    inputs +-1 and whose theory is 8 rate delta^2 tau, or for `clock` to the next order in lr `flow_clock_theory` (infinite:
    None); `flow_distance` |x - Phi(x)|^2; `flow_error`
    |Phi(x) - Y| and `flow_raw_error` |x - Y|; `flow_trace` and `flow_sharpness` at Phi(x), and
    `flow_trace_start` at Phi of the start, `flow_trace_theory` at Y;
    `flow_recovery_error` there.

    Only for problem=uv. Without a start (weights of a file) or off the region where Phi exists, what is missing is None.
    """
    names = [name for name, _ in at.problem.layout]
    if names != ["u", "v"]:
        raise Refusal("measure=uv_flow is about the (u, v) model; use problem=uv, or measure=manifold and projected elsewhere")
    x, y = (part.numpy() for part in at.surface.joined)
    if x.shape[0] >= x.shape[1]:
        n, d = x.shape
        raise Refusal(f"measure=uv_flow: with n = {n} >= d = {d} one vector interpolates, and nothing flows; take n below d")
    (u, v), y = (part.numpy() for part in at.w.split(len(at.w) // 2)), y[:, 0]
    values: dict[str, float | None] = {}
    try:
        here = uv.limit(u, v, x, y)
    except uv.Unreachable:
        return Estimates({"flow_reached": False})
    flat = np.concatenate(here)
    values["flow_reached"] = True
    values["flow_distance"] = float(np.sum((flat - at.w.numpy()) ** 2))
    values["flow_trace"], values["flow_sharpness"] = uv.trace(*here, x), uv.sharpness(*here, x)
    scores = at.problem.scores(at.w.new_tensor(flat))
    values |= {f"flow_{name}": value for name, value in scores.items() if name != "train_loss"}
    values["flow_l1"] = float(np.abs(here[0] ** 2 - here[1] ** 2).sum())
    if at.init is not None:
        u0, v0 = (part.numpy() for part in at.init.split(len(at.init) // 2))
        with np.errstate(invalid="ignore", divide="ignore"):
            shrunk = -0.5 * np.mean(np.log((u * v) / (u0 * v0)))
        values["flow_clock"] = float(shrunk) if np.isfinite(shrunk) else None
        try:
            values["flow_trace_start"] = uv.trace(*uv.limit(u0, v0, x, y), x)
            flow = uv.flow(u0, v0, x, y, at.lr**power * at.step, rate, delta)
        except uv.Unreachable:  # the products u_j v_j of the flow are no numbers any more
            return Estimates(values)
        there = np.concatenate(flow)
        values["flow_trace_theory"] = uv.trace(*flow, x)
        values["flow_error"] = float(np.linalg.norm(flat - there))
        values["flow_raw_error"] = float(np.linalg.norm(at.w.numpy() - there))
        if clock:
            eff = uv.clock(u0, v0, x, y, at.lr**power * at.step, at.lr, delta)
            values["flow_clock_theory"] = 8 * rate * delta**2 * eff if np.isfinite(eff) else None
    return Estimates(values)
