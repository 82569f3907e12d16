"""Refusals as exceptions of Python."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from sharpcli.errors import NotFinite, Refusal

P = ParamSpec("P")
R = TypeVar("R")


class Refused(ValueError):
    """What came, what is possible, what to do, in one line: what the command line prints and ends with exit
    code 2."""


# How the command line writes what is an argument here.
WRITTEN = (
    (r"\bmeasure\.\w+\.(\w+)", r"\1"),  # measure.sharpness.k=0
    (r"\bmeasure\.(\w+)", r"\1"),
    (r"\bmeasure=\[([\w,]*)\]", r"the measures \1"),
    (r"\bmeasure=(\w+)", r"\1"),
)


def python(function: Callable[P, R]) -> Callable[P, R]:
    """The function with refusals raised as `Refused`; exceptions of the user's own model, loss and data pass
    as they are."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (Refusal, NotFinite) as refusal:
            message = str(refusal)
        for written, here in WRITTEN:
            message = re.sub(written, here, message)
        raise Refused(message)

    return call
