"""Update rules. A part is a frozen dataclass with the methods of `Optimizer`."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from sharpcli.surface import Grad

State = tuple[Tensor, ...]


class Optimizer(Protocol):
    """Where w goes next, given a gradient function and a learning rate."""

    def init(self, w: Tensor) -> State:
        """The state before the first step."""

    def step(self, w: Tensor, state: State, grad: Grad, lr: float) -> tuple[Tensor, State]:
        """The next weights and state."""

    def edge(self, lr: float) -> float | None:
        """The curvature above which the rule diverges on a quadratic; None where no one number says so."""

    def preconditioner(self, state: State, lr: float) -> tuple[Tensor, float] | None:
        """The diagonal P [D] that steps are divided by, and the edge of P^(-1/2) H P^(-1/2); None for P = 1."""
