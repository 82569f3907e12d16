"""Learning-rate schedules. A part is a function `(step, steps, lr, *, ...) -> float` that takes what it needs
of the three."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sharpcli.errors import Refusal


class Shape(Protocol):
    """A schedule's function with its hyperparameters, and the names of what it takes."""

    takes: tuple[str, ...]
    __call__: Callable[..., float]


@dataclass(frozen=True)
class Schedule:
    """The learning rate at a step of a run of `steps` steps: a shape around `lr`."""

    shape: Shape
    steps: int
    lr: float

    def __call__(self, step: int) -> float:
        """lr(step). Refuses a shape that gives no finite number of at least 0."""
        value = self.shape(step=step, steps=self.steps, lr=self.lr)
        if not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise Refusal(f"schedule: gives {value!r} for step {step}; give a finite number of at least 0")
        return value

    @property
    def is_constant(self) -> bool:
        """Whether the shape takes no step, and so has one value for all."""
        return "step" not in getattr(self.shape, "takes", ("step",))

    def between(self, start: int, stop: int) -> NDArray[np.float64]:
        """lr of the steps from `start` to `stop`, that excluded: [stop - start]. A shape that takes no step
        has one value."""
        if self.is_constant:
            return np.full(stop - start, self(start))
        return np.array([self(step) for step in range(start, stop)])
