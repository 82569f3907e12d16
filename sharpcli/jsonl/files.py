"""Files that survive a kill, a full disk and a power cut, and that cannot hang or lead elsewhere.

A file is read only if it is a regular one: a pipe never ends. A file inside a run's directory is never
written through a symbolic link, which would change a file elsewhere. What is written is on the disk, and
survives a power cut, only after `fsync` of the file and, for its name, of its folder.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sharpcli.errors import Refusal

_NONBLOCK, _NOFOLLOW, _CLOEXEC = (
    getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOFOLLOW", "O_CLOEXEC")
)  # Windows has none of the three


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns a full disk, or a folder that cannot be written, into one line; what is on disk stays."""
    try:
        yield
    except OSError as problem:
        raise cannot_write(path, problem) from None


def cannot_write(path: Path, problem: OSError) -> Refusal:
    """The one line for a path that cannot be written."""
    reason = problem.strerror or problem
    if problem.errno == errno.ELOOP:
        reason = f"{problem.filename or path} is a symbolic link, and sharp writes through none inside a run"
    return Refusal(
        f"{path}: cannot write ({reason}); nothing logged so far is lost: "
        "make room or choose another runs_dir, then run the same command again"
    )


def open_regular(file: Path, flags: int = os.O_RDONLY) -> int:
    """A descriptor of a regular file; raises OSError for a directory, a pipe or a device."""
    descriptor = os.open(file, flags | _NONBLOCK | _CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(file))
    return descriptor


def read(file: Path, most: int | None = None) -> bytes:
    """The content of a regular file; raises OSError where it is none, or holds more than `most` bytes."""
    with os.fdopen(open_regular(file), "rb") as opened:
        if most is not None and os.fstat(opened.fileno()).st_size > most:
            raise OSError(errno.EFBIG, f"larger than {most / 1e6:g} MB", str(file))
        try:
            return opened.read()
        except MemoryError:  # a sparse file may be larger than any memory
            raise OSError(errno.ENOMEM, "larger than the memory", str(file)) from None


def replace(file: Path, data: bytes, whole: bool = True, durable: bool = False) -> None:
    """Writes a whole file, or leaves the former file as it is.

    `whole`: also a power cut leaves either of them. Without, it may leave a damaged file, and nothing waits
    for the disk. `durable`: the new file survives a power cut from here on.
    """
    half = file.with_name(file.name + ".part")
    try:
        half.unlink(missing_ok=True)  # of a process that was killed here
        descriptor = os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CLOEXEC, 0o666)
        try:
            write(descriptor, data)
            if whole or durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        half.replace(file)
        if durable:
            sync(file.parent)
    except OSError:
        with suppress(OSError):
            half.unlink()
        raise


def open_to_append(file: Path, follow: bool = False) -> int:
    """A descriptor to read a file and to add to its end; it is made where it is missing. A symbolic link is
    followed, and a device written, only with `follow`."""
    if follow:
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | _CLOEXEC, 0o666)
    return open_regular(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | _NOFOLLOW)


def write(descriptor: int, data: bytes) -> None:
    """Writes all of `data`: a disk that fills up may take the beginning of it first."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def truncate(file: Path, size: int) -> None:
    """Cuts a file to `size` bytes; a file that is missing is made empty."""
    descriptor = open_regular(file, os.O_WRONLY | os.O_CREAT | _NOFOLLOW)
    try:
        os.ftruncate(descriptor, size)
    finally:
        os.close(descriptor)


def sync(path: Path) -> None:
    """Forces what was written to a file, or the names in a folder, to the disk; nothing where it is
    missing."""
    try:
        descriptor = os.open(path, os.O_RDONLY | _NONBLOCK | _CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def no_link(folder: Path) -> Path:
    """The folder itself; raises OSError where it is a symbolic link, through which nothing is to be
    written."""
    if folder.is_symlink():
        raise OSError(errno.ELOOP, "is a symbolic link", str(folder))
    return folder
