"""Files of JSON lines that survive a kill and a full disk: a row is added whole or not at all, and read up to
a cut line."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sharpcli.errors import Refusal

Row = dict[str, Any]
TAIL = 8192  # bytes at the end of a file that are searched for the last row; more where that row is longer


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns a full disk, or a folder that cannot be written, into one line; what is on disk stays."""
    try:
        yield
    except OSError as problem:
        raise cannot_write(path, problem) from None


def cannot_write(path: Path, problem: OSError) -> Refusal:
    """The one line for a path that cannot be written."""
    return Refusal(
        f"{path}: cannot write ({problem.strerror or problem}); nothing logged so far is lost: "
        "make room or choose another runs_dir, then run the same command again"
    )


def plain(value: Any) -> Any:
    """A value for standard JSON: numbers that are not finite become null."""
    if isinstance(value, list):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def append(file: Path, *rows: Row) -> None:
    """Adds rows to a file of JSON lines, whole or not at all."""
    lines = (
        json.dumps({key: plain(value) for key, value in row.items()}, allow_nan=False) + "\n" for row in rows
    )
    text = "".join(lines)
    with writing(file.parent):
        start = None
        try:
            with open(file, "ab+") as out:
                start = out.tell()
                out.seek(max(0, start - 1))
                if start and out.read() != b"\n":  # a line cut short by a kill: drop it, never join onto it
                    start = file.read_bytes().rfind(b"\n") + 1
                    out.truncate(start)
                out.write(text.encode())
        except OSError:
            if start is not None:  # once closed: closing tries again to write what did not fit
                os.truncate(file, start)
            raise


def rows(file: Path) -> Iterator[Row]:
    """The rows of a file, each an object with a step; none where the file is missing."""
    if not file.exists():
        return
    for line in file.read_bytes().split(b"\n"):
        if (row := _row(line)) is not None:
            yield row


def last_row(file: Path) -> Row | None:
    """The last row of a file, read from its end; None where it has none."""
    if not file.exists():
        return None
    size, tail = file.stat().st_size, TAIL
    while True:
        with open(file, "rb") as f:
            f.seek(max(0, size - tail))
            lines = f.read().split(b"\n")
        for line in reversed(lines if tail >= size else lines[1:]):  # the first line begins before the tail
            if (row := _row(line)) is not None:
                return row
        if tail >= size:
            return None
        tail *= 8


def replace(file: Path, data: bytes) -> None:
    """Writes a whole file, or leaves the former file as it is."""
    half = file.with_name(file.name + ".part")
    try:
        half.write_bytes(data)
        half.replace(file)
    except OSError:
        half.unlink(missing_ok=True)
        raise


def _row(line: bytes) -> Row | None:
    """The row of a line; None for a line that a kill cut short, and for what is no row."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "step" in row else None
