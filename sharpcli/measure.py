"""Measuring at a point: for the training loop, and for `sharp measure` on checkpoints of runs and files of weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sharpcli.curvature import Curvature
from sharpcli.errors import Refusal
from sharpcli.experiment import Experiment
from sharpcli.measures import Point
from sharpcli.optimizers import State
from sharpcli.rng import generator
from sharpcli.run import Row, Run

Warm = dict[str, Tensor]
Tell = Callable[[str, int, float], Any]


def measure(
    experiment: Experiment, w: Tensor, step: int, warm: Mapping[str, Tensor], names: Iterable[str], state: State | None = None
) -> tuple[Row, Warm]:
    """The row of the named measures at w, and what each leaves for the next measurement."""
    row: Row = {}
    after = dict(warm)
    for _, found, kept in each(experiment, w, step, warm, names, state):
        row |= found
        after |= kept
    return row, after


def each(
    experiment: Experiment,
    w: Tensor,
    step: int,
    warm: Mapping[str, Tensor],
    names: Iterable[str],
    state: State | None = None,
    tell: Tell | None = None,
) -> Iterator[tuple[str, Row, Warm]]:
    """The named measures at w one after the other, on one shared curvature: name, row, warm vectors.

    A measure adds its values, and for those that spend any `<name>_products`, `<name>_gradients`, `<name>_seconds` and
    `<name>_examples`. Its generator is keyed by (seed, name, step): measuring moves no other draw. `tell(name, products,
    error)` hears of long solves. A device that runs out of memory is a refusal that says what to try.
    """
    surface = experiment.surface_at(w)
    curvature = Curvature(surface, w, experiment.seed, step, experiment.basis_bytes)
    lr = experiment.schedule(min(step, max(experiment.steps - 1, 0)))
    for name in names:
        started = time.perf_counter()
        if tell is not None:
            tell(name, 0, float("nan"))
            curvature.tell = lambda products, error, name=name: tell(name, products, error)
        rng = generator(experiment.seed, name, step)
        about = (experiment.problem, lr, experiment.optimizer, state, experiment.init)
        with enough_memory(experiment):
            found = experiment.measures[name](Point(w, surface, curvature, rng, warm.get(name), *about, step))
        row = dict(found.values)
        if found.products is not None or found.gradients:
            row[f"{name}_products"] = round(found.products or 0, 3)
            row |= {f"{name}_gradients": round(found.gradients, 2)} if found.gradients else {}
            row[f"{name}_examples"] = surface.examples
            row[f"{name}_seconds"] = round(time.perf_counter() - started, 4)
        yield name, row, {} if found.warm is None else {name: found.warm}


@contextmanager
def enough_memory(experiment: Experiment) -> Iterator[None]:
    """Turns memory that runs out into one line that says which smaller chunk or graph to try."""
    try:
        yield
    except RuntimeError as problem:  # torch.OutOfMemoryError is one; the CPU's allocator raises a plain one
        if not isinstance(problem, torch.OutOfMemoryError) and "allocate memory" not in str(problem):
            raise
        held = experiment.problem.surface.graph_budget / 1e9
        largest = max(len(y) for _, y in experiment.problem.surface.batches)
        raise Refusal(
            f"out of memory at {largest} examples at once and graphs of up to {held:g} GB on {experiment.problem.w0.device}; "
            f"try chunk={max(1, largest // 4)} graph_gb={held / 4:g}, or basis_gb={experiment.basis_bytes / 4e9:g}"
        ) from None


def restore(saved: Mapping[str, Any], experiment: Experiment) -> tuple[Tensor, Warm, State]:
    """The weights, the warm vectors and the optimizer's state of a checkpoint, on the experiment's device."""
    place = experiment.problem.w0
    warm = {name: vectors.to(place) for name, vectors in saved["warm"].items()}
    return saved["w"].to(place), warm, tuple(part.to(place.device) for part in saved["state"])


def begun(experiment: Experiment, run: Run) -> Experiment:
    """The same with `init` the weights at which the run began, where those were another run's."""
    if not run.config.get("init_from") or 0 not in run.checkpoints():
        return experiment
    try:
        return replace(experiment, init=run.load(0)["w"].to(experiment.problem.w0))
    except (ValueError, OSError, RuntimeError) as problem:
        raise Refusal(f"{run.name}: where it began is lost ({problem}); start it again in another runs_dir") from None


def part_of(experiment: Experiment, w: Tensor, chosen: Iterable[str]) -> Experiment:
    """The same experiment in some parameters alone, the others held at w."""
    return replace(experiment, problem=experiment.problem.only(w, list(chosen)), init=None)
