"""What commands print about claims: a line for each, a page about a claim, the table of all. Sees no
torch."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharpcli.claims.claim import HOLDS, NOT_HERE, TIERS, Claim, Verdict, last, read
from sharpcli.claims.power import FACTORS, Again, Power
from sharpcli.config.folders import options
from sharpcli.errors import Refusal, printable

if TYPE_CHECKING:
    import pandas as pd


SURE = 0.995  # a probability that is printed as 1.00


def line(claim: Claim, verdict: Verdict) -> list[str]:
    """The verdict, and what was asked and measured."""
    out = [f"{claim.id}: {verdict.verdict.upper()} ({verdict.seconds:.0f} s)"]
    for kind, findings in (
        ("premise", verdict.premises),
        ("check", verdict.checks),
        ("control", verdict.controls),
    ):
        for f in findings:
            out.append(
                f"  {kind}: {f['asked']}; measured {f['words']}{_interval(f)} ({f['runs']} runs): "
                f"{_outcome(kind, f)}"
            )
    out += [_broken(constant, asked) for constant, asked in verdict.broken.items()]
    return out + ([f"  {verdict.registration}"] if verdict.registration else [])


def _interval(finding: dict[str, Any]) -> str:
    """The 95 % interval of what was measured; empty where a finding has none."""
    value, half_width = finding["measured"], finding["half_width"]
    if value is None or half_width is None:
        return ""
    return f", 95 % from {value - half_width:.4g} to {value + half_width:.4g}"


def _outcome(kind: str, finding: dict[str, Any]) -> str:
    if kind == "control":
        outcome = "HOLDS, and must not" if finding["holds"] else "fails, as it must"
    elif finding["instead"] is not None:
        outcome = _outcome_instead(finding)
    else:
        outcome = "holds" if finding["holds"] else "does not hold"
        if finding["undecided"] and not finding["holds"]:
            outcome += ", and could within its interval"
    return outcome if finding["evidence"] else f"{outcome}, but not every run has a number: it shows nothing"


def _outcome_instead(finding: dict[str, Any]) -> str:
    """How a check ended that must fail, by a number between the two that its `instead` says."""
    low, high = ("any" if bound is None else f"{bound:g}" for bound in finding["instead"])
    if finding["holds"]:
        return f"holds, where {low} to {high} was expected instead"
    if finding["undecided"]:
        return "does not hold, and could within its interval"
    return (
        f"does not hold, {'as' if finding['as_expected'] else 'but not as'} expected: {low} to {high} instead"
    )


def _broken(constant: str, asked: Sequence[str]) -> str:
    """Which checks a wrong constant turned."""
    return f"  broken: {constant}: " + (f"turns {'; '.join(asked)}" if asked else "turns NO check")


def power_lines(
    claim: Claim, broken: Mapping[str, Sequence[str]], powers: Sequence[Power], again: Again
) -> list[str]:
    """Which checks the claim's wrong constants turn, which factors of what is predicted turn a check, which
    factors each check bears, and how sure the verdict is under other seeds."""
    turning = [name for name, factor in FACTORS.items() if any(power.turned_by(factor) for power in powers)]
    said = f"turned by x {', '.join(turning)}" if turning else "no factor from 1/2 to 2 turns it"
    if not broken:
        said += "; it names no wrong constant"
    elif not all(broken.values()):
        said = f"NO POWER: a wrong constant turns no check; {said}"
    out = [f"{claim.id}: {said}", *(_broken(constant, asked) for constant, asked in broken.items())]
    for power in powers:
        ends = [None if end is None else f"{end:.6g}" for end in (power.low, power.high)]
        if not power.holds:
            bears = "does not hold"
        elif ends == [None, None]:
            bears = "holds for any factor"
        elif ends[0] == ends[1]:
            bears = "any other factor turns it"
        elif None in ends:
            bears = f"holds for any factor of at {'least' if ends[0] else 'most'} {ends[0] or ends[1]}"
        else:
            bears = f"holds for factors from {ends[0]} to {ends[1]}"
        out.append(f"  check: {power.asked}: {bears}")
    return [*out, f"  under other seeds: {_again(again)}"]


def _again(again: Again) -> str:
    """How sure a verdict is under other seeds."""
    if not again.least:
        return "no spread over runs is known"
    said = f"the same verdict with probability {again.probability:.2f}"
    if again.probability_of_least < SURE:
        said += f"; least sure, {again.probability_of_least:.2f}: {again.least}"
    return said + (f"; without {again.unknown} of unknown spread" if again.unknown else "")


def would_change(agains: Sequence[Again]) -> str:
    """How many of some verdicts would change under other seeds, by what is expected."""
    expected = sum(1 - again.probability for again in agains)
    return f"under other seeds {expected:.1f} of {len(agains)} verdicts are expected to change"


def summary(verdicts: Sequence[Verdict]) -> str:
    """How many verdicts of which kind."""
    kinds = sorted({verdict.verdict for verdict in verdicts})
    return ", ".join(f"{sum(v.verdict == kind for v in verdicts)} {kind}" for kind in kinds)


def _last(name: str, runs_dir: Path, complain: Callable[[str], Any]) -> dict[str, Any] | None:
    """The last verdict on a claim; None where there is none, and where its file is damaged, of which
    `complain` is told."""
    try:
        return last(name, runs_dir)
    except Refusal as problem:
        complain(str(problem))
        return None


def listing(runs_dir: Path, complain: Callable[[str], Any]) -> list[tuple[str, ...]]:
    """A row of cells for each claim, with its last verdict."""
    rows: list[tuple[str, ...]] = [("claim", "tier", "seconds", "verdict", "statement")]
    for claim in map(read, options("claim")):
        verdict = (_last(claim.id, runs_dir, complain) or {"verdict": "-"})["verdict"]
        rows.append(
            (
                claim.id,
                claim.tier,
                f"{claim.seconds:g}",
                printable(verdict),
                claim.statement.split(".")[0][:90],
            )
        )
    return rows


def markdown(runs_dir: Path, complain: Callable[[str], Any]) -> list[str]:
    """The claims that have a verdict, as a table for a page."""
    out = [
        "| claim | predicted or published | measured | verdict | judged at commit | runs made at "
        "| turned by |",
        "|---|---|---|---|---|---|---|",
    ]
    machines: set[str] = set()
    for name in options("claim"):
        if (verdict := _last(name, runs_dir, complain)) is None:
            continue
        shown, origin = _shown(verdict), verdict["about"]
        if origin["made_at"] or not machines:  # closed forms run on no device
            machines.add(f"{origin['date']}, {origin['machine']}.")
        commits = [short(commit) for commit in origin["made_at"]]
        cells = (
            f"`{name}`",
            shown["asked"].replace("|", r"\|"),
            shown["words"],
            verdict["verdict"] + (f" ({said})" if (said := verdict.get("registration")) else ""),
            short(origin["commit"]),
            ", ".join(commits) if len(commits) < 3 else f"{len(commits)} commits",
            _turns(verdict),
        )
        out.append(f"| {' | '.join(cells)} |")
    for machine in sorted(machines):
        out += ["", machine]
    return out


def _shown(verdict: dict[str, Any]) -> dict[str, Any]:
    """The check that made a verdict: the first that does not hold, else the first."""
    shown: dict[str, Any] = next(
        (check for check in verdict["checks"] if not check.get("holds", True)), verdict["checks"][0]
    )
    return shown


def _turns(verdict: dict[str, Any]) -> str:
    """The wrong constants that turn a check, and in bold those that turn none."""
    broken = verdict.get("broken") or {}
    cells = [str(constant) if asked else f"**not: {constant}**" for constant, asked in broken.items()]
    return "; ".join(cells).replace("|", r"\|") or "-"


def pictures(runs_dir: Path, complain: Callable[[str], Any]) -> list[dict[str, Any]]:
    """Every claim that has a verdict, for a page: its `title`, lines of `text`, its `verdict`, whether that
    is the one that was expected (`good`), and the file of its figure, the `image`."""
    out = []
    for claim in map(read, options("claim")):
        if (verdict := _last(claim.id, runs_dir, complain)) is None:
            continue
        text = [claim.statement.strip(), f"source: {claim.source}"]
        text += [f"{finding['asked']}: measured {finding['words']}" for finding in verdict["checks"]]
        out.append(
            {
                "title": claim.id,
                "text": text,
                "verdict": verdict["verdict"],
                "good": verdict["verdict"] in (HOLDS, NOT_HERE),
                "image": runs_dir / "claims" / claim.id / "figure.png",
            }
        )
    return out


def rows(runs_dir: Path, *, all_checks: bool) -> pd.DataFrame:
    """The checks of every claim that has a verdict, the first of each or `all_checks`: `claim`, what was
    `asked`, `measured` with its `spread`, the bounds `low` and `high` (infinite where there is none), and the
    `verdict`. Refuses a folder without a verdict."""
    import pandas as pd

    out = []
    for claim in map(read, options("claim")):
        if (verdict := _last(claim.id, runs_dir, lambda message: None)) is None:
            continue
        for check, finding in list(zip(claim.check, verdict["checks"], strict=False))[
            : None if all_checks else 1
        ]:
            low, high = check.get("between") or (None, None)
            out.append(
                {
                    "run": claim.id,
                    "claim": claim.id,
                    "verdict": verdict["verdict"],
                    "as_expected": verdict["verdict"] in (HOLDS, NOT_HERE),
                    "low": -math.inf if low is None else float(low),
                    "high": math.inf if high is None else float(high),
                    **{key: finding[key] for key in ("asked", "measured", "spread", "words")},
                }
            )
    if not out:
        raise Refusal(f"{runs_dir}: no claim was judged there; sharp claim check judges")
    frame = pd.DataFrame(out)
    frame.attrs = {"notes": [], "settings": []}
    return frame


def short(commit: str | None) -> str:
    """Seven digits of a commit, and whether files differed from it."""
    if commit is None:
        return "-"
    return commit[:7] + ("+dirty" if commit.endswith("+dirty") else "")


def _listed(entries: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in entries.items())


def about(name: str, runs_dir: Path) -> list[str]:
    """A page about a claim."""
    claim = read(name)
    expected = claim.expect.replace("_", " ")
    machine = TIERS[claim.tier].machine
    out = [
        f"{claim.id} (tier {claim.tier}, about {claim.seconds:g} s on {machine}; expected: {expected})",
        f"  {claim.statement.strip()}",
        f"  source: {claim.source}",
        f"  convention: {claim.convention}",
        f"  published: {claim.published}",
        *([f"  prediction: {claim.prediction}"] if claim.prediction else []),
    ]
    out += [
        f"  before, at each seed, {first}: sharp train {shlex.join(own)} (init_from={first} means its last "
        f"weights)"
        for first, own in claim.before.items()
    ]
    out += [
        f"  run {part}: sharp train {shlex.join([*claim.base, *own])} -m" for part, own in claim.runs.items()
    ]
    out += [f"  table {part}: {table['_target_']}" for part, table in claim.tables.items()]
    for kind, checks in (
        ("premise", claim.premise),
        ("check", claim.check),
        ("control, must fail", claim.control),
    ):
        out += [f"  {kind}: {_listed(check)}" for check in checks]
    out += [f"  broken, must turn a check: {name}: {_listed(entry)}" for name, entry in claim.broken.items()]
    if verdict := last(name, runs_dir):
        origin = verdict["about"]
        out.append(
            f"  last verdict ({origin['date']}, commit {short(origin['commit'])}): {verdict['verdict']}"
        )
        out += [f"    {finding['asked']}: {finding['words']}" for finding in verdict["checks"]]
    return out
