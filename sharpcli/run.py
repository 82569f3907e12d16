"""A run's directory: the only code that knows its file names. Nothing here needs torch until weights are
touched."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sharpcli.config import former
from sharpcli.errors import Refusal
from sharpcli.jsonl import Row, append, cannot_write, last_row, replace, rows, writing

if TYPE_CHECKING:
    import pandas as pd

VERSION, READABLE = 2, (1, 2)  # the format that is written, and those that are read: see config/former.py
SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Run:
    """runs/<name>/ with config.yaml, provenance.json, metrics.jsonl, measured.jsonl and checkpoints/.

    Opening refuses a directory that is no run or of another version. With `writes` off it is only read:
    several processes may train one run, of which one writes. A run is never overwritten: rows are appended,
    and a resumed run is cut back to the row where its checkpoint was written.
    """

    def __init__(self, path: Path, writes: bool = True) -> None:
        self.path, self.writes = Path(path), writes
        try:
            self.provenance: dict[str, Any] = json.loads((self.path / "provenance.json").read_text())
        except (OSError, ValueError):
            raise Refusal(
                f"{path}: not a run directory (no readable provenance.json); sharp ls lists the runs"
            ) from None
        if self.provenance.get("version") not in READABLE:
            raise Refusal(
                f"{path}: a run of format {self.provenance.get('version')}, and this is sharp for formats "
                f"{' and '.join(map(str, READABLE))}; use the version of sharp in its provenance.json"
            )

    @classmethod
    def create(cls, path: Path, config: Mapping[str, Any], provenance: Mapping[str, Any]) -> Run:
        """A new directory; complete only once provenance.json is there, which is written last."""
        if (path / "provenance.json").exists():
            raise Refusal(
                f"{path}: holds a run of other data already; move it away, or choose another runs_dir"
            )
        with writing(path):
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
            (path / "config.yaml").write_text(yaml.safe_dump(dict(config), sort_keys=False))
            replace(path / "provenance.json", _pretty({"version": VERSION, **provenance}))
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
        """What decides the numbers, in today's names."""
        try:
            return former.updated(yaml.load((self.path / "config.yaml").read_text(), SafeLoader) or {})
        except (OSError, yaml.YAMLError) as problem:
            raise Refusal(f"{self.path / 'config.yaml'}: cannot be read ({problem}); restore it") from None

    @property
    def steps(self) -> int:
        """The length of the whole run in steps."""
        return self.provenance["steps"]

    # --- rows ---

    def logged(self) -> list[Row]:
        """The rows of metrics.jsonl, up to a truncated last line."""
        return list(rows(self.path / "metrics.jsonl"))

    def rows(self) -> list[Row]:
        """What was logged, joined by step with what was measured later, the newest number wins; of replicas a
        row each."""
        joined = {(row["step"], row.get("replica", 0)): row for row in self.logged()}
        for measured in rows(self.path / "measured.jsonl"):
            if "params" in measured:  # of some parameters alone: not the network's numbers
                continue
            at = (measured["step"], 0)
            joined[at] = joined.get(at, {}) | {k: v for k, v in measured.items() if k != "provenance"}
        return [joined[at] for at in sorted(joined)]

    def last(self) -> Row | None:
        """The last row logged, read from the end of the file; None where nothing is logged."""
        return last_row(self.path / "metrics.jsonl")

    def log(self, *rows: Row) -> None:
        """Appends the rows of a step to metrics.jsonl, all or none; nothing with `writes` off."""
        if self.writes:
            append(self.path / "metrics.jsonl", *rows)

    def add_measured(self, row: Row) -> None:
        """Appends a row to measured.jsonl."""
        append(self.path / "measured.jsonl", row)

    @property
    def offset(self) -> int:
        """The size of metrics.jsonl in bytes."""
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
        if (
            replicas := self.provenance.get("replicas", 1)
        ) > 1:  # each logs to the last step, diverged or not
            done = last is not None and last["step"] == self.steps and last.get("replica") == replicas - 1
            return "complete" if done else "unfinished"
        if last and last.get("diverged"):
            return "diverged"
        return "complete" if last and last["step"] == self.steps else "unfinished"

    # --- checkpoints ---

    def checkpoints(self) -> list[int]:
        """The steps at which there is a checkpoint, ascending."""
        matches = (
            re.fullmatch(r"step_(\d+)\.pt", file.name) for file in (self.path / "checkpoints").glob("*.pt")
        )
        return sorted(int(match[1]) for match in matches if match)

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
            replace(file, data + zlib.crc32(data).to_bytes(4, "little"))

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
            raise Refusal(
                f"{self.path}: another process is training this run; wait for it, or stop it first"
            ) from None
        except OSError as problem:
            raise cannot_write(self.path, problem) from None
        with lock:
            yield

    def resumed(self, **what: Any) -> None:
        """Adds to the provenance how the run was carried on."""
        self.provenance.setdefault("resumed", []).append(what)
        with writing(self.path):
            replace(self.path / "provenance.json", _pretty(self.provenance))


def _pretty(facts: Mapping[str, Any]) -> bytes:
    return (json.dumps(facts, indent=1) + "\n").encode()


def in_directory(runs_dir: Path) -> list[Run]:
    """Every run in a directory, by name; what is no run is passed over."""
    out = []
    for file in sorted(Path(runs_dir).glob("*/provenance.json")):
        try:
            out.append(Run(file.parent))
        except Refusal:
            continue
    return out


def find(word: str, runs_dir: Path) -> Run:
    """The run that a word names: by its path, its name, the beginning of its name, or its hash. Refuses a
    word that names no run, or several."""
    if (Path(word) / "provenance.json").exists():
        return Run(Path(word).absolute())
    names = [file.parent.name for file in Path(runs_dir).glob("*/provenance.json")] if "/" not in word else []
    hits = [name for name in names if name == word] or [
        n for n in names if n.startswith(word) or n.endswith("-" + word)
    ]
    if len(hits) == 1:
        return Run(Path(runs_dir) / hits[0])
    if hits:
        raise Refusal(
            f"{word}: {len(hits)} runs in {runs_dir} begin so ({', '.join(sorted(hits)[:4])}, ...); give "
            f"more of the name"
        )
    if Path(word).exists():
        return Run(Path(word))
    close = [name for name in names if get_close_matches(word, [name[: len(word)]])]
    meant = f"did you mean {close[0]}? " if close else ""
    raise Refusal(f"{word}: no such run in {runs_dir}; {meant}sharp ls lists the runs")


def find_all(words: Iterable[str], runs_dir: Path) -> list[Run]:
    """The runs that words name, in order and once each; a directory of runs names all of them."""
    out: dict[Path, Run] = {}
    for word in words:
        path = Path(word)
        inside = in_directory(path) if path.is_dir() and not (path / "provenance.json").exists() else []
        for run in inside or [find(word, runs_dir)]:
            out.setdefault(run.path.resolve(), run)
    return list(out.values())


def frame_of(runs: Sequence[Run]) -> pd.DataFrame:
    """One row a run and step: the logged and measured columns, and the run's settings by their dotted names;
    in the
    column `scores` the names of the scores that the problem reports."""
    import pandas as pd

    frame: list[dict[str, Any]] = []
    for run in runs:
        config = run.config
        settings = dict(dotted(config)) | {
            "run": run.name,
            "problem": config["problem"]["_target_"].rsplit(".", 1)[-1],
        }
        settings["scores"] = " ".join(score_names(run))
        for row in run.rows():
            name = {"run": f"{run.name}#{row['replica']}"} if "replica" in row else {}
            frame.append(settings | row | name)
    return pd.DataFrame(frame)


def score_names(run: Run) -> list[str]:
    """The names of the scores that the run's problem reports, in its order. Runs of format 1 do not say;
    theirs are the columns of their last row that the problems of that format had."""
    if "scores" in run.provenance:
        return list(run.provenance["scores"])
    return [name for name in former.SCORES if (run.last() or {}).get(name) is not None]


def dotted(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested settings as pairs (`optimizer.rho`, 0.05); lists as text."""
    out: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            out += dotted(value, f"{prefix}{key}.")
        else:
            out.append((f"{prefix}{key}", str(value) if isinstance(value, list) else value))
    return out
