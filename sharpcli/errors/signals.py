"""Signals that end a process: Ctrl-C, SIGTERM and SIGUSR1 (a cluster's warning), SIGHUP (a terminal that is
closed). The exit code is 128 + the signal's number.

A command that has something to save has them raised as exceptions (`raised`); any other command ends at once
(`at_once`): an exception at an arbitrary moment of an import would be mistaken for a broken package. Handlers
are Python's own or ours: a signal that is ignored, as SIGHUP under nohup, or that somebody else handles, as
submitit, is left alone.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
SECONDS_FOR_WORKERS = 20.0  # that worker processes have to save their runs
Handler = Callable[[int, FrameType | None], Any]


class Ended(KeyboardInterrupt):
    """A signal ends this process. A `KeyboardInterrupt`, so that whatever Ctrl-C ends, ends the same way."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class _State:
    received: int | None = None  # the first signal since `raised` began
    last: int = signal.SIGINT  # the same, also after its end
    shields = 0
    passed_on = False  # whether a signal came that somebody else handles


_state = _State()


def number_of(interrupt: BaseException) -> int:
    """The number of the signal that an interrupt, or a refusal that says so, came from."""
    # a library that catches every interrupt may raise one of its own in the place of ours
    return int(getattr(interrupt, "signum", _state.last))


def how(signum: int) -> str:
    """`interrupted`, or by which signal."""
    return "interrupted" if signum == signal.SIGINT else f"ended by {signal.Signals(signum).name}"


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Within it a signal raises `Ended` in the main thread. One that somebody else handles, as a cluster's
    launcher does, is left to them, and `passed_on` tells of it."""
    before, _state.received, _state.last = _state.received, None, signal.SIGINT
    printed = sys.unraisablehook

    def unraisable(lost: Any) -> None:
        if not isinstance(lost.exc_value, Ended):  # which `look` raises
            printed(lost)

    try:
        sys.unraisablehook = unraisable
        with _handled(_raise, _pass_on):
            yield
            look()
    finally:
        _state.received, sys.unraisablehook = before, printed


def look() -> None:
    """Raises `Ended` where a signal has come. To be called now and then, as at the end of `raised`: an
    exception that a handler raises while Python runs a destructor is lost."""
    if _state.received is not None:
        raise Ended(_state.received)


def came() -> int:
    """The number of the first signal since `raised` began, 0 where none has come."""
    return _state.received or 0


def passed_on() -> bool:
    """Whether since the last call a signal has come that somebody else handles: it announces an end, as of a
    job that is pre-empted, so that what there is should be saved."""
    came, _state.passed_on = _state.passed_on, False
    return came


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Within it a signal only is noted, and `look` raises it afterwards: a second Ctrl-C must not cut short
    what the first one has saved."""
    _state.shields += 1
    try:
        yield
    finally:
        _state.shields -= 1


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """Within it a signal says so in one line, ends the worker processes, and ends this process."""
    with _handled(_end):
        yield


@functools.cache  # one thread, of however many jobs a worker does
def follow_parent(period: float = 0.5, again: float = SECONDS_FOR_WORKERS) -> None:
    """Ends this worker process by SIGTERM once the process that started it is gone, and where it lives on by
    another every `again` seconds: whoever kills a sweep wants no run of it to go on."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(period)
        while True:  # the first may come where a library catches every exception
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(again)

    threading.Thread(target=watch, daemon=True).start()


def begin_worker() -> None:
    """What a worker process does first: Ctrl-C is left to the process that started it, which ends its workers
    by SIGTERM and without which they end themselves."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    follow_parent()


def end_workers(seconds: float = SECONDS_FOR_WORKERS) -> None:
    """Ends every worker process by SIGTERM, which lets it save its run, and after `seconds` by SIGKILL."""
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is None:
        return
    workers = multiprocessing.active_children()
    for worker in workers:
        worker.terminate()
    deadline = time.monotonic() + seconds
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
        if worker.is_alive() and worker.pid is not None:
            # by its number: the workers of joblib have no `kill`, and one that another thread of this process
            # waits for at this moment is ended and still said to be alive
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGKILL)


def _raise(signum: int, frame: FrameType | None) -> None:
    if _state.received is None:
        _state.received = _state.last = signum
    if not _state.shields:
        raise Ended(signum)


def _end(signum: int, frame: FrameType | None) -> None:
    for name in NAMES:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    end_workers()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # the signal may have come while this very stream was written
            stream.flush()
    with contextlib.suppress(OSError):
        if os.environ.get("RANK", "0") == "0":
            os.write(2, f"sharp: {how(signum)}\n".encode())
    os._exit(128 + signum)


def _pass_on(handler: Handler, signum: int, frame: FrameType | None) -> None:
    _state.passed_on = True
    handler(signum, frame)


@contextlib.contextmanager
def _handled(
    handler: Handler, others: Callable[[Handler, int, FrameType | None], Any] | None = None
) -> Iterator[None]:
    """Handles the signals by `handler`, where so far Python's own or one of ours did, and by `others` where
    it was somebody else's, which it is given; only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}
    for name in NAMES:
        number = getattr(signal, name, None)  # Windows has neither SIGHUP nor SIGUSR1
        if number is None:
            continue
        former = signal.getsignal(number)
        if _is_replaceable(former):
            before[number] = signal.signal(number, handler)
        elif others is not None and callable(former):
            before[number] = signal.signal(number, functools.partial(others, former))
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def _is_replaceable(handler: Any) -> bool:
    ours = handler in (_raise, _end) or getattr(handler, "while_importing", False)  # see __main__.py
    return ours or handler in (signal.SIG_DFL, signal.default_int_handler)
