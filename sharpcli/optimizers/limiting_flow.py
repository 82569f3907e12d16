"""The limiting flow of a noisy method: the Riemannian gradient flow of a regularizer on the manifold of
interpolators. Li, Wang & Arora 2022, arXiv:2110.06914, theorem 4.6 (for label noise the trace, at rate 1/4),
and Wen, Ma & Li 2023, arXiv:2211.05729 (for SAM)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.flows import MAX_SLOPES, Solver, integrate, limit
from sharpcli.landscape.interpolators import Interpolators
from sharpcli.landscape.surface import Grad, whole_loss
from sharpcli.optimizers import State

MANIFOLD_TOL = 1e-11  # the largest residual of a point that counts as on the manifold
RANK_TOL = 1e-7  # smallest over largest singular value of J at which J counts as having lost rank


@dataclass(frozen=True)
class LimitingFlow:
    """dY/dtau = -rate P(Y) grad R(Y) with Y(0) = Phi(w_0), the limit of gradient flow; P projects to the
    tangent space of the manifold, the kernel of the outputs' Jacobian J [m, D]. One step follows the flow for
    a time tau of lr, and then Newton's method brings the weights back onto the manifold. The state is (tau,).

    R is `regularizer`(J, n), a function of the Jacobian and the number of examples: the Hessian's `trace` or
    `lambda_1` as `landscape.interpolators` has them, or a user's own. For half squared loss the rate is
    delta^2 / 4 for label noise of size delta, where tau = lr^2 steps, and 1/2 for SAM, where tau = lr rho^2
    steps. It is meant for toys and small networks at full batch. Refuses rates and tolerances that are not
    above 0, the gradient of another rule (as SAM's base), weights from which gradient flow reaches no
    interpolator, and a J that loses rank, and says at which tau.
    """

    full_batch: ClassVar[bool] = True
    exact_gradient: ClassVar[bool] = True
    regularizer: Callable[[Tensor, int], Tensor]
    rate: float
    solver: Solver
    rtol: float
    atol: float

    def __post_init__(self) -> None:
        if not (self.rtol > 0 and self.atol > 0 and self.rate > 0):
            raise Refusal(f"optimizer.rtol={self.rtol} atol={self.atol} rate={self.rate}: all above 0")

    def init(self, w: Tensor) -> State:
        """tau = -1: w has not been brought to the manifold yet."""
        return (torch.tensor([-1.0], dtype=torch.float64),)

    def flow_step(self, lr: float) -> float:
        """lr: the time of this flow."""
        return lr

    def step(self, w: Tensor, state: State, grad: Grad, lr: float) -> tuple[Tensor, State]:
        interpolators, tau = Interpolators(whole_loss(grad, "limiting_flow")), float(state[0])
        if tau < 0:
            w, residual = limit(interpolators, w, min(self.rtol, 1e-6), MANIFOLD_TOL)
            tau = 0.0
            if not residual <= max(1e3 * MANIFOLD_TOL, 100 * torch.finfo(w.dtype).eps):
                raise Refusal(
                    f"limiting_flow: gradient flow from the start reaches no interpolator (largest residual "
                    f"{residual:.1e}); take a problem that can be fitted exactly, or another start"
                )

        def velocity(y: Tensor) -> Tensor:
            """-rate P grad R at y."""
            tangent, ratio = interpolators.slope(y, self.regularizer, RANK_TOL)
            if not ratio > RANK_TOL:
                raise Refusal(
                    f"limiting_flow: the Jacobian loses rank between tau = {tau:g} and {tau + lr:g} "
                    f"(singular values {ratio:.0e} of the largest): the manifold ends there; stop before, or "
                    f"take more parameters"
                )
            return -self.rate * tangent

        w = integrate(velocity, w, lr, self.solver, self.rtol, self.atol, most=MAX_SLOPES)
        w, _ = interpolators.project(w, MANIFOLD_TOL)
        return w, (torch.tensor([tau + lr], dtype=torch.float64),)
