"""The distance of a run from gradient flow and from the limiting flow of label noise; Li, Wang & Arora 2022,
arXiv:2110.06914, section 6."""

from __future__ import annotations

import math

import numpy as np

from sharpcli.errors import Refusal, Unreachable
from sharpcli.measures import Estimates, Point, closed_flows, elapsed
from sharpcli.optimizers import flow_step


def uv_flow(at: Point, *, rate: float, delta: float, power: int, clock: bool) -> Estimates:
    """The distance of a run from Phi(w), the interpolator where gradient flow from w ends, and from Y, the
    limiting flow of label noise from Phi(w_0), w_0 where the run began.

    Y is the flow of `rate` and `delta` at its time tau = lr^`power` step (2 for label noise, 1 for the flow
    itself), lr / (1 - beta) for lr with momentum. `rate` is that of noise of variance delta^2 on single
    examples; label noise on batches of B has 1/B of it, and uniform noise 1/3.

    Only for a problem that supplies the closed forms of its flows (problem=uv). Weights of a file have no
    start, and no column from flow_clock on; noise that all of a batch shares has another limiting flow, and
    no column of a theory. Refuses a problem in which a single vector fits, so that nothing flows, and a
    `clock` where its next order is not known: for batches, and for momentum.

    Columns:
        flow_reached [-]: whether gradient flow from w reaches an interpolator; where false, the other columns
            are absent
        flow_distance [weight^2]: |w - Phi(w)|^2, squared
        flow_trace [loss/weight^2]: Tr H at Phi(w)
        flow_sharpness [loss/weight^2]: lambda_1 at Phi(w)
        flow_recovery_error [-]: recovery_error, as in `scores`, at Phi(w)
        flow_l1 [weight^2]: |u*u - v*v|_1 at Phi(w)
        flow_clock [-]: -(1/2d) sum_j log(u_j v_j / (u_j v_j at the start)), the A in Phi(w) = Phi(e^-A w_0),
            which is exact for inputs +-1; in theory 8 rate delta^2 tau, over B on batches; null where a
            product u_j v_j is 0 or has changed its sign
        flow_trace_start [loss/weight^2]: Tr H at Phi(w_0)
        flow_trace_theory [loss/weight^2]: Tr H at Y; absent, with the columns below, where tau is so late
            that Y cannot be computed
        flow_error [weight]: |Phi(w) - Y|
        flow_raw_error [weight]: |w - Y|
        flow_clock_theory [-]: with `clock`, the theory of flow_clock to the next order in lr; null where it
            is infinite
        flow_error_theory [weight]: with `clock`, the theory of flow_error to the next order in lr: the
            distance between Y at tau and Y at the time of that clock; null where that is infinite
    """
    flows = closed_flows(at, "uv_flow")
    if flows.idle:
        raise Refusal(f"measure=uv_flow: nothing flows: {flows.idle}")
    if clock and (at.batch_size != 1 or flow_step(at.optimizer, at.lr) != at.lr):
        raise Refusal(
            "measure.uv_flow.clock=true: its next order in lr is known for batch_size=1 without momentum "
            "alone; use these, or measure.uv_flow.clock=false"
        )
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
    tau = elapsed(at, "uv_flow", power)
    if at.flow_strength is None:
        return Estimates(values)
    rate *= at.flow_strength
    try:
        values["flow_trace_start"] = flows.trace(flows.limit(at.init))
        theory = flows.trace_flow(at.init, tau, rate, delta)
    except Unreachable:  # the products u_j v_j of the flow are no numbers any more
        return Estimates(values)
    values["flow_trace_theory"] = flows.trace(theory)
    values["flow_error"] = float(np.linalg.norm((limit - theory).numpy()))
    values["flow_raw_error"] = float(np.linalg.norm((at.w - theory).numpy()))
    if clock:
        effective = flows.clock(at.init, tau, at.lr, delta * math.sqrt(at.flow_strength))
        values |= {"flow_clock_theory": None, "flow_error_theory": None}
        if math.isfinite(effective):
            late = flows.trace_flow(at.init, effective, rate, delta)
            values["flow_clock_theory"] = 8 * rate * delta**2 * effective
            values["flow_error_theory"] = float(np.linalg.norm((late - theory).numpy()))
    return Estimates(values)
