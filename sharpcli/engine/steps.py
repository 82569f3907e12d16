"""From a step to the next, or over very many at once where a toy, its noise and its rule have compiled
forms."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from sharpcli import objectives, optimizers
from sharpcli.engine.experiment import Experiment
from sharpcli.objectives import Noise
from sharpcli.optimizers import State, stepped
from sharpcli.problems.minibatches import chunks
from sharpcli.rng import generator, key

if TYPE_CHECKING:
    from sharpcli.problems.compiled_loop import Steps

COMPILED_AT_ONCE = 2**18  # compiled steps after which Ctrl-C is heard


class Advance(Protocol):
    """(w, state, step, stop) -> the same at a later step, at most `stop`, and at most `at_once` steps later;
    `gradient` is that of the training loss at w, where it is known."""

    @property
    def at_once(self) -> int:
        """The most steps of a call."""

    def __call__(
        self, w: Tensor, state: State, step: int, stop: int, gradient: Tensor | None = None
    ) -> tuple[Tensor, State, int]:
        """The weights, the optimizer's state and the step reached: earlier where the weights are no longer
        finite."""


def advance(experiment: Experiment) -> Advance:
    """How an experiment gets from step to step: by compiled steps where it has them and wants them."""
    steps = compiled(experiment) if experiment.compile_toys else None
    return OneByOne(experiment) if steps is None else Compiled(experiment, steps)


def compiled(experiment: Experiment) -> Steps | None:
    """The steps of an experiment as compiled ones; None where its problem, its rule or an objective has no
    compiled form, in half precision, on an accelerator, and over several processes."""
    problem, batches = experiment.problem, experiment.minibatches
    rule = optimizers.compiled(experiment.optimizer)
    noises = {name: objectives.compiled(objective) for name, objective in experiment.objectives.items()}
    on_one_cpu = problem.w0.device.type == "cpu" and experiment.processes.size == 1
    if (
        problem.compiled is None
        or rule is None
        or len(noises) > 1
        or None in noises.values()
        or not on_one_cpu
        or experiment.precision is not None
    ):
        return None
    from sharpcli.problems.compiled_loop import Steps

    noise = Noise()
    for name, its_noise in noises.items():
        if its_noise is not None:
            noise = its_noise._replace(key=key(experiment.seed, name))
    return Steps(
        toy=problem.compiled,
        batch_size=batches.batch_size,
        replacement=batches.replacement,
        key=key(experiment.seed, "order"),
        noise=noise,
        rule=rule,
    )


@dataclass(frozen=True)
class Compiled:
    """Very many compiled steps at once."""

    experiment: Experiment
    steps: Steps
    at_once: int = COMPILED_AT_ONCE

    def __call__(
        self, w: Tensor, state: State, step: int, stop: int, gradient: Tensor | None = None
    ) -> tuple[Tensor, State, int]:
        """See `Advance`."""
        stop = min(stop, step + self.at_once)
        new, velocity = w.numpy().copy(), state[0].numpy().copy() if state else np.zeros(len(w))
        step = self.steps.run(new, velocity, step, stop, self.experiment.schedule.between(step, stop))
        return torch.from_numpy(new), (torch.from_numpy(velocity),) if state else (), step


@dataclass
class OneByOne:
    """A single step of any experiment: its batch, its objectives in turn, its rule."""

    experiment: Experiment
    at_once: int = 1
    _epoch: int = -1
    _order: Tensor = field(default_factory=lambda: torch.empty(0))
    _tried: bool = False

    def __call__(
        self, w: Tensor, state: State, step: int, stop: int, gradient: Tensor | None = None
    ) -> tuple[Tensor, State, int]:
        """See `Advance`."""
        experiment, batches, surface = (
            self.experiment,
            self.experiment.minibatches,
            self.experiment.training_surface,
        )
        if not batches.whole:
            if not batches.replacement and step // batches.per_epoch != self._epoch:
                self._epoch = step // batches.per_epoch
                self._order = batches.order(self._epoch)
            surface = surface.on(chunks(batches(step, self._order), experiment.chunk))
        elif gradient is not None:
            surface = replace(surface, known=(w, gradient))
        lr = experiment.schedule(step)
        time = optimizers.flow_step(experiment.optimizer, lr)
        for name, objective in experiment.objectives.items():
            rng = generator(experiment.seed, name, step)
            surface = objectives.changed(objective, surface, w, rng, time)
        try:
            if self._tried:
                w, state = experiment.optimizer.step(w, state, surface, lr)
            else:
                w, state = stepped(experiment.optimizer, w, state, surface, lr)
                self._tried = True
        except (FloatingPointError, OverflowError):  # a rule needs the curvature, where it is not finite
            w = torch.full_like(w, torch.nan)
        return w, state, step + 1
