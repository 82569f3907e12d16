"""What the history of the repository says about a claim: which runs were made at one of its commits, and
whether a statement's failure was written down before the runs that show it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sharpcli.config.folders import yaml_files
from sharpcli.errors import Refusal
from sharpcli.provenance import commit

if TYPE_CHECKING:
    from sharpcli.claims.claim import Claim

PACKAGE = Path(__file__).resolve().parent
# what decides a verdict; the words around it may change
DECISIVE = ("expect", "base", "runs", "before", "tables", "first", "columns", "premise", "check", "control")


def refuse_dirty() -> None:
    """Refuses where the files of this package's checkout differ from its commit: a verdict would name a
    commit that others cannot run."""
    at = commit()
    if at is not None and at.endswith("+dirty"):
        raise Refusal(
            f"files of sharpcli/ or conf/ differ from the commit {at[:7]} (git status lists them), and a "
            "verdict names a commit that others can run: commit them first, or --dirty records it as "
            f"{at[:7]}+dirty"
        )


def not_in_history(commits: Iterable[str]) -> list[str]:
    """Which of the commits that runs were made at are not in the history of this package's checkout; none
    once installed, where there is no history to ask."""
    if commit() is None:
        return []
    return [at for at in commits if at.endswith("+dirty") or (at != "-" and not _is_ancestor(at, "HEAD"))]


def registration(claim: Claim, made_at: Iterable[str]) -> str:
    """Whether the history has what a claim's `registered` says: at its commit the yaml asked what it asks
    now, at its date, and the runs were made at no earlier commit."""
    if not isinstance(claim.registered, dict):
        return "not registered before its runs"
    at, date = str(claim.registered.get("commit")), str(claim.registered.get("date"))
    file = Path(yaml_files("claim")[claim.id])
    then = _git(file.parent, "show", f"{at}:./{file.name}")
    when = _git(file.parent, "show", "--no-patch", "--format=%cs", at)
    if then is None or when is None:
        return f"registered at {at[:7]}, which no history here has"
    said, now = yaml.safe_load(then), yaml.safe_load(file.read_text())
    if changed := [key for key in DECISIVE if said.get(key) != now.get(key)]:
        return f"changed since it was registered at {at[:7]}: {', '.join(changed)}"
    if when.strip() != date:
        return f"registered at {at[:7]}, which is of {when.strip()} and not of {date}"
    if earlier := [run_at for run_at in made_at if not _is_ancestor(at, run_at.removesuffix("+dirty"))]:
        return f"registered at {at[:7]}, after runs made at {earlier[0][:7]}"
    return f"registered at {at[:7]}, {date}, before its runs"


def _is_ancestor(first: str, second: str) -> bool:
    return _git(PACKAGE, "merge-base", "--is-ancestor", first, second) is not None


def _git(folder: Path, *arguments: Any) -> str | None:
    """What git prints; None where it refuses, or is not installed."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return None if done.returncode else done.stdout
