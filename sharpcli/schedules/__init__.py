"""Learning-rate schedules. A part is a function `(step, steps, lr, least_loss, *, ...) -> float` that takes
what it needs of the four."""

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


@dataclass
class Schedule:
    """The learning rate at a step of a run of `steps` steps: a shape around `lr`. `least_loss` is the least
    training loss of the rows so far, of a run whose shape asks for it."""

    shape: Shape
    steps: int
    lr: float
    least_loss: float = math.inf

    def __call__(self, step: int) -> float:
        """lr(step). Refuses a shape that gives no finite number of at least 0."""
        value = self.shape(step=step, steps=self.steps, lr=self.lr, least_loss=self.least_loss)
        if not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise Refusal(f"schedule: gives {value!r} for step {step}; give a finite number of at least 0")
        return value

    @property
    def is_constant(self) -> bool:
        """Whether the shape takes neither step nor loss, and so has one value for all."""
        return not self.asks_for_loss and "step" not in getattr(self.shape, "takes", ("step",))

    @property
    def asks_for_loss(self) -> bool:
        """Whether the shape depends on the training loss: itself, or the shape that it is made around."""
        return _asks_for_loss(self.shape)

    def between(self, start: int, stop: int) -> NDArray[np.float64]:
        """lr of the steps from `start` to `stop`, that excluded: [stop - start]. A shape that takes no step
        has one value."""
        if self.is_constant:
            return np.full(stop - start, self(start))
        return np.array([self(step) for step in range(start, stop)])


def _asks_for_loss(shape: Shape) -> bool:
    around = [value for value in getattr(shape, "keywords", {}).values() if hasattr(value, "takes")]
    if around:
        return any(_asks_for_loss(inner) for inner in around)
    return "least_loss" in getattr(shape, "takes", ())
