"""The distance of a run of SAM from SAM's two limiting flows; Wen, Ma & Li 2023, arXiv:2211.05729."""

from __future__ import annotations

import numpy as np

from sharpcli.errors import Refusal, Unreachable
from sharpcli.measures import Estimates, Point, closed_flows, elapsed


def sam_flow(at: Point, *, rho: float, rate: float) -> Estimates:
    """The distance of Phi(w), the interpolator where gradient flow from w ends, from SAM's two limiting flows
    at their common time tau = lr rho^2 step.

    Both flows move along the interpolators with speed `rate`, from Phi of the run's start. Only for a problem
    that supplies the closed forms of its flows (problem=uv), in training.

    Columns:
        trace_flow_error [weight]: |Phi(w) - Y|, Y the flow at tau that lowers Tr H (SAM on single examples);
            null where tau is so late that Y cannot be computed
        sharpness_flow_error [weight]: |Phi(w) - Y|, Y the flow at tau that lowers lambda_1 (full-batch SAM);
            null where tau is so late that Y cannot be computed
        flow_trace [loss/weight^2]: Tr H at Phi(w)
        flow_sharpness [loss/weight^2]: lambda_1 at Phi(w)
        flow_reached [-]: whether gradient flow from w reaches an interpolator; where false, the only column
            of this measure
    """
    flows = closed_flows(at, "sam_flow")
    if flows.idle:
        raise Refusal(f"measure=sam_flow: nothing flows: {flows.idle}")
    if at.init is None:
        raise Refusal(
            "measure=sam_flow is about a run from its start; a file of weights has none: measure it in "
            "training"
        )
    try:
        limit = flows.limit(at.w)
    except Unreachable:
        return Estimates({"flow_reached": False})
    tau = elapsed(at, "sam_flow") * rho**2
    values: dict[str, float | None] = {
        "flow_reached": True,
        "flow_trace": flows.trace(limit),
        "flow_sharpness": flows.sharpness(limit),
    }
    for name, flow in (
        ("trace", lambda: flows.trace_flow(at.init, tau, rate, 1.0)),
        ("sharpness", lambda: flows.sharpness_flow(at.init, tau, rate)),
    ):
        try:
            values[f"{name}_flow_error"] = float(np.linalg.norm((limit - flow()).numpy()))
        except Unreachable:  # tau is so late that the flow cannot be computed
            values[f"{name}_flow_error"] = None
    return Estimates(values)
