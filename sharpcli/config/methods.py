"""Which method of conf/method a config is: its label in names of runs, tables and figures."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from sharpcli import CONF

CUSTOM = "custom"


@dataclass(frozen=True)
class _Method:
    """What a yaml of conf/method states: its update rule and its objectives as configs, and whether a step
    takes all training examples; None where it leaves that open."""

    rule: dict[str, Any]
    objectives: dict[str, Any]
    full: bool | None


def method_label(values: Mapping[str, Any]) -> str:
    """The label in a run's name: that of its method if optimizer, objectives and batch size agree with what
    the method states, else `custom`."""
    method = _methods().get(values["method"])
    if method is None:
        return values["method"]
    return values["method"] if _additions(method, values) == [] else CUSTOM


def shown_method(values: Mapping[str, Any]) -> str:
    """The label in tables and figures: the method whose update rule and objectives a config has, and what it
    adds to them, as in `sam +crop_flip`; `custom` where no method has its rule and objectives."""
    if values["method"] != CUSTOM:
        return values["method"]
    added = {name: _additions(method, values) for name, method in _methods().items()}
    shown = sorted((len(more), [name, *more]) for name, more in added.items() if more is not None)
    return " ".join(shown[0][1]) if shown else CUSTOM


def _additions(method: _Method, values: Mapping[str, Any]) -> list[str] | None:
    """What a config adds to a method; None where its rule or objectives are not the method's."""
    objectives = values["objective"]
    if not _same_targets(method.rule, values["optimizer"]) or any(
        not _same_targets(part, objectives.get(key)) for key, part in method.objectives.items()
    ):
        return None
    out = [f"+{key}" for key in objectives if key not in method.objectives]
    full = values["batch_size"] == "full"
    if method.full is not None and method.full != full:
        out.append("+full_batch" if full else "+mini_batches")
    return out


@functools.cache
def _methods() -> dict[str, _Method]:
    """The methods of conf/method by their names."""
    out = {}
    for file in sorted((CONF / "method").glob("*.yaml")):
        preset = yaml.safe_load(file.read_text())
        chosen = {
            group.removeprefix("override /"): option
            for line in preset["defaults"]
            for group, option in line.items()
        }
        objectives: dict[str, Any] = {}
        for option in chosen["objective"]:
            objectives |= _option("objective", option)
        full = preset["batch_size"] == "full" if "batch_size" in preset else None
        rule = _option("optimizer", chosen["optimizer"]) | preset.get("optimizer", {})
        out[file.stem] = _Method(rule, objectives, full)
    return out


def _option(group: str, name: str) -> dict[str, Any]:
    return yaml.safe_load((CONF / group / f"{name}.yaml").read_text())


def _same_targets(wanted: Mapping[str, Any], given: Any) -> bool:
    """Whether `given` has every `_target_` that a method states itself; what a method leaves to a defaults
    list is not compared."""
    if not isinstance(given, Mapping):
        return False
    return all(
        _same_targets(value, given.get(key))
        if isinstance(value, Mapping)
        else key != "_target_" or value == given.get(key)
        for key, value in wanted.items()
    )
