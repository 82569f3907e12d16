"""Whose fault an exception is: that of a user's own code, or sharp's."""

from __future__ import annotations

import os
import site
import sysconfig
import traceback
from functools import cache
from pathlib import Path

from sharpcli.errors import OwnFault, Refusal, printable

OWN = Path(__file__).resolve().parents[1]
# What sharp is built on. A frame in it says nothing about whose fault an exception is: who called it does.
# Any other package is a user's choice, also torchvision and timm, whose models are chosen by name.
LIBRARIES = (
    *("torch", "functorch", "torchgen", "numpy", "scipy", "pandas", "matplotlib", "sklearn", "numba"),
    *("llvmlite", "hydra", "hydra_plugins", "omegaconf", "antlr4", "yaml", "typer", "click", "rich"),
    *("joblib", "cloudpickle", "filelock", "clarabel", "jaxtyping", "safetensors", "submitit"),
)
REPORT = "this is a fault of sharp's own: please report the lines above, with the command that you gave"


def told(problem: Exception) -> Refusal | OwnFault:
    """What a user is told about an exception that nothing has foreseen.

    The innermost frame outside the libraries decides. In a user's own code it is one line with the file, the
    line, the function and the exception. In sharp it is the traceback, and a line that asks to report it and
    names the user's frame through which the call came, where there is one.
    """
    frames = [frame for frame in _frames(problem) if not _is_library(frame[0])]
    users = [frame for frame in frames if not _is_own(frame[0])]
    if frames and not _is_own(frames[-1][0]):
        return Refusal(f"{_place(users[-1])}: {_exception(problem)} (in code that is not sharp's)")
    through = f" (it was called from {_place(users[-1])})" if users else ""
    text = "".join(traceback.format_exception(problem)).rstrip()
    return OwnFault(f"{text}\nsharp: {REPORT}{through}")


def _frames(problem: Exception) -> list[tuple[str, int, str]]:
    """(file, line, function) of each frame, the innermost last; of a file that cannot be parsed, its line."""
    frames = [(f.filename, f.lineno or 0, f.name) for f in traceback.extract_tb(problem.__traceback__)]
    if isinstance(problem, SyntaxError) and problem.filename:
        frames.append((problem.filename, problem.lineno or 0, ""))
    return frames


def _exception(problem: Exception) -> str:
    name = type(problem).__name__
    message = str(problem.msg if isinstance(problem, SyntaxError) else problem)
    return f"{name}: {message}" if message else name


def _place(frame: tuple[str, int, str]) -> str:
    file, line, function = frame
    if file.startswith(str(Path.cwd()) + os.sep):
        file = os.path.relpath(file)
    where = f", in {function}" if function and not function.startswith("<") else ""
    return printable(f"{file}, line {line}{where}")


def _is_own(file: str) -> bool:
    return _is_inside(file, str(OWN))


def _is_library(file: str) -> bool:
    if file.startswith("<"):  # frozen modules of Python, and code that has no file
        return True
    if _is_own(file):
        return False
    if any(_is_inside(file, f"{folder}{os.sep}{name}") for folder in _packages() for name in LIBRARIES):
        return True
    in_packages = any(_is_inside(file, folder) for folder in _packages())
    return not in_packages and any(_is_inside(file, folder) for folder in _standard())


def _is_inside(file: str, folder: str) -> bool:
    return file == folder or file.startswith(folder + os.sep) or file == folder + ".py"


@cache
def _packages() -> tuple[str, ...]:
    """The folders of installed packages."""
    paths = sysconfig.get_paths()
    return tuple({paths["purelib"], paths["platlib"], *site.getsitepackages(), site.getusersitepackages()})


@cache
def _standard() -> tuple[str, ...]:
    """The folders of Python's own library."""
    paths = sysconfig.get_paths()
    return (paths["stdlib"], paths["platstdlib"], str(Path(os.__file__).parent))
