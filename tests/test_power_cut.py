"""Every prefix of what a run writes, as a kill or a power cut leaves it, is carried on to the same bits.

A disk is modelled as files and folders of which what was forced out (fsync) is safe: of the rest a power cut
keeps any part, of a file any beginning, perhaps with zeros after it, of a folder any number of the changes of
names since then.
"""

import os
import random
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from conftest import rows_of

from sharpcli.config.check import check
from sharpcli.config.words import compose
from sharpcli.engine import train
from sharpcli.engine.launch import Console, launch
from sharpcli.run import Run

WORDS = (
    *("problem=quadratic", "method=momentum", "lr=0.1", "steps=4", "checkpoint_every=2", "measure_every=1"),
    *("measure=[scores]", "threads=1"),
)


CALLS = ("open", "write", "fsync", "ftruncate", "replace", "unlink", "mkdir")


@dataclass
class Disk:
    """The changes of a folder, in their order: what was changed, and whether that was forced out."""

    root: Path
    changes: list[tuple] = field(default_factory=list)
    files: dict[int, int] = field(default_factory=dict)  # descriptor -> number of the file
    folders: dict[int, str] = field(default_factory=dict)  # descriptor -> folder
    named: dict[str, int] = field(default_factory=dict)  # path -> number of the file

    def inside(self, path) -> str | None:
        path = os.fspath(path)
        return os.path.relpath(path, self.root) if path.startswith(str(self.root)) else None

    def record(self, monkeypatch) -> None:
        real = {name: getattr(os, name) for name in CALLS}

        def opened(path, flags, mode=0o777, **more):
            known = isinstance(path, str | os.PathLike) and self.inside(path)
            fd = real["open"](path, flags, mode, **more)
            self.files.pop(fd, None)
            self.folders.pop(fd, None)
            if known and os.path.isdir(path):
                self.folders[fd] = known
            elif known:
                if known not in self.named:
                    self.named[known] = len(self.changes)
                    self.changes.append(("name", known, self.named[known]))
                self.files[fd] = self.named[known]
            return fd

        def written(fd, data):
            size = real["write"](fd, data)
            if fd in self.files:
                self.changes.append(("write", self.files[fd], bytes(data)[:size]))
            return size

        def forced(fd):
            real["fsync"](fd)
            if fd in self.files:
                self.changes.append(("force", self.files[fd]))
            elif fd in self.folders:
                self.changes.append(("force folder", self.folders[fd]))

        def cut(fd, size):
            real["ftruncate"](fd, size)
            self.changes.append(("cut", self.files[fd], size))

        def renamed(a, b, **more):
            real["replace"](a, b, **more)
            if (source := self.inside(a)) is not None:
                number = self.named[self.inside(b)] = self.named.pop(source)
                self.changes.append(("rename", source, self.inside(b), number))

        def removed(path, **more):
            real["unlink"](path, **more)
            if (known := self.inside(path)) is not None:
                self.named.pop(known, None)
                self.changes.append(("remove", known))

        def made(path, *more, **others):
            real["mkdir"](path, *more, **others)
            if (known := self.inside(path)) is not None:
                self.changes.append(("folder", known))

        for name, by in zip(real, (opened, written, forced, cut, renamed, removed, made), strict=True):
            monkeypatch.setattr(os, name, by)

    def left(self, count: int, rng: random.Random | None, safe_only: bool = False) -> dict[str, bytes | None]:
        """What is left by a cut after `count` changes: by a kill everything; by a power cut (`safe_only`) no
        more than was forced out, or with `rng` any part of the rest. Contents by path, None for a folder."""
        all_is_left = rng is None and not safe_only
        content: dict[int, bytes] = {}
        safe: dict[int, bytes] = {}
        names: dict[str, list[tuple]] = {}  # folder -> its changes that are not forced out yet
        kept: dict[str, int | None] = {}

        def change_name(change: tuple) -> None:
            if change[0] == "rename":
                kept.pop(change[1], None)
                kept[change[2]] = change[3]
            elif change[0] == "remove":
                kept.pop(change[1], None)
            else:
                kept[change[1]] = change[2] if change[0] == "name" else None

        for change in self.changes[:count]:
            kind, about = change[0], change[1]
            if kind == "write":
                content[about] = content.get(about, b"") + change[2]
            elif kind == "cut":
                content[about] = content.get(about, b"")[: change[2]]
            elif kind == "force":
                safe[about] = content.get(about, b"")
            elif kind == "force folder":
                for waiting in names.pop(about, []):
                    change_name(waiting)
            else:
                names.setdefault(
                    os.path.dirname(change[-2] if kind == "rename" else about) or ".", []
                ).append(change)
        for waiting in names.values():
            most = len(waiting) if all_is_left else 0 if safe_only else rng.randint(0, len(waiting))
            for change in waiting[:most]:
                change_name(change)
        out: dict[str, bytes | None] = {}
        for path, number in kept.items():
            if number is None:
                out[path] = None
                continue
            whole, forced = content.get(number, b""), safe.get(number, b"")
            if all_is_left:
                out[path] = whole
            elif safe_only or not whole.startswith(forced):
                out[path] = forced
            else:
                end = rng.randint(len(forced), len(whole))
                out[path] = whole[:end] + b"\0" * rng.choice([0, 0, len(whole) - end])
        return out


def lay_out(contents: dict[str, bytes | None], root: Path) -> None:
    """Writes what is left to a folder; a file whose folder is lost is lost."""
    root.mkdir()
    for path, content in sorted(contents.items()):
        if content is None and (root / path).parent.is_dir():
            (root / path).mkdir(exist_ok=True)
    for path, content in contents.items():
        if content is not None and (root / path).parent.is_dir():
            (root / path).write_bytes(content)


def carried_on(checked, root: Path) -> tuple[Run, int, list[str]]:
    """The run trained to its end in a folder, at which step that began, and the complaints."""
    said: list[str] = []
    console = Console(note=said.append, complain=said.append, announce=lambda run, how: said.append(how))
    run = launch(replace(checked, local=checked.local | {"runs_dir": str(root)}), WORDS, console)
    began = next((int(line.rsplit(" ", 1)[1]) for line in said if line.startswith("resuming")), 0)
    return run, 4 if any("already complete" in line for line in said) else began, said


@pytest.fixture
def recorded(folder, monkeypatch):
    """A whole run and the changes that it made, with each checkpoint forced to the disk or none before the
    end."""

    def make(seconds: float):
        checked = check(compose(list(WORDS)), list(WORDS))
        disk = Disk(folder / "runs")
        (folder / "runs").mkdir()
        monkeypatch.setattr(train, "SECONDS_TO_PROTECT", seconds)
        with monkeypatch.context() as within:
            disk.record(within)
            run = launch(replace(checked, local=checked.local | {"runs_dir": str(folder / "runs")}), WORDS)
        return checked, run, disk

    return make


def assert_same(run: Run, whole: Run, where) -> None:
    assert rows_of(run.path / "metrics.jsonl") == rows_of(whole.path / "metrics.jsonl"), where
    assert run.status == "complete" and Run(run.path).damage() == "", where
    last, of_whole = run.load(4), whole.load(4)
    assert torch.equal(last["w"], of_whole["w"]), where
    assert all(map(torch.equal, last["state"], of_whole["state"])), where


@pytest.mark.parametrize("how", ["kill", "power"])
def test_every_prefix_of_the_writes_is_carried_on_to_the_same_bits(recorded, folder, how):
    checked, whole, disk = recorded(0.0)
    assert sum(change[0].startswith("force") for change in disk.changes) > 15
    saved = -1  # which of the checkpoints 0, 2, 4 was saved last
    for count in range(len(disk.changes) + 1):
        root = folder / f"{how}{count}"
        lay_out(disk.left(count, None, safe_only=how == "power"), root)
        run, began, said = carried_on(checked, root)
        assert_same(run, whole, (how, count, said))
        change = disk.changes[count - 1] if count else ("nothing",)
        saved += change[0] == "rename" and change[2].endswith(".pt")
        # a power cut takes at most the last checkpoint's work, a kill none of it
        assert began >= 2 * max(0, saved - (how == "power")), (how, count, began, said)
        assert not any("going back" in line for line in said), said


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_whatever_a_power_cut_keeps_of_what_was_not_forced_out_is_carried_on_to_the_same_bits(
    recorded, folder, seconds
):
    checked, whole, disk = recorded(seconds)
    for seed in range(40):
        rng = random.Random(seed)
        count = rng.randint(1, len(disk.changes))
        lay_out(disk.left(count, rng), folder / f"cut{seed}")
        carried, _, said = carried_on(checked, folder / f"cut{seed}")
        assert_same(carried, whole, (seconds, seed, count, said))


def test_what_is_called_complete_is_on_the_disk(recorded):
    _, whole, disk = recorded(1e9)
    left = disk.left(len(disk.changes), None, safe_only=True)
    for file in ("metrics.jsonl", "config.yaml", "provenance.json", "checkpoints/step_00000004.pt"):
        assert left[f"{whole.name}/{file}"] == (whole.path / file).read_bytes()
