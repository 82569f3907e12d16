"""What is drawn, read back from the figures, equals the rows."""

import numpy as np
import pandas as pd
import pytest
from conftest import TINY
from matplotlib.colors import to_hex

from sharpcli.config.check import check
from sharpcli.config.methods import shown_method
from sharpcli.config.words import compose
from sharpcli.errors import Refusal
from sharpcli.frames import frame_of
from sharpcli.jsonl import append
from sharpcli.plots import curves, label, telling
from sharpcli.plots.compare import compare
from sharpcli.plots.loss import loss
from sharpcli.plots.sharpness import sharpness
from sharpcli.run import Run, in_directory

SHORT = (*TINY, "steps=8", "measure_every=2", "threads=1")


def of(folder):
    return frame_of(in_directory(folder / "runs"))


def drawn(ax):
    """The lines of an axes that have points, by their labels."""
    return {line.get_label(): line for line in ax.lines if len(line.get_xdata())}


def made(runs, **settings):
    """A frame of runs: for each (name, settings, values of y at steps 0, 1, ...)."""
    rows = [
        {"run": name, "step": step, "y": y, "scores": "", **of_run}
        for name, of_run, values in runs
        for step, y in enumerate(values)
    ]
    frame = pd.DataFrame(rows)
    frame.attrs["settings"] = list(dict.fromkeys(key for _, of_run, _ in runs for key in of_run))
    return frame


COMPARE = {"x": "step", "y": "y", "by": ["method"], "log": False}


# --- settings and columns ---


def test_the_setting_lr_and_the_momentary_one_are_two_columns(sharp, folder):
    assert sharp("train", *SHORT, "lr=0.5", "schedule=cosine").code == 0
    frame = of(folder)
    assert set(frame["lr"]) == {0.5} and frame["lr_now"].nunique() > 2
    (ax,) = compare(frame, x="step", y="train_loss", by=["lr"], log=False).axes
    (line,) = ax.lines
    assert list(line.get_ydata()) == list(frame["train_loss"]) and line.get_label() == "lr 0.5"
    # a run of an earlier version called both by one name
    (run,) = in_directory(folder / "runs")
    text = (run.path / "metrics.jsonl").read_text()
    (run.path / "metrics.jsonl").write_text(text.replace('"lr_now"', '"lr"'))
    old = Run(run.path)
    assert [row["lr_now"] for row in old.logged()] == list(frame["lr_now"]) and "lr" not in old.last()


METHODS = {
    ("method=sam", "objective=[weight_decay]"): "sam +weight_decay",
    ("method=sgd", "objective=[weight_decay,crop_flip]", "data=cifar10"): "sgd +crop_flip +weight_decay",
    ("method=sgd", "batch_size=16"): "sgd",
    ("method=sgd", "batch_size=full"): "gd",
    ("method=label_noise", "objective=[label_noise,weight_decay]"): "label_noise +weight_decay",
    ("method=label_noise", "objective=[]"): "sgd",
    ("method=sgd", "optimizer=momentum"): "momentum",
    ("method=gradient_flow", "objective=[weight_decay]"): "gradient_flow +weight_decay",
    ("method=gd", "optimizer=adam"): "custom",
}


@pytest.mark.parametrize("words", METHODS)
def test_a_method_keeps_its_label_while_its_rule_and_objectives_are_its_own(words):
    shown = shown_method(check(compose(list(words)), words).config)
    assert (
        sorted(shown.split()) == sorted(METHODS[words].split())
        and shown.split()[0] == METHODS[words].split()[0]
    )


def test_a_measurement_on_other_examples_is_not_joined_to_a_curve(sharp, folder):
    assert sharp("train", *SHORT, "measure=[scores,sharpness]", "checkpoint_every=4").code == 0
    (run,) = in_directory(folder / "runs")
    before = frame_of([run])
    assert (
        sharp("measure", str(run.path), "--step", "4", "measure_examples=5", "measure=[sharpness]").code == 0
    )
    after = frame_of([Run(run.path)])
    assert list(after["lambda_1"]) == list(before["lambda_1"])
    (note,) = after.attrs["notes"]
    assert "sharpness was measured on several numbers of examples, shown is that on" in note
    said = sharp("plot", "sharpness", str(run.path))
    assert said.code == 0 and "several numbers of examples" in said.err
    # on all of them once more is the same number, and no reason for a note
    again = {"step": 4, "lambda_1": 1.25, "sharpness_examples": int(before["sharpness_examples"].iloc[0])}
    append(run.path / "measured.jsonl", again)
    (run.path / "measured.crc32").unlink()
    assert frame_of([Run(run.path)]).set_index("step")["lambda_1"][4] == 1.25


# --- compare ---


def test_only_seeds_are_averaged_and_what_else_differs_is_named():
    frame = made(
        [
            ("a", {"method": "sgd", "lr": 0.1, "seed": 0}, [1.0, 2.0]),
            ("b", {"method": "sgd", "lr": 0.1, "seed": 1}, [3.0, 4.0]),
            ("c", {"method": "sam", "lr": 0.1, "seed": 0, "optimizer.rho": 0.1}, [5.0, 6.0]),
            ("d", {"method": "sam", "lr": 0.1, "seed": 0, "optimizer.rho": 0.2}, [7.0, 8.0]),
        ]
    )
    with pytest.raises(Refusal, match=r"of sam differ in optimizer.rho too; .*by=\[method,optimizer.rho\]"):
        compare(frame, **COMPARE)
    (ax,) = compare(frame, **{**COMPARE, "by": ["method", "optimizer.rho"]}).axes
    lines = drawn(ax)
    assert set(lines) == {"sgd (2 runs)", "sam, rho 0.1", "sam, rho 0.2"}
    assert list(lines["sgd (2 runs)"].get_ydata()) == [2.0, 3.0]
    (ax,) = compare(frame, **{**COMPARE, "by": []}).axes
    assert list(drawn(ax)["all (4 runs)"].get_ydata()) == [4.0, 5.0]
    with pytest.raises(Refusal, match=r"yy: no such column in these runs; the nearest columns: y") as refusal:
        compare(frame, **{**COMPARE, "y": "yy"})
    assert str(refusal.value).count(",") < 12


def test_where_runs_have_ended_the_mean_is_faint_and_says_of_how_many():
    same = {"method": "sgd"}
    frame = made([("a", {**same, "seed": 0}, [1.0, 1.0, 5.0]), ("b", {**same, "seed": 1}, [3.0, 3.0])])
    (ax,) = compare(frame, **COMPARE).axes
    whole, faint = ax.lines
    assert np.array_equal(whole.get_ydata(), [2.0, 2.0, np.nan], equal_nan=True)
    assert list(faint.get_ydata()) == [2.0, 2.0, 5.0] and faint.get_alpha() < 0.5
    assert [text.get_text() for text in ax.texts] == ["1 of 2"]


def test_bands_of_accuracies_stay_between_0_and_1_and_axes_are_expressions():
    frame = made(
        [
            ("a", {"method": "sgd", "lr": 0.1, "seed": 0}, [0.0, 1.0]),
            ("b", {"method": "sgd", "lr": 0.1, "seed": 1}, [0.1, 0.8]),
        ]
    )
    frame = frame.rename(columns={"y": "test_accuracy"})
    frame.attrs["settings"] = ["method", "lr", "seed"]
    (ax,) = compare(frame, x="lr * step", y="test_accuracy", by=["method"], log=False).axes
    heights = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert heights.min() >= 0 and heights.max() <= 1
    assert list(ax.lines[0].get_xdata()) == [0.0, 0.1]


# --- curves ---


def test_labels_are_the_shortest_that_tell_the_runs_apart():
    frame = made(
        [
            (
                "a",
                {"method": "custom", "lr": 0.1, "optimizer._target_": "x.momentum.Momentum", "seed": 0},
                [1.0],
            ),
            (
                "b",
                {
                    "method": "custom",
                    "lr": 0.1,
                    "optimizer._target_": "x.sam.SAM",
                    "optimizer.rho": 0.5,
                    "seed": 0,
                },
                [1.0],
            ),
        ]
    )
    assert [name for _, name, _ in curves(frame, "y")] == ["Momentum", "SAM"]
    alike = made(
        [
            ("run-1111aaaa", {"method": "sgd", "seed": 0}, [1.0]),
            ("run-2222bbbb", {"method": "sgd", "seed": 0}, [1.0]),
        ]
    )
    assert [name for _, name, _ in curves(alike, "y")] == ["run-1111aaaa", "run-2222bbbb"]
    grid = made([(f"{lr}{seed}", {"lr": lr, "seed": seed}, [1.0]) for lr in (0.1, 0.2) for seed in (0, 1)])
    assert telling(grid) == ["lr", "seed"] and telling(grid, apart_from=["seed"]) == ["lr"]
    assert label(grid, ["lr", "seed"]) == "lr 0.1, seed 0"


def test_twelve_curves_have_twelve_looks():
    frame = made([(f"r{i}", {"seed": i}, [1.0, 2.0]) for i in range(12)])
    looks = {(to_hex(look["color"]), look.get("marker")) for look, _, _ in curves(frame, "y")}
    assert len(looks) == 12


def test_limits_are_those_of_the_data_and_edges_far_above_are_cut():
    frame = pd.DataFrame(
        {
            "run": "a", "step": [0, 1, 2], "train_loss": [1.0, 0.5, 0.4], "scores": "train_loss",
            "lambda_1": [1.0, 2.0, 3.0], "lambda_2": [-0.5, 0.0, 0.1],
            "edge": [4.0, 40.0, 28500.0], "lr_now": [0.5, 0.05, 7e-5],
        }
    )  # fmt: skip
    above, below = sharpness(frame, x="step").axes
    low, high = below.get_ylim()
    assert -1 < low < -0.5 and 4 < high < 5
    assert list(below.lines[0].get_ydata()) == [1.0, 2.0, 3.0]
    above.figure.canvas.draw()
    ticks = [t.get_text() for t in [*above.get_yticklabels(), *above.get_yticklabels(minor=True)]]
    assert "0.6" in ticks and not any("times" in tick or "e" in tick for tick in ticks)


def test_a_pdf_has_truetype_fonts(sharp, folder):
    assert sharp("train", *SHORT).code == 0
    assert sharp("plot", "loss", "runs", "-o", "x.pdf").code == 0
    data = (folder / "x.pdf").read_bytes()
    assert (b"/Type3" not in data and b"TrueType" in data) or b"CIDFontType2" in data


def test_losses_are_drawn_as_logged(sharp, folder):
    assert sharp("train", *SHORT, "seed=0,1", "-m").code == 0
    frame = of(folder)
    axes = loss(frame, x="step").axes
    lines = drawn(axes[0])
    for seed in (0, 1):
        assert list(lines[f"seed {seed}"].get_ydata()) == list(frame[frame["seed"] == seed]["train_loss"])
