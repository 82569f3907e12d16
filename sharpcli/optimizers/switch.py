"""One update rule up to a step and another from there on, such as SAM in the last epochs alone
(Andriushchenko & Flammarion 2022, arXiv:2206.06232)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import Grad, Layout
from sharpcli.optimizers import (
    Change,
    Optimizer,
    State,
    columns,
    flow_step,
    needs_full_batch,
    preconditioner,
    shaped,
    started,
)


@dataclass(frozen=True)
class Switch:
    """The rule `before` at the steps 0 to at - 1, the rule `after` from step `at` on, which begins with a
    state of its own. The state is (steps taken and the number of tensors of `before`'s state, the two
    states). No edge is stated, since it is another before and after. Refuses at < 0."""

    at: int
    before: Optimizer
    after: Optimizer

    def __post_init__(self) -> None:
        if self.at < 0:
            raise Refusal(f"optimizer.at={self.at}: the step of the change is at least 0")

    @property
    def full_batch(self) -> bool:
        """Whether one of the two is defined for the loss of all examples alone."""
        return needs_full_batch(self.before) or needs_full_batch(self.after)

    def init(self, w: Tensor) -> State:
        before = started(self.before, w)
        return torch.tensor([0, len(before)], device=w.device), *before, *started(self.after, w)

    def step(self, w: Tensor, state: State, grad: Grad, lr: float) -> tuple[Tensor, State]:
        rule, own, first, last = self._active(state)
        w, own = rule.step(w, own, grad, lr)
        one_more = state[0] + torch.tensor([1, 0], device=state[0].device)
        return w, (one_more, *state[1:first], *own, *state[last:])

    def inner(self, state: State, change: Change) -> State:
        """The state with those of the two rules changed."""
        end = 1 + int(state[0][1])
        return state[0], *change(self.before, state[1:end]), *change(self.after, state[end:])

    def shaped(self, layout: Layout) -> Self:
        return replace(self, before=shaped(self.before, layout), after=shaped(self.after, layout))

    def preconditioner(self, state: State, lr: float) -> tuple[Tensor, float | None] | None:
        rule, own, _, _ = self._active(state)
        return preconditioner(rule, own, lr)

    def columns(self, state: State, lr: float) -> dict[str, float]:
        rule, own, _, _ = self._active(state)
        return columns(rule, own, lr)

    def flow_step(self, lr: float) -> float | None:
        """That of both rules; None where they differ."""
        before, after = flow_step(self.before, lr), flow_step(self.after, lr)
        return before if before == after else None

    def remark(self, steps: int, batch_size: int) -> str | None:
        """Where the rule never changes, or changes before the first step."""
        if 0 < self.at < steps:
            return None
        kept = type(self.before if self.at else self.after).__name__
        return f"optimizer.at={self.at}: of {steps} steps all are {kept}'s"

    def _active(self, state: State) -> tuple[Any, State, int, int]:
        """The rule of the next step, its state, and where this lies in the whole state: from, to."""
        taken, parts_of_before = state[0].tolist()
        if taken < self.at:
            return self.before, state[1 : 1 + parts_of_before], 1, 1 + parts_of_before
        return self.after, state[1 + parts_of_before :], 1 + parts_of_before, len(state)
