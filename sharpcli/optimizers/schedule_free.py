"""Schedule-free gradient descent, Defazio et al. 2024, arXiv:2405.15682, equations 3 to 5."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import Grad
from sharpcli.optimizers import State


@dataclass(frozen=True)
class ScheduleFree:
    """y = (1 - beta) z + beta w, then z <- z - lr g(y) and w <- (1 - c) w + c z, with c = lr^2 / (the sum of
    lr^2 over the steps so far): 1 / t for a constant lr. The run's weights are the average w, which is what
    is measured and tested; the gradient is taken at y. The state is (z [D], the sum), z = w at first.

    A warm-up by `schedule=warmup` weighs its steps less, as the paper does. Refuses beta outside [0, 1): beta
    = 1 would never move.
    """

    coordinatewise: ClassVar[bool] = True
    beta: float

    def __post_init__(self) -> None:
        if not 0 <= self.beta < 1:
            raise Refusal(f"optimizer.beta={self.beta}: the share of w in y, at least 0 and below 1")

    def init(self, w: Tensor) -> State:
        return w.clone(), torch.zeros((), dtype=torch.float64, device=w.device)

    def step(self, w: Tensor, state: State, grad: Grad, lr: float) -> tuple[Tensor, State]:
        z, total = state
        z = z - lr * grad((1 - self.beta) * z + self.beta * w)
        total = total + lr**2
        share = lr**2 / float(total) if lr > 0 else 0.0
        return (1 - share) * w + share * z, (z, total)

    def edge(self, lr: float) -> float:
        """2 / ((1 - beta) lr), the limit of many steps: w hardly moves then, and z <- z - lr (1 - beta) h z
        for the curvature h."""
        return 2 / ((1 - self.beta) * lr)

    def flow_step(self, lr: float) -> None:
        """None: w is an average over all steps, and lags behind gradient flow by a share of its time."""
