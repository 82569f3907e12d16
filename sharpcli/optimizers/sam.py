"""Sharpness-aware minimization, Foret et al. 2021, arXiv:2010.01412, Algorithm 1."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import Grad, Layout
from sharpcli.optimizers import (
    Optimizer,
    Rule,
    State,
    columns,
    compiled,
    edge,
    flow_step,
    preconditioner,
    shaped,
    started,
)


@dataclass(frozen=True)
class SAM:
    """The rule `base`, with the gradient at the ascent point in place of the gradient: g_sam(w) = g(w + rho
    g(w) / |g(w)|), or g(w + rho g(w)) for `normalized=false`. State, preconditioner and columns are those of
    the base. Refuses rho < 0."""

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
            divisor = g.norm().clamp_min(1e-12) if self.normalized else 1.0
            return grad(w + self.rho * g / divisor)

        return self.base.step(w, state, sam_grad, lr)

    def shaped(self, layout: Layout) -> Self:
        return replace(self, base=shaped(self.base, layout))

    def base_edge(self, lr: float) -> float | None:
        """The edge of the base. SAM's edge depends on |g| and lies below it (Long & Bartlett 2024,
        arXiv:2309.12488, `measure=sam_sharpness`)."""
        return edge(self.base, lr)

    def preconditioner(self, state: State, lr: float) -> tuple[Tensor, float] | None:
        return preconditioner(self.base, state, lr)

    def flow_step(self, lr: float) -> float | None:
        """That of the base."""
        return flow_step(self.base, lr)

    def columns(self, state: State, lr: float) -> dict[str, float]:
        return columns(self.base, state, lr)

    def compiled(self) -> Rule | None:
        """The rule of the base with the gradient at the ascent point; None where the base has no compiled
        form or is SAM itself."""
        base = compiled(self.base)
        return None if base is None or base.rho else base._replace(rho=self.rho, normalized=self.normalized)
