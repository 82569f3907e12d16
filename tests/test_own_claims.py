"""A claim and a study of one's own, in a folder that --config-dir adds, and what is wrong with their yaml."""

import pytest
import yaml


def own_claim(**changed):
    """The yaml of a claim of one run, with some of its lines changed, or left out where they are None."""
    lines = {
        "statement": "GD stays below its edge",
        "source": "none",
        "convention": "half squared loss",
        "tier": "quick",
        "seconds": 5,
        "base": ["problem=quadratic", "steps=2", "lr=0.1"],
        "runs": {"gd": ["seed=1,2,3"]},
        "check": [{"kind": "within", "of": "gd", "value": "lambda_1", "between": [1.9, 2.1]}],
        "control": [{"kind": "within", "of": "gd", "value": "lambda_1", "between": [None, 1]}],
        "broken": {"twice": {"bounds": {1: 2}}},
    }
    return yaml.safe_dump({key: value for key, value in (lines | changed).items() if value is not None})


LAMBDA_1 = {"kind": "within", "of": "gd", "value": "lambda_1", "between": [1.9, 2.1]}
WRONG_CLAIMS = {
    "unknown name": (own_claim(stament="x"), "stament"),
    "missing names": (own_claim(check=None, source=None), "source, check"),
    "no mapping": ("- a\n- b\n", "mapping"),
    "no yaml": ("statement: [", "no YAML"),
    "runs as a list": (own_claim(runs=["seed=1"]), "runs"),
    "base as a text": (own_claim(base="problem=quadratic"), "base"),
    "a run as a text": (own_claim(runs={"gd": "seed=1"}), "seed=1"),
    "a word that is a number": (own_claim(base=[3]), "base"),
    "nothing for a text": ("statement:\nsource: a\n", "convention"),
    "no text": (own_claim().replace("statement: GD stays below its edge", "statement:"), "statement"),
    "another tier": (own_claim(tier="fast"), "tier"),
    "a check without its kind": (own_claim(check=[{"of": "gd"}]), "kind"),
    "an unknown kind": (own_claim(check=[{**LAMBDA_1, "kind": "inside"}]), "inside"),
    "bounds that are a number": (own_claim(check=[{**LAMBDA_1, "between": 2}]), "between"),
    "one bound": (own_claim(check=[{**LAMBDA_1, "between": [2]}]), "between"),
    "no value": (own_claim(check=[{"kind": "within", "of": "gd", "between": [1, 2]}]), "value"),
    "another word than expected": (own_claim(expect="fails"), "expect"),
    "a table without a function": (own_claim(tables={"t": {"seeds": [1]}}), "_target_"),
    "a table of another function": (
        own_claim(tables={"t": {"_target_": "sharpcli.claims.tables.none.none"}}),
        "none",
    ),
    "seconds as a text": (own_claim(seconds="long"), "seconds"),
}


def test_a_claim_of_one_s_own_is_checked(sharp, folder):
    (folder / "mine/claim").mkdir(parents=True)
    (folder / "mine/claim/own.yaml").write_text(own_claim())
    said = sharp("claim", "check", "own", "--config-dir", "mine", "-j", "1", "--dirty")
    assert said.code == 0 and "own: HOLDS" in said.out, said.err


@pytest.mark.parametrize("name", WRONG_CLAIMS)
def test_what_is_wrong_with_the_yaml_of_a_claim_is_one_line(sharp, folder, name):
    text, named = WRONG_CLAIMS[name]
    (folder / "mine/claim").mkdir(parents=True)
    (folder / "mine/claim/own.yaml").write_text(text)
    said = sharp("claim", "check", "own", "--config-dir", "mine", "-j", "1", "--dirty")
    assert named in said.refusal, said.err


WRONG_STUDIES = {
    "unknown name": ("stament: x\n", "stament"),
    "missing names": ("question: why\n", "source"),
    "no mapping": ("- a\n", "mapping"),
    "no yaml": ("question: [", "no YAML"),
}


@pytest.mark.parametrize("name", WRONG_STUDIES)
def test_what_is_wrong_with_the_yaml_of_a_study_is_one_line(sharp, folder, name):
    text, named = WRONG_STUDIES[name]
    (folder / "mine/study").mkdir(parents=True)
    (folder / "mine/study/own.yaml").write_text(text)
    said = sharp("study", "own", "--config-dir", "mine", "-j", "1")
    assert named in said.refusal, said.err
