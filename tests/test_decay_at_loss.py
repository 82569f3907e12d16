"""schedule=decay_at_loss: a smaller learning rate from the first row with a small enough training loss."""

import json

import pytest
import torch
from conftest import TINY, only_run, rows_of

from sharpcli.run import Run

TOY = (
    *("problem=quadratic", "lr=0.1", "steps=60", "measure_every=5", "checkpoint_every=7", "threads=1"),
    *("measure=[scores,gradient_norm]", "schedule=decay_at_loss", "schedule.factor=0.25"),
)


def drops_at(rows):
    """The first step with a smaller learning rate."""
    return next((row["step"] for row in rows if row["lr_now"] < rows[0]["lr_now"]), None)


@pytest.mark.parametrize("compiled", ["true", "false"])
def test_the_learning_rate_drops_at_the_first_row_with_that_loss_and_stays(sharp, folder, compiled):
    words = ("train", *TOY, f"compile_toys={compiled}")
    assert sharp(*words, "schedule.loss=1e-300", "runs_dir=without").code == 0
    (path,) = (folder / "without").iterdir()
    plain = Run(path).logged()
    assert drops_at(plain) is None
    assert sharp(*words, f"schedule.loss={plain[4]['train_loss'] * 1.0001}").code == 0
    rows = Run(only_run(folder)).logged()
    assert drops_at(rows) == plain[4]["step"] == 20
    assert [row["lr_now"] for row in rows] == [0.1] * 4 + [0.025] * 9
    assert [row["train_loss"] for row in rows[:5]] == [row["train_loss"] for row in plain[:5]]
    assert rows[5]["train_loss"] > plain[5]["train_loss"]


def test_the_steps_after_the_drop_are_those_of_the_smaller_learning_rate(sharp, folder):
    assert sharp("train", *TOY, "checkpoint_every=5", "schedule.loss=1e9").code == 0  # from step 0 on
    small = ("problem=quadratic", "lr=0.025", "steps=60", "measure_every=5", "threads=1", "measure=[scores]")
    assert sharp("train", *small, "runs_dir=small").code == 0
    (path,) = (folder / "small").iterdir()
    run = Run(only_run(folder))
    assert [row["train_loss"] for row in run.logged()] == [row["train_loss"] for row in Run(path).logged()]
    assert torch.equal(run.load(60)["w"], Run(path).load(60)["w"])


def test_an_average_of_the_weights_does_not_lower_it(sharp, folder):
    words = ("optimizer=averaging", "optimizer@optimizer.base=gd", "optimizer.decay=0.9", "batch_size=8")
    words += ("data.train_examples=100", "model.widths=[8]", "steps=120", "measure_every=5", "lr=0.6")
    words += ("schedule=decay_at_loss", "schedule.loss=0.1", "measure=[scores]", "threads=1")
    sharp("train", *words)
    rows = rows_of(only_run(folder) / "metrics.jsonl")
    first = next(i for i, row in enumerate(rows) if row["train_loss"] <= 0.1)
    assert min(row["average_train_loss"] for row in rows[:first]) <= 0.1  # else nothing is tried
    assert [row["lr_now"] for row in rows] == pytest.approx([0.6] * first + [0.06] * (len(rows) - first))


@pytest.mark.parametrize("schedule", ["decay_at_loss", "warmup"])
def test_a_run_that_was_cut_anywhere_is_carried_on_to_the_same_rows(sharp, folder, schedule):
    inner = "schedule" if schedule == "decay_at_loss" else "schedule.base"
    words = ["train", *TOY[:7], f"schedule={schedule}"]
    words += ["schedule@schedule.base=decay_at_loss"] if schedule == "warmup" else []
    words += [f"{inner}.factor=0.25"]
    assert sharp(*words, f"{inner}.loss=1e-300", "runs_dir=without").code == 0
    (path,) = (folder / "without").iterdir()
    words += [f"{inner}.loss={Run(path).logged()[5]['train_loss'] * 1.0001}"]
    assert sharp(*words).code == 0
    run = Run(only_run(folder))
    rows, weights = rows_of(run.path / "metrics.jsonl"), run.load(60)["w"]
    assert len({row["lr_now"] for row in rows[2:]}) == 2
    facts = {key: value for key, value in run.provenance.items() if key != "rows"}
    lines = (run.path / "metrics.jsonl").read_text().splitlines(True)
    for kept in (56, 35, 21, 14):
        for step in run.checkpoints():
            if step > kept:
                run.drop(step)
        (run.path / "provenance.json").write_text(json.dumps(facts))
        whole = [line for line in lines if json.loads(line)["step"] <= kept]
        (run.path / "metrics.jsonl").write_text("".join(whole))
        assert sharp(*words).code == 0
        assert rows_of(run.path / "metrics.jsonl") == rows
        assert torch.equal(Run(run.path).load(60)["w"], weights)


def test_measuring_a_checkpoint_knows_its_learning_rate(sharp, folder):
    words = [*TINY, "steps=20", "measure_every=5", "checkpoint_every=5", "schedule=decay_at_loss"]
    words += ["schedule.loss=0.42", "measure=[scores,critical_sharpness]", "lr=0.1", "method=gd"]
    assert sharp("train", *words).code == 0
    run = Run(only_run(folder))
    rows = {row["step"]: row for row in run.logged()}
    assert 5 <= drops_at(list(rows.values())) <= 15
    said = sharp("measure", run.name, "measure=[critical_sharpness]", "--json", "-o", "out.jsonl")
    assert said.code == 0, said.err
    for line in (json.loads(line) for line in said.out.splitlines() if line.startswith("{")):
        assert line["critical_sharpness"] == rows[line["step"]]["critical_sharpness"]


@pytest.mark.parametrize(
    "words, said",
    [
        (["schedule.loss=0"], "schedule.loss=0.0"),
        (["schedule.factor=1"], "schedule.factor=1.0"),
        (["schedule.los=1"], "loss"),
    ],
)
def test_wrong_words_are_one_line(sharp, words, said):
    assert said in sharp("train", *TOY, *words).refusal
