"""Adam, Kingma & Ba 2015, arXiv:1412.6980, Algorithm 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import Grad
from sharpcli.optimizers import State
from sharpcli.optimizers.moments import divisor, initial, updated


@dataclass(frozen=True)
class Adam:
    """m <- beta1 m + (1 - beta1) g, v <- beta2 v + (1 - beta2) g^2, w <- w - lr m^ / (sqrt(v^) + eps) with m^
    = m / (1 - beta1^t) and v^ = v / (1 - beta2^t), as in `torch.optim.Adam`; the state is (m [D], v [D], t).

    The edge of stability is an edge of the preconditioned sharpness, so that no `edge` is stated. Refuses
    betas outside [0, 1) and eps <= 0.
    """

    coordinatewise: ClassVar[bool] = True
    beta1: float
    beta2: float
    eps: float

    def __post_init__(self) -> None:
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1 and self.eps > 0):
            raise Refusal(
                f"optimizer.beta1={self.beta1} beta2={self.beta2} eps={self.eps}: betas at least 0 and "
                f"below 1, eps above 0"
            )

    def init(self, w: Tensor) -> State:
        return initial(w)

    def step(self, w: Tensor, state: State, grad: Grad, lr: float) -> tuple[Tensor, State]:
        state = updated(state, grad(w), self.beta1, self.beta2)
        return w - lr * state[0] / divisor(state, self.beta1, self.beta2, self.eps), state

    def preconditioner(self, state: State, lr: float) -> tuple[Tensor, float]:
        """P = (1 - beta1^t) (sqrt(v^) + eps) [D], which is 0 before the first step, and the edge (2 + 2
        beta1) / ((1 - beta1) lr), that of momentum whose v is an average of gradients; infinity for lr = 0.
        Cohen et al. 2022, arXiv:2207.14484, section 2."""
        edge = (2 + 2 * self.beta1) / ((1 - self.beta1) * lr) if lr > 0 else float("inf")
        return divisor(state, self.beta1, self.beta2, self.eps), edge
