"""Update rules whose state is split by coordinates among the processes of a run, each of which holds a part
of it: what Rajbhandari et al. 2020, arXiv:1910.02054, call stage 1 of ZeRO.

A rule that states `coordinatewise = True` moves each weight by that weight, its state and its gradient alone,
so that a process can move the weights of its part. A rule around another one, such as SAM, is left as it is
and the rule inside of it is split: it says by `inner` which of its state is that rule's.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sharpcli.landscape.distributed import Processes
from sharpcli.landscape.surface import Grad
from sharpcli.linalg.split import Split
from sharpcli.optimizers import (
    Optimizer,
    State,
    base_edge,
    columns,
    edge,
    flow_step,
    hands_on_state,
    is_coordinatewise,
    preconditioner,
    rules_inside,
    started,
)


@dataclass(frozen=True)
class Parted:
    """The coordinatewise rule `base`, each process with its part of the weights. The state is the base's for
    these: tensors of the length of the part, and numbers that are the same in every process. A gradient is
    taken at whole weights, and the weights are whole after the step, for one more sum of D numbers over the
    processes. All else that the rule states is the base's."""

    base: Optimizer
    split: Split

    def init(self, w: Tensor) -> State:
        return started(self.base, self.split.own(w))

    def step(self, w: Tensor, state: State, grad: Grad, lr: float) -> tuple[Tensor, State]:
        part = self.split.own(w)

        def grad_of_part(at: Tensor) -> Tensor:
            return self.split.own(grad(w if at is part else self.split.whole(at)))

        after, state = self.base.step(part, state, grad_of_part, lr)
        return self.split.whole(after), state

    def edge(self, lr: float) -> float | None:
        return edge(self.base, lr)

    def base_edge(self, lr: float) -> float | None:
        return base_edge(self.base, lr)

    def flow_step(self, lr: float) -> float | None:
        return flow_step(self.base, lr)

    def preconditioner(self, state: State, lr: float) -> tuple[Tensor, float | None] | None:
        metric = preconditioner(self.base, state, lr)
        return None if metric is None else (self.split.whole(metric[0]), metric[1])

    def columns(self, state: State, lr: float) -> dict[str, float]:
        return columns(self.base, self.whole(state), lr)

    def whole(self, state: State) -> State:
        """The state of all coordinates, in every process."""
        length = self.split.part.stop - self.split.part.start
        return tuple(self.split.whole(t) if t.shape == (length,) else t for t in state)

    def own(self, state: State) -> State:
        """The part that this process holds of a state of all coordinates."""
        return tuple(self.split.own(t) if t.shape == (self.split.D,) else t for t in state)


def in_parts(rule: Any, D: int, processes: Processes) -> Any:
    """The rule with its state for D weights, or that of the rules inside of it, in parts, as far as it is
    coordinatewise; itself where no state is."""
    if is_coordinatewise(rule):
        split = Split(D, processes.rank, processes.size, processes.sum)
        return Parted(rule, split) if rule.init(torch.zeros(1)) else rule
    if not hands_on_state(rule):
        return rule
    out = copy.copy(rule)
    for name, value in rules_inside(rule).items():
        object.__setattr__(out, name, in_parts(value, D, processes))
    return out


def has_parts(rule: Any) -> bool:
    """Whether a state of the rule, or of a rule inside of it, is in parts."""
    return isinstance(rule, Parted) or any(map(has_parts, rules_inside(rule).values()))


def whole(rule: Any, state: State) -> State:
    """The state of all coordinates, in every process; all of them call it."""
    if isinstance(rule, Parted):
        return rule.whole(state)
    return rule.inner(state, whole) if hands_on_state(rule) else state


def own(rule: Any, state: State) -> State:
    """What this process holds of a state of all coordinates."""
    if isinstance(rule, Parted):
        return rule.own(state)
    return rule.inner(state, own) if hands_on_state(rule) else state
