"""Launchers of Hydra's, which spread the jobs of a sweep over processes or machines.

On the command line of `sharp train` the word `launcher=slurm` is short for `hydra/launcher=slurm`, and
`launcher.timeout_min=60` for `hydra.launcher.timeout_min=60`. Presets are in conf/hydra/launcher.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec

from sharpcli.errors import Refusal

PLUGINS = {  # of each launcher, Hydra's plugin; the launcher's name is that of the extra which installs it
    "joblib": "hydra_plugins.hydra_joblib_launcher",
    "slurm": "hydra_plugins.hydra_submitit_launcher",
    "ray": "hydra_plugins.hydra_ray_launcher",
}
OURS = re.compile(r"(\+{0,2})launcher(?=[.=])")


def as_hydra(override: str) -> str:
    """An override of a launcher in Hydra's words; others as they are."""
    match = OURS.match(override)
    if match is None:
        return override
    is_choice = override[match.end()] == "="
    return f"{match[1]}hydra{'/' if is_choice else '.'}launcher{override[match.end() :]}"


def refuse_unusable(overrides: Sequence[str], of_sweep: bool) -> None:
    """Refuses a launcher whose plugin is not installed, and any launcher where no sweep would heed it."""
    for override in overrides:
        key, _, name = override.partition("=")
        if key != "hydra/launcher":
            continue
        if not of_sweep:
            raise Refusal(f"launcher={name}: a launcher starts the jobs of a sweep; add -m")
        if name in PLUGINS and not _is_installed(PLUGINS[name]):
            raise Refusal(f"launcher={name}: not installed; pip install 'sharpcli[{name}]'")


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # no plugin of Hydra's at all
        return False
