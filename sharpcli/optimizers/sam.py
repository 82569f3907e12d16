"""Sharpness-aware minimization, Foret et al. 2021, arXiv:2010.01412, Algorithm 1, and its other forms."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.batches import can_be_cut
from sharpcli.landscape.surface import Grad, Layout, whole_loss
from sharpcli.optimizers import (
    Change,
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

SMALLEST_NORM = 1e-12  # a direction of less length is divided by this: at a minimum SAM stays


@dataclass(frozen=True)
class SAM:
    """The rule `base`, with the gradient at the ascent point in place of the gradient: g_sam(w) = g(w + rho
    g(w) / |g(w)|), or g(w + rho g(w)) for `normalized=false`. State, preconditioner and columns are those of
    the base. Other forms, each None where it is not wanted:

    - `m`: m-SAM (Foret et al. 2021, section 4.1). The examples of a step are taken in groups of m, each with
      an ascent point of its own; g_sam is the mean over groups, weighted by examples. m = 1 is 1-SAM.
    - `ascent_steps`: n ascents in place of one, each of rho / n along the gradient where the last one ended.
    - `adaptive`: ASAM (Kwon et al. 2021, arXiv:2102.11600). The ascent is rho T^2 g / |T g| with T_i = |w_i|
      + adaptive: the radius is relative to each weight.
    - `layerwise`: every tensor l of the weights moves by rho |w_l| along g_l / |g_l| (the layer-wise ratio of
      LookSAM, Liu et al. 2022, arXiv:2203.02714).
    - `surrogate_gap`: GSAM (Zhuang et al. 2022, arXiv:2203.08065). From g_sam the part of g(w) that is
      orthogonal to g_sam is taken away, times this number.
    - `friendly`: Friendly SAM (Li et al. 2024, arXiv:2403.12350). The ascent is along g - friendly M, M <-
      friendly_decay M + (1 - friendly_decay) g a mean of the gradients so far, the last part of the state.

    Refuses a setting out of its range, and two that do not go together; with `m`, a base or a wrapper that
    does not hand on the loss itself, and examples that belong together.
    """

    states: ClassVar[dict[str, str]] = {"ascent_radius": "rho"}
    rho: float
    normalized: bool
    base: Optimizer
    m: int | None
    ascent_steps: int | None
    adaptive: float | None
    layerwise: bool | None
    surrogate_gap: float | None
    friendly: float | None
    friendly_decay: float | None
    layout: Layout = field(init=False, default=())

    def __post_init__(self) -> None:
        if self.rho < 0:
            raise Refusal(f"optimizer.rho={self.rho}: the ascent radius is at least 0")
        for name in ("m", "ascent_steps"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise Refusal(f"optimizer.{name}={number}: at least 1, or null")
        for name in ("adaptive", "surrogate_gap", "friendly"):
            if (number := getattr(self, name)) is not None and number < 0:
                raise Refusal(f"optimizer.{name}={number}: at least 0, or null")
        if self.friendly_decay is not None and not 0 <= self.friendly_decay < 1:
            raise Refusal(f"optimizer.friendly_decay={self.friendly_decay}: at least 0 and below 1, or null")
        if (self.friendly is None) != (self.friendly_decay is None):
            raise Refusal(
                "optimizer.friendly and optimizer.friendly_decay: one of them is null; give both, such as "
                "optimizer.friendly=1 optimizer.friendly_decay=0.6, or neither"
            )
        if self.friendly is not None and self.m is not None:
            raise Refusal(
                "optimizer.friendly and optimizer.m: the mean gradient is of whole batches; give one of them"
            )
        if self.layerwise and (self.adaptive is not None or not self.normalized):
            raise Refusal(
                "optimizer.layerwise=true: it sets the length of each tensor's step; leave out "
                "optimizer.adaptive and optimizer.normalized=false"
            )

    def remark(self, steps: int, batch_size: int) -> str | None:
        """Where the groups of m are the whole batch."""
        if self.m is None or self.m <= batch_size:
            return None
        return f"optimizer.m={self.m}: a batch has {batch_size} examples, and each batch is one group"

    def init(self, w: Tensor) -> State:
        mean = () if self.friendly is None else (torch.zeros_like(w),)
        return *started(self.base, w), *mean

    def step(self, w: Tensor, state: State, grad: Grad, lr: float) -> tuple[Tensor, State]:
        of_base, mean = (state, None) if self.friendly is None else (state[:-1], state[-1])
        means = [] if mean is None else [mean]  # the mean gradient, renewed at the base's first gradient

        def sam_grad(w: Tensor) -> Tensor:
            if self.m is None:
                g, g_sam = self._ascended(w, grad, means)
            else:
                g, g_sam = torch.zeros_like(w), torch.zeros_like(w)
                for share, grad_of_group in self._groups(grad, self.m):
                    first, last = self._ascended(w, grad_of_group, means)
                    g, g_sam = g + share * first, g_sam + share * last
            if self.surrogate_gap is None:
                return g_sam
            along = (g @ g_sam) / g_sam.square().sum().clamp_min(SMALLEST_NORM**2)
            return g_sam - self.surrogate_gap * (g - along * g_sam)

        w, of_base = self.base.step(w, of_base, sam_grad, lr)
        return w, (*of_base, *means[-1:])

    @staticmethod
    def _groups(grad: Grad, m: int) -> Iterator[tuple[float, Grad]]:
        """The gradient functions of groups of m examples, each with its share of all examples."""
        surface = whole_loss(grad, f"sam with optimizer.m={m}")
        if surface.joint or not all(can_be_cut(batch) for batch in surface.batches):
            raise Refusal(
                f"optimizer.m={m}: the examples of a batch depend on one another here (batch norm); take "
                f"another norm, or batch_size={m}"
            )
        x, y = surface.joined
        n, groups = len(y), []
        for i in range(0, n, m):
            group = (x[i : i + m], y[i : i + m])
            groups.append((surface.weigh(group), group))
        whole = sum(weight for weight, _ in groups)
        yield from ((weight / whole, surface.on([group])) for weight, group in groups if weight > 0)

    def _ascended(self, w: Tensor, grad: Grad, means: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The gradients at w and at the ascent point."""
        first = g = grad(w)
        if len(means) == 1 and self.friendly_decay is not None:
            means.append(self.friendly_decay * means[0] + (1 - self.friendly_decay) * g)
        steps, at = self.ascent_steps or 1, w
        for _ in range(steps):
            d = g if self.friendly is None else g - self.friendly * means[1]
            at = at + self._ascent(d, w, self.rho / steps)
            g = grad(at)
        return first, g

    def _ascent(self, d: Tensor, w: Tensor, rho: float) -> Tensor:
        """The ascent along d of radius rho."""
        if self.layerwise:
            sizes = [shape.numel() for _, shape in self.layout] or [len(w)]
            pieces = zip(d.split(sizes), w.split(sizes), strict=True)
            return torch.cat([rho * at.norm() * part / _length(part) for part, at in pieces])
        if self.adaptive is None:
            return rho * d / (_length(d) if self.normalized else 1.0)
        T = w.abs() + self.adaptive
        return rho * T.square() * d / (_length(T * d) if self.normalized else 1.0)

    def inner(self, state: State, change: Change) -> State:
        """The state with that of the base changed."""
        of_base = self._of_base(state)
        return *change(self.base, of_base), *state[len(of_base) :]

    def shaped(self, layout: Layout) -> Self:
        out = copy.copy(self)
        object.__setattr__(out, "base", shaped(self.base, layout))
        object.__setattr__(out, "layout", layout)
        return out

    def base_edge(self, lr: float) -> float | None:
        """The edge of the base. SAM's edge depends on |g| and lies below it (Long & Bartlett 2024,
        arXiv:2309.12488, `measure=sam_sharpness`)."""
        return edge(self.base, lr)

    def preconditioner(self, state: State, lr: float) -> tuple[Tensor, None] | None:
        """P of the base. No edge is stated: with SAM the rule overshoots below the base's."""
        metric = preconditioner(self.base, self._of_base(state), lr)
        return None if metric is None else (metric[0], None)

    def flow_step(self, lr: float) -> float | None:
        """That of the base."""
        return flow_step(self.base, lr)

    def columns(self, state: State, lr: float) -> dict[str, float]:
        return columns(self.base, self._of_base(state), lr)

    def compiled(self) -> Rule | None:
        """The rule of the base with the gradient at the ascent point; None where the base has no compiled
        form or is SAM itself, and in any other form than Foret's."""
        others = (self.m, self.ascent_steps, self.adaptive, self.layerwise, self.surrogate_gap, self.friendly)
        base = compiled(self.base)
        if base is None or base.rho or any(setting is not None for setting in others):
            return None
        return base._replace(rho=self.rho, normalized=self.normalized)

    def _of_base(self, state: State) -> State:
        return state if self.friendly is None else state[:-1]


def _length(d: Tensor) -> Tensor:
    return d.norm().clamp_min(SMALLEST_NORM)
