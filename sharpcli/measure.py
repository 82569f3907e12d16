"""Measuring at a point: for the training loop, and for `sharp measure` on the checkpoints of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor

from sharpcli.experiment import Experiment
from sharpcli.measures import Point
from sharpcli.rng import generator
from sharpcli.run import Row, Run

Warm = dict[str, Tensor]


def measure(experiment: Experiment, w: Tensor, step: int, warm: Mapping[str, Tensor], names: Iterable[str]) -> tuple[Row, Warm]:
    """The row of the named measures at w, and what each leaves for the next measurement.

    A measure adds its values, and for those that spend products `<name>_products`, `<name>_seconds` and
    `<name>_examples`. Its generator is keyed by (seed, name, step): measuring moves no other draw.
    """
    row: Row = {}
    after = dict(warm)
    for name in names:
        started = time.perf_counter()
        rng = generator(experiment.seed, name, step)
        surface = experiment.surface_at(w)
        found = experiment.measures[name](Point(w, surface, rng, warm.get(name), experiment.problem))
        row |= found.values
        if found.products or found.gradients:
            row[f"{name}_products"] = found.products
            row[f"{name}_examples"] = surface.examples
            row[f"{name}_seconds"] = round(time.perf_counter() - started, 4)
        if found.warm is not None:
            after[name] = found.warm
    return row, after


def measure_checkpoints(
    run: Run,
    experiment: Experiment,
    steps: Iterable[int],
    source: Mapping[str, Any],
    tell: Callable[[Row], Any],
    complain: Callable[[str], Any],
) -> list[Row]:
    """Measures a run at the checkpoints of `steps` and appends a row for each, at once, to measured.jsonl
    with its `source`.

    From the same weights and the same warm vectors as in training, and so with the same numbers. A damaged
    checkpoint is complained of and left out.
    """
    rows = []
    for step in steps:
        try:
            saved = run.load(step)
        except (ValueError, OSError, RuntimeError) as problem:
            complain(f"{run.name}: checkpoint {step} left out: {problem}")
            continue
        w, warm = restore(saved, experiment)
        found, _ = measure(experiment, w, step, warm, experiment.measures)
        row = {"step": step, **found}
        run.add_measured(row | {"provenance": dict(source)})
        rows.append(row)
        tell(row)
    return rows


def restore(saved: Mapping[str, Any], experiment: Experiment) -> tuple[Tensor, Warm]:
    """The weights and the warm vectors of a checkpoint, on the experiment's device."""
    place = experiment.problem.w0
    return saved["w"].to(place), {name: vectors.to(place) for name, vectors in saved["warm"].items()}
