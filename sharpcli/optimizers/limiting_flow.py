"""The limiting flow of a noisy method: Riemannian gradient flow of a regularizer on the manifold of
interpolators. Li, Wang & Arora 2022, arXiv:2110.06914, theorem 4.6 (label noise: the trace, rate 1/4); Wen,
Ma & Li 2023, arXiv:2211.05729 (SAM)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.flows import Solver, integrate, limit
from sharpcli.landscape.interpolators import Interpolators
from sharpcli.landscape.surface import Grad, whole_loss
from sharpcli.optimizers import State

ON = 1e-11  # residuals of points that are on the manifold
LOST = 1e-7  # the ratio of J's singular values at which the manifold is taken to have lost its dimension


@dataclass(frozen=True)
class LimitingFlow:
    """dY/dtau = -rate P(Y) grad R(Y), Y(0) = Phi(w_0) the limit of gradient flow; P projects to the tangent
    space, the kernel of the outputs' Jacobian J [m, D]. One step is the flow over a time tau of lr, then
    Newton's steps back to the manifold.

    R = `regularizer`(J, n): `trace` or `lambda_1` of the Hessian, or one's own function of the Jacobian and
    the number of examples. Rates, for half squared loss: label noise of size delta 1/4 delta^2 with tau =
    lr^2 steps, SAM 1/2 with tau = lr rho^2 steps. For toys and small networks, full batch. Refuses another
    rule's gradient (as SAM's base), weights from which no interpolator is reached, and says at which tau J
    loses rank.
    """

    regularizer: Callable[[Tensor, int], Tensor]
    rate: float
    solver: Solver
    rtol: float
    atol: float

    def __post_init__(self) -> None:
        if not (self.rtol > 0 and self.atol > 0 and self.rate > 0):
            raise Refusal(f"optimizer.rtol={self.rtol} atol={self.atol} rate={self.rate}: all above 0")

    def init(self, w: Tensor) -> State:
        """tau, below 0 before w has been brought to the manifold."""
        return (torch.tensor([-1.0], dtype=torch.float64),)

    def step(self, w: Tensor, state: State, grad: Grad, lr: float) -> tuple[Tensor, State]:
        interpolators, tau = Interpolators(whole_loss(grad, "limiting_flow")), float(state[0])
        if tau < 0:
            w, residual = limit(interpolators, w, min(self.rtol, 1e-6), ON)
            tau = 0.0
            if not residual <= 1e3 * ON:
                raise Refusal(
                    f"limiting_flow: gradient flow from the start reaches no interpolator (largest residual "
                    f"{residual:.1e}); "
                    "take a problem that can be fitted exactly, or another start"
                )

        def field(y: Tensor) -> Tensor:
            along, ratio = interpolators.slope(y, self.regularizer, LOST)
            if not ratio > LOST:
                raise Refusal(
                    f"limiting_flow: the Jacobian loses rank between tau = {tau:g} and {tau + lr:g} "
                    f"(singular values "
                    f"{ratio:.0e} of the largest): the manifold ends there; stop before, or take more "
                    f"parameters"
                )
            return -self.rate * along

        w = integrate(field, w, lr, self.solver, self.rtol, self.atol)
        w, _ = interpolators.project(w, ON)
        return w, (torch.tensor([tau + lr], dtype=torch.float64),)
