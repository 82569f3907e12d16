"""What the central flow says of gradient descent's loss; Cohen et al. 2024, arXiv:2410.24206, section 3."""

from __future__ import annotations

from sharpcli.errors import Refusal
from sharpcli.measures import Estimates, Point
from sharpcli.optimizers import columns


def central_flow(at: Point) -> Estimates:
    """`central_loss` = L(w) + tr S / lr, the predicted mean training loss of gradient descent: 1/2 <H, S>
    with H = 2/lr where S acts. tr S is `central_variance`, which the optimizer adds to every row itself. Only
    for method=central_flow, in training."""
    state = None if at.state is None else columns(at.optimizer, at.state, at.lr)
    if state is None or "central_variance" not in state:
        raise Refusal(
            "measure=central_flow reads the state of a central flow; use method=central_flow, in training"
        )
    return Estimates({"central_loss": float(at.surface.value(at.w)) + state["central_variance"] / at.lr})
