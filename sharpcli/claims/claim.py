"""Claims: published statements with the runs that test them, the checks they must pass and the controls that
must fail."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharpcli.claims.evidence import (
    Paths,
    Trial,
    about,
    drawn,
    finish,
    made_at_of,
    measured,
    with_columns,
    written,
)
from sharpcli.claims.findings import built, finding
from sharpcli.claims.history import not_in_history, registration
from sharpcli.claims.power import Again, Power, again, broken_of, of_claim, turned
from sharpcli.config.build import part
from sharpcli.config.check import typed
from sharpcli.config.folders import options, yaml_files
from sharpcli.config.words import suggest
from sharpcli.errors import Refusal
from sharpcli.jsonl import files, replace, writing

if TYPE_CHECKING:
    import pandas as pd

LARGEST = 16_000_000  # bytes of a verdict.json
HOLDS, FAILS, NOT_HERE = "holds", "fails", "does not hold here"
UNEXPECTED = "holds, and was not expected to"
INCONCLUSIVE = "inconclusive"
NO_POWER = "holds, without power"


@dataclass(frozen=True)
class Tier:
    """The claims that are checked together: what they run on, in words for a reader and as overrides of every
    run."""

    machine: str
    device: tuple[str, ...] = ("device=cpu", "threads=1")


EXPECTED = ["holds", "does_not_hold"]
TIERS = {
    "quick": Tier("two cores"),
    "cpu": Tier("two cores"),
    "gpu": Tier("one graphics card, by estimate", ("device=cuda",)),
}


@dataclass(frozen=True, kw_only=True)
class Claim(Trial):
    """conf/claim/<id>.yaml: a published statement; `check` must hold of the rows of its runs and each
    `control` must not.

    A `premise` is what must be true for either to mean anything: that runs converged, or fit. With expect:
    does_not_hold the checks with `instead: [low, high]` must fail, decidedly, by a number between these two,
    and the others hold; `registered` names the commit and the date at which this was written down. `broken`
    are wrong constants, each of which must turn a check: see `Broken`.
    """

    statement: str
    source: str
    convention: str
    tier: str
    seconds: float
    check: list[dict[str, Any]]
    control: list[dict[str, Any]]
    premise: list[dict[str, Any]] = field(default_factory=list)
    published: str = "-"
    prediction: str = ""
    expect: str = "holds"
    registered: dict[str, Any] | None = None
    broken: dict[str, dict[str, Any]] = field(default_factory=dict)
    plot: dict[str, Any] | None = None

    @property
    def device(self) -> list[str]:
        """The device settings of its tier, as overrides."""
        return list(TIERS[self.tier].device)


@dataclass(frozen=True)
class Verdict:
    """For each premise, check and control what was asked and measured; the verdict's word, and the evidence's
    origin. `broken` maps each wrong constant to what the checks ask that it turned; `registration` says
    whether what fails was written down before its runs, empty for a claim that is expected to hold."""

    id: str
    verdict: str
    premises: list[dict[str, Any]]
    checks: list[dict[str, Any]]
    controls: list[dict[str, Any]]
    seconds: float
    about: dict[str, Any]
    broken: dict[str, list[str]] = field(default_factory=dict)
    registration: str = ""

    @property
    def expected(self) -> bool:
        """Whether nothing has to be looked into."""
        return self.verdict in (HOLDS, NOT_HERE)


def read(name: str) -> Claim:
    """The claim of this name. Refuses an unknown name, and a wrong constant that breaks nothing."""
    if name not in options("claim"):
        raise Refusal(f"{name}: no such claim; " + suggest(name, options("claim")))
    claim = Claim(id=name, **_said(yaml_files("claim")[name]))
    broken_of(claim)
    return claim


def _said(file: Path) -> dict[str, Any]:
    """What the yaml of a claim says. Refuses what `written` does, a check without a kind, and another word
    than is possible."""
    said = written(file, Claim)
    for group in ("premise", "check", "control"):
        if not all(isinstance(entry, dict) and "kind" in entry for entry in said.get(group, [])):
            raise Refusal(f"{file}: {group}: a list of mappings with a kind, as in - {{kind: within, ...}}")
    if not said["check"]:
        raise Refusal(f"{file}: check: none; give what must hold, as in - {{kind: within, ...}}")
    for key, possible in (("expect", EXPECTED), ("tier", list(TIERS))):
        if said.get(key, possible[0]) not in possible:
            raise Refusal(f"{file}: {key}: {said[key]}: " + suggest(str(said[key]), possible))
    must_fail = any("instead" in entry for entry in said["check"])
    if must_fail != (said.get("expect", EXPECTED[0]) == "does_not_hold"):
        raise Refusal(
            f"{file}: a claim with expect: does_not_hold has a check with instead: [low, high], by which it "
            f"fails, and no other claim has"
        )
    return said


def chosen(names: Sequence[str], tier: str) -> list[Claim]:
    """The claims of these names, or all of a tier. Refuses an unknown tier, and neither."""
    if tier and tier not in TIERS:
        raise Refusal(f"--tier {tier}: " + suggest(tier, list(TIERS)))
    if not names and not tier:
        raise Refusal("no claim given; sharp claim check ID... or --tier quick; sharp claim list shows them")
    claims = [read(name) for name in names or options("claim")]
    if not names and not (claims := [claim for claim in claims if claim.tier == tier]):
        raise Refusal(f"--tier {tier}: no claim has this tier yet; sharp claim list shows the tier of each")
    return claims


def _rehearse(claim: Claim) -> None:
    """Refuses checks and tables that cannot be built, before anything is run for them."""
    for one in (*claim.premise, *claim.check, *claim.control):
        built(one, claim.id)
    if claim.plot is not None:
        part(typed(claim.plot, f"claim {claim.id}: plot", []), [], "plot")
    for name, table in claim.tables.items():
        if not isinstance(table, dict) or "_target_" not in table:
            raise Refusal(f"claim {claim.id}: tables: {name}: a mapping with the _target_ of a function")
        part(typed({k: v for k, v in table.items() if k != "of"}, f"{claim.id}-{name}", []), [], name)


def check(
    claims: Sequence[Claim],
    runs_dir: Path,
    jobs: int,
    tell: Callable[[str], Any],
    dirty: bool = False,
) -> Iterator[tuple[Claim, Verdict]]:
    """Runs what is missing of all claims, `jobs` at a time, and yields each claim's verdict as soon as its
    runs are there. Refuses at the end verdicts on runs that were made at no commit of the history, unless
    `dirty`: these are not recorded."""
    for claim in claims:
        _rehearse(claim)
    inside = runs_dir / "claims"
    refused = ""
    for number, paths, seconds in finish(claims, inside, jobs, tell):
        made_at = about(paths)["made_at"]
        if not dirty and (lost := not_in_history(made_at)):
            run = next(path for _, path in paths if made_at_of(path) == lost[0])
            refused = (
                f"{claims[number].id}: {run} was made at {lost[0]}, which is no commit of the history: "
                "remove such runs, and the same command makes them again; --dirty judges them as they are"
            )
            tell(f"sharp: {refused}")
            continue
        yield claims[number], judge(claims[number], paths, inside, seconds)
    if refused:
        raise Refusal(refused)


def powers(
    claims: Sequence[Claim], runs_dir: Path, jobs: int, tell: Callable[[str], Any]
) -> Iterator[tuple[Claim, dict[str, list[str]], list[Power], Again]]:
    """Runs what is missing of all claims, as a check of them does, and yields for each claim what the checks
    ask that each of its wrong constants turns, the power of each check, and how sure the verdict is under
    other seeds."""
    for claim in claims:
        _rehearse(claim)
    for number, paths, _ in finish(claims, runs_dir / "claims", jobs, tell):
        claim = claims[number]
        as_measured = measured(claim, paths)
        frame = with_columns(claim, as_measured)
        premises, found, controls = (
            [finding(check, frame, claim.id) for check in group]
            for group in (claim.premise, claim.check, claim.control)
        )
        of_checks = of_claim(claim, claim.check, frame)
        yield claim, _turned(claim, found, as_measured), of_checks, again([*premises, *found], controls)


def _turned(claim: Claim, found: Sequence[Mapping[str, Any]], frame: pd.DataFrame) -> dict[str, list[str]]:
    """By each wrong constant of a claim, what the checks ask that it turns, which have `found` something;
    `frame` has the rows without the claim's columns."""
    return {
        constant: [one["asked"] for one in turned(claim, claim.check, found, frame, wrong)]
        for constant, wrong in broken_of(claim).items()
    }


def judge(claim: Claim, paths: Paths, inside: Path, seconds: float) -> Verdict:
    """The verdict from the rows of a claim's runs and tables; written with its figure into claims/<id>/,
    unless the claim has other seeds than its yaml.

    A control fails as it must, and a statement does not hold here, only by numbers: runs without a number
    show neither.
    """
    as_measured = measured(claim, paths)
    frame = with_columns(claim, as_measured)
    premises, checks, controls = (
        [finding(check, frame, claim.id) for check in group]
        for group in (claim.premise, claim.check, claim.control)
    )
    broken, origin = _turned(claim, checks, as_measured), about(paths)
    verdict = Verdict(
        id=claim.id,
        verdict=_word(claim, premises, checks, controls, broken),
        premises=premises,
        checks=checks,
        controls=controls,
        seconds=round(seconds, 1),
        about=origin,
        broken=broken,
        registration="" if claim.expect == "holds" else registration(claim, origin["made_at"]),
    )
    if claim.shift:
        return verdict
    folder = inside / claim.id
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        text = {
            "statement": claim.statement,
            "source": claim.source,
            "published": claim.published,
            **asdict(verdict),
        }
        replace(
            files.no_link(folder) / "verdict.json", (json.dumps(text, indent=1) + "\n").encode(), durable=True
        )
    if claim.plot is not None:
        try:
            figure = part(typed(claim.plot, f"claim {claim.id}: plot", []), [], "plot")(frame)
        except Refusal as problem:
            raise Refusal(f"{claim.id}: {verdict.verdict}, and no figure: plot: {problem}") from None
        with writing(folder):
            replace(files.no_link(folder) / "figure.png", drawn(figure, "png"))
    return verdict


def _word(
    claim: Claim,
    premises: Sequence[dict[str, Any]],
    checks: Sequence[dict[str, Any]],
    controls: Sequence[dict[str, Any]],
    broken: dict[str, list[str]],
) -> str:
    """The verdict's word. What is not as expected, but could be within its 95 % interval, is inconclusive."""
    controls_fail = all(control["evidence"] and not control["holds"] for control in controls)
    is_sound = all(premise["holds"] for premise in premises) and controls_fail
    has_evidence = all(check["evidence"] for check in checks)
    must_fail = [check for check in checks if check["instead"] is not None]
    must_hold = claim.expect == "holds"
    if not must_hold and all(check["holds"] for check in must_fail or checks):
        return UNEXPECTED
    if not is_sound or not has_evidence:
        return FAILS
    if not must_hold and not must_fail:
        return NOT_HERE
    if wrong := [check for check in checks if not check["as_expected"]]:
        return INCONCLUSIVE if all(check["undecided"] for check in wrong) else FAILS
    if not all(broken.values()):
        return NO_POWER if must_hold else INCONCLUSIVE
    return HOLDS if must_hold else NOT_HERE


def last(name: str, runs_dir: Path) -> dict[str, Any] | None:
    """The last verdict on a claim as it is in verdict.json; None where the claim was never checked. Refuses a
    file that is no verdict."""
    file = runs_dir / "claims" / name / "verdict.json"
    try:
        verdict = json.loads(files.read(file, LARGEST))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as problem:
        reason = getattr(problem, "strerror", None) or "no JSON"
        raise Refusal(
            f"{file}: cannot be read ({reason}); sharp claim check {name} writes it again"
        ) from None
    if not _is_verdict(verdict):
        raise Refusal(f"{file}: no verdict of a claim; sharp claim check {name} writes it again")
    return verdict


def _is_verdict(value: Any) -> bool:
    """Whether a value has what readers of a verdict rely on."""
    if not isinstance(value, dict) or not isinstance(value.get("verdict"), str):
        return False
    checks, origin = value.get("checks"), value.get("about")
    if not isinstance(checks, list) or not checks or not isinstance(origin, dict):
        return False
    if not isinstance(value.get("broken", {}), dict) or not isinstance(value.get("registration", ""), str):
        return False
    texts = [*(origin.get(key) for key in ("date", "machine")), origin.get("commit") or ""]
    texts += [check.get(key) for check in checks if isinstance(check, dict) for key in ("asked", "words")]
    made_at = origin.get("made_at")
    return (
        all(isinstance(check, dict) for check in checks)
        and all(isinstance(text, str) for text in texts)
        and isinstance(made_at, list)
        and all(isinstance(commit, str) for commit in made_at)
    )
