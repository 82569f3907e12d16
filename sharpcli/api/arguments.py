"""The numbers that the functions of this package are called with: whole or real, in their range."""

from __future__ import annotations

import math
import operator
from typing import Any

from sharpcli.errors import Refusal


def whole(name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least `least`, Python's or NumPy's. Refuses another value, in the name of the
    argument."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise Refusal(f"{name}={value!r}: give a whole number, at least {least}")
    return number


def real(name: str, value: Any, least: float = 0.0, above: bool = False) -> float:
    """A real number of at least `least`, or `above` it; infinity is one. Refuses another value."""
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:  # NumPy's and torch's
        number = value.item()
    if not isinstance(number, int | float) or not (number > least if above else number >= least):
        raise Refusal(f"{name}={value!r}: give a number {'above' if above else 'of at least'} {least:g}")
    return float(number)


def size_in_bytes(name: str, gigabytes: Any) -> int:
    """The bytes of a limit in gigabytes; a very large number for infinity."""
    return int(min(real(name, gigabytes) * 1e9, 2.0**62))
