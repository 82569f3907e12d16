"""A table of final values as text: for a terminal, Markdown, LaTeX, or CSV for programs."""

from __future__ import annotations

from math import floor, log10
from typing import TYPE_CHECKING, Any

from sharpcli.plots import is_missing

if TYPE_CHECKING:
    import pandas as pd

FORMATS = {".txt": "simple", ".md": "github", ".tex": "latex_booktabs"}  # tabulate's names
ENDINGS = (*FORMATS, ".csv")
DIGITS = 4  # significant ones of a value without a spread


def as_text(table: pd.DataFrame, ending: str) -> str:
    """The table in the format of a file's ending. A column `NAME_sd` is written beside NAME, as mean ± sd
    rounded to the spread's second digit; CSV keeps both columns and all digits."""
    if ending == ".csv":
        return table.to_csv(index=False).rstrip("\n")
    from tabulate import tabulate

    names = [str(name) for name in table]
    spreads = [name for name in names if name.endswith("_sd") and name[:-3] in names]
    shown = [name for name in names if name not in spreads]
    plus = r" \pm " if ending == ".tex" else " ± "
    rows = []
    for _, row in table.iterrows():
        cells = [cell(row[name], row.get(f"{name}_sd"), plus) for name in shown]
        rows.append([_escaped(text, ending) for text in cells])
    heads = [_escaped(name, ending) for name in shown]
    form = "latex_raw" if ending == ".tex" else FORMATS[ending]
    numbers = [f"{name}_sd" in spreads or table[name].dtype.kind in "iuf" for name in shown]
    text = tabulate(
        rows, heads, form, disable_numparse=True, colalign=["right" if n else "left" for n in numbers]
    )
    if ending == ".tex":  # tabulate's booktabs escapes the formulas that its raw format leaves
        top, *lines = text.split("\n")
        rules = iter((r"\toprule", r"\midrule", r"\bottomrule"))
        text = "\n".join([top, *(next(rules) if line == r"\hline" else line for line in lines)])
    return text


def cell(value: Any, spread: Any = None, plus: str = " ± ") -> str:
    """A value, and its spread where there is one, to the spread's second digit: 83.21 ± 0.12."""
    if is_missing(value):
        return "-"
    if not isinstance(value, float):
        return str(value)
    if is_missing(spread) or spread == 0:
        return f"{value:.{DIGITS}g}"
    places = 1 - floor(log10(abs(spread)))
    if not -1 <= places <= 6:  # then both by their powers of ten
        return f"{value:.{DIGITS}g}{plus}{spread:.2g}"
    return f"{value:.{max(places, 0)}f}{plus}{spread:.{max(places, 0)}f}"


def _escaped(text: str, ending: str) -> str:
    """Text that LaTeX and Markdown take as it is; a mean and its spread as a formula."""
    if ending == ".md":
        return text.replace("|", r"\|")
    if ending != ".tex":
        return text
    if r" \pm " in text:
        return f"${text}$"
    for sign in "&%$#_{}":
        text = text.replace(sign, "\\" + sign)
    return text
