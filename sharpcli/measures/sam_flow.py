"""Where a run of SAM is with respect to SAM's two limiting flows; Wen, Ma & Li 2023, arXiv:2211.05729."""

from __future__ import annotations

import numpy as np

from sharpcli.errors import Refusal, Unreachable
from sharpcli.measures import Estimates, Point, closed_flows


def sam_flow(at: Point, *, rho: float, rate: float) -> Estimates:
    """With Phi(w) gradient flow's limit from w and tau = lr rho^2 step: `trace_flow_error` = |Phi(w) - Y|, Y
    the flow of `rate` that minimizes Tr H from the run's start (SAM on single examples),
    `sharpness_flow_error` the same for lambda_1 (full-batch SAM), and `flow_trace` and `flow_sharpness` at
    Phi(w); `flow_reached` is false where Phi(w) does not exist. Only for a problem that supplies the closed
    forms of its flows (problem=uv), in training."""
    flows = closed_flows(at, "sam_flow")
    if at.init is None:
        raise Refusal(
            "measure=sam_flow is about a run from its start; a file of weights has none: measure it in "
            "training"
        )
    try:
        limit = flows.limit(at.w)
    except Unreachable:
        return Estimates({"flow_reached": False})
    tau = at.lr * rho**2 * at.step
    values: dict[str, float | None] = {
        "flow_trace": flows.trace(limit),
        "flow_sharpness": flows.sharpness(limit),
    }
    for name, flow in (
        ("trace", lambda: flows.trace_flow(at.init, tau, rate, 1.0)),
        ("sharpness", lambda: flows.sharpness_flow(at.init, tau, rate)),
    ):
        try:
            values[f"{name}_flow_error"] = float(np.linalg.norm((limit - flow()).numpy()))
        except Unreachable:  # so late that the flow's products u_j v_j are no numbers any more
            values[f"{name}_flow_error"] = None
    return Estimates(values)
