"""`sharp export`: the rows of runs as one table in a file, or handed to a tracker."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sharpcli.commands.report import complain
from sharpcli.errors import Refusal
from sharpcli.frames import frame_of, meeting
from sharpcli.jsonl import writing
from sharpcli.run import Run, find_all
from sharpcli.trackers import NAMES, tracker

if TYPE_CHECKING:
    import pandas as pd

TABLES = (".parquet", ".csv")
AT_ONCE = 100  # runs whose rows are in memory together


def to_file(names: Sequence[str], where: str | None, out: Path | None, runs_dir: Path) -> str:
    """Writes all rows of the runs, with their settings by their dotted names, into a table: a row for each
    run and measured step, as `sharp.runs` gives them. Some hundred runs are in memory at a time; lists, such
    as the nodes of a density, are written as JSON. Refuses another ending, a condition that no row meets, and
    .parquet without pyarrow."""
    if out is None or out.suffix.lower() not in TABLES:
        raise Refusal(f"-o {out}: give a file that ends in {' or '.join(TABLES)}, or --to TRACKER")
    runs = find_all(names, runs_dir, complain)
    half = out.with_name(f".{out.name}.part")
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            rows = (_parquet if out.suffix.lower() == ".parquet" else _csv)(runs, where, half)
            if not rows:
                raise Refusal(f"where {where}: no run meets it" if where else "the runs have no row yet")
            half.replace(out)
        finally:
            half.unlink(missing_ok=True)
    return f"{out}: {rows} rows of {len(runs)} runs"


def _pieces(runs: Sequence[Run], where: str | None) -> Iterator[pd.DataFrame]:
    """Frames of some hundred runs each, of plain values."""
    for start in range(0, len(runs), AT_ONCE):
        frame = frame_of(runs[start : start + AT_ONCE], complain)
        if where is not None and not frame.empty:
            frame = meeting(frame, where, needs_rows=False)
        if frame.empty:
            continue
        for name in frame:
            if frame[name].dtype == object:
                frame[name] = [json.dumps(v) if isinstance(v, list) else v for v in frame[name]]
        yield frame


def _csv(runs: Sequence[Run], where: str | None, file: Path) -> int:
    """One pass for the columns, another to write them."""
    columns: dict[str, None] = {}
    for frame in _pieces(runs, where):
        columns |= dict.fromkeys(map(str, frame))
    rows = 0
    with file.open("w", encoding="utf-8", newline="") as opened:
        for frame in _pieces(runs, where):
            frame.reindex(columns=list(columns)).to_csv(opened, index=False, header=not rows)
            rows += len(frame)
    return rows


def _parquet(runs: Sequence[Run], where: str | None, file: Path) -> int:
    """Pieces in files of their own, then one file of the columns and types of all."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise Refusal(
            "-o FILE.parquet: needs pyarrow; pip install 'sharpcli[parquet]', or write a .csv"
        ) from None
    pieces: list[Path] = []
    schemas = []
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".export-") as folder:
        for frame in _pieces(runs, where):
            table = pyarrow.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata()
            pieces.append(Path(folder) / f"{len(pieces)}.parquet")
            schemas.append(table.schema)
            pyarrow.parquet.write_table(table, pieces[-1], compression="lz4")
        if not pieces:
            return 0
        schema = pyarrow.unify_schemas(schemas, promote_options="permissive")
        rows = 0
        with pyarrow.parquet.ParquetWriter(file, schema, compression="zstd") as writer:
            for piece in pieces:
                table = pyarrow.parquet.read_table(piece)
                missing = [field for field in schema if field.name not in table.schema.names]
                for field in missing:
                    table = table.append_column(field, pyarrow.nulls(len(table), field.type))
                writer.write_table(table.select(schema.names).cast(schema))
                rows += len(table)
    return rows


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
