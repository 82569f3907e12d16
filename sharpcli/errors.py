"""The exception for a mistake that a user can put right: a single line and exit code 2, never a traceback."""


class Refusal(BaseException):
    """What came, what is possible, what to do, in one line.

    A `BaseException`, because Hydra turns every `Exception` of a job into a report of its own with exit code
    1.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(str(message).split())))


def printable(text: str) -> str:
    r"""The text with each character that a terminal would obey or hide, as an escape code in a name from
    somebody's file, spelled out: \x1b, \u202e."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Unreachable(ValueError):
    """A flow in closed form that does not exist at these weights: no interpolator is reached."""
