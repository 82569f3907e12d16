"""Measures. A part is a function `(at: Point, *, ...) -> Estimates`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Generator, Tensor

from sharpcli.curvature import Curvature
from sharpcli.optimizers import Optimizer, State
from sharpcli.problem import Problem
from sharpcli.surface import LossSurface


@dataclass(frozen=True)
class Point:
    """Where a measure looks.

    `w` [D]; `surface`, the training loss there on the examples that are measured, with the normalization statistics
    fixed as the problem's policy says; `curvature` of it, shared with the other measures at this point; `rng`, the
    measure's own generator; `warm`, what this measure left at the previous point (None at the first); the `problem` for
    what is not the surface; the step size `lr`, the `step` and the `optimizer` with its `state`, and where training began,
    `init` [D]: both None where no run says so.
    """

    w: Tensor
    surface: LossSurface
    curvature: Curvature
    rng: Generator
    warm: Tensor | None
    problem: Problem
    lr: float
    optimizer: Optimizer
    state: State | None
    init: Tensor | None
    step: int = 0


@dataclass(frozen=True)
class Estimates:
    """`values` by column name, each estimate with its error beside it (`<name>_error`, or `<name>_stderr` over samples);
    the `products` (with the Hessian, or a matrix of the same cost, over all measured examples) and `gradients` (or
    values, in thirds) spent, None for a measure that has no use for any; `warm`, what the next measurement may start from."""

    values: dict[str, Any] = field(default_factory=dict)
    products: float | None = None
    gradients: float = 0
    warm: Tensor | None = None
