"""The yaml of a run's config as plain values: bounded in its depth and its size, also with its aliases
written out, since a few lines of aliases to aliases can mean more values than any memory holds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import yaml

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
NUMBERLIKE = re.compile(
    r"[-+.]?\d[\d_.:]*([eE][-+]?\d+)?|0[xXoObB]\w+|[-+]?\.?(inf|nan)|true|false|null|y|n|yes|no|on|off", re.I
)
DEEPEST, MOST = 50, 100_000  # levels of nesting, and values
SETTING = re.compile(rb"^(?=[A-Za-z_][A-Za-z0-9_]*:)", re.M)  # where a setting of the outermost level begins
REMEMBERED = 1000  # settings with their values: runs of a sweep share most of them


def plain_yaml(text: bytes) -> dict[str, Any]:
    """The mapping that a text of yaml holds. Raises ValueError for anything else: what is no yaml, no mapping
    with words as keys, nested too deeply, or of too many values."""
    try:
        depth = 0
        for event in yaml.parse(text, Loader=Loader) if _may_be_deep(text) else ():
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise ValueError(f"nested more than {DEEPEST} deep")
        values = yaml.load(text, Loader)
    except yaml.YAMLError as problem:
        raise ValueError(" ".join(str(problem).split())) from None
    except (RecursionError, UnicodeError, OverflowError, TypeError, AttributeError) as problem:
        raise ValueError(f"no yaml of plain values: {type(problem).__name__}") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ValueError("no mapping from settings to their values")
    if _count(values, {}, 0) > MOST:
        raise ValueError(f"more than {MOST} values")
    return values


def written_yaml(text: bytes) -> dict[str, Any]:
    """The mapping that a text holds of which it is known, by a sum over its bytes, that `dumped` wrote it;
    otherwise as `plain_yaml`. Each setting is read by itself and remembered: the configs of a sweep differ in
    few, and to read yaml takes most of the time in which thousands of runs are listed."""
    first, *settings = SETTING.split(text)
    if first or b"&" in text:  # an anchor of one setting may be meant in another
        return plain_yaml(text)
    out: dict[str, Any] = {}
    for setting in settings:
        for key, value in _setting(setting).items():
            out[key] = _copied(value)
    return out


@lru_cache(maxsize=REMEMBERED)
def _setting(text: bytes) -> dict[str, Any]:
    return plain_yaml(text)


def _copied(value: Any) -> Any:
    """Nested values that a caller may change."""
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value


def _may_be_deep(text: bytes) -> bool:
    """Whether a text may hold more levels than allowed, by its brackets, its indentation and its marks of
    nesting within a line; a config has few of each, and is then read once and not twice."""
    brackets = text.count(b"[") + text.count(b"{")
    indents = max((len(line) - len(line.lstrip(b" ")) for line in text.splitlines()), default=0)
    return brackets + indents > DEEPEST or b"- -" in text or b"? " in text or b"\t" in text


def dumped(values: Mapping[str, Any], allow_unicode: bool = False) -> str:
    """Values as yaml in their order, in which a text that any reader of yaml may take for a number or a truth
    value is in quotation marks: PyYAML itself writes 45303e66, a hash, without."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=allow_unicode)


class _Dumper(yaml.SafeDumper):
    """PyYAML's, with more quotation marks."""


def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="'" if NUMBERLIKE.fullmatch(text) else None
    )


_Dumper.add_representer(str, _quoted)


def _count(value: Any, known: dict[int, int], depth: int) -> int:
    """How many values there are with every alias written out; an alias is counted once and remembered."""
    if not isinstance(value, dict | list):
        return 1
    if depth > DEEPEST:  # through an alias, perhaps to itself
        raise ValueError(f"nested more than {DEEPEST} deep")
    if id(value) not in known:
        if isinstance(value, dict) and not all(isinstance(key, str | int | float) for key in value):
            raise ValueError("a key that is neither a word nor a number")
        inner = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(one, known, depth + 1) for one in inner)
    return known[id(value)]
