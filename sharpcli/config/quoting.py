"""Quotation marks for Hydra around the texts that its grammar would refuse or change.

To Hydra `runs_dir=/tmp/a(b)` is a mistake, `data.file=a,b.npz` a sweep and `init_from=45303e66` a number.
Where a setting's value is a text (a path, the name of a run) it is handed to Hydra in quotation marks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields

from hydra.core.override_parser.overrides_parser import OverridesParser, create_functions
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from sharpcli.config.paths import exists, text_of, unquoted
from sharpcli.config.settings import GROUPS, METHODS, NAMES, Plain

PLAIN = tuple(f.name for f in fields(Plain) if f.type in ("str", "str | None"))
TEXTS = (
    *PLAIN,
    "data.file",
    "model.name",
    "optimizer.name",
    "measure.directional_sharpness.file",
    "params",  # of a plot
)  # settings whose value is a text, whatever it looks like
FOLDERS = ("runs_dir", "data_dir")  # texts that no sweep varies, since they change no number
OVERRIDE = re.compile(r"(?P<key>\+{0,2}(?P<name>[\w.-]+))=(?P<value>.*)", re.S)
FUNCTION = re.compile(rf"\s*({'|'.join(create_functions().definitions)})\s*\(.*\)\s*", re.S)
ARGUMENT = re.compile(r"(?<=[(,\[])\s*([^\s,()\[\]{}'\"=]+)\s*(?=[,)\]])")
OF_CONFIG = "|".join((*NAMES, "hydra"))
INTERPOLATION = re.compile(rf"\$\{{\s*(?:[\w.]+:|(?:{OF_CONFIG})[.}}\[])")  # others are texts


def quoted(overrides: Sequence[str], sweeps: bool = False) -> list[str]:
    """The overrides with quotation marks around texts. `sweeps` says that a comma may separate the values of
    a sweep (`sharp train -m`)."""
    return [_quoted(override, sweeps) for override in overrides]


def _quoted(override: str, sweeps: bool) -> str:
    match = OVERRIDE.fullmatch(override)
    if match is None or unquoted(match["value"]) is not None:
        return override
    if match["name"] in (*GROUPS, *METHODS):  # conf/config.yaml chooses of each: nothing is to be added by +
        return f"{match['name']}={match['value']}" if match["key"] == f"+{match['name']}" else override
    key, name, value = match["key"], match["name"], match["value"]
    read, text = parsed(override), text_of(value)
    in_marks = f"{key}={marks(text)}"
    if name not in TEXTS:
        if read is not None and not read.is_sweep_override():
            return override
        # a list or a function with a mistake in it is no text: Hydra says what is wrong with it
        is_text = read is None and not re.match(r"\s*([\[{]|\w+\s*\()", value)
        return in_marks if is_text or exists(text) else override
    is_null = name == "init_from" and value.lower() == "null"
    if not value or is_null or (INTERPOLATION.search(value) and read is not None):
        return override
    is_path = exists(text) or (
        name == "init_from" and exists(text.rpartition("@")[0] or "?")
    )  # RUN or RUN@STEP
    if sweeps and name not in FOLDERS and not is_path and ("," in value or FUNCTION.fullmatch(value)):
        return f"{key}={_elements(value)}"
    is_read_so = read is not None and not read.is_sweep_override() and read.value() == text
    return override if is_read_so and "${" not in value else in_marks


def marks(text: str) -> str:
    """A text as Hydra and OmegaConf read it back: in quotation marks, and `${` escaped, which is no
    interpolation in it."""
    return _in_marks(re.sub(r"(\\*)\$\{", r"\1\1\\${", text))


def parsed(override: str) -> Override | None:
    """What Hydra reads; None where its grammar refuses."""
    try:
        return OverridesParser.create().parse_override(override)
    except (HydraException, ValueError):
        return None


def _in_marks(text: str) -> str:
    return QuotedString(text, Quote.single).with_quotes()


def _elements(value: str) -> str:
    """The values of a sweep over texts, each in quotation marks where it looks like a number."""
    if FUNCTION.fullmatch(value):
        return ARGUMENT.sub(lambda m: m[0].replace(m[1], _as_text(m[1])), value)
    return ",".join(
        piece if unquoted(piece) is not None else marks(text_of(piece)) for piece in value.split(",")
    )


def _as_text(word: str) -> str:
    read = parsed(f"x={word}")
    return marks(word) if read is not None and not isinstance(read.value(), str) else word
