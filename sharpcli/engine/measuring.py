"""Measuring at a point: for the training loop, and for `sharp measure` on checkpoints of runs and files of
weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sharpcli.engine.experiment import Experiment
from sharpcli.errors import NotFinite, Refusal
from sharpcli.jsonl import Row
from sharpcli.landscape.batches import mapped
from sharpcli.landscape.curvature import Curvature
from sharpcli.landscape.second_derivatives import agreement
from sharpcli.landscape.surface import LossSurface
from sharpcli.measures import Estimates, Point
from sharpcli.optimizers import State, average, started
from sharpcli.optimizers.parted import own
from sharpcli.rng import generator

LOOP_COLUMNS = (
    "step",
    "epoch",
    "lr",
    "lr_now",
    "edge",
    "base_edge",
    "replica",
    "diverged",
    "stopped",
    "diverged_at",
    "seconds",
)
SECOND = "second derivatives"
SAME_GRADIENT, OTHER_GRADIENT = "a gradient as steps take it", "a gradient that is not"
AVERAGE = "average_"  # begins the columns of what is measured at the average of the weights
Warm = dict[str, Any]  # by measure: a tensor, or a mapping of tensors
Tell = Callable[[str, int, float], Any]


@dataclass(frozen=True)
class Taken:
    """What a measure gave at a point: its columns, its warm vectors by its name, its `vectors` [D] by the
    columns of their values, and the `gradient` [D] there, where measures have computed it so far."""

    name: str
    row: Row
    warm: Warm
    vectors: dict[str, Tensor]
    gradient: Tensor | None = None


def measure(
    experiment: Experiment,
    w: Tensor,
    step: int,
    warm: Mapping[str, Any],
    names: Iterable[str],
    state: State | None = None,
) -> tuple[Row, Warm]:
    """The row of the named measures at w, and what each leaves for the next measurement."""
    return measure_for_step(experiment, w, step, warm, names, state)[:2]


def measure_for_step(
    experiment: Experiment,
    w: Tensor,
    step: int,
    warm: Mapping[str, Any],
    names: Iterable[str],
    state: State | None = None,
) -> tuple[Row, Warm, Tensor | None]:
    """As `measure`, and the gradient of the training loss at w where measuring has computed it, to the bit:
    the step from w need not compute it again."""
    row: Row = {}
    after, names = dict(warm), list(names)
    gradient = None
    for taken in each(experiment, w, step, warm, names, state):
        row |= taken.row
        after |= taken.warm
        gradient = taken.gradient if taken.name in names else gradient
    return (
        row,
        after,
        gradient if gradient is not None and _is_gradient_of_steps(experiment, w, gradient) else None,
    )


def _is_gradient_of_steps(experiment: Experiment, w: Tensor, gradient: Tensor) -> bool:
    """Whether measuring computes the gradients of steps to the bit: of the same loss, as the first one of a
    process shows, since a graph may sum in another order."""
    surface = experiment.problem.surface
    if not experiment.minibatches.whole or experiment.objectives or experiment.precision is not None:
        return False
    if experiment.surface_at(w) is not surface:
        return False
    if not experiment.tried & {SAME_GRADIENT, OTHER_GRADIENT}:
        is_same = torch.equal(surface.grad(w), gradient)
        experiment.tried.add(SAME_GRADIENT if is_same else OTHER_GRADIENT)
    return SAME_GRADIENT in experiment.tried


def each(
    experiment: Experiment,
    w: Tensor,
    step: int,
    warm: Mapping[str, Any],
    names: Iterable[str],
    state: State | None = None,
    tell: Tell | None = None,
) -> Iterator[Taken]:
    """The named measures at w in turn, on one shared curvature.

    A measure adds its values, and if it spends any `<name>_products`, `<name>_gradients`, `<name>_seconds`
    and `<name>_examples`. Its generator is keyed by (seed, name, step): measuring moves no other draw.
    Where the weights or its curvature are not finite a measure has the column `<name>_not_finite` alone.
    `tell(name, products, error)` is called during long solves. A device that runs out of memory is a refusal
    that says what to try.

    Where the update rule keeps an average of the weights, the measures are then taken there, in columns that
    begin with `average_`.
    """
    names = list(names)
    lr = lr_at(experiment, w, step)  # by the loss at w, not at an average of the weights
    yield from _each_at(experiment, w, step, warm, names, state, tell, lr)
    mean = None if state is None else average(experiment.optimizer, state)
    if mean is None:
        return
    of_mean = {
        name.removeprefix(AVERAGE): vectors for name, vectors in warm.items() if name.startswith(AVERAGE)
    }
    for taken in _each_at(experiment, mean, step, of_mean, names, state, tell, lr):
        row, left, vectors = (
            {f"{AVERAGE}{key}": value for key, value in part.items()}
            for part in (taken.row, taken.warm, taken.vectors)
        )
        yield Taken(f"{AVERAGE}{taken.name}", row, left, vectors)


def _each_at(
    experiment: Experiment,
    w: Tensor,
    step: int,
    warm: Mapping[str, Any],
    names: Iterable[str],
    state: State | None,
    tell: Tell | None,
    lr: float,
) -> Iterator[Taken]:
    """The named measures at w alone; see `each`."""
    surface, number = experiment.surface_at(w), next(experiment.points)
    is_finite = bool(torch.isfinite(w).all())
    trying = 0.0  # seconds of the check of second derivatives, which are no measure's

    def try_products() -> None:
        nonlocal trying
        start = time.perf_counter()
        _try_second_derivatives(experiment, surface, w, name, number)
        trying += time.perf_counter() - start

    # before a basis is in memory beside what the check needs
    curvature = Curvature(surface, w, experiment.seed, step, experiment.basis_bytes, before=try_products)
    for name in names:
        began = time.perf_counter()
        if tell is not None:
            tell(name, 0, float("nan"))
            curvature.tell = lambda products, error, name=name: tell(name, products, error)
        point = Point(
            w=w,
            surface=surface,
            curvature=curvature,
            rng=generator(experiment.seed, name, step),
            warm=warm.get(name),
            problem=experiment.problem,
            lr=lr,
            optimizer=experiment.optimizer,
            state=state,
            init=experiment.init,
            step=step,
            constant_lr=experiment.schedule.is_constant,
            population=experiment.population,
            batch_size=experiment.minibatches.batch_size,
            flow_strength=experiment.flow_strength,
        )
        try:
            if not is_finite:
                raise NotFinite("weights")
            with experiment.enough_memory():
                estimates = experiment.measures[name](point)
        # a product, or what a solver computed of it, LAPACK too
        except (FloatingPointError, OverflowError, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
            estimates = Estimates({f"{name}_not_finite": True})
        seconds, trying = time.perf_counter() - began - trying, 0.0
        if isinstance(estimates, Estimates) and estimates.products:  # by products of its own
            try_products()
            trying = 0.0
        if not isinstance(estimates, Estimates):
            kind = type(estimates).__name__
            raise Refusal(
                f"measure.{name}: gives a {kind}; give a sharpcli.measures.Estimates, as in "
                f"Estimates({{'x': 1.0}})"
            )
        row = {key: _plain(name, key, value) for key, value in estimates.values.items()}
        if estimates.products is not None or estimates.gradients:
            row[f"{name}_products"] = round(estimates.products or 0, 3)
            row |= {f"{name}_gradients": round(estimates.gradients, 2)} if estimates.gradients else {}
            row[f"{name}_examples"] = surface.examples
            row[f"{name}_seconds"] = round(seconds, 4)
        warm_of = {} if estimates.warm is None else {name: estimates.warm}
        yield Taken(name, row, warm_of, estimates.vectors, curvature.known_grad)


def lr_at(experiment: Experiment, w: Tensor, step: int) -> float:
    """The learning rate of the step from w, of the last step at the end. A schedule that asks for the
    training loss is told that of a row."""
    schedule = experiment.schedule
    if schedule.asks_for_loss and experiment.row_due(step):
        schedule.least_loss = min(schedule.least_loss, float(experiment.problem.at(w).value(w)))
    return schedule(min(step, max(experiment.steps - 1, 0)))


def _try_second_derivatives(
    experiment: Experiment, surface: LossSurface, w: Tensor, name: str, number: int
) -> None:
    """The check of second derivatives, at the first point of a process. At those whose number is a power of 2
    that of symmetry again: where training begins, at a last layer of zeros, the wrong part may be 0."""
    is_first = SECOND not in experiment.tried
    if is_first or (number & (number - 1) == 0 and f"{SECOND} {number}" not in experiment.tried):
        check_second_derivatives(surface, w, experiment.seed, f"measure.{name}", is_first)
        experiment.tried.update((SECOND, f"{SECOND} {number}"))


def check_second_derivatives(
    surface: LossSurface, w: Tensor, seed: int, where: str, by_differences: bool = True
) -> None:
    """Refuses Hessian products that are not the gradient's derivatives, as PyTorch's are for some layers. The
    comparison with differences of gradients may be left out: far from where training begins, at weights
    that grow, differences say less."""
    numbers = agreement(surface, w, generator(seed, SECOND, 0))
    if numbers is not None and not numbers.symmetric:
        raise Refusal(
            f"{where}: the Hessian products of this model are wrong: u.Hv = {numbers.uHv:.6g} and "
            f"v.Hu = {numbers.vHu:.6g}, equal for every Hessian; a layer's second derivative is wrong in "
            f"torch {torch.__version__} (docs/measure.md lists such layers): take another"
        )
    if by_differences and numbers is not None and not numbers.derivative:
        raise Refusal(
            f"{where}: the Hessian products of this model are wrong: u.Hv = {numbers.uHv:.6g}, and "
            f"the gradient's central difference gives {numbers.difference:.6g}; a part of the model or the "
            f"loss is detached, or a layer's second derivative is wrong (docs/measure.md)"
        )


def _plain(name: str, key: str, value: Any) -> Any:
    """A measure's value as JSON has it: a scalar tensor or NumPy number as a number. Refuses a value that is
    none, and a column that the loop writes itself."""
    if key in LOOP_COLUMNS:
        raise Refusal(f"measure.{name}: the column {key} is the training loop's; give it another name")
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        return value.item()
    if value is None or isinstance(value, bool | int | float | str | list):
        return value
    raise Refusal(
        f"measure.{name}: {key} is a {type(value).__name__}; give a number, a word, or a list of numbers"
    )


def placed(warm: Mapping[str, Any], like: Tensor) -> Warm:
    """What measures left, on the device of a tensor; a single tensor also in its precision."""
    return {
        name: left.to(like) if isinstance(left, Tensor) else mapped(lambda t: t.to(like.device), left)
        for name, left in warm.items()
    }


def restore(saved: Mapping[str, Any], experiment: Experiment) -> tuple[Tensor, Warm, State]:
    """The weights, the warm vectors and the optimizer's state of a checkpoint, on the experiment's device.
    Raises ValueError where these are of another shape or kind: weights that are not real, vectors of a
    measure that are neither a tensor nor tensors by name."""
    w0 = experiment.problem.w0
    if saved["w"].layout != torch.strided:
        raise ValueError(f"holds weights that are sparse ({saved['w'].layout})")
    if not saved["w"].is_floating_point():
        raise ValueError(f"holds weights that are {saved['w'].dtype}")
    if saved["w"].shape != w0.shape:
        raise ValueError(f"holds weights of the shape {tuple(saved['w'].shape)} and not {tuple(w0.shape)}")
    for name, left in saved["warm"].items():
        tensors = list(left.values()) if isinstance(left, Mapping) else [left]
        real = [isinstance(t, Tensor) and t.layout == torch.strided and not t.is_complex() for t in tensors]
        if not all(real) or (isinstance(left, Tensor) and not left.is_floating_point()):
            raise ValueError(f"holds something else than real tensors of the measure {name}")
    state = tuple(part.to(w0.device) for part in saved["state"])
    at_start = started(experiment.optimizer, w0)
    state = own(experiment.optimizer, state) if len(state) == len(at_start) else ()
    if len(state) != len(at_start) or not all(map(_may_become, at_start, state)):
        raise ValueError("is damaged (its optimizer's state is of another shape)")
    experiment.schedule.least_loss = float(saved.get("least_loss", math.inf))
    return saved["w"].to(w0), placed(saved["warm"], w0), state


def _may_become(at_start: Tensor, later: Tensor) -> bool:
    """Whether a part of an optimizer's state may have this shape later: the one that it starts with, whose
    dimensions of length 0 grow, as a list of eigenvectors does."""
    pairs = zip(at_start.shape, later.shape, strict=False)
    return at_start.ndim == later.ndim and all(a in (0, b) for a, b in pairs)


def part_of(experiment: Experiment, w: Tensor, chosen: Iterable[str]) -> Experiment:
    """The same experiment in some parameters alone, the others held at w."""
    return replace(experiment, problem=experiment.problem.only(w, list(chosen)), init=None)
