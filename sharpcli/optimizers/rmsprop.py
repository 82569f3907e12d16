"""RMSProp, Tieleman & Hinton 2012, as `torch.optim.RMSprop` writes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import Grad
from sharpcli.optimizers import State


@dataclass(frozen=True)
class RMSProp:
    """v <- beta v + (1 - beta) g^2, w <- w - lr g / (sqrt(v) + eps); the state is (v [D], the number of steps
    t).

    The edge of stability is an edge of the preconditioned sharpness, so that no `edge` is stated. Refuses
    beta outside [0, 1) and eps <= 0.
    """

    coordinatewise: ClassVar[bool] = True
    beta: float
    eps: float

    def __post_init__(self) -> None:
        if not (0 <= self.beta < 1 and self.eps > 0):
            raise Refusal(
                f"optimizer.beta={self.beta} eps={self.eps}: beta at least 0 and below 1, eps above 0"
            )

    def init(self, w: Tensor) -> State:
        return torch.zeros_like(w), torch.zeros((), dtype=torch.float64, device=w.device)

    def step(self, w: Tensor, state: State, grad: Grad, lr: float) -> tuple[Tensor, State]:
        g, (v, t) = grad(w), state
        v = self.beta * v + (1 - self.beta) * g * g
        return w - lr * g / (v.sqrt() + self.eps), (v, t + 1)

    def preconditioner(self, state: State, lr: float) -> tuple[Tensor, float]:
        """P = sqrt(v) + eps [D], which is set to 0 before the first step, and the edge 2 / lr; infinity for
        lr = 0."""
        v, t = state
        P = (v.sqrt() + self.eps) * float(t > 0)
        return P, 2 / lr if lr > 0 else float("inf")
