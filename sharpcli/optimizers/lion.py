"""Lion, Chen et al. 2023, arXiv:2302.06675, Algorithm 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import Grad
from sharpcli.optimizers import State


@dataclass(frozen=True)
class Lion:
    """w <- w - lr (sign(beta1 m + (1 - beta1) g) + decay w), then m <- beta2 m + (1 - beta2) g; the state is
    (m [D],), 0 at first. Its steps have the length lr sqrt(D) whatever the gradient, so that it has no edge
    and follows no gradient flow. Refuses betas outside [0, 1) and decay below 0."""

    coordinatewise: ClassVar[bool] = True
    beta1: float
    beta2: float
    decay: float

    def __post_init__(self) -> None:
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1 and self.decay >= 0):
            raise Refusal(
                f"optimizer.beta1={self.beta1} beta2={self.beta2} decay={self.decay}: betas at least 0 and "
                f"below 1, decay at least 0"
            )

    def init(self, w: Tensor) -> State:
        return (torch.zeros_like(w),)

    def step(self, w: Tensor, state: State, grad: Grad, lr: float) -> tuple[Tensor, State]:
        g, (m,) = grad(w), state
        direction = (self.beta1 * m + (1 - self.beta1) * g).sign()
        return w - lr * (direction + self.decay * w), (self.beta2 * m + (1 - self.beta2) * g,)

    def flow_step(self, lr: float) -> None:
        """None: it follows no gradient flow."""
