"""Measures. A part is a function `(at: Point, *, ...) -> Estimates`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor

from sharpcli.problem import Problem
from sharpcli.surface import LossSurface


@dataclass(frozen=True)
class Point:
    """Where a measure looks.

    `w` [D]; `surface`, the training loss there on the examples that are measured, with the normalization statistics
    fixed as the problem's policy says; `rng`, the measure's own generator; `warm`, what this measure left at the
    previous point (None at the first); the `problem` for what is not the surface.
    """

    w: Tensor
    surface: LossSurface
    rng: Generator
    warm: Tensor | None
    problem: Problem


@dataclass(frozen=True)
class Estimates:
    """`values` by column name, each estimate with its error beside it; the Hessian `products` and `gradients` spent;
    `warm`, what the next measurement may start from."""

    values: dict[str, float | bool]
    products: int = 0
    gradients: int = 0
    warm: Tensor | None = None
