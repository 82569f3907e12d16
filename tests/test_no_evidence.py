"""What is no evidence counts for nothing, and numbers that a check states are those that it judges by."""

import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml
from test_own_claims import LAMBDA_1, own_claim

from sharpcli.claims import checks
from sharpcli.claims.evidence import Trial
from sharpcli.claims.findings import finding
from sharpcli.errors import Refusal


def of_runs(values, part="p", seeds=None, **columns):
    """A frame of runs with these last values of y, one row each."""
    runs = [f"{part}{i}" for i in range(len(values))]
    seeds = range(len(values)) if seeds is None else seeds
    return pd.DataFrame({"run": runs, "step": 1, "part": part, "seed": seeds, "y": values, **columns})


def asked(**changed):
    return {"kind": "within", "value": "y", "between": [0.9, 1.1]} | changed


@pytest.mark.parametrize("reduce", ["last", "max", "min", "mean", "median", "late"])
def test_a_run_that_diverged_has_no_number_but_of_whether_it_did(reduce):
    frame = of_runs([1.0, 1.0], diverged=[False, True])
    lost = finding(asked(reduce=reduce), frame, "c")
    assert not lost["holds"] and not lost["evidence"]
    share = finding(asked(value="diverged", statistic="share", between=[0.5, 0.5]), frame, "c")
    assert share["holds"] and share["evidence"]
    assert finding(asked(reduce="first"), frame, "c")["holds"]  # the start is that of any run
    assert not finding(asked(value="y.fillna(0)", between=[1, 1]), frame, "c")["holds"]
    assert finding(asked(value="y.fillna(1)", reduce=reduce), frame, "c")["evidence"]


def test_what_is_measured_is_the_statistic():
    frame = of_runs([1.0, 1.0, 1.0, 1.0, 1000.0])
    assert finding(asked(statistic="median"), frame, "c")["measured"] == 1.0
    two = pd.concat([of_runs([1.0, 1.0]), of_runs([2.0, 4.0], "q")], ignore_index=True)
    found = finding(asked(statistic="mean"), two, "c")
    assert not found["holds"] and found["measured"] == 3.0  # of the part that is outside


def test_a_rank_correlation_s_interval_is_of_the_number_that_is_stated():
    rng = np.random.default_rng(0)
    x = rng.normal(size=7)
    single = of_runs(x + rng.normal(size=7), x=x)  # one run for each seed
    found = checks.rank_correlation(
        single, x="x", y="y", over=[], of="", reduce="last", between=[0.9, 1.0], predicted=None
    )
    taus = [
        float(pd.concat([single.x, single.y], axis=1).drop(i).corr("kendall").iloc[0, 1]) for i in range(7)
    ]
    error = math.sqrt(6 / 7 * np.sum((np.array(taus) - np.mean(taus)) ** 2))
    assert found.half_width == pytest.approx(2.4469 * error, rel=1e-4) and found.spread is None
    shifted = pd.concat(
        [of_runs(np.arange(3.0) - 2 * s, f"s{s}", [s] * 3, x=np.arange(3.0) + 2 * s) for s in range(3)]
    )  # within each seed tau is 1, over all it is not
    found = checks.rank_correlation(
        shifted, x="x", y="y", over=[], of="", reduce="last", between=[0.9, 1.0], predicted=None
    )
    assert found.measured < 0 < found.half_width


def test_of_a_single_run_nobody_knows_the_error():
    frame = pd.concat([of_runs([1.0]), of_runs([2.0, 2.1], "q")], ignore_index=True)
    found = checks.ratio(frame, value="y", of="p", to="q", reduce="last", between=[0, 1], predicted=None)
    assert found.half_width is None and found.spread is None


@pytest.mark.parametrize(
    "value",
    ["1 / 0", "10**400", "1 if y else 2", "nosuch", "y.nosuch()"],
    ids=["1/0", "big", "if", "name", "method"],
)
def test_an_expression_that_gives_no_number_is_one_line(value):
    with pytest.raises(Refusal) as refused:
        finding(asked(value=value), of_runs([1.0]), "c")
    assert "\n" not in str(refused.value) and value in str(refused.value)


def test_a_part_that_is_no_regular_expression_is_one_line():
    with pytest.raises(Refusal, match="of=p\\(: no regular expression"):
        finding(asked(of="p("), of_runs([1.0]), "c")


def test_other_seeds_are_other_seeds_of_runs_that_name_none_and_of_replicas():
    trial = Trial(id="t", runs={"a": ["lr=1"], "b": ["replicas=4"], "c": ["seed=3,4"]}, shift=5)
    named = [word for _, job in trial.jobs() for word in job if word.startswith("seed=")]
    assert named == ["seed=5", "seed=20", "seed=8", "seed=9"]


WRONG = {
    "no check": (own_claim(check=[]), "check: none"),
    "no runs": (own_claim(runs={}), "no runs and no tables"),
    "instead without its expectation": (own_claim(check=[{**LAMBDA_1, "instead": [1, 2]}]), "does_not_hold"),
    "an expectation without instead": (own_claim(expect="does_not_hold"), "instead"),
    "bounds the wrong way round": (own_claim(check=[{**LAMBDA_1, "between": [2, 1]}]), "the lower first"),
    "instead as a number": (
        own_claim(expect="does_not_hold", check=[{**LAMBDA_1, "instead": 3}]), "two numbers"),
    "broken by nothing": (own_claim(broken={"x": None}), "give a mapping"),
    "broken by a list": (own_claim(broken={"x": ["bounds"]}), "give a mapping"),
    "a factor that is a text": (own_claim(broken={"x": {"bounds": {1: "two"}}}), "a number"),
    "a check's number as a text": (own_claim(broken={"x": {"bounds": {"1": 2}}}), "without"),
    "a column that is a number": (own_claim(columns={"d": 3}), "columns"),
    "a wrong column that is a number": (own_claim(broken={"x": {"columns": {"d": 3}}}), "columns"),
    "a first that is no column": (own_claim(first=["nosuch"]), "nosuch"),
    "a plot that is none": (own_claim(plot={"_target_": "sharpcli.plots.theory.nosuch"}), "nosuch"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_a_claim_of_one_s_own_lacks_is_one_line(sharp, folder, name):
    text, said = WRONG[name]
    (folder / "mine/claim").mkdir(parents=True)
    (folder / "mine/claim/own.yaml").write_text(text)
    came = sharp("claim", "check", "own", "--config-dir", "mine", "-j", "1", "--dirty")
    assert came.code == 2 and said in came.err.splitlines()[-1] and "Traceback" not in came.err, came.err


def test_what_is_measured_later_is_no_evidence_and_no_number_turns_nothing(sharp, folder):
    (folder / "mine/claim").mkdir(parents=True)
    nan = {"nothing": {"columns": {"d": "0 * lambda_1 / (0 * lambda_1)"}}}
    check = [{"kind": "within", "value": "d", "between": [1.9, 2.1]}]
    text = own_claim(
        columns={"d": "1.0 * lambda_1"}, check=check, broken=nan, runs={"gd": ["seed=1"], "too": ["seed=1"]}
    )
    (folder / "mine/claim/own.yaml").write_text(text)
    words = ("claim", "check", "own", "--config-dir", "mine", "-j", "1", "--dirty")
    first = sharp(*words)
    assert "holds, without power" in first.out.lower() and "(2 runs)" in first.out, first.out + first.err
    (run,) = (folder / "runs/claims").glob("*/metrics.jsonl")
    (run.parent / "measured.jsonl").write_text('{"step": 2, "lambda_1": 77.0}\n')
    assert [line for line in sharp(*words).out.splitlines() if "check:" in line] == [
        line for line in first.out.splitlines() if "check:" in line
    ]


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"by": ["nosuch"]}, "nosuch"),
        ({"by": []}, "give the settings"),
        ({"show": {"loss": "train_loss"}}, "show: loss"),
        ({"show": {"loss": {"reduce": "last"}}}, "show: loss"),
        ({"show": {"loss": {"value": "train_loss", "reduce": "lst"}}}, "reduce, one of last"),
        ({"runs": {}}, "no runs and no tables"),
    ],
)
def test_what_a_study_of_one_s_own_lacks_is_one_line(sharp, folder, changed, said):
    study = {
        "question": "q", "source": "none", "convention": "c", "seconds": 5,
        "base": ["problem=quadratic", "steps=2", "lr=0.1"], "runs": {"gd": ["seed=1,2"]}, "by": ["lr"],
        "show": {"loss": {"value": "train_loss"}},
        "plot": {"_target_": "sharpcli.plots.theory.theory", "x": "step", "y": "train_loss", "line": None,
                 "parts": [], "log": [], "only_last": False},
    }  # fmt: skip
    (folder / "mine/study").mkdir(parents=True)
    (folder / "mine/study/own.yaml").write_text(yaml.safe_dump(study | changed))
    came = sharp("study", "own", "--config-dir", "mine", "-j", "1")
    assert came.code == 2 and said in came.err.splitlines()[-1] and "Traceback" not in came.err, came.err


@pytest.mark.parametrize("word", ["", " "])
def test_an_empty_word_names_no_run(sharp, folder, word):
    assert sharp("train", "problem=quadratic", "steps=2").code == 0
    for command in (("tag", "x", word), ("rm", word, "--yes"), ("show", word)):
        assert "names no run" in sharp(*command).refusal


@pytest.mark.parametrize("path", ["none/x.safetensors", "folder.safetensors", "v.txt"])
def test_vectors_that_cannot_be_written_are_refused_before_anything_is_measured(sharp, folder, path):
    (folder / "folder.safetensors").mkdir()
    assert sharp("train", "problem=quadratic", "steps=2", "lr=0.1").code == 0
    (run,) = (folder / "runs").glob("*")
    said = sharp("measure", str(run), "measure=[sharpness]", "--step", "2", "--vectors", path)
    assert said.code == 2 and not (run / "measured.jsonl").exists() and said.err.count("\n") <= 2, said.err


def test_vectors_on_a_full_disk_are_one_line_and_what_was_measured_stays(sharp, folder):
    words = ("data.train_examples=60", "model.widths=[40]", "steps=2", "measure_every=2", "threads=1")
    assert sharp("train", *words).code == 0
    (run,) = (folder / "runs").glob("*")
    limit = 8000  # bytes of a file, of which the vectors alone have more
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); "
    code += "import sys; from sharpcli.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "measure", str(run), "measure=[sharpness]", "--step", "2"]
    done = subprocess.run(
        [*command, "--vectors", "v.safetensors"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "v.safetensors: cannot write" in done.stderr.splitlines()[-1]
    assert "lambda_1" in (run / "measured.jsonl").read_text() and not (folder / "v.safetensors").exists()
