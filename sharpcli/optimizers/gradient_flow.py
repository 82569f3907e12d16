"""Gradient flow, dw/dt = -grad L(w): what gradient descent with a vanishing step size follows."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.flows import Solver, integrate
from sharpcli.landscape.surface import Grad
from sharpcli.optimizers import State


@dataclass(frozen=True)
class GradientFlow:
    """One step is the flow over a time of lr: after `step` steps the time is lr step, as for gradient
    descent.

    By an adaptive solver of SciPy with local errors below atol + rtol |w|; `DOP853` where the flow is not
    stiff, `LSODA` or `Radau` on toys where it is. Where |grad L| falls to `tol` the flow stops and stays, so
    that one step of a large lr ends at its limit to that tolerance; 0 never stops it. It states no edge: a
    flow is stable at any curvature. Refuses rtol and atol that are not above 0, and tol below 0.
    """

    solver: Solver
    rtol: float
    atol: float
    tol: float

    def __post_init__(self) -> None:
        if not (self.rtol > 0 and self.atol > 0 and self.tol >= 0):
            raise Refusal(
                f"optimizer.rtol={self.rtol} atol={self.atol} tol={self.tol}: the first two above 0, tol at "
                f"least 0"
            )

    def init(self, w: Tensor) -> State:
        return ()

    def step(self, w: Tensor, state: State, grad: Grad, lr: float) -> tuple[Tensor, State]:
        return integrate(lambda at: -grad(at), w, lr, self.solver, self.rtol, self.atol, self.tol), ()
