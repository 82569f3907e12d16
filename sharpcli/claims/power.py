"""The power of a claim's checks: which wrong constants turn them, and by which factor a constant may be wrong
before a check turns."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sharpcli.claims.evidence import Trial, with_columns
from sharpcli.claims.findings import finding
from sharpcli.errors import Refusal

if TYPE_CHECKING:
    import pandas as pd

    from sharpcli.claims.claim import Claim

FACTORS = {"1/2": 0.5, "1/1.2": 1 / 1.2, "1.2": 1.2, "2": 2.0}  # by which a constant is broken
WIDEST = 1e3  # largest factor that is tried, and its inverse the smallest
HALVINGS = 40  # of the logarithm of an interval in which a check turns


@dataclass(frozen=True, kw_only=True)
class Broken:
    """A wrong constant, rule or noise, as an entry of a claim's `broken` says it: what a claim is judged by
    in its place.

    `bounds` maps the number of a check, from 1, to the factor by which its bounds are multiplied; `columns`
    replaces expressions of the claim's columns; and `parts` maps a part to the part whose rows are taken for
    its own, as of the same training without the noise.
    """

    bounds: Mapping[int, float] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)


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


@dataclass(frozen=True)
class Again:
    """The `probability` that as many runs with other seeds give a claim's premises, checks and controls the
    same outcome, as if their numbers were normal and independent of one another; what the `least` sure asks,
    with its own probability; and of how many outcomes the spread is `unknown`, which are left out."""

    probability: float
    least: str
    probability_of_least: float
    unknown: int


def again(found: Sequence[Mapping[str, Any]], controls: Sequence[Mapping[str, Any]]) -> Again:
    """How sure what premises and checks have `found` is to be found again, and `controls` to fail again."""
    outcomes = [(one["asked"], one["again"]) for one in found]
    outcomes += [
        (f"not {one['asked']}", None if one["again"] is None else 1 - one["again"]) for one in controls
    ]
    known = [(asked, probability) for asked, probability in outcomes if probability is not None]
    least, of_least = min(known, key=lambda outcome: outcome[1], default=("", 1.0))
    return Again(math.prod(p for _, p in known), least, of_least, len(outcomes) - len(known))


def broken_of(claim: Claim) -> dict[str, Broken]:
    """The wrong constants that a claim names, by what they are. Refuses an entry that breaks nothing, and a
    check or a part that the claim does not have."""
    out = {}
    parts, checks = {*claim.runs, *claim.tables}, range(1, len(claim.check) + 1)
    for constant, entry in claim.broken.items():
        where = f"claim {claim.id}: broken: {constant}"
        if not isinstance(entry, Mapping):
            raise Refusal(f"{where}: {entry!r:.60}; give a mapping, as in {{bounds: {{1: 2}}}}")
        unknown = sorted(set(entry) - {"bounds", "columns", "parts"})
        if unknown or not entry:
            raise Refusal(f"{where}: {', '.join(unknown) or 'nothing'}; possible: bounds, columns, parts")
        if not all(isinstance(value, Mapping) for value in entry.values()):
            raise Refusal(f"{where}: {entry}: give mappings, as in bounds: {{1: 2}}")
        out[constant] = Broken(**entry)
        if missing := [number for number in out[constant].bounds if number not in checks]:
            raise Refusal(
                f"{where}: bounds: {missing[0]!r}: the claim has checks 1 to {len(claim.check)}, numbers "
                f"without quotation marks"
            )
        factors, columns = out[constant].bounds.values(), out[constant].columns.values()
        if wrong := [
            value for value in factors if isinstance(value, bool) or not isinstance(value, int | float)
        ]:
            raise Refusal(f"{where}: bounds: {wrong[0]!r:.60}; give the factor of a check's bounds, a number")
        if no_texts := [value for value in columns if not isinstance(value, str)]:
            raise Refusal(f"{where}: columns: {no_texts[0]!r:.60}; give an expression in the columns, a text")
        named = [part for pair in out[constant].parts.items() for part in pair]
        if absent := [part for part in named if part not in parts]:
            raise Refusal(f"{where}: parts: {absent[0]}: the claim has {', '.join(sorted(parts))}")
    return out


def turned(
    trial: Trial,
    checks: Sequence[Mapping[str, Any]],
    found: Sequence[Mapping[str, Any]],
    frame: pd.DataFrame,
    broken: Broken,
) -> list[Mapping[str, Any]]:
    """Of what the checks of a claim have `found`, that which is as expected and would not be with a wrong
    constant; `frame` has the rows without the claim's columns."""
    wrong = _with_wrong(trial, frame, broken)
    out = []
    for number, (check, before) in enumerate(zip(checks, found, strict=True), 1):
        if not before["as_expected"]:
            continue
        factor = broken.bounds.get(number, 1.0)
        changed = {
            key: _scaled(value, factor) for key, value in check.items() if key in ("between", "instead")
        }
        after = finding({**check, **changed}, wrong, trial.id)
        if after["evidence"] and not after["as_expected"]:  # no number turns nothing
            out.append(before)
    return out


def of_claim(trial: Trial, checks: list[dict[str, Any]], frame: pd.DataFrame) -> list[Power]:
    """The power of each check on a claim's rows, with the claim's columns."""
    out = []
    for check in checks:

        def holds(factor: float, check: dict[str, Any] = check) -> bool:
            wrong = {**check, "between": _scaled(check["between"], factor)}
            return bool(finding(wrong, frame, trial.id)["holds"])

        found = finding(check, frame, trial.id)
        low, high = (_turn(holds, far) for far in (1 / WIDEST, WIDEST)) if found["holds"] else (None, None)
        out.append(Power(found["asked"], found["holds"], low, high))
    return out


def _with_wrong(trial: Trial, frame: pd.DataFrame, broken: Broken) -> pd.DataFrame:
    """A claim's rows with the wrong columns, and the rows of other parts in place of some."""
    import pandas as pd

    kept = [frame[~frame["part"].isin(list(broken.parts))]]
    for part, other in broken.parts.items():
        taken = frame[frame["part"] == other]
        kept.append(taken.assign(part=part, run=taken["run"].astype(str) + f" as {part}"))
    return with_columns(trial, pd.concat(kept, ignore_index=True), broken.columns)


def _scaled(bounds: list[float | None], factor: float) -> list[float | None]:
    """Bounds times a factor; a negative one exchanges the lower and the upper."""
    scaled = [None if bound is None else factor * bound for bound in bounds]
    return scaled if factor >= 0 else scaled[::-1]


def _turn(holds: Callable[[float], bool], far: float) -> float | None:
    """The last factor on the way from 1 to `far` with which a check holds; None where it holds at `far`."""
    if holds(far):
        return None
    near = 1.0
    for _ in range(HALVINGS):
        middle = math.sqrt(near * far)
        near, far = (middle, far) if holds(middle) else (near, middle)
    return near
