"""What the central flow says of gradient descent's oscillation; Cohen et al. 2024, arXiv:2410.24206, section 3."""

from __future__ import annotations

from sharpcli.errors import Refusal
from sharpcli.measures import Estimates, Point
from sharpcli.optimizers.central_flow import CentralFlow


def central_flow(at: Point) -> Estimates:
    """`central_variance` = tr S, the predicted mean |w_t - w|^2 of gradient descent around the flow over the last step, and
    `central_loss` = L(w) + tr S / lr, its predicted mean training loss: 1/2 <H, S> with H = 2/lr where S acts. Only for
    method=central_flow, in training."""
    if not isinstance(at.optimizer, CentralFlow) or at.state is None:
        raise Refusal("measure=central_flow reads the state of a central flow; use method=central_flow, in training")
    variance = float(at.state[2])
    return Estimates({"central_variance": variance, "central_loss": float(at.surface.value(at.w)) + variance / at.lr})
