"""Imports the function or class that a `_target_` names, lists its parameters, and gives the name by which a
run's hash counts it."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from sharpcli import CONF
from sharpcli.errors import Refusal

PACKAGE = "sharpcli"
CHECKS = "sharpcli.claims.checks"  # a claim's yaml names its checks by `kind`, without the path
TARGET = re.compile(r"\b_target_: ([\w.]+)")
Target = Callable[..., Any]


def resolve(path: str, where: str, trust: Sequence[str]) -> Target:
    """The function or class that `path` names, for the setting `where`.

    Of this package only the parts that a yaml of conf/ names: a config must not reach its other functions,
    some of which write files. Refuses code outside this package and the trusted packages, also where it is
    only reached through a module of theirs. The working directory is searched for trusted packages alone, and
    after all installed packages.
    """
    module, _, name = str(path).rpartition(".")
    if _inside(module, (PACKAGE,)):
        if path not in parts() and module != CHECKS:
            raise Refusal(
                f"{where}._target_={path}: {PACKAGE} has no part of this path; sharp show lists the parts"
            )
        return getattr(importlib.import_module(module), name)
    untrusted = Refusal(
        f"{where}._target_={path}: code outside {PACKAGE}; if you trust it, say so: "
        f"trust=[{str(path).split('.')[0]}]"
    )
    if not _inside(module, trust):
        raise untrusted
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        target = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as problem:
        raise Refusal(f"{where}._target_={path}: not found ({problem})") from None
    if not _inside(getattr(target, "__module__", "") or "", trust):
        raise untrusted
    if not callable(target):
        raise Refusal(f"{where}._target_={path}: neither a function nor a class")
    return target


@functools.cache
def parts() -> dict[str, frozenset[str]]:
    """The parts of this package: every `_target_` in conf/, with the groups whose yaml files name it."""
    groups: dict[str, set[str]] = {}
    for file in CONF.rglob("*.yaml"):
        for path in TARGET.findall(file.read_text()):
            groups.setdefault(path, set()).add(file.parent.name)
    return {path: frozenset(names) for path, names in groups.items()}


def _inside(module: str, roots: Sequence[str]) -> bool:
    return any(module == root or module.startswith(root + ".") for root in roots)


@functools.lru_cache  # a run of many replicas asks of each
def hyperparameters(target: Target) -> tuple[dict[str, Any], list[str], list[str]]:
    """(type hints, needed names, allowed names) of the parameters that yaml sets: the keyword-only ones of a
    function, all of a class. A parameter with a default is not needed; the parts of this package have no
    defaults."""
    parameters = inspect.signature(target).parameters.values()
    if inspect.isclass(target):
        taken = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    else:
        taken = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    needed = [p.name for p in taken if p.default is p.empty]
    return _hints(target), needed, [p.name for p in taken]


@functools.lru_cache
def positional(target: Target) -> list[str]:
    """The names of what the lab supplies to a part."""
    parameters = inspect.signature(target).parameters.values()
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


@functools.lru_cache
def optional(target: Target) -> list[str]:
    """Those of the supplied parameters that a part can do without: they may be None."""
    hints = _hints(target)
    return [name for name in positional(target) if type(None) in get_args(hints.get(name))]


def _hints(target: Target) -> dict[str, Any]:
    has_own_init = inspect.isclass(target) and not is_dataclass(target)
    try:
        return get_type_hints(target.__init__ if has_own_init else target)
    except (NameError, TypeError):  # annotations of names that only a type checker imports
        return {}


def is_text(hint: Any) -> bool:
    """Whether an annotation is a text, or a path, or one of them or None."""
    return is_path(hint) or hint is str or (_is_union(hint) and set(get_args(hint)) == {str, type(None)})


def is_of_part(hint: Any) -> bool:
    """Whether an annotation is for a part inside a part: a class of this package, or a function."""
    return get_origin(hint) is Callable or (inspect.isclass(hint) and _inside(hint.__module__, (PACKAGE,)))


def is_path(hint: Any) -> bool:
    """Whether an annotation is `Path` or `Path | None`: the name of a file, which counts by its content."""
    return hint is Path or (_is_union(hint) and Path in get_args(hint))


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)


def identity(value: Any) -> Any:
    """A part's values as they name a run: a part of this package by its own name instead of its module's
    path, so that moving its module renames no run; a part outside it by its whole path."""
    if isinstance(value, Mapping):
        return {
            key: _name(v) if key == "_target_" and isinstance(v, str) else identity(v)
            for key, v in value.items()
        }
    return [identity(v) for v in value] if isinstance(value, list) else value


def _name(path: str) -> str:
    return path.rsplit(".", 1)[-1] if _inside(path, (PACKAGE,)) else path
