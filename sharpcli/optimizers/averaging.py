"""Averages of the weights along training, kept beside them: stochastic weight averaging (Izmailov et al.
2018, arXiv:1803.05407) and exponential moving averages (Polyak & Juditsky 1992)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import Grad, Layout
from sharpcli.optimizers import (
    Change,
    Optimizer,
    State,
    columns,
    edge,
    flow_step,
    needs_full_batch,
    preconditioner,
    shaped,
    started,
)


@dataclass(frozen=True)
class Averaging:
    """The rule `base`, which it does not change, and beside it an average a of the weights, taken after the
    steps start, start + n, start + 2 n, ... for n = `average_every`: their mean, or for a `decay` a <- decay
    a + (1 - decay) w, begun at the first of these weights. Before the first, a is w. Every measure is taken
    at a too, in columns that begin with `average_`. The weights before the first step are in no average:
    start = 0 is 1.

    The state is (the steps taken and the weights averaged, a, the base's state). This rule is the outermost:
    inside of another the average is kept and not measured. Refuses start < 0, average_every < 1, and a decay
    outside [0, 1).
    """

    start: int
    average_every: int
    decay: float | None
    base: Optimizer

    def __post_init__(self) -> None:
        if self.start < 0 or self.average_every < 1 or (self.decay is not None and not 0 <= self.decay < 1):
            raise Refusal(
                f"optimizer.start={self.start} optimizer.average_every={self.average_every} "
                f"optimizer.decay={self.decay}: start at least 0, average_every at least 1, decay at least 0 "
                f"and below 1, or null for the mean"
            )

    @property
    def full_batch(self) -> bool:
        """Whether the base is defined for the loss of all examples alone."""
        return needs_full_batch(self.base)

    def init(self, w: Tensor) -> State:
        return torch.tensor([0, 0], device=w.device), w.clone(), *started(self.base, w)

    def step(self, w: Tensor, state: State, grad: Grad, lr: float) -> tuple[Tensor, State]:
        counts, average, *own = state
        w, after = self.base.step(w, tuple(own), grad, lr)
        taken, averaged = (int(count) for count in counts.tolist())
        taken += 1
        if taken < max(self.start, 1):
            average = w
        elif (taken - max(self.start, 1)) % self.average_every == 0:
            averaged += 1
            share = 1 / averaged if self.decay is None or averaged == 1 else 1 - self.decay
            average = average + share * (w - average) if averaged > 1 else w
        return w, (torch.tensor([taken, averaged], device=w.device), average.clone(), *after)

    def remark(self, steps: int, batch_size: int) -> str | None:
        """Where no weights are averaged."""
        over = f"optimizer.start={self.start}: the run has {steps} steps, and no weights are averaged"
        return over if self.start > steps else None

    def average(self, state: State) -> Tensor:
        """The average a [D]."""
        return state[1]

    def inner(self, state: State, change: Change) -> State:
        """The state with that of the base changed."""
        return *state[:2], *change(self.base, state[2:])

    def shaped(self, layout: Layout) -> Self:
        return replace(self, base=shaped(self.base, layout))

    def edge(self, lr: float) -> float | None:
        """That of the base."""
        return edge(self.base, lr)

    def preconditioner(self, state: State, lr: float) -> tuple[Tensor, float | None] | None:
        return preconditioner(self.base, state[2:], lr)

    def columns(self, state: State, lr: float) -> dict[str, float]:
        return columns(self.base, state[2:], lr)

    def flow_step(self, lr: float) -> float | None:
        """That of the base."""
        return flow_step(self.base, lr)
