"""When a measure is due: every so many steps, or at stated steps."""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass
from typing import Any

from sharpcli.errors import Refusal

POSSIBLE = (
    "a whole number of steps from 0 to 10^15, '2 epochs', 'log 50' or 'even 50' (so many in all), "
    "or a list of steps"
)
MOST = 10**15  # steps: more than any run has, and still exact as a float
MOST_TIMES = 10**6  # of `log` and `even`, which are listed in memory


@dataclass(frozen=True)
class Times:
    """The multiples of `every` steps (0 for none) and the `listed` steps, ascending."""

    every: int = 0
    listed: tuple[int, ...] = ()

    def due(self, step: int) -> bool:
        """Whether `step` is one of these steps."""
        return bool(self.every and step % self.every == 0) or self.after(step - 1) == step

    def after(self, step: int) -> int | None:
        """The first of these steps after `step`; None where there is none."""
        following = [(step // self.every + 1) * self.every] if self.every else []
        position = bisect.bisect_right(self.listed, step)
        following += self.listed[position : position + 1]
        return min(following) if following else None


def spelled(value: Any, key: str) -> int | str | list[int]:
    """The value of a setting that says when, in one spelling (`1 epoch` as `1 epochs`). Refuses any other
    value."""
    if isinstance(value, str):
        if (match := re.fullmatch(r"\s*([\d.]{1,20})\s*epochs?\s*", value, re.A)) and _number(match[1]) > 0:
            return f"{_number(match[1]):g} epochs"
        if match := re.fullmatch(r"\s*(log|even)\s+(\d+)\s*", value, re.A):
            if not 1 < int(match[2][:20]) <= MOST_TIMES:
                raise Refusal(f"{key}={value}: give 2 to {MOST_TIMES} times")
            return f"{match[1]} {int(match[2])}"
    if isinstance(value, list) and value and all(is_count(v) for v in value):
        return sorted(set(value))
    if not is_count(value):
        raise Refusal(f"{key}={value}: give {POSSIBLE}")
    return value


def length(value: Any, key: str) -> int | str:
    """A number of steps or of epochs, in one spelling. Refuses any other value."""
    possible = f"give a whole number of steps from 0, or a number of epochs as in {key}='2 epochs'"
    try:
        out = spelled(value, key)
    except Refusal:
        raise Refusal(f"{key}={value}: {possible}") from None
    if isinstance(out, list) or str(out).startswith(("log", "even")):
        raise Refusal(f"{key}={value}: {possible}")
    return out


def times(value: int | str | list[int], per_epoch: int, steps: int) -> Times:
    """The steps at which a setting falls due in a run of `steps` steps: `log N` are N whole steps from 1 to
    the last, evenly spaced in their logarithm and fewer where they coincide; `even N` evenly spaced; both
    with step 0."""
    if isinstance(value, list):
        return Times(listed=tuple(value))
    if isinstance(value, str) and not value.endswith("epochs"):
        spacing, count = value.split()[0], int(value.split()[1])
        shares = [i / (count - 1) for i in range(count)]
        spaced = (round(max(steps, 1) ** share if spacing == "log" else steps * share) for share in shares)
        return Times(listed=tuple(sorted({0, *spaced})))
    return Times(every=in_steps(value, per_epoch))


def in_steps(value: int | str, per_epoch: int) -> int:
    """A number of steps or of epochs, in steps."""
    return max(1, round(float(value.split()[0]) * per_epoch)) if isinstance(value, str) else value


def is_count(value: Any) -> bool:
    """Whether a value is a whole number of at least 0 and at most `MOST` (True and False are none)."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST


def _number(text: str) -> float:
    """The number that digits and points spell; 0 where they spell none, as in `1.2.3`."""
    try:
        return float(text)
    except ValueError:
        return 0.0
