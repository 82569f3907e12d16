"""The jobs of a sweep, known before the first starts, by Hydra's own basic sweeper."""

from __future__ import annotations

from collections.abc import Sequence

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig

from sharpcli.config.folders import own_folder
from sharpcli.config.own_parts import forget_own_parts
from sharpcli.config.quoting import quoted
from sharpcli.config.words import loading, refuse_at_once, refusing
from sharpcli.errors import Refusal


def is_sweep(overrides: Sequence[str], name: str = "config") -> bool:
    """Whether the overrides, or a user's own yaml, say `hydra.mode=MULTIRUN`, which is the same as -m."""
    if own_folder() is None and not any("hydra." in override for override in overrides):
        return False  # conf/ itself says nothing of it, and composing takes a tenth of a second
    with loading() as loader:
        try:
            return _of_sweep(loader, overrides, name).hydra.mode == RunMode.MULTIRUN
        except Exception:  # what is wrong with the overrides is said by whoever composes them
            return False


def sweep(overrides: Sequence[str], name: str = "config") -> list[list[str]]:
    """The overrides of each job of a sweep; another sweeper chooses its jobs as it goes, and then only those
    that all have in common are known."""
    forget_own_parts()
    refuse_at_once(overrides)
    with refusing(overrides), loading() as loader:
        parser = OverridesParser.create(loader)
        sweeper = _of_sweep(loader, overrides, name).hydra.sweeper
        parsed = parser.parse_overrides(quoted(overrides, sweeps=True))
        if not sweeper._target_.endswith("BasicSweeper"):
            return [
                [str(o.input_line) for o in parsed if not o.is_sweep_override() and not o.is_hydra_override()]
            ]
        if interval := next((o for o in parsed if o.is_interval_sweep()), None):
            raise Refusal(
                f"{interval.input_line}: Hydra's own sweeper takes no interval; give choice(...) or "
                f"range(...), or another sweeper by hydra/sweeper="
            )
        extra = parser.parse_overrides([f"{key}={v}" for key, v in (sweeper.get("params") or {}).items()])
        (jobs,) = BasicSweeper.split_arguments([*extra, *parsed], None)
        if not jobs:
            raise Refusal(
                f"{' '.join(overrides)}: a sweep without a job; give each setting at least one value"
            )
        return [[override for override in job if not _is_of_hydra(override)] for job in jobs]


def _of_sweep(loader: ConfigLoaderImpl, overrides: Sequence[str], name: str) -> DictConfig:
    """The config of a sweep as a whole, whose settings of Hydra's are those of all jobs."""
    return loader.load_configuration(
        name, quoted(overrides, sweeps=True), run_mode=RunMode.MULTIRUN, validate_sweep_overrides=False
    )


def _is_of_hydra(override: str) -> bool:
    key = override.lstrip("+~").partition("=")[0]
    return key.startswith(("hydra.", "hydra/"))
