"""Gradient descent; on mini-batches it is SGD."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sharpcli.landscape.surface import Grad
from sharpcli.optimizers import Rule, State


@dataclass(frozen=True)
class GD:
    """w <- w - lr g(w); there is no state."""

    def init(self, w: Tensor) -> State:
        return ()

    def step(self, w: Tensor, state: State, grad: Grad, lr: float) -> tuple[Tensor, State]:
        return w - lr * grad(w), state

    def edge(self, lr: float) -> float:
        """2 / lr, where w_i <- (1 - lr lambda_i) w_i begins to grow on a quadratic."""
        return 2 / lr

    def flow_step(self, lr: float) -> float:
        """lr."""
        return lr

    def compiled(self) -> Rule:
        """The rule of plain descent."""
        return Rule()
