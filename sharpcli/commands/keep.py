"""`sharp tag`, `note`, `rm` and `rerun`: what a user remembers of a run, throws away, and makes once more."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from sharpcli.errors import Refusal, printable
from sharpcli.jsonl import writing
from sharpcli.jsonl.files import no_link
from sharpcli.run import Run, labels, locked, put_labels
from sharpcli.runs_dir import find, find_all

TRASH = ".trash"
LONGEST = 2000  # letters of a note


def tag(words: Sequence[str], runs_dir: Path, remove: bool) -> list[str]:
    """Gives the runs that all words but the first name the tag that the first is, or takes it from them.
    Refuses a tag with a space, which `where` could not tell from two."""
    if len(words) < 2:
        raise Refusal("sharp tag takes a tag and the runs: sharp tag TAG RUN...")
    name, *names = words
    if not name or name != "".join(name.split()) or len(name) > 100:
        raise Refusal(f"{name!r}: no tag; give a word without spaces, as in sharp tag paper RUN")
    out = []
    for run in find_all(names, runs_dir):
        known = labels(run.path)
        tags = [other for other in known["tags"] if other != name]
        if remove and name not in known["tags"]:
            raise Refusal(f"{run.name}: not tagged {name}; its tags: {', '.join(known['tags']) or 'none'}")
        put_labels(run.path, {**known, "tags": tags if remove else [*tags, name]})
        out.append(f"{printable(run.name)}: {' '.join(labels(run.path)['tags']) or 'no tags'}")
    return out


def note(words: Sequence[str], runs_dir: Path) -> list[str]:
    """Keeps a text with a run, in place of the former one, or shows it; an empty text removes it."""
    if not words or len(words) > 2:
        raise Refusal('sharp note takes a run and a text in quotation marks: sharp note RUN "TEXT"')
    run = find(words[0], runs_dir)
    known = labels(run.path)
    if len(words) == 2:
        if len(words[1]) > LONGEST:
            raise Refusal(f"sharp note: {len(words[1])} letters; at most {LONGEST}")
        known = {**known, "note": words[1]}
        put_labels(run.path, known)
    return [f"{printable(run.name)}: {printable(known['note']) or 'no note'}"]


def rm(names: Sequence[str], runs_dir: Path, purge: bool, agreed: Callable[[str], bool]) -> list[str]:
    """Moves runs into the folder's .trash, from which `mv` brings them back, or with `purge` deletes them;
    with `purge` and no run, deletes what is in .trash. Asks `agreed` once. Refuses a run that a process
    trains."""
    if not names:
        trash = runs_dir / TRASH
        if not purge:
            raise Refusal("no run given; sharp rm RUN...; sharp ls lists the runs")
        inside = sorted(trash.iterdir()) if trash.is_dir() and not trash.is_symlink() else []
        if not inside:
            return [f"{trash}: empty"]
        if not agreed(f"delete the {len(inside)} runs in {trash} for good?"):
            return ["nothing was deleted"]
        with writing(trash):
            shutil.rmtree(trash)
        return [f"{trash}: {len(inside)} run{'s' if len(inside) > 1 else ''} deleted"]
    runs = find_all(names, runs_dir)
    which = ", ".join(printable(run.name) for run in runs[:5]) + (", ..." if len(runs) > 5 else "")
    what = "delete for good" if purge else f"move to {TRASH}"
    if not agreed(f"{what} {len(runs)} run{'s' if len(runs) > 1 else ''} ({which})?"):
        return ["nothing was removed"]
    out = []
    for run in runs:
        with locked(run.path):
            out.append(f"{printable(run.name)}: {_removed(run, purge)}")
    return out


def _removed(run: Run, purge: bool) -> str:
    with writing(run.path):
        if run.path.is_symlink():
            raise Refusal(f"{run.path}: a symbolic link; remove it, or name the run it leads to")
        if purge:
            shutil.rmtree(run.path)
            return "deleted"
        trash = run.path.parent / TRASH
        no_link(trash)
        trash.mkdir(exist_ok=True)
        into, number = trash / run.path.name, 1
        while into.exists():
            number += 1
            into = trash / f"{run.path.name}.{number}"
        run.path.rename(into)
        return f"moved to {into}"


def command_of(name: str, runs_dir: Path) -> list[str]:
    """The words of `sharp train` that made a run. Refuses a run of another command, such as sharp.Watch."""
    run = find(name, runs_dir)
    run.refuse_altered()
    command = run.provenance.get("command")
    words = shlex.split(command) if isinstance(command, str) else []
    if words[:2] != ["sharp", "train"]:
        raise Refusal(f"{run.name}: not made by sharp train ({command!s:.80}); a loop of your own made it")
    return words[2:]
