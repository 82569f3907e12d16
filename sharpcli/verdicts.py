"""What claims say: one line each, a page of one, the table of all. Sees no torch."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from sharpcli.claims import Claim, Verdict, last, read
from sharpcli.config import options
from sharpcli.report import aligned


def line(claim: Claim, verdict: Verdict) -> list[str]:
    """The verdict, and what was asked and measured."""
    out = [f"{claim.id}: {verdict.verdict.upper()} ({verdict.seconds:.0f} s)"]
    for kind, found in (("premise", verdict.premises), ("check", verdict.checks), ("control", verdict.controls)):
        for one in found:
            word = ("holds" if one["holds"] else "does not hold") if kind != "control" else ""
            word = word or ("HOLDS, and must not" if one["holds"] else "fails, as it must")
            word += "" if one["evidence"] else ", but not every run has a number: it shows nothing"
            out.append(f"  {kind}: {one['asked']}; measured {one['words']} ({one['runs']} runs): {word}")
    return out


def summary(verdicts: Sequence[Verdict]) -> str:
    """How many of what."""
    words = sorted({verdict.verdict for verdict in verdicts})
    return ", ".join(f"{sum(v.verdict == word for v in verdicts)} {word}" for word in words)


def listing(runs_dir: Path, markdown: bool) -> list[str]:
    """All claims with their last verdicts."""
    claims = [read(word) for word in options("claim")]
    if not markdown:
        rows = [("claim", "tier", "seconds", "verdict", "statement")]
        for claim in claims:
            seen = (last(claim.id, runs_dir) or {"verdict": "-"})["verdict"]
            rows.append((claim.id, claim.tier, f"{claim.seconds:g}", seen, claim.statement.split(".")[0][:90]))
        return aligned(rows, 5)
    out = [
        "| claim | predicted or published | measured | verdict | judged at commit | runs made at |",
        "|---|---|---|---|---|---|",
    ]
    where: set[str] = set()
    for claim in claims:
        if (found := last(claim.id, runs_dir)) is None:
            continue
        first, at = found["checks"][0], found["about"]
        if at["made_at"] or not where:  # closed forms run on no device
            where.add(f"{at['date']}, {at['machine']}.")
        cells = (
            f"`{claim.id}`",
            first["asked"].replace("|", chr(92) + "|"),
            first["words"],
            found["verdict"],
            short(at["commit"]),
            ", ".join(map(short, at["made_at"])) if len(at["made_at"]) < 3 else f"{len(at['made_at'])} commits",
        )
        out.append(f"| {' | '.join(cells)} |")
    for line in sorted(where):
        out += ["", line]
    return out


def short(commit: str | None) -> str:
    """Seven digits, and whether there was more than the commit."""
    return "-" if commit is None else commit[:7] + ("+dirty" if commit.endswith("+dirty") else "")


def about(word: str, runs_dir: Path) -> list[str]:
    """A claim in words."""
    claim = read(word)
    where = "one graphics card, by estimate" if claim.tier == "gpu" else "two cores"
    out = [
        f"{claim.id} (tier {claim.tier}, about {claim.seconds:g} s on {where}; expected: {claim.expect.replace('_', ' ')})",
        f"  {claim.statement.strip()}",
        f"  source: {claim.source}",
        f"  convention: {claim.convention}",
        f"  published: {claim.published}",
        *([f"  prediction: {claim.prediction}"] if claim.prediction else []),
    ]
    out += [
        f"  before, at each seed, {name}: sharp train {shlex.join(words)} (init_from={name} means its last weights)"
        for name, words in claim.before.items()
    ]
    out += [f"  run {name}: sharp train {shlex.join([*claim.base, *words])} -m" for name, words in claim.runs.items()]
    out += [f"  table {name}: {table['_target_']}" for name, table in claim.tables.items()]
    for kind, asked in (("premise", claim.premise), ("check", claim.check), ("control, must fail", claim.control)):
        out += [f"  {kind}: " + ", ".join(f"{key} {value}" for key, value in one.items()) for one in asked]
    if found := last(word, runs_dir):
        out.append(f"  last verdict ({found['about']['date']}, commit {short(found['about']['commit'])}): {found['verdict']}")
        out += [f"    {one['asked']}: {one['words']}" for one in found["checks"]]
    return out
