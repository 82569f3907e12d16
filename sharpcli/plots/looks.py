"""How figures look, by what they are for: width, letters, ground. `style=` of `sharp plot` names a look."""

from __future__ import annotations

from typing import Any

COLUMN, TEXT = 3.35, 6.9  # inches: a column and the text of a page with two columns
TRUETYPE: dict[str, Any] = {"pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "none"}  # as journals want
DARK, LIGHT = "#16181d", "#e8e8e8"  # ground and letters of a dark slide

LOOKS: dict[str, dict[str, Any]] = {
    "screen": {},
    "paper": {"figure.figsize": (COLUMN, 3.0), "font.size": 7.5, "lines.linewidth": 1.0},
    "paper_wide": {"figure.figsize": (TEXT, 3.4), "font.size": 8, "lines.linewidth": 1.0},
    "talk": {"figure.figsize": (9.0, 5.0), "font.size": 17},
    "dark": {
        "figure.facecolor": DARK,
        "savefig.facecolor": DARK,
        "axes.facecolor": DARK,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor"), LIGHT),
        **dict.fromkeys(("xtick.color", "ytick.color", "grid.color"), LIGHT),
    },
}
