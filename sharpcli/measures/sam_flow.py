"""Where a run of SAM on the (u, v) model is with respect to SAM's two limiting flows; Wen, Ma & Li 2023, arXiv:2211.05729."""

from __future__ import annotations

import numpy as np

from sharpcli.errors import Refusal
from sharpcli.measures import Estimates, Point
from sharpcli.theory import uv


def sam_flow(at: Point, *, rho: float, rate: float) -> Estimates:
    """With Phi(x) gradient flow's limit from x = (u, v) and tau = lr rho^2 step: `trace_flow_error` = |Phi(x) - Y|, Y the
    flow of `rate` that minimizes Tr H from the run's start (SAM on single examples), `sharpness_flow_error` the same for
    lambda_1 (full-batch SAM), and `flow_trace` and `flow_sharpness` at Phi(x); `flow_reached` is false where Phi(x) is not
    there (n >= d). Only for problem=uv, in training."""
    if [name for name, _ in at.problem.layout] != ["u", "v"] or at.init is None:
        raise Refusal("measure=sam_flow is about runs of SAM on the (u, v) model; use problem=uv")
    x, y = (part.numpy() for part in at.surface.joined)
    (u, v), (u0, v0) = (tuple(part.numpy() for part in w.split(len(w) // 2)) for w in (at.w, at.init))
    try:
        here = uv.limit(u, v, x, y[:, 0])
    except uv.Unreachable:
        return Estimates({"flow_reached": False})
    tau = at.lr * rho**2 * at.step
    values: dict[str, float | None] = {"flow_trace": uv.trace(*here, x), "flow_sharpness": uv.sharpness(*here, x)}
    flat = np.concatenate(here)
    for name, there in (("trace", uv.flow), ("sharpness", uv.sharpest_flow)):
        try:
            values[f"{name}_flow_error"] = float(np.linalg.norm(flat - np.concatenate(there(u0, v0, x, y[:, 0], tau, rate))))
        except uv.Unreachable:  # so late that the flow's products u_j v_j are no numbers any more
            values[f"{name}_flow_error"] = None
    return Estimates(values)
