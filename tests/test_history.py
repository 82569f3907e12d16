"""What the history says of a claim: clean trees, commits of its runs, and what was registered before them."""

import json
import subprocess
from dataclasses import replace

import pytest
import yaml

from sharpcli import provenance
from sharpcli.claims import claim as claims
from sharpcli.claims import history


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository of three commits: before the claim, with the claim, and with what it registers."""

    def git(*words):
        return subprocess.run(
            ["git", *words], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    def commit(message):
        git("add", "-A")
        git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "--allow-empty", "-m", message)
        return git("rev-parse", "HEAD").strip()

    git("init", "-q")
    file = tmp_path / "sam_radius.yaml"
    before = commit("before the claim")
    text = {"expect": "does_not_hold", "check": [{"kind": "within", "between": [0, 1], "instead": [2, 3]}]}
    file.write_text(yaml.safe_dump(text))
    at = commit("the claim")
    date = git("show", "--no-patch", "--format=%cs", at).strip()
    registered = {"commit": at, "date": date}
    file.write_text(yaml.safe_dump(text | {"registered": registered}))
    after = commit("what it registers")
    monkeypatch.setattr(history, "yaml_files", lambda group: {"sam_radius": file})
    monkeypatch.setattr(history, "PACKAGE", tmp_path)
    return file, text, registered, before, after


def claim(registered):
    return replace(claims.read("sam_radius"), expect="does_not_hold", registered=registered)


def test_what_fails_is_registered_where_the_history_has_it_before_the_runs(repository):
    file, text, registered, before, after = repository
    said = f"registered at {registered['commit'][:7]}"
    assert (
        history.registration(claim(registered), [after]) == f"{said}, {registered['date']}, before its runs"
    )
    assert history.registration(claim(registered), [registered["commit"] + "+dirty"]).endswith("its runs")
    assert (
        history.registration(claim(registered), [after, before]) == f"{said}, after runs made at {before[:7]}"
    )
    assert history.registration(claim(None), [after]) == "not registered before its runs"
    wrong = history.registration(claim(registered | {"date": "2001-02-03"}), [after])
    assert wrong == f"{said}, which is of {registered['date']} and not of 2001-02-03"
    lost = history.registration(claim(registered | {"commit": "0" * 40}), [after])
    assert lost == "registered at 0000000, which no history here has"
    narrowed = [text["check"][0] | {"instead": [2.4, 2.5]}]
    file.write_text(yaml.safe_dump(text | {"check": narrowed, "registered": registered}))
    changed = history.registration(claim(registered), [after])
    assert changed == f"changed since it was registered at {registered['commit'][:7]}: check"


def test_commits_of_other_histories_and_of_changed_files_are_in_none(repository, monkeypatch):
    *_, before, after = repository
    monkeypatch.setattr(history, "commit", lambda: after)
    lost = ["0" * 40, f"{after}+dirty"]
    assert history.not_in_history([before, after, "-", *lost]) == lost
    monkeypatch.setattr(history, "commit", lambda: None)  # as once installed
    assert history.not_in_history([before, *lost]) == []


def test_a_commit_is_dirty_where_files_that_decide_numbers_differ(repository, monkeypatch):
    file, *_, after = repository
    folder = file.parent
    (folder / "package").mkdir()
    module = folder / "package" / "provenance.py"
    module.write_text("")
    (folder / "page.md").write_text("")
    add = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*add, "add", "-A"], cwd=folder, check=True)
    subprocess.run([*add, "commit", "-qm", "a package"], cwd=folder, check=True)
    monkeypatch.setattr(provenance, "__file__", str(module))
    monkeypatch.setattr(provenance, "CONF", folder / "sam_radius.yaml")
    commit = provenance.commit.__wrapped__
    clean = commit()
    (folder / "page.md").write_text("a page decides no number")
    assert len(clean) == 40 and clean != after and commit() == clean
    file.write_text("statement: another")
    assert commit() == f"{clean}+dirty"
    module.unlink()
    subprocess.run([*add, "rm", "-q", "--cached", str(module)], cwd=folder, check=True)
    assert commit() is None


def test_verdicts_are_recorded_from_commits_alone(sharp, folder, monkeypatch):
    monkeypatch.setattr(history, "commit", lambda: "1" * 40 + "+dirty")
    refused = sharp("claim", "check", "sam_radius", "-j", "1").refusal
    assert "differ from the commit 1111111" in refused and "--dirty records it as" in refused
    assert not (folder / "runs").exists()
    assert "did you mean sam_radius" in sharp("claim", "check", "sam_radios").refusal
    assert sharp("claim", "check", "sam_radius", "--dirty", "-j", "1").code == 0
    verdict = folder / "runs/claims/sam_radius/verdict.json"
    verdict.unlink()
    for file in (folder / "runs/claims").glob("*/provenance.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"commit": "1" * 40}))
    monkeypatch.setattr(history, "commit", lambda: "2" * 40)
    said = sharp("claim", "check", "sam_radius", "-j", "1")
    assert said.code == 2 and "no commit of the history" in said.err.splitlines()[-1], said.err
    assert "runs/claims/" in said.err.splitlines()[-1], "which run"
    assert "Traceback" not in said.err and not verdict.exists()
    monkeypatch.setattr(history, "commit", lambda: None)
    assert sharp("claim", "check", "sam_radius", "-j", "1").code == 0 and verdict.exists()
