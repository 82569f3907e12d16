"""AdamW, Loshchilov & Hutter 2019, arXiv:1711.05101, Algorithm 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import Grad
from sharpcli.optimizers import State
from sharpcli.optimizers.moments import divisor, initial, updated


@dataclass(frozen=True)
class AdamW:
    """m <- beta1 m + (1 - beta1) g, v <- beta2 v + (1 - beta2) g^2, w <- (1 - lr decay) w - lr m^ / (sqrt(v^)
    + eps) with m^ = m / (1 - beta1^t) and v^ = v / (1 - beta2^t), as in `torch.optim.AdamW`; the state is (m
    [D], v [D], t). The decay is no part of the loss that is measured.

    The edge of stability is an edge of the preconditioned sharpness, so that no `edge` is stated. Refuses
    betas outside [0, 1), eps <= 0 and decay below 0.
    """

    coordinatewise: ClassVar[bool] = True
    beta1: float
    beta2: float
    eps: float
    decay: float

    def __post_init__(self) -> None:
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1 and self.eps > 0 and self.decay >= 0):
            raise Refusal(
                f"optimizer.beta1={self.beta1} beta2={self.beta2} eps={self.eps} decay={self.decay}: betas "
                f"at least 0 and below 1, eps above 0, decay at least 0"
            )

    def init(self, w: Tensor) -> State:
        return initial(w)

    def step(self, w: Tensor, state: State, grad: Grad, lr: float) -> tuple[Tensor, State]:
        state = updated(state, grad(w), self.beta1, self.beta2)
        shrunk = (1 - lr * self.decay) * w
        return shrunk - lr * state[0] / divisor(state, self.beta1, self.beta2, self.eps), state

    def preconditioner(self, state: State, lr: float) -> tuple[Tensor, float]:
        """Adam's P [D], and the edge (1 + beta1) (2 - lr decay) / ((1 - beta1) lr), infinity for lr = 0: on a
        quadratic z^2 - (a + beta1 - lr (1 - beta1) h) z + beta1 a with a = 1 - lr decay has the root -1
        there."""
        beta1 = self.beta1
        edge = (1 + beta1) * (2 - lr * self.decay) / ((1 - beta1) * lr) if lr > 0 else float("inf")
        return divisor(state, beta1, self.beta2, self.eps), edge
