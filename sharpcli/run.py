"""A run's directory: the only code that knows its file names. Nothing here needs torch until weights are
touched."""

from __future__ import annotations

import json
import operator
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from sharpcli.config import former
from sharpcli.config.identity import hash_of
from sharpcli.config.plain_yaml import dumped, plain_yaml, written_yaml
from sharpcli.errors import InOtherHands, Refusal, printable
from sharpcli.jsonl import (
    Row,
    append,
    cannot_write,
    is_count,
    is_number,
    last_row,
    read_rows,
    replace,
    rows_written,
    writing,
)
from sharpcli.jsonl.files import no_link, open_regular, read, sync, truncate

VERSION, READABLE = 2, (1, 2)  # the format that is written, and those that are read: see config/former.py
LARGEST_FACTS, LARGEST_CONFIG = 64_000_000, 4_000_000  # bytes of provenance.json and of config.yaml
DEEPEST = 50  # levels of nested values in provenance.json
HASHES = re.compile(r"-((?:[0-9a-f]{16}|[0-9a-f]{8})(?:-(?:[0-9a-f]{16}|[0-9a-f]{8}))?)$")
LABELS = "labels.json"  # what a user says of a run
FILES = ("provenance.json", "config.yaml", "metrics.jsonl", "checkpoints")  # a folder with one is a run
LOST = (
    "metrics.jsonl",
    "measured.jsonl",
    "measured.crc32",
    "checkpoints",
)  # what a run without provenance.json may hold
FINISHED = ("complete", "diverged")
# settings of measures that decide how much is measured and how precisely, and not what a column is
EFFORT = {
    *("every", "k", "least", "tol", "rtol", "atol", "max_products", "max_batches", "max_forwards"),
    *("steps", "restarts", "probes", "samples", "pairs", "sigmas", "control", "tested"),
}
Complain = Callable[[str], Any]


def say_nothing(message: str) -> None:
    """Tells nobody."""


class Written(NamedTuple):
    """How much of metrics.jsonl is written: its bytes and their CRC-32, by which they are known again."""

    bytes: int
    crc32: int


class Run:
    """runs/<name>/ with config.yaml, provenance.json, metrics.jsonl, measured.jsonl and checkpoints/.

    Opening refuses a directory that is no run or of another version. With `writes` off it is only read:
    several processes may train one run, of which one writes. A run is never overwritten: rows are appended,
    and a resumed run is cut back to the row where its checkpoint was written.
    """

    def __init__(self, path: Path, writes: bool = True) -> None:
        self.path, self.writes = Path(path), writes
        self.provenance: dict[str, Any] = _facts(self.path)
        self._written: Written | None = None
        self._config_text: bytes | None = None
        self._as_ended = False  # whether metrics.jsonl was seen to hold what the run had ended with

    @classmethod
    def create(
        cls,
        path: Path,
        config: Mapping[str, Any],
        provenance: Mapping[str, Any],
        complain: Complain = say_nothing,
    ) -> Run:
        """A new directory; complete only once provenance.json is there, which is written last. `complain` is
        told of what a directory without it held of a run, which is moved aside."""
        if os.path.lexists(path / "provenance.json"):
            raise Refusal(
                f"{path}: holds a run of other data already; move it away, or choose another runs_dir"
            )
        text = dumped(config).encode()
        with writing(path):
            if aside := _set_aside(path):
                complain(f"{path}: held rows without a provenance.json; they are in {aside} now")
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
            no_link(path / "checkpoints")
            replace(path / "config.yaml", text)
            facts = {"version": VERSION, **provenance, "config_crc32": zlib.crc32(text)}
            replace(path / "provenance.json", _pretty(facts))
        return cls(path)

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name

    @property
    def hash(self) -> str:
        """The hex digits at the end of the name: of the config, and of the data where the name has both."""
        match = HASHES.search(self.name)
        return match[1] if match else self.name.rsplit("-", 1)[-1]

    @property
    def config(self) -> dict[str, Any]:
        """What decides the numbers, in today's names."""
        config = former.updated(self.stored)
        problem = config.get("problem", {"_target_": ""})
        if not isinstance(problem, dict) or not isinstance(problem.get("_target_"), str):
            file = self.path / "config.yaml"
            raise Refusal(f"{file}: problem is {problem!s:.80}, and no part; restore the file")
        return config

    @property
    def stored(self) -> dict[str, Any]:
        """The values of config.yaml as they are there."""
        file = self.path / "config.yaml"
        try:
            text = self._read_config()
            as_written = zlib.crc32(text) == self.provenance.get("config_crc32")
            return (written_yaml if as_written else plain_yaml)(text)
        except OSError as problem:
            raise Refusal(f"{file}: cannot be read ({problem.strerror or problem}); restore it") from None
        except ValueError as problem:
            raise Refusal(f"{file}: cannot be read ({problem!s:.200}); restore it") from None

    def _read_config(self) -> bytes:
        """The bytes of config.yaml, read once. Raises OSError where they cannot be read."""
        if self._config_text is None:
            self._config_text = read(self.path / "config.yaml", LARGEST_CONFIG)
        return self._config_text

    @property
    def steps(self) -> int:
        """The length of the whole run in steps."""
        return self.provenance["steps"]

    @property
    def is_open(self) -> bool:
        """Whether the run goes on for as long as somebody's own loop does, which has not ended it yet."""
        return self.provenance.get("open") is True

    @property
    def is_watched(self) -> bool:
        """Whether somebody's own loop was watched, whose model this package cannot build."""
        return self.provenance.get("watched") is True

    @property
    def replicas(self) -> int:
        """How many trajectories the run has."""
        return self.provenance.get("replicas", 1)

    @property
    def notes_its_rows(self) -> bool:
        """Whether the version of sharp that made this run notes the rows that it ends with."""
        return "config_crc32" in self.provenance

    # --- what a run is known by ---

    def altered(self, contents: Mapping[str, str] | None = None, quick: bool = False) -> str:
        """In words, how the config is not the one that the run was made of; empty where it is.

        The hash of config.yaml must be that of the name, and its method the name's. The files that a config
        names count by their content (SHA-256 by setting), which provenance.json holds; earlier runs do not
        say it, and `contents` may. A name without a hash, as after a renaming, says nothing. `quick`: where
        config.yaml is, to the byte, as it was written, only the hash that was written then is compared.
        """
        match = HASHES.search(self.name)
        hashed = match[1].split("-")[0] if match else ""
        recorded = str(self.provenance.get("hash", ""))
        if recorded and hashed and not recorded.startswith(hashed):
            return f"its name says {hashed} and its provenance.json {recorded[: len(hashed)]}"
        as_written = False
        if "config_crc32" in self.provenance:
            try:
                text = self._read_config()
            except OSError as problem:
                return f"config.yaml cannot be read ({problem.strerror or problem})"
            as_written = zlib.crc32(text) == self.provenance["config_crc32"]
        if as_written and (quick or not recorded):
            return ""
        stored = self.stored
        if self.provenance["version"] == 1:
            found = former.digest(former.of_format_1(stored))
        else:
            known = self.provenance.get("contents", contents)
            if known is None and _names_a_file(stored):
                return ""
            found = hash_of(stored, known or {})
        expected = recorded or hashed
        if expected and not found.startswith(expected):
            return f"config.yaml gives the hash {found[: len(expected)]} and not {expected}"
        label = str(stored.get("method"))
        if hashed and f"-{label}-" not in f"-{self.name}":  # a label is in the name, and not in the hash
            return f"config.yaml says method={label[:80]}, and its name another method"
        return ""

    def refuse_altered(self, contents: Mapping[str, str] | None = None, quick: bool = False) -> None:
        """Refuses a run whose config is not the one it was made of: its numbers are of something else."""
        if what := self.altered(contents, quick):
            raise Refusal(
                f"{self.path}: changed after the run was made ({what}), so that its numbers would be taken "
                f"for another run's; restore config.yaml, or move the directory away"
            )

    # --- rows ---

    def logged(self) -> list[Row]:
        """The rows of metrics.jsonl, without lines that are no rows: see `damage`."""
        file, rows = self.path / "metrics.jsonl", None
        if (ended := self.provenance.get("rows")) is not None:
            try:
                data = read(file, ended["bytes"])
                self._as_ended = Written(len(data), zlib.crc32(data)) == Written(
                    ended["bytes"], ended["crc32"]
                )
                rows = rows_written(data) if self._as_ended else None
            except OSError:
                pass  # read_rows says what it is
        rows = read_rows(file)[0] if rows is None else rows
        return [former.row(row) if "lr" in row else row for row in rows]

    def logged_before(self, offset: int) -> list[Row]:
        """The rows in the first `offset` bytes of metrics.jsonl; none where a line of them is no row."""
        rows, wrong = read_rows(self.path / "metrics.jsonl", offset)
        return [] if wrong else rows

    def rows(self, complain: Complain = say_nothing, note: Complain = say_nothing) -> list[Row]:
        """What was logged, joined by step with what was measured later, the newest number wins; of replicas
        a row each. `complain` is told of lines of measured.jsonl that are no rows.

        A measure's columns are of one number of examples: of that on which it was measured at the most steps,
        the larger of two. Its numbers of other examples are left out, and `note` is told so; and where the
        settings of a measure were not the same each time.
        """
        logged = self.logged()
        measured, wrong = self._measured()
        if wrong:
            complain(wrong)
        if not measured and _in_order(logged):
            return logged
        joined = {(row["step"], row.get("replica", 0)): row for row in logged}
        if not measured:
            return [joined[at] for at in sorted(joined)]
        for measure, setting in _resettled(self.config.get("measure", {}), measured):
            note(
                f"{self.path}: {measure} was measured with several values of {setting}, the newest are shown"
            )
        # rows of some parameters alone are not the network's numbers
        measured = [
            {k: v for k, v in row.items() if k != "provenance"} for row in measured if "params" not in row
        ]
        counts = _examples_measured([*joined.values(), *measured])
        for later in measured:
            at = (later["step"], 0)
            if all(later[name] == counts[name] for name in counts if name in later):
                joined[at] = joined.get(at, {}) | later
        for name in _mixed([*joined.values(), *measured]):
            columns = {key for row in measured if name in row for key in row} - {"step"}
            joined = {at: _without(row, columns, name, counts[name]) for at, row in joined.items()}
            measure = name.removesuffix("_examples")
            note(
                f"{self.path}: {measure} was measured on several numbers of examples, shown is that on "
                f"{counts[name]}, at the most steps"
            )
        return [joined[at] for at in sorted(joined)]

    def of_layers(self, complain: Complain = say_nothing) -> list[Row]:
        """What was measured of single layers or parameters, by the order in which it was: rows whose `params`
        names them, with the `epoch` of their step. `complain` is told of lines that are no rows."""
        measured, wrong = self._measured()
        if wrong:
            complain(wrong)
        epochs = {row["step"]: {"epoch": row["epoch"]} for row in self.logged() if "epoch" in row}
        return [
            epochs.get(row["step"], {}) | {k: v for k, v in row.items() if k != "provenance"}
            for row in measured
            if "params" in row
        ]

    def _measured(self) -> tuple[list[Row], str]:
        """The rows of measured.jsonl, and what is wrong with it: a line that is no row, or other bytes than
        were written."""
        file = self.path / "measured.jsonl"
        rows, wrong = read_rows(file)
        known = self._measured_sum()
        if not wrong and known is not None and self._read_written(known.bytes, file) != known:
            wrong = f"{file}: other rows than were written; remove {file.stem}.crc32 to take them as they are"
        return rows, wrong

    def _measured_sum(self) -> Written | None:
        """The bytes of measured.jsonl that were written, by measured.crc32; None where it is missing."""
        try:
            size, crc = read(self.path / "measured.crc32", 100).split()
            return Written(int(size), int(crc))
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            return Written(0, -1)  # of no file

    def last(self) -> Row | None:
        """The last row logged, read from the end of the file; None where nothing is logged."""
        try:
            last = last_row(self.path / "metrics.jsonl")
        except OSError as problem:
            raise Refusal(
                f"{self.path / 'metrics.jsonl'}: cannot be read ({problem.strerror or problem}); move it away"
            ) from None
        return None if last is None else former.row(last)

    def damage(self) -> str:
        """In one line, what is wrong with metrics.jsonl; empty where nothing is: every line is a row, rows
        are in the order of their steps, and a finished run has the very bytes that it ended with."""
        ended = self.provenance.get("rows")
        if ended is not None and self._read_written() == Written(ended["bytes"], ended["crc32"]):
            return ""
        rows, wrong = read_rows(self.path / "metrics.jsonl")
        if wrong:
            return wrong
        before = (-1, 0)
        for number, row in enumerate(rows, 1):
            at = (row["step"], row.get("replica", 0))
            if at <= before:
                return f"{self.path / 'metrics.jsonl'}: row {number} is of step {at[0]}, after {before[0]}"
            before = at
        if ended is not None:
            return f"{self.path / 'metrics.jsonl'}: changed after the run had ended"
        return ""

    def log(self, *rows: Row) -> None:
        """Appends the rows of a step to metrics.jsonl, all or none; nothing with `writes` off."""
        if not self.writes:
            return
        before = self.written
        start, data = append(self.path / "metrics.jsonl", *rows)
        whole = start == before.bytes
        self._written = Written(start + len(data), zlib.crc32(data, before.crc32)) if whole else None

    def add_measured(self, row: Row) -> None:
        """Appends a row to measured.jsonl. What is on the disk then is noted in measured.crc32, unless the
        file was already other than that says: whoever reads the rows is to hear of it."""
        from filelock import FileLock

        file = self.path / "measured.jsonl"
        with writing(self.path):
            no_link(self.path / ".measured.lock")
            with FileLock(self.path / ".measured.lock"):
                known = self._measured_sum()
                as_written = known is None or self._read_written(known.bytes, file) == known
                append(file, row, durable=True)
                if as_written:
                    size, crc = self._read_written(None, file)
                    replace(self.path / "measured.crc32", f"{size} {crc}\n".encode())

    @property
    def written(self) -> Written:
        """How much of metrics.jsonl is written; known without reading it while this object alone writes."""
        if self._written is None:
            self._written = self._read_written()
        return self._written

    def _read_written(self, most: int | None = None, file: Path | None = None) -> Written:
        """The bytes of metrics.jsonl, or of another file, the first `most` of them, and their CRC-32."""
        file = file or self.path / "metrics.jsonl"
        try:
            descriptor = open_regular(file)
        except FileNotFoundError:
            return Written(0, 0)
        except OSError as problem:
            raise Refusal(f"{file}: cannot be read ({problem.strerror or problem}); move it away") from None
        size, crc = 0, 0
        with os.fdopen(descriptor, "rb") as opened:
            while piece := opened.read(2**20 if most is None else min(2**20, most - size)):
                size, crc = size + len(piece), zlib.crc32(piece, crc)
        return Written(size, crc)

    def holds(self, written: Written) -> bool:
        """Whether metrics.jsonl begins with these bytes."""
        return self._read_written(written.bytes) == written

    @property
    def offset(self) -> int:
        """The size of metrics.jsonl in bytes."""
        file = self.path / "metrics.jsonl"
        return file.stat().st_size if file.exists() else 0

    def cut(self, offset: int) -> None:
        """Cuts metrics.jsonl back to `offset` bytes. Raises ValueError where it holds fewer."""
        if not self.writes:
            return
        if offset > self.offset:
            raise ValueError(f"{self.path / 'metrics.jsonl'} holds {self.offset} bytes and not {offset}")
        self._written = None
        with writing(self.path):
            truncate(self.path / "metrics.jsonl", offset)

    @property
    def status(self) -> str:
        """`complete`, `diverged`, or `unfinished` (running, or interrupted)."""
        return self.status_after(self.last())

    def status_after(self, last: Row | None) -> str:
        """The status that a last row means."""
        if self.replicas > 1:  # each logs to the last step, diverged or not
            end = (self.steps, self.replicas - 1)
            done = last is not None and (last["step"], last.get("replica")) == end
            return "complete" if done else "unfinished"
        if last and last.get("diverged"):
            return "diverged"
        if self.is_open or last is None:
            return "unfinished"
        return "complete" if last["step"] == self.steps or last.get("stopped") else "unfinished"

    # --- checkpoints ---

    def checkpoints(self) -> list[int]:
        """The steps at which there is a checkpoint, ascending."""
        try:
            names = [file.name for file in (self.path / "checkpoints").iterdir()]
        except OSError:
            return []
        matches = (re.fullmatch(r"step_(\d{8,18})\.pt", name) for name in names)
        return sorted(int(match[1]) for match in matches if match)

    def save(self, step: int, payload: Mapping[str, Any], durable: bool = True) -> None:
        """Writes a checkpoint: a mapping of tensors, numbers, and containers of them.

        `durable`: it survives a power cut from here on, and the rows before it, which are forced to the disk
        first. Without, a power cut may leave a checkpoint or rows that are damaged, and noticed.
        """
        import io

        import torch

        if not self.writes:
            return
        buffer = io.BytesIO()
        torch.save(dict(payload), buffer)
        data = buffer.getvalue()
        file = self._checkpoint(step)
        with writing(self.path):
            no_link(file.parent)
            if durable:
                self._sync()
            replace(file, data + zlib.crc32(data).to_bytes(4, "little"), whole=durable, durable=durable)

    def load(self, step: int) -> dict[str, Any]:
        """A checkpoint; raises ValueError where it is damaged, OSError where it cannot be read."""
        import io

        import torch

        data = read(self._checkpoint(step))
        if len(data) < 4 or zlib.crc32(data[:-4]).to_bytes(4, "little") != data[-4:]:
            raise ValueError(f"checkpoint {step} is damaged")
        try:
            saved = torch.load(io.BytesIO(data[:-4]), weights_only=True)
        except Exception as problem:  # of many kinds, for a file that is none of torch's
            raise ValueError(f"checkpoint {step} is damaged ({type(problem).__name__})") from None
        if not isinstance(saved, dict) or saved.get("step", step) != step:
            raise ValueError(f"checkpoint {step} is damaged (it is another step's)")
        return saved

    def drop(self, step: int) -> None:
        """Removes a checkpoint."""
        if self.writes:
            with writing(self.path):
                no_link(self._checkpoint(step).parent)
                self._checkpoint(step).unlink(missing_ok=True)

    def _checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step_{step:08d}.pt"

    # --- processes ---

    @contextmanager
    def lock(self, wait: bool = False) -> Iterator[None]:
        """Held while a process trains this run; see `locked`."""
        if not self.writes:
            yield
            return
        with locked(self.path, wait):
            yield

    def resumed(self, **what: Any) -> None:
        """Adds to the provenance how the run was carried on."""
        self.provenance.setdefault("resumed", []).append(what)
        self.provenance.pop("rows", None)
        with writing(self.path):
            replace(self.path / "provenance.json", _pretty(self.provenance))

    def finish(self) -> None:
        """Notes in the provenance the rows that the run has ended with, all on the disk; nothing with
        `writes` off."""
        if not self.writes:
            return
        self.provenance["rows"] = self.written._asdict()
        with writing(self.path):
            for step in self.checkpoints()[-1:]:
                sync(self._checkpoint(step))
            sync(self.path / "checkpoints")
            self._sync()
            replace(self.path / "provenance.json", _pretty(self.provenance), durable=True)

    def end(self, step: int) -> None:
        """Ends, after this step, a run that `is_open`."""
        self.provenance.pop("open", None)
        self.provenance["steps"] = step
        self.finish()

    def remove(self) -> None:
        """Removes the directory, for whoever has just made it."""
        import shutil

        with writing(self.path):
            shutil.rmtree(self.path)

    def _sync(self) -> None:
        """Forces to the disk that there is this run, and its rows."""
        for path in (self.path / "metrics.jsonl", self.path, self.path.parent):
            sync(path)


@contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[None]:
    """Held while a process trains the run in a directory, which is made where it is missing; the system
    releases it however the process ends. Refuses a run in other hands, or with `wait`, waits for it."""
    from filelock import FileLock, Timeout

    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        no_link(path / ".lock")
    try:
        lock = FileLock(path / ".lock", timeout=-1 if wait else 0)
        lock.acquire()
    except Timeout:
        raise InOtherHands(
            f"{path}: another process is training this run; wait for it, or stop it first"
        ) from None
    except OSError as problem:
        raise cannot_write(path, problem) from None
    try:
        yield
    finally:
        lock.release()


def in_other_hands(path: Path) -> bool:
    """Whether another process holds the run in a directory, as `locked` does; nothing is written."""
    from filelock import FileLock, Timeout

    if not (path / ".lock").exists():
        return False
    try:
        with FileLock(path / ".lock", timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a directory that cannot be written is nobody's to train
        return False


def _set_aside(path: Path) -> str:
    """Moves what a directory without provenance.json holds of a run, as after a power cut, into a folder of
    its own: nobody knows of which data it is, and new rows must not follow on it. Returns the folder's name,
    nothing where nothing is held."""
    held = [path / file for file in LOST if os.path.lexists(path / file)]
    if all(file.is_dir() and not any(file.iterdir()) for file in held):
        return ""
    number = 1
    while os.path.lexists(path / f"lost-{number}"):
        number += 1
    (path / f"lost-{number}").mkdir()
    for file in held:
        file.rename(path / f"lost-{number}" / file.name)
    return f"lost-{number}"


def _facts(path: Path) -> dict[str, Any]:
    """The provenance of a run, of the types that a reader relies on."""
    file, shown = path / "provenance.json", printable(str(path))
    try:
        facts = json.loads(read(file, LARGEST_FACTS))
    except FileNotFoundError:
        if path.is_dir() and not any((path / name).exists() for name in FILES):
            raise Refusal(f"{shown}: a folder with no run in it; sharp train makes one") from None
        reason = "no provenance.json" if path.is_dir() else "no such directory"
        raise Refusal(f"{shown}: not a run directory ({reason}); sharp ls lists the runs") from None
    except OSError as problem:
        raise Refusal(
            f"{shown}: not a run directory (its provenance.json cannot be read: "
            f"{problem.strerror or problem}); sharp ls lists the runs"
        ) from None
    except (ValueError, RecursionError):
        raise Refusal(
            f"{shown}: not a run directory (no readable provenance.json); sharp ls lists the runs"
        ) from None
    if not isinstance(facts, dict):
        raise Refusal(
            f"{shown}/provenance.json: holds a {type(facts).__name__} and not the facts of a run; restore it"
        )
    if facts.get("version") not in READABLE or isinstance(facts["version"], bool | float):
        raise Refusal(
            f"{shown}: a run of format {facts.get('version')!s:.40}, and this is sharp for formats "
            f"{' and '.join(map(str, READABLE))}; use the version of sharp in its provenance.json"
        )
    kinds: dict[str, Callable[[Any], bool]] = {
        "steps": is_count,
        "replicas": lambda value: is_count(value) and value > 0,
        "scores": lambda value: isinstance(value, dict),
        "packages": lambda value: isinstance(value, dict),
        "resumed": lambda value: isinstance(value, list),
        "contents": lambda value: isinstance(value, dict) and all(isinstance(v, str) for v in value.values()),
        "rows": lambda value: (
            isinstance(value, dict) and is_count(value.get("bytes")) and is_count(value.get("crc32"))
        ),
    }
    for key, is_right in kinds.items():
        if (key in facts or key == "steps") and not is_right(facts.get(key)):
            raise Refusal(
                f"{shown}/provenance.json: {key} is {facts.get(key)!s:.60}, which no run has; restore it"
            )
    if _depth(facts) > DEEPEST:
        raise Refusal(f"{shown}/provenance.json: nested more than {DEEPEST} deep, as of no run; restore it")
    return facts


def _depth(value: Any) -> int:
    """How deep plain values are nested."""
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            inner
            for outer in level
            for inner in (
                outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ()
            )
        ]
    return depth


def _names_a_file(value: Any) -> bool:
    """Whether values may name a file, by whose content they count: a part's paths are absolute."""
    if isinstance(value, dict):
        return any(_names_a_file(inner) for key, inner in value.items() if key != "_target_")
    if isinstance(value, list):
        return any(map(_names_a_file, value))
    return isinstance(value, str) and Path(value).is_absolute()


def _pretty(facts: Mapping[str, Any]) -> bytes:
    return (json.dumps(facts, indent=1) + "\n").encode()


def labels(path: Path) -> dict[str, Any]:
    """What a user has said of the run in a directory: its `tags`, and a `note`. Nothing where the file is
    missing or damaged."""
    try:
        known = json.loads(read(path / LABELS, LARGEST_FACTS))
        tags, note = known["tags"], known["note"]
        if isinstance(note, str) and all(isinstance(tag, str) for tag in tags):
            return {"tags": list(tags), "note": note}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return {"tags": [], "note": ""}


def put_labels(path: Path, known: Mapping[str, Any]) -> None:
    """Keeps what a user says of a run, beside what the run says of itself."""
    with writing(path):
        replace(path / LABELS, _pretty(known), durable=True)


def last_of(rows: Sequence[Row]) -> Row | None:
    """The last of a run's rows; of replicas that differ in their seeds the mean over them at the last step,
    of each number that all of them have, without their own numbers and seeds; of replicas that differ in
    another setting too, whose mean says nothing, the numbers that are the same in all. None of no rows."""
    if not rows or "replica" not in rows[-1]:
        return rows[-1] if rows else None
    ends = [row for row in rows if row["step"] == rows[-1]["step"]]
    out: Row = {"step": rows[-1]["step"]}
    labels = {*takewhile(lambda key: key not in ("epoch", "diverged"), ends[0])}  # what replicas differ in
    labels -= {"step", "replica", "seed"}
    mixed = any(len({str(row.get(key)) for row in ends}) > 1 for key in labels)
    for key in rows[-1]:
        values = [row.get(key) for row in ends]
        alike = not mixed or len(set(values)) == 1
        if key not in ("step", "replica", "seed") and alike and all(map(is_number, values)):
            out[key] = sum(values) / len(values)  # type: ignore[arg-type]
    return out


def differing(config: Mapping[str, Any]) -> list[str]:
    """The settings in which the replicas of a config differ, as `lr`; none of a run of its own."""
    wanted = config.get("replicas", 1)
    return list(wanted) if isinstance(wanted, Mapping) else []


def _in_order(rows: Sequence[Row]) -> bool:
    """Whether each row is of a later step than the row before, as all are but those of replicas."""
    steps = [row["step"] for row in rows]
    return all(map(operator.lt, steps, steps[1:]))


def _examples_measured(rows: Iterable[Row]) -> dict[str, int]:
    """Of each column `<measure>_examples` the number that the most steps have, the larger of two."""
    steps: dict[str, dict[int, set[int]]] = {}
    for row in rows:
        for name, count in row.items():
            if name.endswith("_examples") and isinstance(count, int):
                steps.setdefault(name, {}).setdefault(count, set()).add(row["step"])
    return {
        name: max(by_count, key=lambda count: (len(by_count[count]), count))
        for name, by_count in steps.items()
    }


def _mixed(rows: Iterable[Row]) -> list[str]:
    """The columns `<measure>_examples` that hold several numbers."""
    found: dict[str, set[Any]] = {}
    for row in rows:
        for name in row:
            if name.endswith("_examples") and isinstance(row[name], int):
                found.setdefault(name, set()).add(row[name])
    return [name for name, counts in found.items() if len(counts) > 1]


def _resettled(logged: Mapping[str, Any], measured: Iterable[Row]) -> list[tuple[str, str]]:
    """The measures that rows of measured.jsonl have with other settings than the run's own, or than earlier
    rows, and the first such setting but those of `EFFORT`."""
    known = {name: dict(settings) for name, settings in logged.items() if isinstance(settings, Mapping)}
    out: dict[str, str] = {}
    for row in measured:
        parts = row.get("provenance", {}).get("measure", {}) if "params" not in row else {}
        for name, settings in parts.items() if isinstance(parts, Mapping) else ():
            if f"{name}_seconds" not in row or not isinstance(settings, Mapping):
                continue
            before = known.setdefault(name, dict(settings))
            for setting, value in settings.items():
                if setting not in EFFORT and before.get(setting, value) != value:
                    out.setdefault(name, setting)
    return [*out.items()]


def _without(row: Row, columns: set[str], name: str, count: int) -> Row:
    """A row without a measure's columns, where it has them of another number of examples."""
    if row.get(name, count) == count:
        return row
    return {key: value for key, value in row.items() if key not in columns}


def score_names(run: Run) -> list[str]:
    """The names of the scores that the run's problem reports, in its order. Runs of format 1 do not say;
    theirs are the columns of their last row that the problems of that format had."""
    if "scores" in run.provenance:
        return list(run.provenance["scores"])
    return [name for name in former.SCORES if (run.last() or {}).get(name) is not None]
