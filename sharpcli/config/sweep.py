"""The jobs of a sweep, known before the first starts, by Hydra's own basic sweeper."""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from sharpcli.config.words import compose, refusing


def sweep(overrides: Sequence[str], config_dir: str | None = None) -> list[list[str]]:
    """The overrides of each job of a sweep; another sweeper chooses its jobs as it goes, and then only those
    that all have in common are known."""
    with refusing(overrides):
        parser = OverridesParser.create()
        parsed = parser.parse_overrides(list(overrides))
        fixed = [o.input_line for o in parsed if not o.is_sweep_override() and o.input_line is not None]
        sweeper = compose(fixed, config_dir, hydra=True).hydra.sweeper
        if not sweeper._target_.endswith("BasicSweeper"):
            return [fixed]
        extra = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
        (jobs,) = BasicSweeper.split_arguments(parser.parse_overrides([*extra, *overrides]), None)
        return [[override for override in job if not override.startswith("hydra")] for job in jobs]
