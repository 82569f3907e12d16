"""The numbers that the functions of this package are called with: whole or real, in their range."""

from __future__ import annotations

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


def number_of(value: Any) -> Any:
    """A number of NumPy's or torch's as Python's; another value as it is."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value


def real(name: str, value: Any) -> float:
    """A real number of at least 0; infinity is one. Refuses another value."""
    number = number_of(value)
    if isinstance(number, bool) or not isinstance(number, int | float) or not number >= 0:
        raise Refusal(f"{name}={value!r}: give a number of at least 0")
    return float(number)


def size_in_bytes(name: str, gigabytes: Any) -> int:
    """The bytes of a limit in gigabytes; a very large number for infinity."""
    return int(min(real(name, gigabytes) * 1e9, 2.0**62))
