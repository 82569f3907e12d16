"""From checked values to objects."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharpcli.config.targets import hyperparameters, is_path, positional, resolve


def part(values: Mapping[str, Any], trust: Sequence[str], where: str) -> Any:
    """The part that checked values describe: a class's object, or a function with its hyperparameters filled
    in.

    A function takes by position what the lab supplies when it is called, and is handed only what it names. So
    is a class in the place of a function that makes something (a user's own network): see `maker`.
    """
    target = resolve(values["_target_"], where, trust)
    keywords = _keywords(target, values, trust, where)
    return (
        target(**keywords) if inspect.isclass(target) else Part(target, keywords, tuple(positional(target)))
    )


def maker(values: Mapping[str, Any], trust: Sequence[str], where: str) -> Callable[..., Any]:
    """The same for a part that makes an object once its inputs are known (`model`: (shape, outputs) ->
    Module): of a class the object is made by the call, from the hyperparameters alone."""
    target = resolve(values["_target_"], where, trust)
    keywords = _keywords(target, values, trust, where)
    if inspect.isclass(target):
        return lambda *_, **__: target(**keywords)
    return Part(target, keywords, tuple(positional(target)))


def _keywords(
    target: Callable[..., Any], values: Mapping[str, Any], trust: Sequence[str], where: str
) -> dict[str, Any]:
    hints, _, _ = hyperparameters(target)
    keywords: dict[str, Any] = {}
    for key, value in values.items():
        if key in ("_target_", "every"):
            continue
        if isinstance(value, Mapping) and "_target_" in value:
            keywords[key] = part(value, trust, f"{where}.{key}")
        else:
            keywords[key] = Path(value) if is_path(hints.get(key)) and value is not None else value
    return keywords


@dataclass(frozen=True)
class Part:
    """A function with its hyperparameters filled in; what it `takes` by position is looked up once, since an
    objective is called at every step."""

    target: Callable[..., Any]
    keywords: dict[str, Any]
    takes: tuple[str, ...]

    def __call__(self, *given: Any, **supply: Any) -> Any:
        """The function's value, given by name what it takes."""
        return self.target(
            *given, **{key: supply[key] for key in self.takes if key in supply}, **self.keywords
        )
