"""Tab completion: overrides by Hydra's own completer, names of runs, plots, claims and studies from their
folders."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sharpcli.config.folders import options


def options_of(group: str, incomplete: str) -> list[str]:
    """The options of a group that begin so; imports no Hydra."""
    return [option for option in options(group) if option.startswith(incomplete)]


def overrides(incomplete: str) -> list[str]:
    """What may stand for the override being typed.

    Bash splits words at `=` (COMP_WORDBREAKS) and wants back only what follows it; the whole override is put
    together again from the words before.
    """
    typed = os.environ.get("COMP_WORDS", "").split()
    prefix = _before_equals(typed, incomplete)
    if prefix or incomplete == "=":
        incomplete = incomplete.lstrip("=")
    others = [word for word in typed if "=" in word and word != "="]
    return [option.removeprefix(prefix) for option in complete(prefix + incomplete, others)]


def _before_equals(typed: Sequence[str], incomplete: str) -> str:
    """`key=` where bash has split `key=value` into `key`, `=` and the incomplete value; empty where it has
    not."""
    if incomplete == "=":
        return f"{typed[-2]}=" if len(typed) > 1 else ""
    if "=" not in typed[-2:]:
        return ""
    key = typed[-3:-2] if typed[-1:] == [incomplete] else typed[-2:-1]
    return f"{key[0]}=" if key else ""


def complete(override: str, others: Sequence[str]) -> list[str]:
    """Completions of an override, given those before it; none after an override that Hydra cannot read."""
    from hydra.errors import HydraException
    from hydra.plugins.completion_plugin import DefaultCompletionPlugin

    from sharpcli.config import settings
    from sharpcli.config.words import loading

    settings.register()
    with loading() as loader:
        choices = (
            *settings.GROUPS,
            *settings.METHODS,
        )  # of those before, only choices change what may follow
        before = [o for o in others if o != override and o.partition("=")[0] in choices]
        try:
            return sorted(DefaultCompletionPlugin(loader)._query("config", " ".join([*before, override])))
        except (HydraException, ValueError):
            return []
