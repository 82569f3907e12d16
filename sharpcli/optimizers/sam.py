"""Sharpness-aware minimization, Foret et al. 2021, arXiv:2010.01412, Algorithm 1."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import Grad
from sharpcli.optimizers import Optimizer, Rule, State, columns, compiled, edge, preconditioner, started


@dataclass(frozen=True)
class SAM:
    """Any optimizer, shown the gradient at the ascent point: g_sam(w) = g(w + rho g(w) / |g(w)|).

    `normalized=false` leaves |g(w)| out. Refuses rho < 0.
    """

    rho: float
    normalized: bool
    base: Optimizer

    def __post_init__(self) -> None:
        if self.rho < 0:
            raise Refusal(f"optimizer.rho={self.rho}: the ascent radius is at least 0")

    def init(self, w: Tensor) -> State:
        return started(self.base, w)

    def step(self, w: Tensor, state: State, grad: Grad, lr: float) -> tuple[Tensor, State]:
        def sam_grad(w: Tensor) -> Tensor:
            g = grad(w)
            scale = g.norm().clamp_min(1e-12) if self.normalized else 1.0
            return grad(w + self.rho * g / scale)

        return self.base.step(w, state, sam_grad, lr)

    def base_edge(self, lr: float) -> float | None:
        """The base's edge: SAM's own moves with |g| (Long & Bartlett 2024, `measure=sam_sharpness`) and lies
        below it."""
        return edge(self.base, lr)

    def preconditioner(self, state: State, lr: float) -> tuple[Tensor, float] | None:
        return preconditioner(self.base, state, lr)

    def columns(self, state: State, lr: float) -> dict[str, float]:
        return columns(self.base, state, lr)

    def compiled(self) -> Rule | None:
        """The base's rule at the ascent point; None for SAM around SAM."""
        base = compiled(self.base)
        return None if base is None or base.rho else base._replace(rho=self.rho, normalized=self.normalized)
