"""A run's directory: the only code that knows its file names. Nothing here needs torch until weights are touched."""

from __future__ import annotations

import json
import math
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from sharpcli.errors import Refusal

VERSION = 1  # of the directory's format
Row = dict[str, Any]
SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Run:
    """runs/<name>/ with config.yaml, provenance.json, metrics.jsonl, measured.jsonl and checkpoints/.

    Opening refuses a directory that is no run or of another version. With `writes` off it is only read: several processes
    may train one run, of which one writes. A run is never overwritten: rows are appended, and
    a resumed run is cut back to the row where its checkpoint was written.
    """

    def __init__(self, path: Path, writes: bool = True) -> None:
        self.path, self.writes = Path(path), writes
        try:
            self.provenance: dict[str, Any] = json.loads((self.path / "provenance.json").read_text())
        except (OSError, ValueError):
            raise Refusal(f"{path}: not a run directory (no readable provenance.json); sharp ls lists the runs") from None
        if self.provenance.get("version") != VERSION:
            raise Refusal(
                f"{path}: a run of format {self.provenance.get('version')}, and this is sharp for format {VERSION}; "
                "use the version of sharp in its provenance.json"
            )

    @classmethod
    def create(cls, path: Path, config: Mapping[str, Any], provenance: Mapping[str, Any]) -> Run:
        """A new directory; complete only once provenance.json is there, which is written last."""
        with writing(path):
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
            (path / "config.yaml").write_text(yaml.safe_dump(dict(config), sort_keys=False))
            _replace(path / "provenance.json", (json.dumps({"version": VERSION, **provenance}, indent=1) + "\n").encode())
        return cls(path)

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name

    @property
    def hash(self) -> str:
        """The 8 hex digits at the end of the name."""
        return self.name.rsplit("-", 1)[-1]

    @property
    def config(self) -> dict[str, Any]:
        """What decides the numbers."""
        try:
            return yaml.load((self.path / "config.yaml").read_text(), SafeLoader)
        except (OSError, yaml.YAMLError) as problem:
            raise Refusal(f"{self.path / 'config.yaml'}: cannot be read ({problem}); restore it") from None

    @property
    def steps(self) -> int:
        """The length of the whole run in steps."""
        return self.provenance["steps"]

    # --- rows ---

    def logged(self) -> list[Row]:
        """The rows of metrics.jsonl, up to a truncated last line."""
        return list(_lines(self.path / "metrics.jsonl"))

    def rows(self) -> list[Row]:
        """What was logged, joined by step with what was measured later, the newest number wins; of replicas a row each."""
        rows = {(row["step"], row.get("replica", 0)): row for row in self.logged()}
        for late in _lines(self.path / "measured.jsonl"):
            if "params" in late:  # of some parameters alone: not the network's numbers
                continue
            at = (late["step"], 0)
            rows[at] = rows.get(at, {}) | {k: v for k, v in late.items() if k != "provenance"}
        return [rows[at] for at in sorted(rows)]

    def last(self) -> Row | None:
        """The last row logged, read from the end of the file."""
        return _last_line(self.path / "metrics.jsonl")

    def log(self, row: Row) -> None:
        """Appends a row to metrics.jsonl."""
        if self.writes:
            append(self.path / "metrics.jsonl", row)

    def log_all(self, rows: Sequence[Row]) -> None:
        """Appends the rows of all replicas at a step to metrics.jsonl, all or none."""
        if self.writes:
            append(self.path / "metrics.jsonl", *rows)

    def add_measured(self, row: Row) -> None:
        """Appends a row to measured.jsonl."""
        append(self.path / "measured.jsonl", row)

    @property
    def offset(self) -> int:
        """Bytes of metrics.jsonl."""
        file = self.path / "metrics.jsonl"
        return file.stat().st_size if file.exists() else 0

    def cut(self, offset: int) -> None:
        """Cuts metrics.jsonl back to `offset` bytes."""
        if not self.writes:
            return
        with writing(self.path), open(self.path / "metrics.jsonl", "ab") as file:
            file.truncate(offset)

    @property
    def status(self) -> str:
        """`complete`, `diverged`, or `unfinished` (running, or interrupted)."""
        return self.status_after(self.last())

    def status_after(self, last: Row | None) -> str:
        """The status that a last row means."""
        if (replicas := self.provenance.get("replicas", 1)) > 1:  # each logs to the last step, diverged or not
            done = last is not None and last["step"] == self.steps and last.get("replica") == replicas - 1
            return "complete" if done else "unfinished"
        if last and last.get("diverged"):
            return "diverged"
        return "complete" if last and last["step"] == self.steps else "unfinished"

    # --- checkpoints ---

    def checkpoints(self) -> list[int]:
        """The steps at which there is a checkpoint, ascending."""
        found = (re.fullmatch(r"step_(\d+)\.pt", file.name) for file in (self.path / "checkpoints").glob("*.pt"))
        return sorted(int(match[1]) for match in found if match)

    def save(self, step: int, payload: Mapping[str, Any]) -> None:
        """Writes a checkpoint: a mapping of tensors, numbers, and containers of them."""
        import io

        import torch

        if not self.writes:
            return
        buffer = io.BytesIO()
        torch.save(dict(payload), buffer)
        data = buffer.getvalue()
        file = self._checkpoint(step)
        with writing(self.path):
            _replace(file, data + zlib.crc32(data).to_bytes(4, "little"))

    def load(self, step: int) -> dict[str, Any]:
        """A checkpoint; raises ValueError where it is damaged."""
        import io

        import torch

        data = self._checkpoint(step).read_bytes()
        if zlib.crc32(data[:-4]).to_bytes(4, "little") != data[-4:]:
            raise ValueError(f"checkpoint {step} is damaged")
        return torch.load(io.BytesIO(data[:-4]), weights_only=True)

    def drop(self, step: int) -> None:
        """Removes a checkpoint."""
        if self.writes:
            self._checkpoint(step).unlink(missing_ok=True)

    def _checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step_{step:08d}.pt"

    # --- processes ---

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held while a process trains this run; the system releases it however the process ends."""
        if not self.writes:
            yield
            return
        from filelock import FileLock, Timeout

        try:
            lock = FileLock(self.path / ".lock", timeout=0)
            lock.acquire()
        except Timeout:
            raise Refusal(f"{self.path}: another process is training this run; wait for it, or stop it first") from None
        except OSError as problem:
            raise cannot_write(self.path, problem) from None
        with lock:
            yield

    def resumed(self, **what: Any) -> None:
        """Adds to the provenance how the run was carried on."""
        self.provenance.setdefault("resumed", []).append(what)
        with writing(self.path):
            _replace(self.path / "provenance.json", (json.dumps(self.provenance, indent=1) + "\n").encode())


def in_directory(runs_dir: Path) -> list[Run]:
    """Every run in a directory, by name; what is no run is passed over."""
    found = sorted(Path(runs_dir).glob("*/provenance.json"))
    out = []
    for file in found:
        try:
            out.append(Run(file.parent))
        except Refusal:
            continue
    return out


def find(word: str, runs_dir: Path) -> Run:
    """The run that a word means: a path, a name, the beginning of one, or its hash."""
    if (Path(word) / "provenance.json").exists():
        return Run(Path(word).absolute())
    names = [file.parent.name for file in Path(runs_dir).glob("*/provenance.json")] if "/" not in word else []
    hits = [name for name in names if name == word] or [n for n in names if n.startswith(word) or n.endswith("-" + word)]
    if len(hits) == 1:
        return Run(Path(runs_dir) / hits[0])
    if hits:
        raise Refusal(
            f"{word}: {len(hits)} runs in {runs_dir} begin so ({', '.join(sorted(hits)[:4])}, ...); give more of the name"
        )
    if Path(word).exists():
        return Run(Path(word))
    from difflib import get_close_matches

    close = [name for name in names if get_close_matches(word, [name[: len(word)]])]
    raise Refusal(
        f"{word}: no such run in {runs_dir}; " + (f"did you mean {close[0]}? " if close else "") + "sharp ls lists the runs"
    )


def find_all(words: Iterable[str], runs_dir: Path) -> list[Run]:
    """The runs that words mean, in order and once each; a directory of runs means all of them."""
    out: dict[Path, Run] = {}
    for word in words:
        path = Path(word)
        inside = in_directory(path) if path.is_dir() and not (path / "provenance.json").exists() else []
        for run in inside or [find(word, runs_dir)]:
            out.setdefault(run.path.resolve(), run)
    return list(out.values())


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
    lines = (json.dumps({key: plain(value) for key, value in row.items()}, allow_nan=False) + "\n" for row in rows)
    line = "".join(lines)
    with writing(file.parent):
        start = None
        try:
            with open(file, "ab+") as out:
                start = out.tell()
                out.seek(max(0, start - 1))
                if start and out.read() != b"\n":  # a line cut short by a kill: drop it, never join onto it
                    start = file.read_bytes().rfind(b"\n") + 1
                    out.truncate(start)
                out.write(line.encode())
        except OSError:
            if start is not None:  # once closed: closing tries again to write what did not fit
                os.truncate(file, start)
            raise


def _lines(file: Path) -> Iterator[Row]:
    if not file.exists():
        return
    for line in file.read_bytes().split(b"\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue  # a last line that a kill cut short
        if isinstance(row, dict) and "step" in row:
            yield row


def _last_line(file: Path) -> Row | None:
    if not file.exists():
        return None
    with open(file, "rb") as f:
        f.seek(max(0, file.stat().st_size - 8192))
        tail = f.read().split(b"\n")
    for line in reversed(tail):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "step" in row:
            return row
    return None


def _replace(file: Path, data: bytes) -> None:
    """Writes a whole file or leaves the old one."""
    half = file.with_name(file.name + ".part")
    try:
        half.write_bytes(data)
        half.replace(file)
    except OSError:
        half.unlink(missing_ok=True)
        raise
