"""From one step to the next, or over many at once where a toy, its noise and its rule are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sharpcli.experiment import Experiment
from sharpcli.objectives.label_noise import label_noise
from sharpcli.optimizers import State
from sharpcli.optimizers.gd import GD
from sharpcli.optimizers.momentum import Momentum
from sharpcli.optimizers.sam import SAM
from sharpcli.problem import chunks
from sharpcli.rng import generator, key
from sharpcli.schedules.constant import constant

if TYPE_CHECKING:
    from sharpcli.kernel import Steps

AT_ONCE = 2**18  # compiled steps after which Ctrl-C is heard
Advance = Callable[[Tensor, State, int, int], tuple[Tensor, State, int]]


def advance(experiment: Experiment) -> Advance:
    """(w, state, step, stop) -> the same at a later step, at most `stop`: compiled where that is possible and wanted."""
    steps = compiled(experiment) if experiment.compiled else None
    return _general(experiment) if steps is None else _many(steps)


def compiled(experiment: Experiment) -> Steps | None:
    """The steps of an experiment as compiled ones; None where one of its parts has no compiled form.

    Toys with a kernel, on the CPU, by gradient descent, momentum or SAM, with or without label noise, at a constant lr.
    """
    problem, batches = experiment.problem, experiment.minibatches
    noises = [(name, objective) for name, objective in experiment.objectives.items()]
    there = problem.kernel is not None and problem.w0.device.type == "cpu" and experiment.ranks.size == 1
    if not there or experiment.schedule.shape.target is not constant:
        return None
    if len(noises) > 1 or any(objective.target is not label_noise for _, objective in noises):
        return None
    if (update := _rule(experiment.optimizer)) is None:
        return None
    from sharpcli.kernel import NORMAL, SIGNS, STUDENT, UNIFORM, Noise, Rule, Steps

    noise = Noise()
    for name, objective in noises:
        told = objective.keywords
        kind = {"signs": SIGNS, "uniform": UNIFORM, "normal": NORMAL, "student": STUDENT}[told["distribution"]]
        noise = Noise(told["delta"], kind, told["shared"], key(experiment.seed, name))
    assert problem.kernel is not None
    order = key(experiment.seed, "order")
    return Steps(problem.kernel, batches.batch_size, batches.replacement, order, noise, Rule(**update), experiment.schedule(0))


def _rule(optimizer: Any) -> dict[str, Any] | None:
    if isinstance(optimizer, GD):
        return {}
    if isinstance(optimizer, Momentum):
        return {"beta": optimizer.beta, "nesterov": optimizer.nesterov}
    if isinstance(optimizer, SAM) and (base := _rule(optimizer.base)) is not None and "rho" not in base:
        return base | {"rho": optimizer.rho, "normalized": optimizer.normalized}
    return None


def _many(steps: Steps) -> Advance:
    def ahead(w: Tensor, state: State, step: int, stop: int) -> tuple[Tensor, State, int]:
        new, v = w.numpy().copy(), (state[0].numpy().copy() if state else np.zeros(len(w)))
        step = steps.run(new, v, step, min(stop, step + AT_ONCE))
        return torch.from_numpy(new), (torch.from_numpy(v),) if state else (), step

    return ahead


def _general(experiment: Experiment) -> Advance:
    batches, objectives, whole = experiment.minibatches, experiment.objectives.items(), experiment.problem.surface
    epoch, order = -1, torch.empty(0)

    def ahead(w: Tensor, state: State, step: int, stop: int) -> tuple[Tensor, State, int]:
        nonlocal epoch, order
        surface = whole
        if not batches.whole:
            if not batches.replacement and step // batches.per_epoch != epoch:
                epoch = step // batches.per_epoch
                order = batches.order(epoch)
            surface = whole.on(chunks(batches(step, order), experiment.chunk))
        for name, objective in objectives:
            surface = objective(surface, w, generator(experiment.seed, name, step))
        w, state = experiment.optimizer.step(w, state, surface, experiment.schedule(step))
        return w, state, step + 1

    return ahead
