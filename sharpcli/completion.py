"""Tab completion of override words, by Hydra's own completer."""

from __future__ import annotations

import os
from collections.abc import Sequence

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.plugins.completion_plugin import DefaultCompletionPlugin

from sharpcli import CONF, config


def overrides(incomplete: str) -> list[str]:
    """What may stand for the word being typed.

    Bash splits words at `=` (COMP_WORDBREAKS) and wants back only what follows it; the whole word is put together
    again from the words before.
    """
    words = os.environ.get("COMP_WORDS", "").split()
    before: list[str] = []
    if incomplete == "=" or "=" in words[-2:]:
        before = words[-2:-1] if incomplete == "=" else words[-3:-2] if words[-1:] == [incomplete] else words[-2:-1]
        incomplete = incomplete.lstrip("=")
    prefix = f"{before[0]}=" if before else ""
    found = complete(prefix + incomplete, [word for word in words if "=" in word and word != "="])
    return [word.removeprefix(prefix) for word in found]


def complete(word: str, words: Sequence[str]) -> list[str]:
    """Completions of one override word, given those before it."""
    config.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        line = " ".join([*(w for w in words if w != word), word]) if word else " ".join([*words, ""])
        return sorted(DefaultCompletionPlugin(loader)._query("config", line))
