"""Learning-rate schedules. A part is a function `(step, steps, lr, least_loss, *, ...) -> float` that takes
what it needs of the four."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
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
    training loss of the rows so far, of a run whose shape asks for it; `known` are learning rates by step,
    as a run has logged them."""

    shape: Shape
    steps: int
    lr: float
    least_loss: float = math.inf
    known: dict[int, float] = field(default_factory=dict)

    def __call__(self, step: int) -> float:
        """lr(step). Refuses a shape that gives no finite number of at least 0."""
        if step in self.known:
            return self.known[step]
        value = self.shape(step=step, steps=self.steps, lr=self.lr, least_loss=self.least_loss)
        if not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise Refusal(f"schedule: gives {value!r} for step {step}; give a finite number of at least 0")
        return value

    @property
    def is_constant(self) -> bool:
        """Whether the shape takes neither step nor loss, and so has one value for all."""
        return not self.asks_for_loss and "step" not in _taken(self.shape)

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


def handing_on(shape: Callable[..., float]) -> Callable[..., float]:
    """Marks a shape that takes `least_loss` for the shape inside of it alone."""
    shape.hands_on = True  # type: ignore[attr-defined]
    return shape


def _asks_for_loss(shape: Shape) -> bool:
    around = [value for value in getattr(shape, "keywords", {}).values() if callable(value)]
    if any(map(_asks_for_loss, around)):
        return True
    return "least_loss" in _taken(shape) and not getattr(getattr(shape, "target", shape), "hands_on", False)


def _taken(shape: Shape) -> Collection[str]:
    """The names of what a shape takes: of a class's object, by its `__call__`."""
    takes: Collection[str] | None = getattr(shape, "takes", None)
    return inspect.signature(shape).parameters if takes is None else takes
