"""Ways in which a file gets damaged: by a disk, a copy cut short, an editor, another program, or somebody."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

ODD_TEXT = (
    "\x1b[31mred\x1b[0m",
    "a\nb",
    "\u202egnp",
    "ü" * 40,
    "%s%n{0}",
    "../../x",
    "nan",
    "-",
    "",
    " ",
    "'",
)
ODD_NUMBERS = (0, -1, -7.5, 1e308, 1e-320, 10**30, 2**63, 0.5, float("nan"), float("inf"), True)
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghijk", "bcdefghijkl", strict=True)
)
TAGS = ("!!python/object/apply:os.getcwd []", "!!python/name:os.getcwd", "!!binary aGk=", "!!set {x}", "!x y")

Change = Callable[[random.Random, bytes], bytes]


def flip(draw: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 3, 50])):
        if out:
            out[draw.randrange(len(out))] ^= 1 << draw.randrange(8)
    return bytes(out)


def overwrite(draw: random.Random, data: bytes) -> bytes:
    at, length = draw.randrange(len(data) + 1), draw.choice([1, 4, 100, 600])
    return data[:at] + draw.randbytes(length) + data[at + length :]


def zeros(draw: random.Random, data: bytes) -> bytes:
    at = draw.randrange(len(data) + 1)
    return data[:at] + bytes(len(data) - at) if draw.random() < 0.5 else bytes(at) + data[at:]


def cut(draw: random.Random, data: bytes) -> bytes:
    return data[: draw.randrange(len(data) + 1)]


def cut_middle(draw: random.Random, data: bytes) -> bytes:
    a, b = sorted(draw.randrange(len(data) + 1) for _ in range(2))
    return data[:a] + data[b:]


def doubled(draw: random.Random, data: bytes) -> bytes:
    return data + (data if draw.random() < 0.5 else data[: draw.randrange(len(data) + 1)])


def empty(draw: random.Random, data: bytes) -> bytes:
    return draw.choice([b"", b"\n", b" ", b"\0"])


def other_encoding(draw: random.Random, data: bytes) -> bytes:
    before = draw.choice([b"\xff\xfe", b"\xef\xbb\xbf", b"\x80", b"\x1f\x8b"])
    return before + data if draw.random() < 0.6 else data.decode("latin-1").encode("utf-16")


def carriage_returns(draw: random.Random, data: bytes) -> bytes:
    return data.replace(b"\n", b"\r\n")


def escapes(draw: random.Random, data: bytes) -> bytes:
    at = draw.randrange(len(data) + 1)
    return data[:at] + draw.choice([b"\x1b[2J\x1b[31m", b"\x1b]0;title\x07", b"\r\r\x08", b"\0"]) + data[at:]


def lines_changed(draw: random.Random, data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    if not lines:
        return data
    a, b = draw.randrange(len(lines)), draw.randrange(len(lines))
    way = draw.choice(["drop", "double", "swap", "keep", "move", "last"])
    if way == "drop":
        del lines[a]
    elif way == "double":
        lines.insert(b, lines[a])
    elif way == "swap":
        lines[a], lines[b] = lines[b], lines[a]
    elif way == "keep":
        lines = lines[: a + 1]
    elif way == "move":
        lines.append(lines.pop(a))
    else:
        lines[-1] = lines[-1].rstrip(b"\n")[: draw.randrange(1, 60)]
    return b"".join(lines)


def digit(draw: random.Random, data: bytes) -> bytes:
    """Another digit in place of one: the file stays well formed, a number changes."""
    places = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
    if not places:
        return data
    at = draw.choice(places)
    return data[:at] + bytes([48 + (data[at] - 48 + draw.randrange(1, 10)) % 10]) + data[at + 1 :]


def odd(draw: random.Random) -> Any:
    """A value where another was expected."""
    deep: Any = []
    for _ in range(draw.choice([3, 200])):
        deep = [deep]
    kind = draw.randrange(6)
    if kind == 0:
        return draw.choice(ODD_TEXT)
    if kind == 1:
        return draw.choice(ODD_NUMBERS)
    return draw.choice([None, [], {}, deep, [None], {"": 1}, {"step": None}, False, "x" * 5000, 1 << 70])


def change_value(draw: random.Random, value: Any) -> Any:
    """A nested value with one change: a value replaced, a key removed, renamed or added."""
    if not isinstance(value, dict | list) or not value or draw.random() < 0.15:
        return odd(draw)
    out = value.copy()
    key = draw.choice(list(out)) if isinstance(out, dict) else draw.randrange(len(out))
    way = draw.random()
    if way < 0.65:
        out[key] = change_value(draw, out[key])
    elif way < 0.8:
        del out[key]
    elif isinstance(out, dict):
        out[draw.choice(["extra", "", "_target_", "__class__", "step", *ODD_TEXT[:2]])] = odd(draw)
    else:
        out.append(odd(draw))
    return out


def change_json(draw: random.Random, data: bytes) -> bytes:
    changed = change_value(draw, json.loads(data))
    if draw.random() < 0.1:
        return b"[" * 100_000 if draw.random() < 0.5 else b'{"a":' * 50_000
    return json.dumps(changed, indent=draw.choice([None, 1])).encode()


def change_rows(draw: random.Random, data: bytes) -> bytes:
    lines = data.splitlines()
    if not lines:
        return data
    at = draw.randrange(len(lines))
    lines[at] = change_json(draw, lines[at]).replace(b"\n", b" ")
    return b"\n".join(lines) + b"\n"


def change_yaml(draw: random.Random, data: bytes) -> bytes:
    way = draw.random()
    if way < 0.1:
        return BOMB.encode() + (data if draw.random() < 0.7 else b"")
    if way < 0.25:
        lines = data.decode().splitlines()
        scalars = [i for i, line in enumerate(lines) if ": " in line]
        at = draw.choice(scalars)
        value = draw.choice(
            [*TAGS, "[", "{", "&a *a", "*nowhere", "|", "2001-01-01", "1:30", "!!float x", "\t"]
        )
        lines[at] = lines[at].split(": ")[0] + ": " + value
        return "\n".join(lines).encode()
    changed = change_value(draw, yaml.safe_load(data))
    return yaml.safe_dump(changed, sort_keys=False, allow_unicode=True).encode()


def change_checkpoint(draw: random.Random, data: bytes) -> bytes:
    """A checkpoint of a right checksum with another content, as another program or version would write."""
    saved = torch.load(io.BytesIO(data[:-4]), weights_only=True)
    way = draw.choice(["value", "value", "part", "part", "shape", "list", "checksum"])
    if way == "value":
        saved = change_value(draw, saved)
    elif way == "part" and isinstance(saved, dict):
        saved.pop(draw.choice(sorted(saved)), None)
    elif way == "shape" and isinstance(saved, dict) and isinstance(saved.get("w"), torch.Tensor):
        w = saved["w"]
        saved["w"] = draw.choice([w[:-1], w[None], w.int(), w.to(torch.complex64), w.to(torch.bool), w[:0]])
    elif way == "list":
        saved = [saved]
    file = io.BytesIO()
    torch.save(saved, file)
    out = file.getvalue()
    return out + (b"\0\0\0\0" if way == "checksum" else zlib.crc32(out).to_bytes(4, "little"))


ANY: tuple[Change, ...] = (
    *(flip, overwrite, zeros, cut, cut_middle, doubled, empty, other_encoding, escapes),
)
OF_LINES: tuple[Change, ...] = (lines_changed, lines_changed, carriage_returns, digit)
OF_FORMAT: dict[str, tuple[Change, ...]] = {
    ".json": (change_json,) * 6 + OF_LINES,
    ".yaml": (change_yaml,) * 6 + OF_LINES,
    ".jsonl": (change_rows,) * 6 + (lines_changed,) * 4 + OF_LINES,
    ".pt": (change_checkpoint,) * 6,
}
IN_PLACE = ("fifo", "folder", "gone", "dangling", "loop", "elsewhere", "zero", "hidden", "exchanged")


def damage(draw: random.Random, file: Path) -> str:
    """Damages a file in a random way, and names it."""
    if draw.random() < 0.15:
        return in_place(draw, file)
    changes = (*ANY, *OF_FORMAT.get(file.suffix, ()))
    change = draw.choice(changes)
    before = file.read_bytes()
    try:
        after = change(draw, before)
    except Exception:  # the file was damaged before, and cannot be read as what it was
        after = before
    if after == before:
        after = flip(draw, before) if before else b"x"
        change = flip
    file.write_bytes(after)
    return change.__name__


def in_place(draw: random.Random, file: Path) -> str:
    """A pipe, a folder, a link, another file of its folder, or nothing in the place of a file."""
    way = draw.choice(IN_PLACE)
    data = file.read_bytes()
    if way == "hidden":
        file.chmod(0)
        return way
    if way == "exchanged":
        others = [other for other in file.parent.glob(f"*{file.suffix}") if other != file]
        if others:
            shutil.copyfile(draw.choice(others), file)
            return way
        way = "gone"
    file.unlink()
    if way == "fifo":
        os.mkfifo(file)
    elif way == "folder":
        file.mkdir()
    elif way == "dangling":
        file.symlink_to(file.parent / "nowhere")
    elif way == "loop":
        file.symlink_to(file)
    elif way == "elsewhere":
        elsewhere = file.parents[3] / "elsewhere"
        elsewhere.write_bytes(data)
        file.symlink_to(elsewhere)
    elif way == "zero":
        file.symlink_to("/dev/zero")
    return way
