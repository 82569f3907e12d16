"""Sign descent, and with momentum signum: Bernstein et al. 2018, arXiv:1802.04434, Algorithms 1 and 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import Grad
from sharpcli.optimizers import State


@dataclass(frozen=True)
class SignDescent:
    """m <- beta m + (1 - beta) g, w <- w - lr sign(m): steepest descent in the largest entry of a step, but
    for its length. The state is (m [D],), 0 at first; beta = 0 is plain sign descent. Its steps have the
    length lr sqrt(D) whatever the gradient, so that it has no edge and follows no gradient flow. Refuses beta
    outside [0, 1)."""

    coordinatewise: ClassVar[bool] = True
    beta: float

    def __post_init__(self) -> None:
        if not 0 <= self.beta < 1:
            raise Refusal(f"optimizer.beta={self.beta}: momentum is at least 0 and below 1")

    def init(self, w: Tensor) -> State:
        return (torch.zeros_like(w),)

    def step(self, w: Tensor, state: State, grad: Grad, lr: float) -> tuple[Tensor, State]:
        m = self.beta * state[0] + (1 - self.beta) * grad(w)
        return w - lr * m.sign(), (m,)

    def flow_step(self, lr: float) -> None:
        """None: it follows no gradient flow."""
