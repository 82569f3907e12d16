"""Gradients that are cut to a largest norm, Pascanu et al. 2013, arXiv:1211.5063, Algorithm 1."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import Grad, Layout
from sharpcli.optimizers import (
    Change,
    Optimizer,
    State,
    columns,
    edge,
    preconditioner,
    shaped,
    started,
)


@dataclass(frozen=True)
class Clipping:
    """The rule `base`, with g min(1, max_norm / |g|) in place of every gradient g that it takes, as
    `torch.nn.utils.clip_grad_norm_` cuts it. Around SAM both of its gradients are cut; `optimizer=sam` around
    this rule cuts the one that it descends by. State, preconditioner and columns are those of the base.
    Refuses max_norm <= 0."""

    max_norm: float
    base: Optimizer

    def __post_init__(self) -> None:
        if not self.max_norm > 0:
            raise Refusal(f"optimizer.max_norm={self.max_norm}: the largest norm of a gradient is above 0")

    def init(self, w: Tensor) -> State:
        return started(self.base, w)

    def step(self, w: Tensor, state: State, grad: Grad, lr: float) -> tuple[Tensor, State]:
        def cut(w: Tensor) -> Tensor:
            g = grad(w)
            return g * (self.max_norm / (g.norm() + 1e-6)).clamp_max(1.0)

        return self.base.step(w, state, cut, lr)

    def inner(self, state: State, change: Change) -> State:
        """The state of the base, changed."""
        return change(self.base, state)

    def shaped(self, layout: Layout) -> Self:
        return replace(self, base=shaped(self.base, layout))

    def base_edge(self, lr: float) -> float | None:
        """The edge of the base, which holds where gradients are short enough to be left as they are; beyond
        it the rule need not diverge."""
        return edge(self.base, lr)

    def preconditioner(self, state: State, lr: float) -> tuple[Tensor, None] | None:
        """P of the base. No edge is stated: the rule need not diverge beyond the base's."""
        metric = preconditioner(self.base, state, lr)
        return None if metric is None else (metric[0], None)

    def flow_step(self, lr: float) -> None:
        """None: while a gradient is cut, a step takes less time of gradient flow than the base's."""

    def columns(self, state: State, lr: float) -> dict[str, float]:
        return columns(self.base, state, lr)
