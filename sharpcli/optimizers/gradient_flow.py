"""Gradient flow, dw/dt = -grad L(w): what gradient descent with a vanishing step size follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.flows import Solver, integrate
from sharpcli.landscape.surface import Grad
from sharpcli.optimizers import State


@dataclass(frozen=True)
class GradientFlow:
    """One step follows the flow for a time of lr, so that after t steps the time is lr t, as for gradient
    descent.

    The solver is one of SciPy's adaptive solvers, with local errors below atol + rtol |w|: `DOP853` where the
    flow is not stiff, `LSODA` or `Radau` for toys where it is. Where |grad L| falls to `tol` the flow stops,
    so that one step of a large lr ends at the flow's limit to that tolerance; for tol = 0 it never stops. It
    states no edge, since a flow is stable at any curvature. Refuses rtol and atol that are not above 0, and
    tol below 0.
    """

    exact_gradient: ClassVar[bool] = True
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

    def flow_step(self, lr: float) -> float:
        """lr: the flow itself."""
        return lr

    def step(self, w: Tensor, state: State, grad: Grad, lr: float) -> tuple[Tensor, State]:
        return integrate(lambda at: -grad(at), w, lr, self.solver, self.rtol, self.atol, self.tol), ()
