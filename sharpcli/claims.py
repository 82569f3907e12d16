"""Claims: published statements with the runs that test them, the checks they must pass and the controls that must fail."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sharpcli import CONF
from sharpcli.config import options, part, suggest, typed
from sharpcli.errors import Refusal
from sharpcli.run import writing
from sharpcli.trials import Paths, Trial, about, finish, rows

if TYPE_CHECKING:
    import pandas as pd

TIERS = ("quick", "cpu", "gpu")
HOLDS, FAILS, NOT_HERE, SUDDENLY = "holds", "fails", "does not hold here", "holds, and was not expected to"


@dataclass(frozen=True, kw_only=True)
class Claim(Trial):
    """conf/claim/<id>.yaml: a published statement; `check` must hold of the rows of its runs and each `control` must not.

    A `premise` is what must be true for either to mean anything: that runs converged, or fit. With expect: does_not_hold at
    least one check must fail.
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
    plot: dict[str, Any] | None = None

    @property
    def where(self) -> list[str]:
        """Words of the device of every run: tier gpu's need CUDA."""
        return ["device=cuda"] if self.tier == "gpu" else super().where


@dataclass(frozen=True)
class Verdict:
    """What was found: for each premise, check and control what was asked and measured; the word, and whether it is the
    expected one."""

    id: str
    verdict: str
    premises: list[dict[str, Any]]
    checks: list[dict[str, Any]]
    controls: list[dict[str, Any]]
    seconds: float
    about: dict[str, Any]

    @property
    def expected(self) -> bool:
        """Whether nothing has to be looked into."""
        return self.verdict in (HOLDS, NOT_HERE)


def read(word: str) -> Claim:
    """The claim that a word names."""
    if word not in options("claim"):
        raise Refusal(f"{word}: no such claim; " + suggest(word, options("claim")))
    return Claim(id=word, **yaml.safe_load((CONF / "claim" / f"{word}.yaml").read_text()))


def chosen(words: Sequence[str], tier: str) -> list[Claim]:
    """The claims that words name, or all of a tier."""
    if tier and tier not in TIERS:
        raise Refusal(f"--tier {tier}: " + suggest(tier, TIERS))
    if not words and not tier:
        raise Refusal("no claim given; sharp claim check ID... or --tier quick; sharp claim list shows them")
    claims = [read(word) for word in words or options("claim")]
    if not words and not (claims := [claim for claim in claims if claim.tier == tier]):
        raise Refusal(f"--tier {tier}: no claim has this tier yet; sharp claim list shows which there are")
    return claims


def check(claims: Sequence[Claim], runs_dir: Path, jobs: int, tell: Callable[[str], Any]) -> Iterator[tuple[Claim, Verdict]]:
    """Runs what is missing of all claims, `jobs` at a time, and yields each claim's verdict as soon as its runs are there."""
    inside = runs_dir / "claims"
    for number, paths, seconds in finish(claims, inside, jobs, tell):
        yield claims[number], judge(claims[number], paths, inside, seconds)


def judge(claim: Claim, paths: Paths, inside: Path, seconds: float) -> Verdict:
    """The verdict from the rows of a claim's runs and tables; written with its figure into claims/<id>/.

    A control fails as it must, and a statement does not hold here, only by numbers: runs without one show neither.
    """
    frame = rows(claim, paths)
    premises, checks, controls = (
        [_found(one, frame, claim) for one in of] for of in (claim.premise, claim.check, claim.control)
    )
    sound = all(one["holds"] for one in premises) and all(one["evidence"] and not one["holds"] for one in controls)
    held, seen = all(one["holds"] for one in checks), all(one["evidence"] for one in checks)
    verdict = FAILS
    if claim.expect == "holds" and held and sound:
        verdict = HOLDS
    elif claim.expect == "does_not_hold":
        verdict = SUDDENLY if held else NOT_HERE if sound and seen else FAILS
    verdict_ = Verdict(claim.id, verdict, premises, checks, controls, round(seconds, 1), about(paths))
    folder = inside / claim.id
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        text = {"statement": claim.statement, "source": claim.source, "published": claim.published, **asdict(verdict_)}
        (folder / "verdict.json").write_text(json.dumps(text, indent=1) + "\n")
    if claim.plot is not None:
        figure = part(typed(claim.plot, f"claim {claim.id}: plot", []), [], "plot")(frame)
        with writing(folder):
            figure.savefig(folder / "figure.png")
    return verdict_


def last(word: str, runs_dir: Path) -> dict[str, Any] | None:
    """The verdict on disk, if any."""
    file = runs_dir / "claims" / word / "verdict.json"
    return json.loads(file.read_text()) if file.exists() else None


def _found(words: dict[str, Any], frame: pd.DataFrame, claim: Claim) -> dict[str, Any]:
    defaults: dict[str, Any] = {"reduce": "last", "statistic": "each", "predicted": None, "of": "", "over": []}
    target = f"sharpcli.checks.{words['kind']}"
    given = {key: value for key, value in words.items() if key != "kind"}
    wanted = checks_take(target)
    values = {key: value for key, value in defaults.items() if key in wanted} | given
    finding = part(typed({"_target_": target, **values}, f"claim {claim.id}: check", []), [], "check")(frame)
    return {**asdict(finding), "words": finding.words}


def checks_take(target: str) -> list[str]:
    """What a check's yaml may say."""
    from sharpcli.config import hyperparameters, resolve

    return hyperparameters(resolve(target, "check", []))[1]
