"""Heavy-ball (Polyak 1964) and Nesterov momentum, as `torch.optim.SGD` writes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import Grad
from sharpcli.optimizers import Rule, State


@dataclass(frozen=True)
class Momentum:
    """v <- beta v + g(w), then w <- w - lr v, or w <- w - lr (g(w) + beta v) for `nesterov`; the state is (v
    [D],), 0 at first. Refuses beta outside [0, 1)."""

    coordinatewise: ClassVar[bool] = True
    beta: float
    nesterov: bool

    def __post_init__(self) -> None:
        if not 0 <= self.beta < 1:
            raise Refusal(f"optimizer.beta={self.beta}: momentum is at least 0 and below 1")

    def init(self, w: Tensor) -> State:
        return (torch.zeros_like(w),)

    def step(self, w: Tensor, state: State, grad: Grad, lr: float) -> tuple[Tensor, State]:
        g = grad(w)
        v = self.beta * state[0] + g
        direction = g + self.beta * v if self.nesterov else v
        return w - lr * direction, (v,)

    def edge(self, lr: float) -> float:
        """2 (1 + beta) / lr, and 2 (1 + beta) / ((1 + 2 beta) lr) for Nesterov's momentum. Cohen et al. 2021,
        arXiv:2103.00065, appendix B."""
        return 2 * (1 + self.beta) / ((1 + 2 * self.beta) * lr if self.nesterov else lr)

    def flow_step(self, lr: float) -> float:
        """lr / (1 - beta): v is near g / (1 - beta) while g hardly changes; for Nesterov's momentum too."""
        return lr / (1 - self.beta)

    def compiled(self) -> Rule:
        """The rule with this beta, Nesterov's or heavy-ball."""
        return Rule(beta=self.beta, nesterov=self.nesterov)
