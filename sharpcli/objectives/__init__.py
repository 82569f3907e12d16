"""What one step of training is shown instead of the training loss.

A part is a function `(surface, w, rng, *, ...) -> surface`, or a frozen dataclass with that `__call__`. It
draws its randomness once, from `rng`; the surface it returns is deterministic, so that two gradients of one
step see the same noise. A dataclass may also have `compiled() -> Noise | None`, for toys whose steps are
compiled; `compiled` asks an objective.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Noise(NamedTuple):
    """Labels y + delta xi, redrawn at each step: xi of the law with this number in `rng.laws.LAWS`, one for
    each example or `shared` by the batch; `key` names the draws."""

    delta: float = 0.0
    law: int = 0
    shared: bool = False
    key: int = 0


def compiled(objective: Any) -> Noise | None:
    """The objective as compiled steps know it, its key not yet set; None where it has no such form. A class
    that inherits `compiled` and writes another `__call__` has none."""
    return objective.compiled() if "compiled" in vars(type(objective)) else None
