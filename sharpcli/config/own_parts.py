"""A user's own part by one word: `model=my_package.Net model.width=64` chooses the class as an option of
conf/ is chosen, with the class's own defaults as its settings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.config_store import ConfigStore

from sharpcli.config.folders import options
from sharpcli.config.settings import GROUPS
from sharpcli.config.targets import hyperparameters, resolve

CHOICE = re.compile(r"\+?(?P<group>\w+)=(?P<names>.*)", re.S)
PATH = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")


def store_own_parts(overrides: Sequence[str]) -> None:
    """Makes every dotted name that an override gives to a group of parts an option of the group, for Hydra.
    Refuses packages that the overrides do not trust, and names that are not there."""
    for override in overrides:
        match = CHOICE.fullmatch(override)
        if match is None or match["group"] not in GROUPS:
            continue
        group = match["group"]
        for path in PATH.findall(match["names"]):
            if path not in options(group):
                values = values_of(path, group, trusted(overrides))
                several = GROUPS[group].several
                key = path.rpartition(".")[2]
                node = {key: values | ({"every": "${measure_every}"} if group == "measure" else {})}
                ConfigStore.instance().store(
                    path, node if several else values, group=group, package=group, provider="sharp"
                )


def forget_own_parts() -> None:
    """Removes the options that earlier commands of this process made, which a sweep by glob(*) would find."""
    for group in GROUPS:
        named = ConfigStore.instance().repo.get(group, {})
        for file in [file for file in named if PATH.fullmatch(file.removesuffix(".yaml"))]:
            del named[file]


def values_of(path: str, where: str, trust: Sequence[str]) -> dict[str, Any]:
    """The part that `path` names, as yaml states it: its settings with their defaults, `???` where a setting
    has none."""
    target = resolve(path, where, trust)
    _, _, taken = hyperparameters(target)
    parameters = inspect.signature(target).parameters
    values: dict[str, Any] = {"_target_": path}
    for name in taken:
        default = parameters[name].default
        if default is inspect.Parameter.empty:
            values[name] = "???"
        elif default is None or isinstance(default, bool | int | float | str | list | tuple | Mapping):
            values[name] = list(default) if isinstance(default, tuple) else default
    return values


def trusted(overrides: Sequence[str]) -> list[str]:
    """The packages that `trust=` names."""
    given = [o.partition("=")[2] for o in overrides if re.match(r"\+*trust=", o)]
    return re.findall(r"[\w.]+", given[-1]) if given else []
