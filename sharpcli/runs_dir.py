"""The runs of a directory, and those that a user's words name. Nothing here needs torch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sharpcli.errors import Refusal, printable
from sharpcli.jsonl import is_number
from sharpcli.run import FILES, HASHES, Complain, Run, last_of, say_nothing


def in_directory(runs_dir: Path, complain: Complain = say_nothing) -> list[Run]:
    """Every run in a directory, by name; `complain` is told of each that cannot be read, and why."""
    out = []
    try:
        paths = sorted(Path(runs_dir).iterdir())
    except OSError as problem:
        complain(f"{runs_dir}: cannot be read ({problem.strerror or problem})")
        return []
    for path in paths:
        if (run := run_at(path, complain)) is not None:
            out.append(run)
    return out


def run_at(path: Path, complain: Complain = say_nothing) -> Run | None:
    """The run in a directory; None where there is none, and where it cannot be read, of which `complain` is
    told."""
    try:
        if path.is_symlink():
            path.stat()  # raises where it leads nowhere, or back to itself
        if path.is_dir() and any(_is_inside(path, name) for name in FILES):
            return Run(path)
    except OSError as problem:
        complain(f"{printable(str(path))}: cannot be read ({problem.strerror or problem}); left out")
    except Refusal as problem:
        complain(f"{problem}; left out")
    return None


def _is_inside(folder: Path, name: str) -> bool:
    """Whether a folder holds a file of this name, even a link that leads nowhere; raises OSError for a folder
    that cannot be read."""
    try:
        (folder / name).lstat()
        return True
    except FileNotFoundError:
        return False


def find(word: str, runs_dir: Path) -> Run:
    """The run that a word names: by its path, its name, the beginning of its name, or its hash; `latest`, the
    last that was written to; `best:COLUMN`, that whose last row has the best score of this name. Refuses a
    word that names no run, or several."""
    if not word.strip():
        raise Refusal(f"{word!r}: names no run; sharp ls lists the runs")
    if os.path.lexists(Path(word) / "provenance.json"):
        return Run(Path(word).absolute())
    if word == "latest" or word.startswith("best:"):
        return _first(word, [run for run in in_directory(runs_dir) if run.last() is not None])
    whole = word
    if "/" in word.rstrip("/") and not os.path.lexists(word) and Path(word).parent.is_dir():
        word, runs_dir = Path(word).name, Path(word).parent  # runs/<beginning of a name>
    names = []
    if "/" not in word and Path(runs_dir).is_dir():
        paths = Path(runs_dir).iterdir()
        names = [path.name for path in paths if os.path.lexists(path / "provenance.json")]
    hits = [name for name in names if name == word] or [
        name for name in names if name.startswith(word) or _has_hash(name, word)
    ]
    if len(hits) == 1:
        return Run(Path(runs_dir) / hits[0])
    if hits:
        more = ", ..." if len(hits) > 4 else ""
        raise Refusal(
            f"{word}: {len(hits)} runs in {runs_dir} begin so ({', '.join(sorted(hits)[:4])}{more}); give "
            f"more of the name"
        )
    if os.path.lexists(whole):
        return Run(Path(whole))
    close = [name for name in names if get_close_matches(word, [name[: len(word)]])]
    meant = f"did you mean {close[0]}? " if close else ""
    raise Refusal(f"{word}: no such run in {runs_dir}; {meant}sharp ls lists the runs")


def find_all(words: Sequence[str], runs_dir: Path, complain: Complain = say_nothing) -> list[Run]:
    """The runs that words name, in order and once each; a directory of runs names all of them, and `complain`
    is told of those that cannot be read."""
    out: dict[Path, Run] = {}
    for word in words:
        path = Path(word)
        is_folder = bool(word.strip()) and _is_folder(path) and not os.path.lexists(path / "provenance.json")
        inside = in_directory(path, complain) if is_folder else []
        try:
            found = inside or [find(word, runs_dir)]
        except Refusal as problem:
            if complain is say_nothing or len(words) == 1 or not _is_a_run(word, runs_dir):
                raise
            complain(f"{problem}; left out")
            continue
        for run in found:
            out.setdefault(run.path.resolve(), run)
    return list(out.values())


def _first(word: str, runs: Sequence[Run]) -> Run:
    """The run that `latest` or `best:COLUMN` names. Refuses where there is none."""
    if not runs:
        raise Refusal(f"{word}: no run has a row yet; sharp train makes one")
    if word == "latest":
        return max(runs, key=lambda run: (run.path / "metrics.jsonl").stat().st_mtime_ns)
    column = word.partition(":")[2]
    if not column:
        raise Refusal(f"{word} is without a column; give it, as in best:test_accuracy")
    ends = ((run, last_of(run.rows()) if run.replicas > 1 else run.last()) for run in runs)
    scored: list[tuple[Run, Any]] = [
        (run, end[column]) for run, end in ends if end is not None and is_number(end.get(column))
    ]
    if not scored:
        known = sorted({key for run in runs for key in run.provenance.get("scores", {})})
        raise Refusal(f"{word}: no run has {column} in its last row; scores: {', '.join(known) or 'none'}")
    higher = any(run.provenance.get("scores", {}).get(column) == "higher" for run, _ in scored)
    return (max if higher else min)(scored, key=lambda pair: pair[1])[0]


def _is_a_run(word: str, runs_dir: Path) -> bool:
    """Whether a word is the path or the name of a run, readable or not."""
    return any(
        os.path.lexists(folder / file) for folder in (Path(word), Path(runs_dir) / word) for file in FILES
    )


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long for any file
        return False


def _has_hash(name: str, word: str) -> bool:
    """Whether the hash at the end of a name is `word`, or begins with it: 8 digits at least."""
    match = HASHES.search(name)
    return name.endswith("-" + word) or (match is not None and len(word) >= 8 and match[1].startswith(word))
