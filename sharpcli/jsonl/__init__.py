"""Files of JSON lines: a row is added whole or not at all, and a line that is no row is named."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import orjson

from sharpcli.jsonl.files import cannot_write, open_regular, open_to_append, replace, write, writing

__all__ = [
    "LONGEST",
    "Row",
    "append",
    "cannot_write",
    "is_number",
    "last_row",
    "plain",
    "read_rows",
    "replace",
    "rows_written",
    "writing",
]

Row = dict[str, Any]
TAIL = 8192  # bytes at the end of a file that are searched for the last row; more where that row is longer
LONGEST = 2**26  # bytes of a line: a longer line ends the reading, as in a sparse file of zeros
BITS = 1023  # of a whole number: a larger number is no float


def is_number(value: Any) -> bool:
    """Whether a value of a row is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def plain(value: Any) -> Any:
    """A value for standard JSON: numbers that are not finite become null."""
    if isinstance(value, list):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def append(file: Path, *rows: Row, follow: bool = False, durable: bool = False) -> tuple[int, bytes]:
    """Adds rows to a file of JSON lines, whole or not at all; returns at which byte, and the bytes.

    A last line that a kill has cut short is dropped first. `follow`: the file may be a symbolic link or a
    device, as a user names one. `durable`: the rows survive a power cut from here on.
    """
    lines = (
        json.dumps({key: plain(value) for key, value in row.items()}, allow_nan=False) + "\n" for row in rows
    )
    data = "".join(lines).encode()
    with writing(file.parent):
        descriptor = open_to_append(file, follow)
        try:
            start = _end_of_rows(descriptor)
            try:
                write(descriptor, data)
                if durable:
                    os.fsync(descriptor)
            except OSError:
                if start is not None:
                    os.ftruncate(descriptor, start)
                raise
        finally:
            os.close(descriptor)
    return start or 0, data


def _end_of_rows(descriptor: int) -> int | None:
    """The size of a file whose last line is whole: a last line cut short is cut off, and a row without its
    newline gets one. None of a device, which has no size."""
    try:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        if not size or _bytes(descriptor, size - 1, 1) == b"\n":
            return size
    except OSError:
        return None
    start, line = size, b""
    while start and b"\n" not in line:
        length = min(TAIL, start)
        start -= length
        line = _bytes(descriptor, start, length) + line
    line = line[line.rfind(b"\n") + 1 :]
    if isinstance(_row(line), str):
        size -= len(line)
        os.ftruncate(descriptor, size)
        return size
    write(descriptor, b"\n")
    return size + 1


def _bytes(descriptor: int, start: int, length: int) -> bytes:
    os.lseek(descriptor, start, os.SEEK_SET)
    return os.read(descriptor, length)


def read_rows(file: Path, most: int | None = None) -> tuple[list[Row], str]:
    """The rows of a file, or of its first `most` bytes, each an object with a step; and one line that says
    what is wrong with the file, empty where nothing is. No rows where the file is missing. A last line
    without its newline is no fault: a process may be writing it, or was killed then."""
    rows: list[Row] = []
    wrong: list[tuple[int, str]] = []
    try:
        for number, line in enumerate(_lines(file, most), 1):
            row = _row(line)
            if not isinstance(row, str):
                rows.append(row)
            elif line.endswith(b"\n"):
                wrong.append((number, row))
    except FileNotFoundError:
        return [], ""
    except OSError as problem:
        return rows, f"{file}: cannot be read ({problem.strerror or problem})"
    if not wrong:
        return rows, ""
    number, why = wrong[0]
    more = f", and {len(wrong) - 1} lines more" if len(wrong) > 1 else ""
    return rows, f"{file}: line {number} is no row ({why}){more}"


def rows_written(data: bytes) -> list[Row] | None:
    """The rows of a text that is, to the byte, what was written: read at once, five times faster than line by
    line. None where it cannot be, and is to be read by `read_rows`."""
    lines = data.count(b"\n")
    if not data.startswith(b"{") or not data.endswith(b"}\n") or data.count(b"}\n{") != lines - 1:
        return None
    try:
        rows = orjson.loads(b"[" + data[:-1].replace(b"\n", b",") + b"]")
    except orjson.JSONDecodeError:
        return None
    if len(rows) != lines or set(map(type, rows)) != {dict}:
        return None
    if data.count(b"{") == lines and b'"replica"' not in data:  # no object within another: the steps remain
        steps = [row.get("step", -1) for row in rows]
        return rows if set(map(type, steps)) == {int} and min(steps) >= 0 else None
    return rows if all(map(_is_row, rows)) else None


def _is_row(row: Any) -> bool:
    """Whether a value is a row without `provenance`, as nearly all are."""
    return (
        type(row) is dict
        and type(row.get("step")) is int
        and row["step"] >= 0
        and ("replica" not in row or is_count(row["replica"]))
        and dict not in set(map(type, row.values()))
    )


def _lines(file: Path, most: int | None) -> Iterator[bytes]:
    left = most
    with os.fdopen(open_regular(file), "rb") as opened:
        while line := opened.readline(LONGEST if left is None else min(LONGEST, left)):
            left = None if left is None else left - len(line)
            if len(line) == LONGEST and not line.endswith(b"\n"):
                raise OSError(0, f"a line of more than {LONGEST / 1e6:.0f} MB")
            yield line


def last_row(file: Path) -> Row | None:
    """The last row of a file, read from its end; None where it has none. Raises OSError where it cannot be
    read."""
    try:
        descriptor = open_regular(file)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as opened:
        size, tail = os.fstat(descriptor).st_size, TAIL
        while True:
            opened.seek(max(0, size - tail))
            lines = opened.read(tail).split(b"\n")
            for line in reversed(lines if tail >= size else lines[1:]):  # the first begins before the tail
                if not isinstance(row := _row(line), str):
                    return row
            if tail >= min(size, LONGEST):
                return None
            tail *= 8


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")


_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode


def _row(line: bytes) -> Row | str:
    """The row of a line, or why it is none: a row holds numbers, words and lists by their names, and in
    `provenance` where it comes from."""
    try:
        row = orjson.loads(line)  # refuses more than JSON's standard does: half a surrogate pair, 1e999
    except orjson.JSONDecodeError:
        row = _decoded(line)
        if isinstance(row, str):
            return row
    if _is_row(row):
        return row
    if not isinstance(row, dict):
        return "no object"
    if not is_count(row.get("step")) or not is_count(row.get("replica", 0)):
        return "without a step that is a whole number"
    for name, value in row.items():
        if isinstance(value, dict) and name != "provenance":
            return f"{name[:40]} is an object"
    return row


def _decoded(line: bytes) -> Row | str:
    """The values of a line by the standard library's decoder, or why they are none of a row."""
    try:
        row = _decode(line.decode())
    except UnicodeDecodeError:
        return "not UTF-8"
    except ValueError:
        return "not JSON"
    except RecursionError:
        return "nested too deeply"
    for name, value in row.items() if isinstance(row, dict) else ():
        if isinstance(value, int) and value.bit_length() > BITS:
            return f"{name[:40]} is no number of any size that sharp writes"
    return row


def is_count(value: Any) -> bool:
    """Whether a value is a whole number from 0, of a size that a count can have."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
