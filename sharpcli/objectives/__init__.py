"""Objectives: the loss that one step of training descends on in place of the training loss.

A part is a function `(surface, w, rng, *, ...) -> surface`, or a frozen dataclass with that `__call__`: from
the loss of the step's examples and the weights w [D] before the step it makes the loss to descend on. It
draws its random numbers once, from `rng`; the surface that it returns is deterministic, so that two gradients
of one step have the same noise. A dataclass may also have a method `compiled() -> Noise | None`, for toys
whose steps are compiled, and a method `flow_strength(batch_size) -> float | None`, the speed of its limiting
flow, batch_size that of equal batches with the noise of the run's; the functions of these names below call
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Noise(NamedTuple):
    """The noise y + delta xi of a step's labels, drawn again at each step: xi has the law of this number in
    `rng.laws.LAWS` and is drawn for each example, or once for all of the batch where it is `shared`; `key`
    selects the stream of the draws."""

    delta: float = 0.0
    law: int = 0
    shared: bool = False
    key: int = 0


def flow_strength(objectives: Mapping[str, Any], batch_size: float) -> float | None:
    """The speed of the limiting flow over that of label noise of variance 1 on single examples, by the
    objective that states one; 1 where none does, and None where the noise has another limiting flow, or
    another objective beside it changes the noise or the loss."""
    stating = [o for o in objectives.values() if "flow_strength" in vars(type(o))]
    if not stating:
        return 1.0
    strength: float | None = stating[0].flow_strength(batch_size)
    return strength if len(objectives) == 1 else None


def compiled(objective: Any) -> Noise | None:
    """The noise by which compiled steps do the same as this objective, its key not yet set; None where they
    cannot. A class that inherits `compiled` states nothing by it, for its `__call__` may be another."""
    return objective.compiled() if "compiled" in vars(type(objective)) else None
