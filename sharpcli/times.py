"""When something is due: every so many steps, or at stated ones."""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass
from typing import Any

from sharpcli.errors import Refusal

POSSIBLE = "a whole number of steps from 0, '2 epochs', 'log 50' or 'even 50' (so many in all), or a list of steps"


@dataclass(frozen=True)
class Times:
    """Multiples of `every` (0 for none) and the `listed` steps, ascending."""

    every: int = 0
    listed: tuple[int, ...] = ()

    def due(self, step: int) -> bool:
        """Whether `step` is one of them."""
        return bool(self.every and step % self.every == 0) or self.after(step - 1) == step

    def after(self, step: int) -> int | None:
        """The next one after `step`, None where there is none."""
        found = [(step // self.every + 1) * self.every] if self.every else []
        at = bisect.bisect_right(self.listed, step)
        found += self.listed[at : at + 1]
        return min(found) if found else None


def spelled(value: Any, key: str) -> int | str | list[int]:
    """A setting that says when, in its one spelling, or a refusal."""
    if isinstance(value, str):
        if (found := re.fullmatch(r"\s*([\d.]+)\s*epochs?\s*", value)) and float(found[1]) > 0:
            return f"{float(found[1]):g} epochs"
        if (found := re.fullmatch(r"\s*(log|even)\s+(\d+)\s*", value)) and int(found[2]) > 1:
            return f"{found[1]} {int(found[2])}"
    if isinstance(value, list) and value and all(_whole(v) for v in value):
        return sorted(set(value))
    if not _whole(value):
        raise Refusal(f"{key}={value}: give {POSSIBLE}")
    return value


def length(value: Any, key: str) -> int | str:
    """A number of steps or of epochs in its one spelling, or a refusal."""
    possible = f"give a whole number of steps from 0, or a number of epochs as in {key}='2 epochs'"
    try:
        out = spelled(value, key)
    except Refusal:
        raise Refusal(f"{key}={value}: {possible}") from None
    if isinstance(out, list) or str(out).startswith(("log", "even")):
        raise Refusal(f"{key}={value}: {possible}")
    return out


def times(value: int | str | list[int], per_epoch: int, steps: int) -> Times:
    """What a setting means in a run of `steps` steps; `log N` are N whole steps from 1 to the last, evenly in
    their logarithm and fewer where they coincide, and `even N` evenly in themselves; and 0."""
    if isinstance(value, list):
        return Times(listed=tuple(value))
    if isinstance(value, str) and not value.endswith("epochs"):
        word, count = value.split()[0], int(value.split()[1])
        shares = [i / (count - 1) for i in range(count)]
        found = (round(max(steps, 1) ** share if word == "log" else steps * share) for share in shares)
        return Times(listed=tuple(sorted({0, *found})))
    return Times(every=in_steps(value, per_epoch))


def in_steps(value: int | str, per_epoch: int) -> int:
    """A number of steps or of epochs, in steps."""
    return max(1, round(float(value.split()[0]) * per_epoch)) if isinstance(value, str) else value


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
