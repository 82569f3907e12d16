"""The folders of the groups: conf/, and a user's own, which `--config-dir` or SHARP_CONFIG_DIR adds.

Imports neither Hydra nor torch, so that `sharp ls` and `sharp --help` are quick.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sharpcli import CONF
from sharpcli.config.paths import expanded
from sharpcli.errors import Refusal

# an environment variable, so that the worker processes of a sweep, claim or study have the same folder
VARIABLE = "SHARP_CONFIG_DIR"


def own_folder() -> Path | None:
    """The user's own folder of groups, where one is given."""
    given = os.environ.get(VARIABLE)
    return _folder(given, f"{VARIABLE}={given}") if given else None


def _folder(given: str | Path, how: str) -> Path:
    folder = expanded(given).absolute()
    if not folder.is_dir():
        raise Refusal(f"{how}: no such directory; name one that holds groups, as conf/ does")
    return folder


def use(folder: str | Path | None) -> None:
    """Adds a user's folder for the rest of the command; None leaves it as it is. Refuses no folder."""
    if folder is not None:
        os.environ[VARIABLE] = str(_folder(folder, f"--config-dir {folder}"))


@contextmanager
def kept() -> Iterator[None]:
    """After it the folder is as before it."""
    before = os.environ.get(VARIABLE)
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)
        if before is not None:
            os.environ[VARIABLE] = before


def yaml_files(group: str) -> dict[str, Path]:
    """The yaml of each option of a group, in the order of their names; a user's own goes before the one of
    conf/."""
    folders = [folder for folder in (CONF, own_folder()) if folder is not None]
    files = {file.stem: file for folder in folders for file in (folder / group).glob("*.yaml")}
    return dict(sorted(files.items()))


def options(group: str) -> list[str]:
    """The names of a group's options, sorted."""
    return list(yaml_files(group))
