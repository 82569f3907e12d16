"""The exceptions that end a command in one line: a mistake that a user can put right (exit code 2), a run
that another process trains, a signal; and a fault of sharp's own, which ends it with a traceback."""

from __future__ import annotations

import difflib
import re
import signal
from collections.abc import Sequence

NEAREST = 10  # columns that a message names
LONG = re.compile(r"[^\s/]{121,}")


class Refusal(BaseException):
    """What came, what is possible, what to do, in one line.

    A `BaseException`, because Hydra turns every `Exception` of a job into a report of its own with exit code
    1.
    """

    code = 2

    def __init__(self, message: str) -> None:
        super().__init__(printable(shortened(" ".join(str(message).split()))))


class InOtherHands(Refusal):
    """Another process trains this run: a sweep passes it over."""


class Interrupted(Refusal):
    """A signal ended the command after everything was saved; the exit code is 128 + the signal's number."""

    def __init__(self, message: str, signum: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.signum = signum
        self.code = 128 + signum


class OwnFault(BaseException):
    """A fault of sharp's own as text: its traceback, and a line that says what to do. Text, because an
    exception that comes from another process has lost its frames."""


class NotFinite(FloatingPointError):
    """A product with a curvature matrix holds NaN or infinity: at these weights there is no number to give.

    Raised where the product is made, before a solver can take it for a number. What a solver computes of
    finite products may be beyond the largest number too: it raises FloatingPointError or OverflowError.
    """


class Unreachable(ValueError):
    """A flow in closed form that does not exist at these weights: no interpolator is reached."""


def unknown_column(name: str, known: Sequence[str], why: str = "no such column in these runs") -> Refusal:
    """The refusal of a column, or of an expression in columns, with the nearest of those that are `known`,
    or where few are alike its first."""
    alike = difflib.get_close_matches(name, known, n=NEAREST)
    near = [*alike, *(column for column in known if column not in alike)][:NEAREST]
    return Refusal(f"{name}: {why}; the nearest columns: {', '.join(near)}")


def shortened(text: str) -> str:
    """A text in which a word of more than 120 characters, such as a number of 300 digits, is cut in its
    middle; of a path, each of its names counts."""
    return LONG.sub(lambda word: f"{word[0][:60]}...{word[0][-20:]}", text)


def printable(text: str) -> str:
    """A text in which everything that a terminal would obey instead of showing it (escape codes, newlines,
    marks that turn the direction of writing) is written as its escape, as in `\\x1b`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
