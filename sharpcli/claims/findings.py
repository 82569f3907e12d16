"""What a check, as a claim's yaml writes it, finds in the claim's rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sharpcli.claims import checks
from sharpcli.claims.checks import Finding
from sharpcli.config.build import part
from sharpcli.config.check import typed
from sharpcli.config.targets import hyperparameters, resolve
from sharpcli.config.words import suggest
from sharpcli.errors import Refusal

if TYPE_CHECKING:
    import pandas as pd

# what a check's yaml need not say: the last step, each run, all parts, no prediction
OPTIONAL: dict[str, Any] = {"reduce": "last", "statistic": "each", "predicted": None, "of": "", "over": []}
# the functions of checks.py that are checks
KINDS = [
    name
    for name, function in vars(checks).items()
    if name[0] != "_" and getattr(function, "__annotations__", {}).get("return") == "Finding"
]


def finding(check: Mapping[str, Any], frame: pd.DataFrame, name: str) -> dict[str, Any]:
    """What a check of the claim `name` finds: the fields of `Finding`; its number as `words`; `undecided`,
    whether its 95 % interval has both values with which the check holds and values with which it does not;
    `as_expected`; and `again`, the probability that other seeds are as expected.

    A check is expected to hold. One with `instead: [low, high]` is expected to fail, decidedly, by a number
    between these two.
    """
    instead = check.get("instead")
    said = {key: value for key, value in check.items() if key != "instead"}
    found = _finding(said, frame, name)
    undecided = _undecided(said, found)
    as_expected, again = found.holds, found.again
    if instead is not None:
        by_as_much = _finding({**said, "between": instead}, frame, name)
        as_expected, again = not found.holds and not undecided and by_as_much.holds, by_as_much.again
    about = {"words": found.text, "undecided": undecided, "as_expected": as_expected, "instead": instead}
    about["again"] = again
    return {**asdict(found), **about}


def built(check: Mapping[str, Any], name: str) -> Callable[[pd.DataFrame], Finding]:
    """The part that a check of the claim `name` is. Refuses an unknown kind, settings that the kind does not
    take, and bounds that are not two numbers, or null for none."""
    if check["kind"] not in KINDS:
        raise Refusal(f"claim {name}: check.kind={check['kind']}: " + suggest(str(check["kind"]), KINDS))
    path = f"sharpcli.claims.checks.{check['kind']}"
    _, taken, _ = hyperparameters(resolve(path, f"claim {name}: check", []))
    values = {key: value for key, value in OPTIONAL.items() if key in taken}
    values |= {key: value for key, value in check.items() if key not in ("kind", "instead")}
    made: Callable[[pd.DataFrame], Finding] = part(
        typed({"_target_": path, **values}, f"claim {name}: check", []), [], "check"
    )
    for key in ("between", "instead"):
        bounds = check.get(key, [None, None])
        is_pair = isinstance(bounds, list) and len(bounds) == 2
        if not is_pair or not all(isinstance(bound, int | float | None) for bound in bounds):
            raise Refusal(f"claim {name}: check.{key}={bounds}: two numbers, or null for no bound")
        if None not in bounds and not bounds[0] <= bounds[1]:
            raise Refusal(f"claim {name}: check.{key}={bounds}: no number is between these; the lower first")
    return made


def _finding(check: Mapping[str, Any], frame: pd.DataFrame, name: str) -> Finding:
    return built(check, name)(frame)


def _undecided(check: Mapping[str, Any], found: Finding) -> bool:
    """Whether the 95 % interval of what was measured crosses a bound of the check."""
    if found.half_width is None or found.measured is None:
        return False
    low, high = (found.measured + sign * found.half_width for sign in (-1, 1))
    return any(bound is not None and low < bound < high for bound in check["between"])
