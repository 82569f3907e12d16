"""Settings whose default another part of the run states: `${stated:optimizer,ascent_radius,0.05}` in a yaml
is the setting that a rule of the group `optimizer`, or a rule inside of it, states as its ascent radius, and
0.05 where none does.

A class states it in its own file, by a class attribute: `states = {"ascent_radius": "rho"}`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sharpcli.config.targets import resolve
from sharpcli.errors import Refusal


def stated(group: str, what: str, otherwise: Any, *, _root_: DictConfig) -> Any:
    """The setting that a part of `group` states as its `what`; `otherwise` where none does. Refuses two that
    differ, of which one is to be chosen."""
    part, trust = OmegaConf.select(_root_, group), OmegaConf.select(_root_, "trust") or ()
    values = dict(_settings(part, what, trust, group))
    if len(set(values.values())) > 1:
        came = " ".join(f"{setting}={value}" for setting, value in values.items())
        raise Refusal(f"{came}: which of them a measure takes is not clear; give the measure's own setting")
    return next(iter(values.values()), otherwise)


def _settings(part: Any, what: str, trust: Sequence[str], where: str) -> Iterator[tuple[str, Any]]:
    """The settings that a part, and those inside of it, state as their `what`: dotted name and value."""
    if not OmegaConf.is_dict(part):
        return
    if "_target_" in part:
        names = getattr(resolve(part["_target_"], where, trust), "states", {})
        if names.get(what) in part:
            yield f"{where}.{names[what]}", part[names[what]]
    for key in part:
        yield from _settings(part[key], what, trust, f"{where}.{key}")
