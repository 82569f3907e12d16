"""Objectives: the loss that one step of training descends on in place of the training loss.

A part is a function `(surface, w, rng, *, ...) -> surface`, or a frozen dataclass with that `__call__`: from
the loss of the step's examples and the weights w [D] before the step it makes the loss to descend on. It
draws its random numbers once, from `rng`; the surface that it returns is deterministic, so that two gradients
of one step have the same noise. A function that names `time` after `rng` is given the time of gradient flow
that the step takes (lr for gradient descent, None for a rule that follows another flow). A dataclass may also
have a method `compiled() -> Noise | None`, for toys whose steps are compiled, and a method
`flow_strength(batch_size) -> float | None`, the speed of its limiting flow, batch_size that of equal batches
with the noise of the run's, and an attribute `states = {"label_noise": "delta"}`, which setting is the size
of the noise of labels (1 where none is stated); the functions of these names below call them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import LossSurface
from sharpcli.rng import Stream


class Noise(NamedTuple):
    """The noise y + delta xi of a step's labels, drawn again at each step: xi has the law of this number in
    `rng.laws.LAWS` and is drawn for each example, or once for all of the batch where it is `shared`; `key`
    selects the stream of the draws."""

    delta: float = 0.0
    law: int = 0
    shared: bool = False
    key: int = 0


def changed(objective: Any, surface: LossSurface, w: Tensor, rng: Stream, time: float | None) -> LossSurface:
    """The loss that a step of this `time` descends on, from the loss of its examples."""
    asked = {"time": time} if asks_for_time(objective) else {}
    return cast(LossSurface, objective(surface, w, rng, **asked))


def divides_examples(objective: Any) -> bool:
    """Whether an objective takes groups of a step's examples apart, so that no loss of all is left for
    another objective to change."""
    return bool(getattr(getattr(objective, "target", objective), "divides_examples", False))


def refuse_order(objectives: Mapping[str, Any]) -> None:
    """Refuses an objective that divides the examples before another one."""
    for name in list(objectives)[:-1]:
        if divides_examples(objectives[name]):
            others = [other for other in objectives if other != name]
            raise Refusal(
                f"objective=[{','.join(objectives)}]: {name} divides the examples of a step, and what comes "
                f"after it would be of a part of them; put it last: objective=[{','.join([*others, name])}]"
            )


def asks_for_time(objective: Any) -> bool:
    """Whether the objective is given the time of the step."""
    return "time" in getattr(objective, "takes", ())


def flow_strength(objectives: Mapping[str, Any], batch_size: float) -> float | None:
    """The speed of the limiting flow over that of label noise of variance 1 on single examples, by the
    objective that states one; 1 without objectives, and None where the noise has another limiting flow, where
    it is not stated, or where another objective beside it changes the noise or the loss."""
    if not objectives:
        return 1.0
    first, *others = objectives.values()
    if others or "flow_strength" not in vars(type(first)):
        return None
    return cast("float | None", first.flow_strength(batch_size))


def compiled(objective: Any) -> Noise | None:
    """The noise by which compiled steps do the same as this objective, its key not yet set; None where they
    cannot. A class that inherits `compiled` states nothing by it, for its `__call__` may be another."""
    return objective.compiled() if "compiled" in vars(type(objective)) else None
