"""Finding runs: `sharp ls`, conditions, and runs as a frame."""

import json
import os

import pytest
from conftest import TINY

import sharpcli as sharp_package
from sharpcli.runs_dir import find, in_directory

SHORT = (*TINY, "steps=4", "measure_every=2", "threads=1")


@pytest.fixture
def runs(sharp, folder):
    assert sharp("train", *SHORT, "method=gd,sam", "lr=0.1,0.3", "-m").code == 0
    return folder / "runs"


def test_runs_are_listed_by_condition_order_and_columns(sharp, runs):
    chosen = ("where", "method == 'sam' and lr >= 0.1")
    table = sharp("ls", *chosen, "sort=-lr", "columns=[lr,optimizer.rho]").out
    lines = [line.split() for line in table.splitlines()]
    assert lines[0] == ["run", "status", "step", "lr", "optimizer.rho"]
    assert [line[2:] for line in lines[1:]] == [["4/4", "0.3", "0.05"], ["4/4", "0.1", "0.05"]]
    by_dotted = sharp("ls", "where", "optimizer.rho > 0 and lr < 0.2").out.splitlines()
    assert len(by_dotted) == 2 and by_dotted[1].startswith("sam-network-lr0.1")
    rows = [json.loads(line) for line in sharp("ls", "sort=lambda_1", "--json").out.splitlines()]
    values = [row["lambda_1"] for row in rows]
    assert len(rows) == 4 and values == sorted(values)
    assert {row["status"] for row in rows} == {"complete"} and rows[0]["model.widths"] == "[6]"


REFUSED = {
    "an unknown column": (("where", "foo > 1"), "foo: no such column in these runs; the nearest columns: "),
    "no condition": (("where", "lr * 2"), "where lr * 2: is no condition"),
    "what is not read": (("where", "lr >"), "where lr >: cannot be read"),
    "no run": (("where", "lr > 99"), "where lr > 99: no run meets it"),
    "nothing after where": (("where",), "where: no condition; give one"),
    "another setting": (("sorted=lr",), "sorted=lr: sharp ls takes sort=, columns=, runs_dir= and where"),
    "an order by nothing": (("sort=-foo",), "foo: no such column"),
    "two folders": (("runs", "other"), "sharp ls takes one directory"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_listed_is_one_line(sharp, runs, name):
    words, said = REFUSED[name]
    assert said in sharp("ls", *words).refusal


def test_a_picture_is_of_the_runs_that_meet_a_condition(sharp, runs, monkeypatch):
    from sharpcli.plots import compare as module

    drawn, original = [], module.label

    def label(rows, by):
        drawn.append(original(rows, by))
        return drawn[-1]

    monkeypatch.setattr(module, "label", label)
    chosen = ("where", "method == 'sam'", "by=[method,lr]", "-o", "x.png")
    assert sharp("plot", "compare", "runs", *chosen).code == 0
    assert set(drawn) == {"sam, lr 0.1", "sam, lr 0.3"}
    assert "no run meets it" in sharp("plot", "compare", "runs", "where", "lr > 9").refusal


def test_runs_are_a_frame_from_python(runs):
    frame = sharp_package.runs(runs, where="lr > 0.2")
    assert set(frame["lr"]) == {0.3} and set(frame["method"]) == {"gd", "sam"}
    wanted = [row["lambda_1"] for run in in_directory(runs) if "lr0.3" in run.name for row in run.rows()]
    assert list(frame["lambda_1"]) == wanted
    assert {"lr", "seed", "optimizer.rho"} <= set(frame.attrs["settings"])
    with pytest.raises(sharp_package.Refused, match="no such directory"):
        sharp_package.runs("nowhere")
    with pytest.raises(sharp_package.Refused, match="foo: no such column"):
        sharp_package.runs(runs, where="foo == 1")


def test_two_runs_are_compared(sharp, runs):
    out = sharp("diff", "gd-network-lr0.1", "sam-network-lr0.1").out
    first, last, parted = out.split("\n\n")
    settings = {line.split()[0] for line in first.splitlines()[1:]}
    assert {"method", "optimizer._target_", "optimizer.rho"} <= settings and "lr" not in settings
    a, b = (
        next(run for run in in_directory(runs) if run.name.startswith(f"{m}-network-lr0.1"))
        for m in ("gd", "sam")
    )
    cells = {line.split()[0]: line.split()[1:] for line in last.splitlines()[1:]}
    assert cells["lambda_1"] == [f"{run.last()['lambda_1']:.4g}" for run in (a, b)]
    assert "sharpness_products" not in cells and cells["step"] == ["4", "4"]
    assert parted.startswith("the rows part at step 2: train_loss ")
    same = sharp("diff", a.name, a.name).out
    assert "same settings" in same and "the rows are the same at all 3 steps that both have" in same
    assert "takes two runs" in sharp("diff", a.name).refusal
    assert sharp("train", *TINY, "steps=0", "runs_dir=once").code == 0
    once = sharp("diff", "latest", "latest", "runs_dir=once").out
    assert "the rows are the same at the only step that both have" in once


def test_the_latest_and_the_best_run_have_names(sharp, runs):
    os.utime(next(runs.glob("gd-network-lr0.3*")) / "metrics.jsonl")
    assert "run: runs/gd-network-lr0.3" in sharp("show", "latest").out.replace(str(runs.parent) + "/", "")
    last = {run.name: run.last() for run in in_directory(runs)}
    for column, choose in (("test_accuracy", max), ("train_loss", min)):
        best = choose(last, key=lambda name, column=column: last[name][column])
        assert find(f"best:{column}", runs).name == best
    assert "best:foo: no run has foo in its last row; scores: " in sharp("show", "best:foo").refusal
    assert "latest: no run has a row yet" in sharp("show", "latest", "runs_dir=elsewhere").refusal


DAMAGED = {
    "no method": lambda config: config.pop("method"),
    "a list as the method": lambda config: config.update(method=["sam"]),
    "no problem": lambda config: config.pop("problem"),
    "objectives that are a text": lambda config: config.update(objective="x", method="custom"),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_config_of_no_run_is_one_line_in_every_command(sharp, folder, how):
    import yaml

    assert sharp("train", *TINY, "steps=2", "threads=1").code == 0
    (path,) = (folder / "runs").iterdir()
    config = yaml.safe_load((path / "config.yaml").read_text())
    DAMAGED[how](config)
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    facts = json.loads((path / "provenance.json").read_text())
    for key in ("config_sha256", "hash", "config"):  # as of a version that did not note it
        facts.pop(key, None)
    (path / "provenance.json").write_text(json.dumps(facts))
    for words in (("plot", "loss", str(path)), ("ls", "sort=lr"), ("show", path.name), ("report",)):
        said = sharp(*words)
        assert "Traceback" not in said.err and "fault of sharp" not in said.err, (words, said.err)


def test_a_row_whose_number_of_examples_is_a_list_is_no_traceback(sharp, folder):
    assert sharp("train", *TINY, "steps=2", "threads=1").code == 0
    (path,) = (folder / "runs").iterdir()
    rows = (path / "metrics.jsonl").read_text()
    (path / "metrics.jsonl").write_text(
        rows.replace('"sharpness_examples": 60', '"sharpness_examples": [60]', 1)
    )
    for words in (("plot", "loss", str(path)), ("ls",), ("show", path.name), ("report",)):
        said = sharp(*words)
        assert "Traceback" not in said.err and "fault of sharp" not in said.err, (words, said.err)


def test_replicas_are_shown_by_the_mean_over_them(sharp, folder):
    assert sharp("train", *SHORT, "replicas=3").code == 0
    (run,) = in_directory(folder / "runs")
    ends = [row["lambda_1"] for row in run.rows() if row["step"] == 4]
    mean = pytest.approx(sum(ends) / 3, rel=1e-9)
    assert len(ends) == 3 and ends[2] != mean
    (row,) = (json.loads(line) for line in sharp("ls", "--json").out.splitlines())
    assert (
        row["lambda_1"] == mean and row["seed"] == 0 and "replica" not in row and row["status"] == "complete"
    )
    shown = sharp("show", run.name).out
    assert "last row, the mean of 3 replicas" in shown and f"{sum(ends) / 3:.6f}"[:7] in shown


def test_diff_says_that_a_run_is_damaged(sharp, runs):
    first, second, *_ = in_directory(runs)
    file = first.path / "metrics.jsonl"
    file.write_text(file.read_text() + "garbage\n")
    said = sharp("diff", first.name, second.name)
    assert said.code == 0 and "is no row" in said.err
