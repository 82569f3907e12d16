"""Measures. A part is a function `(at: Point, *, ...) -> Estimates`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.curvature import Curvature
from sharpcli.landscape.surface import LossSurface
from sharpcli.optimizers import Optimizer, State
from sharpcli.problems.problem import ClosedFlows, Problem


@dataclass(frozen=True)
class Point:
    """The point that a measure is taken at.

    `w` [D]; `surface`, the training loss there on the examples that are measured, with the normalization
    statistics fixed as the problem's policy says; `curvature` of it, shared with the other measures at this
    point; `rng`, the measure's own generator; `warm`, what this measure left at the previous point (None at
    the first); the `problem` for what is not the surface; the step size `lr`, the `step` and the `optimizer`
    with its `state`, and where training began, `init` [D]: both None for a file of weights, which has
    neither.
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

    def normal(self) -> Tensor:
        """A vector of independent N(0, 1) [D] from the measure's own generator, drawn in float64."""
        return torch.randn(len(self.w), generator=self.rng, dtype=torch.float64).to(self.w)


@dataclass(frozen=True)
class Estimates:
    """`values` by column name, each estimate with its error beside it (`<name>_error`, or `<name>_stderr`
    over samples); the `products` (with the Hessian, or a matrix of the same cost, over all measured examples)
    and `gradients` (or values, in thirds) spent, None for a measure that has no use for any; `warm`, what the
    next measurement may start from."""

    values: dict[str, Any] = field(default_factory=dict)
    products: float | None = None
    gradients: float = 0
    warm: Tensor | None = None


def closed_flows(at: Point, measure: str) -> ClosedFlows:
    """The closed forms of the problem's flows. Refuses, in the name of `measure`, a problem that supplies
    none, and some of its parameters alone."""
    if at.problem.flows is None:
        raise Refusal(
            f"measure={measure}: this problem supplies no closed form of its flows, and problem=uv does; "
            f"use it, or "
            "measure=[manifold,projected]"
        )
    return at.problem.flows


def mean_and_stderr(samples: Tensor | list[float]) -> tuple[float, float]:
    """The mean of independent samples and its standard error; 0 for a single sample."""
    values = torch.as_tensor(samples, dtype=torch.float64)
    return float(values.mean()), float(values.std() / len(values) ** 0.5) if len(values) > 1 else 0.0
