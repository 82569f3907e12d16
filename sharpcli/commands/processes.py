"""Reading thousands of runs in several processes of this machine, for a command alone: a process that Python
starts reads the user's script again, which a library must not do."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from sharpcli.errors import Refusal, signals

Piece = TypeVar("Piece")
Result = TypeVar("Result")
MOST = 8  # processes
FEWEST = 4  # pieces for which processes are started: each imports pandas first


def in_processes(work: Callable[[Piece], Result], pieces: Sequence[Piece]) -> Iterator[Result]:
    """`work` of every piece, in order, in as many processes as there are cores; in this one where there are
    fewer than `FEWEST` pieces. `work` is a function of a module, and it, its pieces and its results can be
    pickled. Refuses to go on where a process was ended from outside."""
    processes = min(_cores(), MOST, len(pieces))
    pool = _pool(processes) if processes > 1 and len(pieces) >= FEWEST else None
    if pool is None:
        yield from map(work, pieces)
        return
    ahead: deque[Future[Result]] = deque()
    try:
        for piece in pieces:
            ahead.append(pool.submit(work, piece))
            if len(ahead) > 2 * processes:  # results that wait take memory
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    except BrokenProcessPool:
        raise Refusal(
            "a process that read runs was ended from outside, as by a system that runs out of memory; give "
            "fewer runs"
        ) from None
    except KeyboardInterrupt:
        signals.end_workers()
        raise
    finally:  # also where the caller needs no further result: pieces in work are finished, others not begun
        pool.shutdown(cancel_futures=True)


def _pool(processes: int) -> ProcessPoolExecutor | None:
    """Processes that are started as work comes; None where the system has no locks between processes, as in a
    container without /dev/shm."""
    try:
        return ProcessPoolExecutor(processes, get_context("spawn"), signals.begin_worker)
    except (OSError, ImportError, NotImplementedError):
        return None


def _cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
