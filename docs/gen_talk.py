"""Writes talk.md, the talk's slides with the verdicts on what they say, from talk.yaml and verdicts.md; with
a folder of claims, as in `gen_talk.py runs/claims`, also the figures of their last verdicts into claims/."""

import re
import sys
from pathlib import Path

import yaml
from PIL import Image

DOCS = Path(__file__).resolve().parent
FIGURES = DOCS / "claims"
WIDTH, COLOURS = 900, 64  # pixels, and colours that a line drawing needs
INTRODUCTION = """# The talk, slide by slide

What Zhiyuan Li's talk "Open Problems about Sharpness, Implicit Bias, and Generalization" (2024) says, and how
each statement came out here. `sharp claim show ID` explains a claim; [verdicts.md](verdicts.md) has the
numbers, the wrong constants that turn each claim, and the commits; `sharp plot claims` draws prediction
against measurement. A figure shows the runs of a claim and the theory's line. Claims that end in `_full` ask
for a graphics card and have no verdict yet.

| slide | statement | claims and verdicts | figures |
|---|---|---|---|
"""


def verdicts() -> dict[str, str]:
    """The verdict of each claim in verdicts.md."""
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", (DOCS / "verdicts.md").read_text(), re.M)
    cells = {name: re.split(r" (?<!\\)\| ", row) for name, row in rows}
    return {name: row[2].split(" (")[0].strip() for name, row in cells.items()}


def page() -> str:
    """The text of talk.md."""
    known, lines = verdicts(), []
    for slide, statement, claims, *others in yaml.safe_load((DOCS / "talk.yaml").read_text()):
        cells = [f"`{claim}`: {known.get(claim, 'no verdict yet')}" for claim in claims]
        drawn = [claim for claim in claims if (FIGURES / f"{claim}.png").exists()]
        figures = [f"[{claim}](claims/{claim}.png)" for claim in drawn]
        studies = re.findall(r"the study (\w+)", " ".join(others))
        figures += [f"[{study}](studies/{study}.png)" for study in studies]
        lines.append(f"| {slide} | {statement} | {'; '.join([*cells, *others])} | {', '.join(figures)} |")
    return INTRODUCTION + "\n".join(lines) + "\n"


def small(figure: Path, to: Path) -> None:
    """Writes a figure anew, with WIDTH pixels and COLOURS colours."""
    image = Image.open(figure).convert("RGB")
    smaller = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)
    # by coverage: by frequency the few points of a picture would lose their colours to the shades of its text
    colours = smaller.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    colours.save(to, optimize=True)


if __name__ == "__main__":
    FIGURES.mkdir(exist_ok=True)
    for folder in map(Path, sys.argv[1:]):
        for file in sorted(folder.glob("*/figure.png")):
            small(file, FIGURES / f"{file.parent.name}.png")
    (DOCS / "talk.md").write_text(page())
