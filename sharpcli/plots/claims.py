"""Prediction against measurement of every claim on a page."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sharpcli.plots import PALETTE, ink

EDGE = 3.0  # where what is farther away is drawn, as an arrowhead
ROW = 0.27  # inches


def claims(frame: pd.DataFrame) -> Figure:
    """A row for each claim: the grey band is what is asked for, from -1 to 1 in units of half its width; a
    bound on a single side is at -1 (at least) or 1 (at most), in units of half the bound. The dot is what was
    measured, with one spread to either side; an arrowhead lies beyond the picture. Blue where the verdict is
    as expected, else orange. To the right the numbers themselves."""
    fig = Figure(figsize=(11, 1.2 + ROW * len(frame)), layout="constrained", dpi=150)
    ax = fig.subplots()
    for i, row in enumerate(frame.to_dict("records")):
        y = len(frame) - 1 - i
        low, high = row["low"], row["high"]
        left, right = max(placed(low, low, high), -EDGE), min(placed(high, low, high), EDGE)
        ax.add_patch(Rectangle((left, y - 0.35), right - left, 0.7, color="0.5", alpha=0.25, linewidth=0))
        colour = PALETTE[0] if row["as_expected"] else PALETTE[1]
        if row["measured"] is not None and math.isfinite(row["measured"]):
            x = placed(row["measured"], low, high)
            far = abs(x) > EDGE
            ax.plot(
                math.copysign(EDGE, x) if far else x,
                y,
                "o" if not far else (">" if x > 0 else "<"),
                color=colour,
            )
            spread = row["spread"] or 0.0
            ends = [placed(row["measured"] + sign * spread, low, high) for sign in (-1, 1)]
            if spread and not far:
                ax.plot([min(max(end, -EDGE), EDGE) for end in ends], [y, y], "-", color=colour, linewidth=1)
        asked = row["asked"].partition(": ")[2] or row["asked"]
        said = f"{row['words']}   asked {asked[:48]}   {row['verdict']}"
        ax.text(EDGE * 1.07, y, said, va="center", fontsize="x-small", color=ink())
    ax.set(xlim=(-EDGE * 1.03, EDGE * 1.03), ylim=(-0.7, len(frame) - 0.3))
    ax.set_yticks(range(len(frame)), list(frame["claim"])[::-1], fontsize="x-small")
    ax.set_xlabel("measured, in half widths of what is asked")
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(left=False)
    ax.axvline(0, color=ink(), linewidth=0.4, alpha=0.5)
    return fig


def placed(value: float, low: float, high: float) -> float:
    """Where a value lies: -1 at `low` and 1 at `high`; from a single bound in units of half its size (of 1
    where it is 0)."""
    if math.isfinite(low) and math.isfinite(high):
        return 0.0 if value == low == high else 2 * (value - low) / ((high - low) or abs(high) or 1.0) - 1
    if math.isfinite(low):
        return -1 + (value - low) / (abs(low) / 2 or 1.0)
    if math.isfinite(high):
        return 1 + (value - high) / (abs(high) / 2 or 1.0)
    return 0.0 if math.isfinite(value) else value
