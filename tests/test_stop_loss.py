"""stop_loss: a run ends at the first measured step whose training loss is small enough."""

import json

import pytest
import torch
from conftest import only_run, rows_of

from sharpcli.run import Run

TOY = (
    *("problem=quadratic", "lr=0.1", "steps=400", "measure_every=5", "checkpoint_every=50", "threads=1"),
    *("measure=[scores,sharpness]", "measure.sharpness.every=100"),
)


def test_a_run_ends_at_the_first_measured_step_with_that_loss_and_all_is_measured_there(sharp, folder):
    assert sharp("train", *TOY).code == 0
    whole = Run(only_run(folder))
    rows = whole.logged()
    stop_loss = rows[7]["train_loss"] * 1.0001
    at = rows[7]["step"]
    said = sharp("train", *TOY, f"stop_loss={stop_loss}", "runs_dir=stopped")
    assert said.code == 0 and f"complete: stop_loss reached at step {at}" in said.out
    (path,) = (folder / "stopped").iterdir()
    run = Run(path)
    last = run.logged()[-1]
    assert last["step"] == at and last["stopped"] is True and "lambda_1" in last
    assert "lambda_1" not in rows[7] and [row["step"] for row in run.logged()] == list(range(0, at + 1, 5))
    assert not any("stopped" in row for row in [*rows, *run.logged()[:-1]])
    assert run.status == "complete" and run.checkpoints()[-1] == at
    assert "already complete" in sharp("train", *TOY, f"stop_loss={stop_loss}", "runs_dir=stopped").out
    again = sharp("train", *TOY, f"init_from={path}", "steps=0", "runs_dir=again")
    assert again.code == 0
    (begun,) = (folder / "again").iterdir()
    assert Run(begun).logged()[0]["train_loss"] == last["train_loss"]
    listed = sharp("ls", "runs_dir=stopped").out
    assert "complete" in listed and f"{at}/400" in listed


@pytest.mark.parametrize("lost", ["the end", "the last checkpoint"])
def test_a_run_that_was_killed_where_it_stopped_is_carried_on_to_the_same_rows(sharp, folder, lost):
    words = ("train", *TOY, "stop_loss=0.001")
    assert sharp(*words).code == 0
    run = Run(only_run(folder))
    rows, end = rows_of(run.path / "metrics.jsonl"), run.checkpoints()[-1]
    weights = run.load(end)["w"]
    facts = {key: value for key, value in run.provenance.items() if key != "rows"}
    (run.path / "provenance.json").write_text(json.dumps(facts))
    if lost == "the last checkpoint":
        run.drop(end)
        metrics = run.path / "metrics.jsonl"
        metrics.write_text("".join(metrics.read_text().splitlines(True)[:-1]))
    assert sharp(*words).code == 0
    again = Run(run.path)
    assert rows_of(run.path / "metrics.jsonl") == rows and again.status == "complete"
    assert torch.equal(again.load(end)["w"], weights)


def test_a_loss_that_is_never_reached_ends_nothing_and_the_scores_need_not_be_measured(sharp, folder):
    assert sharp("train", *TOY, "stop_loss=1e-300").code == 0
    last = Run(only_run(folder)).logged()[-1]
    assert last["step"] == 400 and "stopped" not in last
    unseen = sharp("train", *TOY[:-2], "measure=[sharpness]", "stop_loss=0.001", "runs_dir=b")
    assert unseen.code == 0 and "stop_loss reached" in unseen.out


@pytest.mark.parametrize(
    "words, said",
    [
        (["stop_loss=0"], "stop_loss=0.0: give a finite number above 0"),
        (["stop_loss=nan"], "stop_loss=nan: give a finite number above 0"),
        (["stop_loss=small"], "stop_loss=small: not a number"),
        (["stop_los=0.1"], "stop_loss"),
        (["target_loss=0.1"], "stop_loss=0.1"),
        (["stop_loss=0.1", "replicas=3"], "replicas= share their steps"),
    ],
)
def test_a_wrong_word_about_it_is_one_line(sharp, words, said):
    assert said in sharp("train", *TOY, *words).refusal
