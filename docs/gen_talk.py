"""Writes talk.md, the talk's slides with the verdicts on what they say, from talk.yaml and verdicts.md."""

import re
from pathlib import Path

import yaml

DOCS = Path(__file__).resolve().parent
INTRODUCTION = """# The talk, slide by slide

What Zhiyuan Li's talk "Open Problems about Sharpness, Implicit Bias, and Generalization" (2024) says, and how
each statement came out here. `sharp claim show ID` explains a claim; [verdicts.md](verdicts.md) has the
numbers, the wrong constants that turn each claim, and the commits; `sharp plot claims` draws prediction
against measurement. Claims that end in `_full` ask for a graphics card and have no verdict yet.

| slide | statement | claims and verdicts |
|---|---|---|
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
        lines.append(f"| {slide} | {statement} | {'; '.join([*cells, *others])} |")
    return INTRODUCTION + "\n".join(lines) + "\n"


if __name__ == "__main__":
    (DOCS / "talk.md").write_text(page())
