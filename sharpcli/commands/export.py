"""`sharp export`: the rows of runs as one table in a file, or handed to a tracker."""

from __future__ import annotations

import csv
import io
import itertools
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from sharpcli.commands.processes import in_processes
from sharpcli.commands.report import complain
from sharpcli.errors import Interrupted, Refusal, signals
from sharpcli.frames import frame_of, meeting
from sharpcli.jsonl import writing
from sharpcli.plots import is_missing
from sharpcli.run import Run
from sharpcli.runs_dir import find_all, run_at
from sharpcli.trackers import NAMES, tracker

if TYPE_CHECKING:
    import pandas as pd

TABLES = (".parquet", ".csv")
AT_ONCE = 100  # runs whose rows are in the memory of a process together


def to_file(names: Sequence[str], where: str | None, out: Path | None, runs_dir: Path) -> str:
    """Writes all rows of the runs, with their settings by their dotted names, into a table: a row for each
    run and measured step, as `sharp.runs` gives them. Some hundred runs are in memory at a time; lists, such
    as the nodes of a density, are written as JSON. Refuses another ending, a condition that no row meets, and
    .parquet without pyarrow."""
    if out is None or out.suffix.lower() not in TABLES:
        came = "no -o FILE" if out is None else f"-o {out}"
        raise Refusal(f"{came}: give a file that ends in {' or '.join(TABLES)}, or --to TRACKER")
    runs = find_all(names, runs_dir, complain)
    half = out.with_name(f".{out.name}.part")
    is_parquet = out.suffix.lower() == ".parquet"
    if is_parquet:
        _refuse_without_pyarrow()
    try:
        with writing(out), signals.raised():
            out.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
                pieces = list(_pieces(runs, where, Path(folder), out.suffix.lower()))
                if not pieces:
                    raise Refusal(f"where {where}: no run meets it" if where else "the runs have no row yet")
                (_join_parquet if is_parquet else _join_csv)(pieces, half)
            half.replace(out)
    except KeyboardInterrupt as interrupt:
        signum = signals.number_of(interrupt)
        raise Interrupted(f"{signals.how(signum)}; {out} is as it was before", signum) from None
    finally:
        half.unlink(missing_ok=True)
    return f"{out}: {sum(piece.rows for piece in pieces)} rows of {sum(piece.runs for piece in pieces)} runs"


class Piece(NamedTuple):
    """The rows of some runs in a file of their own."""

    file: Path
    rows: int
    runs: int
    columns: list[str]


class _Task(NamedTuple):
    """What a process does for a piece: it reads runs and writes the file."""

    runs: list[Path]
    where: str | None
    file: Path


def _pieces(runs: Sequence[Run], where: str | None, folder: Path, ending: str) -> Iterator[Piece]:
    """Files of the rows of some hundred runs each, in order, without those that have none."""
    tasks = [
        _Task([run.path for run in runs[at : at + AT_ONCE]], where, folder / f"{at}{ending}")
        for at in range(0, len(runs), AT_ONCE)
    ]
    for piece, said in in_processes(_written, tasks):
        for message in said:
            complain(message)
        if piece.rows:
            yield piece


def _written(task: _Task) -> tuple[Piece, list[str]]:
    """A piece of plain values, and what there is to complain of in its runs."""
    said: list[str] = []
    runs = [run for path in task.runs if (run := run_at(path, said.append)) is not None]
    frame = frame_of(runs, said.append)
    if task.where is not None and not frame.empty:
        frame = meeting(frame, task.where, needs_rows=False)
    for name in frame:
        if frame[name].dtype == object:
            values = [json.dumps(v) if isinstance(v, list) else v for v in frame[name]]
            frame[name] = _of_one_kind(values) if task.file.suffix == ".parquet" else values
    if not frame.empty:
        if task.file.suffix == ".parquet":
            import pyarrow
            import pyarrow.parquet

            table = pyarrow.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata()
            pyarrow.parquet.write_table(table, task.file, compression="lz4")
        else:
            _write_csv(frame, task.file)
    named = {str(name).partition("#")[0] for name in frame["run"].unique()} if len(frame) else set()
    return Piece(task.file, len(frame), len(named), list(map(str, frame))), said


def _of_one_kind(values: list[Any]) -> list[Any]:
    """The values as text where some are text and others are not, such as a `batch_size` of `full`; what is
    missing is None."""
    known = [None if is_missing(v) else v for v in values]
    kinds = {isinstance(v, str) for v in known if v is not None}
    return [None if v is None else str(v) for v in known] if len(kinds) > 1 else values


def _write_csv(frame: pd.DataFrame, file: Path) -> None:
    """As `to_csv` writes it, byte for byte, in a fraction of the time: the first columns are a run's
    settings, the same in all of its rows, and become text once."""
    starts = frame["run"].ne(frame["run"].shift())
    shared = list(frame)[: list(frame).index("scores")]  # the columns of runs come before those of their rows
    same = next((i for i, name in enumerate(shared) if not _is_of_runs(frame[name], starts)), len(shared))
    first_rows = [*starts.to_numpy().nonzero()[0].tolist(), len(frame)]
    of_runs = zip(*_cells(frame.iloc[first_rows[:-1], :same]), strict=True) if same else ()
    cells = _cells(frame.iloc[:, same:])
    with file.open("w", encoding="utf-8", newline="") as opened:
        lines = _Lines(opened)
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(frame)
        for (start, stop), values in itertools.zip_longest(itertools.pairwise(first_rows), of_runs):
            text = io.StringIO()
            csv.writer(text, lineterminator="").writerow([*(values or ()), "."])
            lines.first = text.getvalue()[:-1]  # up to the comma after the last of them
            writer.writerows(zip(*(column[start:stop] for column in cells), strict=True))


def _cells(frame: pd.DataFrame) -> list[list[Any]]:
    """The columns as lists, None for what is missing."""
    return [
        column.astype(object).where(column.notna(), None).tolist() if column.hasnans else column.tolist()
        for _, column in frame.items()
    ]


def _is_of_runs(column: pd.Series[Any], starts: pd.Series[bool]) -> bool:
    """Whether a column has one value in all rows of a run; `starts` says which rows are the first of one."""
    before = column.shift()
    return bool((starts | column.eq(before) | (column.isna() & before.isna())).all())


class _Lines:
    """A text file in whose lines something comes `first`. A writer of the module csv writes a line at a
    time."""

    def __init__(self, file: TextIO) -> None:
        self._write, self.first = file.write, ""

    def write(self, line: str) -> None:
        """Writes a line."""
        self._write(self.first + line)


def _refuse_without_pyarrow() -> None:
    try:
        import_module("pyarrow.parquet")
    except ImportError:
        raise Refusal(
            "-o FILE.parquet: needs pyarrow; pip install 'sharpcli[parquet]', or write a .csv"
        ) from None


def _join_csv(pieces: Sequence[Piece], file: Path) -> None:
    """One file of the columns of all pieces, in the order in which they first come."""
    import pandas as pd

    columns = list(dict.fromkeys(name for piece in pieces for name in piece.columns))
    with file.open("wb") as out:
        for number, piece in enumerate(pieces):
            if piece.columns == columns:
                with piece.file.open("rb") as opened:
                    first = opened.readline()
                    out.write(b"" if number else first)
                    shutil.copyfileobj(opened, out)
            else:  # as text: what a piece says is not to be rounded or taken for another type
                frame = pd.read_csv(piece.file, dtype=str, keep_default_na=False)
                frame.reindex(columns=columns).to_csv(out, index=False, header=not number)
            piece.file.unlink()


def _join_parquet(pieces: Sequence[Piece], file: Path) -> None:
    """One file of the columns and types of all pieces."""
    import pyarrow
    import pyarrow.parquet

    schemas = [pyarrow.parquet.read_schema(piece.file) for piece in pieces]
    kinds: dict[str, set[bool]] = {}
    for field in (
        field for of_piece in schemas for field in of_piece if not pyarrow.types.is_null(field.type)
    ):
        kinds.setdefault(field.name, set()).add(_is_text(field.type))
    # numbers in one piece, words in another
    mixed = [name for name, are_words in kinds.items() if len(are_words) > 1]
    schemas = [_with_words(of_piece, mixed) for of_piece in schemas]
    schema = pyarrow.unify_schemas(schemas, promote_options="permissive")
    words = [field.name for field in schema if field.type in (pyarrow.string(), pyarrow.large_string())]
    # few and often repeated: joined as numbers of a list in two thirds of the time
    for name in words:
        as_numbers = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
        schema = schema.set(schema.get_field_index(name), pyarrow.field(name, as_numbers))
    # without Arrow's own schema beside Parquet's, they are strings for whoever reads the file
    with pyarrow.parquet.ParquetWriter(file, schema, compression="zstd", store_schema=False) as writer:
        for piece in pieces:
            table = pyarrow.parquet.read_table(piece.file, read_dictionary=words)
            table = table.cast(_with_words(table.schema, mixed)) if mixed else table
            missing = [field for field in schema if field.name not in table.schema.names]
            for field in missing:
                table = table.append_column(field, pyarrow.nulls(len(table), field.type))
            writer.write_table(table.select(schema.names).cast(schema))
            piece.file.unlink()


def _is_text(kind: Any) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind))


def _with_words(schema: Any, names: Sequence[str]) -> Any:
    """The schema with the columns of these names as text."""
    import pyarrow

    for at, field in enumerate(schema):
        if field.name in names and not pyarrow.types.is_dictionary(field.type):
            schema = schema.set(at, pyarrow.field(field.name, pyarrow.string()))
    return schema


def export(names: Sequence[str], kind: str, folder: Path | None, runs_dir: Path) -> list[str]:
    """Hands every row of the runs, logged and measured later, to a new run of the tracker; a line for each.
    Refuses replicas, which are many runs in one."""
    if kind not in NAMES:
        raise Refusal(f"--to {kind}: possible: {', '.join(NAMES)}")
    runs = find_all(names, runs_dir)
    for run in runs:
        run.refuse_altered(quick=True)
        if run.replicas > 1:
            raise Refusal(
                f"{run.name}: holds {run.replicas} replicas, which a tracker would mix; leave it out"
            )
    said = []
    for run in runs:
        rows = run.rows(complain)
        into = tracker(kind, run.name, run.config, folder)
        for row in rows:
            into.row(row)
        into.close()
        said.append(f"{run.path}: {len(rows)} rows to {kind}{f' in {folder}' if folder else ''}")
    return said
