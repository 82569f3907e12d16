"""What the name of a file or folder means: the same on every command line and in the environment.

Imports neither Hydra nor torch, so that `sharp ls` and `sharp --help` are quick.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from sharpcli.errors import Refusal

ENVIRONMENT = {"runs_dir": "SHARP_RUNS", "data_dir": "SHARP_DATA"}
DEFAULTS = {"runs_dir": "runs", "data_dir": "data"}
ESCAPED = re.compile(r"\\([\\()\[\]{}:=, \t])")  # what Hydra's grammar reads as the character itself


def expanded(path: str | Path) -> Path:
    """The path with `~` and `~user` at its beginning as that user's home; it stays as it is where there is no
    such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such user
        return Path(path)


def exists(path: str | Path) -> bool:
    """Whether there is a file or folder at a path."""
    try:
        return expanded(path).exists()
    except (OSError, ValueError):  # too long a name, a null byte
        return False


def is_file(path: str | Path) -> bool:
    """Whether there is a file at a path that can be read to its end: no folder, pipe or device."""
    return exists(path) and expanded(path).is_file()


def is_folder(path: str | Path) -> bool:
    """Whether there is a folder at a path."""
    return exists(path) and expanded(path).is_dir()


def text_of(value: str) -> str:
    """The text that the value of an override stands for, where a text is wanted.

    It is the value itself, whatever its characters: `a(b)#c` and `x=1,2` are texts too. Quotation marks
    around the whole of it are not part of the text, and neither is the backslash before a character of
    Hydra's grammar (`a\\,b`): a user who knows Hydra may write it in Hydra's way.
    """
    inner = unquoted(value)
    return ESCAPED.sub(r"\1", value) if inner is None else inner


def path_of(value: str) -> Path:
    """The path that the value of an override stands for."""
    if "${" in value:  # may hold an interpolation of Hydra's, such as ${oc.env:HOME}
        from sharpcli.config.words import compose

        return expanded(compose([f"runs_dir={value}"]).runs_dir)
    return expanded(text_of(value))


def unquoted(value: str) -> str | None:
    """The text between quotation marks that enclose the whole value, as Hydra reads them; None where none do.

    A backslash before a quotation mark of the same kind keeps the mark; backslashes elsewhere are characters.
    """
    mark = value[:1]
    if mark not in ("'", '"') or len(value) < 2:
        return None
    inner = value[
        1:
    ]  # with the closing mark, which must be the only mark after an even number of backslashes
    marks = list(re.finditer(rf"(\\*){mark}", inner))
    if [m.end() for m in marks if len(m[1]) % 2 == 0] != [len(inner)]:
        return None
    text = re.sub(rf"(\\*){mark}", lambda m: "\\" * (len(m[1]) // 2) + (mark if len(m[1]) % 2 else ""), inner)
    return re.sub(r"(\\*)\\\$\{", lambda m: m[1][: len(m[1]) // 2] + "${", text)


def path_given(text: str, key: str) -> Path:
    """The path that the setting `key` is given. An empty environment variable is none at all; an empty value
    is refused."""
    if not text and os.environ.get(ENVIRONMENT.get(key, ""), "unset") == "":
        return Path(DEFAULTS[key])
    if not text:
        raise Refusal(f"{key}=: give a path; leave {key}= out for its default")
    return expanded(text)


def folder_of_runs(overrides: Iterable[str]) -> Path:
    """The folder of the runs: the last `runs_dir=` among the overrides, else SHARP_RUNS, else `runs`."""
    given = [o.partition("=")[2] for o in overrides if re.match(r"\+{0,2}runs_dir=", o)]
    if not given:
        return expanded(os.environ.get("SHARP_RUNS") or DEFAULTS["runs_dir"])
    return path_given(str(path_of(given[-1])) if given[-1] else "", "runs_dir")
