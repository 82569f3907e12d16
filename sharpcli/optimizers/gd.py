"""Gradient descent; on mini-batches it is SGD."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sharpcli.optimizers import State
from sharpcli.surface import Grad


@dataclass(frozen=True)
class GD:
    """w <- w - lr g(w)."""

    def init(self, w: Tensor) -> State:
        return ()

    def step(self, w: Tensor, state: State, grad: Grad, lr: float) -> tuple[Tensor, State]:
        return w - lr * grad(w), state

    def edge(self, lr: float) -> float:
        """2 / lr."""
        return 2 / lr

    def preconditioner(self, state: State, lr: float) -> None:
        return None
