"""The power of a claim's checks: by which factor the predicted constant may be wrong before a check turns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharpcli.claims.claim import Claim, finding
from sharpcli.claims.evidence import Paths, finish, rows

FACTORS = {"1/2": 0.5, "1/1.2": 1 / 1.2, "1.2": 1.2, "2": 2.0}  # by which a constant is broken
WIDEST = 1e3  # largest factor that is tried, and its inverse the smallest
HALVINGS = 40  # of the logarithm of an interval in which a check turns


@dataclass(frozen=True)
class Power:
    """What a check `asked`, whether it `holds`, and which factors it bears: with its interval multiplied by
    any factor from `low` to `high` it would hold on the same rows too. None is no end up to 1/1000 or
    1000."""

    asked: str
    holds: bool
    low: float | None
    high: float | None

    def turned_by(self, factor: float) -> bool:
        """Whether the check holds, and would not if the predicted constant were `factor` times as large."""
        above = self.low is None or factor >= self.low
        below = self.high is None or factor <= self.high
        return self.holds and not (above and below)


def powers(
    claims: Sequence[Claim], runs_dir: Path, jobs: int, tell: Callable[[str], Any]
) -> Iterator[tuple[Claim, list[Power]]]:
    """Runs what is missing of all claims, as a check of them does, and yields the power of each claim's
    checks."""
    for number, paths, _ in finish(claims, runs_dir / "claims", jobs, tell):
        yield claims[number], of_claim(claims[number], paths)


def of_claim(claim: Claim, paths: Paths) -> list[Power]:
    """The power of each check on the rows of a claim's runs and tables."""
    frame = rows(claim, paths)
    out = []
    for check in claim.check:

        def holds(factor: float, check: dict[str, Any] = check) -> bool:
            between = [None if bound is None else factor * bound for bound in check["between"]]
            return bool(finding(check | {"between": between}, frame, claim)["holds"])

        found = finding(check, frame, claim)
        low, high = (_turn(holds, far) for far in (1 / WIDEST, WIDEST)) if found["holds"] else (None, None)
        out.append(Power(found["asked"], found["holds"], low, high))
    return out


def _turn(holds: Callable[[float], bool], far: float) -> float | None:
    """The last factor on the way from 1 to `far` with which a check holds; None where it holds at `far`."""
    if holds(far):
        return None
    near = 1.0
    for _ in range(HALVINGS):
        middle = math.sqrt(near * far)
        near, far = (middle, far) if holds(middle) else (near, middle)
    return near
