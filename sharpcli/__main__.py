"""The program `sharp`, also as `python -m sharpcli`: until the commands are imported, a signal ends it at
once."""

import os
import signal
import sys
from types import FrameType
from typing import Any


def _end(signum: int, frame: FrameType | None) -> None:
    os.write(2, b"sharp: interrupted\n" if signum == signal.SIGINT else b"")
    os._exit(128 + signum)


def main() -> Any:
    """The program; returns its exit code."""
    end: Any = _end
    end.while_importing = True  # so that errors/signals.py takes over
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"):
        number = getattr(signal, name, None)  # Windows has neither SIGHUP nor SIGUSR1
        if number is not None and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, end)
    from sharpcli.cli import main as command

    return command(as_program=True)


if __name__ == "__main__":
    if not sys.flags.safe_path:  # -m puts the working directory first: a sklearn.py in it would be imported
        del sys.path[0]
    sys.exit(main())
