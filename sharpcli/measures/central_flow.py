"""The loss of gradient descent as the central flow predicts it; Cohen et al. 2024, arXiv:2410.24206, section
3."""

from __future__ import annotations

from sharpcli.errors import Refusal
from sharpcli.measures import Estimates, Point
from sharpcli.optimizers import columns


def central_flow(at: Point) -> Estimates:
    """The mean training loss of gradient descent around the central flow: L + 1/2 <H, S>, S the covariance of
    the oscillation, with H = 2/lr on the range of S. Only for method=central_flow, in
    training, with the same lr at every step.

    Columns:
        central_loss [loss]: L(w) + tr S / lr; tr S is the column central_variance
    """
    if not at.constant_lr:
        raise Refusal(
            "measure=central_flow: H = 2/lr on the range of S needs the same lr at every step; use "
            "schedule=constant"
        )
    state = None if at.state is None else columns(at.optimizer, at.state, at.lr)
    if state is None or "central_variance" not in state:
        raise Refusal(
            "measure=central_flow reads the state of a central flow; use method=central_flow, in training"
        )
    return Estimates(
        {"central_loss": float(at.problem.at(at.w).value(at.w)) + state["central_variance"] / at.lr}
    )
