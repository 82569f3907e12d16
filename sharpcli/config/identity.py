"""What a config is known by: the part of it that decides the numbers, and its hash, which names the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sharpcli.config import former
from sharpcli.config.targets import identity

DIGITS = 16  # of the hash in the name of a run; names of earlier runs have 8


def numbers_of(config: Mapping[str, Any], contents: Mapping[str, str]) -> dict[str, Any]:
    """What decides the numbers of a run: a part by its name, a file by its content (SHA-256 by setting, as
    `data.file`); not the method's label."""
    out = {key: identity(former.without_added(value)) for key, value in config.items() if key != "method"}
    for setting, content in contents.items():
        out = _replaced(out, setting.split("."), content)
    return out


def hash_of(config: Mapping[str, Any], contents: Mapping[str, str]) -> str:
    """The hash of what decides the numbers."""
    return former.digest(numbers_of(config, contents))[:DIGITS]


def first_difference(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """In words, the first setting in which two nested configs differ: `lr is 0.3 and was 0.2`; empty where
    they are equal."""
    a, b = dotted(stored), dotted(asked)
    for key in {**b, **a}:
        if key not in a or key not in b or a[key] != b[key] or type(a[key]) is not type(b[key]):
            return f"{key} is {str(a.get(key, 'missing'))[:80]} and was {str(b.get(key, 'missing'))[:80]}"
    return ""


def dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names, such as `optimizer.rho`."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        out |= dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return out


def _replaced(values: dict[str, Any], path: Sequence[str], leaf: Any) -> dict[str, Any]:
    """Nested values with another value at a path of keys; as they are where they have no such path."""
    if path[0] not in values:
        return values
    if len(path) == 1:
        return {**values, path[0]: leaf}
    inner = values[path[0]]
    return {**values, path[0]: _replaced(inner, path[1:], leaf)} if isinstance(inner, dict) else values
