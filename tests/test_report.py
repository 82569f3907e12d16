"""What is printed while runs go on, at their end, and about them."""

import io
import json
import re
import shlex

import pytest
from conftest import TINY, only_run
from rich.console import Console

from sharpcli.commands import progress
from sharpcli.commands.report import is_flat, settled
from sharpcli.commands.show import in_short
from sharpcli.run import Run, last_of

SHORT = (*TINY, "steps=8", "measure_every=2", "threads=1")


@pytest.mark.parametrize("width", [120, 60, 45])
def test_step_bar_and_times_stay_whole_in_a_narrow_terminal(width):
    out = io.StringIO()
    console = Console(force_terminal=True, width=width, file=out, color_system=None)
    with progress._bar(console, 400, 0, ["train_loss"], "[job 3] ") as tell:
        tell(120, {"step": 120, "train_loss": 0.123, "lambda_1": 33.2, "edge": 40.0})
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue()).replace("\r", "\n").split("\n")
    (line,) = {line.rstrip() for line in lines if "120/400" in line}
    assert line.startswith("120/400 ━") and len(re.findall(r"\d:\d\d:\d\d|-:--:--", line)) == 2
    assert ("lambda_1 33.2 (edge 40)" in line) == (width == 120) and len(line) <= width


def test_the_lines_of_a_sweep_name_their_job(sharp):
    err = sharp("train", *SHORT, "seed=0,1", "-m").err
    steps = [line for line in err.splitlines() if "step " in line]
    assert steps and all(re.match(r"\[job [01]\] step \d/8", line) for line in steps)
    assert not re.search(r"^\[job", sharp("train", *SHORT, "seed=2").err, re.M)


def test_a_run_without_scores_ends_with_what_it_measured(sharp):
    out = sharp("train", "problem=quadratic", "lr=0.3", "steps=4", "measure=[trace]").out
    assert "at step 4: trace 3.3" in out


def test_the_mean_of_replicas_has_no_setting_in_which_they_differ(sharp, folder):
    assert sharp("train", *SHORT, "replicas={lr:[0.1,0.2],seed:2}").code == 0
    rows = Run(only_run(folder)).logged()
    assert {row["lr"] for row in rows} == {0.1, 0.2} and "lr" not in last_of(rows)
    assert "0.15" not in sharp("ls", "columns=[lr,lambda_1]").out
    assert last_of([{**row, "lr": 0.1} for row in rows])["lr"] == pytest.approx(0.1)


def test_a_curve_that_still_rises_has_not_settled(sharp, folder):
    assert is_flat([3.0, 3.1, 3.01, 2.99]) and not is_flat([1.0, 2.0, 3.0, 4.0])
    assert not is_flat([3.0, 3.0, 3.0])  # too few to say
    rising = [2.939, 2.970, 2.999, 3.028]
    assert not is_flat(rising) and not is_flat(rising[::-1]) and is_flat([rising[i] for i in (1, 0, 3, 2)])
    assert is_flat([3.0, 3.001, 3.002, 3.003]), "by less than a hundredth"
    assert "lambda_1 settled at" in sharp("train", "problem=quadratic", "steps=40", "measure_every=2").out
    run = Run(only_run(folder))
    rows = [{**row, "lambda_1": 1.0 + row["step"]} for row in run.logged()]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert settled(run)[-1] == "lambda_1 ended at 41, 2/lr = 10, not settled yet"
    assert "lambda_1 ended at 2, 2/lr = 10\n" in sharp("train", "problem=quadratic", "steps=6").out


def test_a_long_list_is_shown_by_its_length_and_range(sharp, folder):
    assert sharp("train", *SHORT, "measure=[density]").code == 0
    out = sharp("show", str(only_run(folder))).out
    assert re.search(r"density_nodes: [\d,]+ numbers from \S+ to \S+\n", out) and len(out.splitlines()) < 120
    assert in_short([1.0, 2.0]) == [1.0, 2.0] and in_short([[1.0] * 9, [3.0] * 9]) == "18 numbers from 1 to 3"


def test_the_command_in_a_measured_row_measures_the_same_again(sharp, folder):
    assert sharp("train", *SHORT, "checkpoint_every=4").code == 0
    run = only_run(folder)
    words = ("--step", "4", "--params", "*weight", "--by", "layer")
    assert sharp("measure", str(run), "measure=[sharpness]", *words).code == 0
    rows, wrong = Run(run)._measured()
    command = rows[-1]["provenance"]["command"]
    assert not wrong and all(word in command for word in ("--step 4", "--by layer", "--params"))
    again = sharp(*shlex.split(command)[1:])
    assert again.code == 0
    rows = Run(run)._measured()[0]
    half = len(rows) // 2
    assert [row["lambda_1"] for row in rows[:half]] == [row["lambda_1"] for row in rows[half:]]
