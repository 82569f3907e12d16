"""What is drawn, read back from the figures, equals the rows."""

import importlib
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import TINY
from matplotlib.colors import to_hex
from scipy.stats import kendalltau

from sharpcli.commands.landscapes import Asked
from sharpcli.commands.learned import entries
from sharpcli.commands.tables import as_text, cell
from sharpcli.config.check import check
from sharpcli.config.methods import shown_method
from sharpcli.config.words import compose
from sharpcli.errors import Refusal
from sharpcli.frames import frame_of, frame_of_file
from sharpcli.jsonl import append
from sharpcli.plots import curves, label, need, telling
from sharpcli.plots.claims import claims
from sharpcli.plots.compare import compare
from sharpcli.plots.connect import connect
from sharpcli.plots.density import density
from sharpcli.plots.grid import grid
from sharpcli.plots.layers import layers
from sharpcli.plots.learned import learned
from sharpcli.plots.looks import LOOKS
from sharpcli.plots.loss import loss
from sharpcli.plots.recovery import recovery
from sharpcli.plots.scatter import interval, scatter, tau_between
from sharpcli.plots.sharpness import sharpness
from sharpcli.plots.table import table
from sharpcli.plots.theory import theory
from sharpcli.run import Run
from sharpcli.runs_dir import in_directory

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
    ("method=gd", "optimizer=adam"): "adam",
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


def test_a_legend_of_a_hundred_runs_names_as_many_as_there_are_looks():
    frame = made([(f"r{i}", {"seed": i}, [1.0, 2.0]) for i in range(100)]).assign(
        train_loss=1.0, test_loss=2.0, scores="train_loss test_loss"
    )
    fig = loss(frame, x="step")
    said = [text.get_text() for text in fig.legends[0].get_texts()]
    assert said == [
        *(f"seed {i}" for i in range(35)),
        "and 65 more, in the same looks",
        "training loss",
        "test loss",
    ]
    assert len(fig.axes[0].lines) == 202
    few = loss(frame[frame["seed"] < 35], x="step")
    assert [text.get_text() for text in few.legends[0].get_texts()][34:] == [
        "seed 34",
        "training loss",
        "test loss",
    ]


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


def test_an_adaptive_optimizers_edge_is_drawn_with_the_eigenvalue_that_it_is_about():
    frame = pd.DataFrame(
        {
            "run": "a", "step": [0, 1, 2], "lambda_1": [1.0, 2.0, 3.0], "lr_now": 1e-3,
            "preconditioned_lambda_1": [float("nan"), 3e4, 4e4], "preconditioned_edge": [38000.0] * 3,
            "preconditioned_lambda_2": [float("nan"), 1e4, 2e4],
        }
    )  # fmt: skip
    below, preconditioned = sharpness(frame, x="step").axes
    first, second, edge, _ = preconditioned.lines
    assert list(first.get_ydata()) == [3e4, 4e4] and list(second.get_ydata()) == [1e4, 2e4]
    assert set(edge.get_ydata()) == {38000} and edge.get_linestyle() == "--"
    assert [text.get_text() for text in preconditioned.get_legend().get_texts()] == [
        "edge of stability = 38000"
    ]
    assert not any(line.get_linestyle() == "--" for line in below.lines), "H itself has no edge with Adam"


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


# --- tables, grids, ranks ---


def swept(values):
    """A frame of final values: {(settings as pairs): [of each seed]}, two steps a run."""
    runs = [
        (f"{i}-{seed}", {**dict(key), "seed": seed}, [99.0, value])
        for i, (key, of_seeds) in enumerate(values.items())
        for seed, value in enumerate(of_seeds)
    ]
    return made(runs)


SWEEP = {
    (("method", "sgd"), ("lr", 0.1)): [1.0, 3.0],
    (("method", "sgd"), ("lr", 0.2)): [5.0, 5.5],
    (("method", "sam"), ("lr", 0.1)): [0.5, 0.25],
    (("method", "sam"), ("lr", 0.2)): [2.0, 4.0],
}


def test_a_table_is_of_final_means_and_standard_deviations():
    out = table(swept(SWEEP), columns=["y", "2 * y"], by=None)
    assert list(out["method"]) == ["sam", "sam", "sgd", "sgd"] and list(out["runs"]) == [2] * 4
    assert list(out["y"]) == [0.375, 3.0, 2.0, 5.25] and list(out["2 * y"]) == [0.75, 6.0, 4.0, 10.5]
    assert list(out["y_sd"]) == pytest.approx(
        [np.std(v, ddof=1) for v in ([0.5, 0.25], [2, 4], [1, 3], [5, 5.5])]
    )
    with pytest.raises(Refusal, match=r"differ in lr too.*by=\[method,lr\]"):
        table(swept(SWEEP), columns=["y"], by=["method"])
    with pytest.raises(Refusal, match="nearest columns"):
        table(swept(SWEEP), columns=["yy"], by=None)


def test_unfinished_runs_count_beside_no_run_that_has_ended():
    frame = made([(f"r{i}", {"lr": 0.1, "seed": i}, [2.0, float(i)]) for i in range(1, 6)])
    frame.attrs["unfinished"] = ("r5",)
    drawn = table(frame, columns=["y"], by=["lr"])
    assert (
        drawn["y"].tolist() == [2.5] and drawn["unfinished"].tolist() == [1] and drawn["runs"].tolist() == [5]
    )
    frame["other"] = frame["y"] * 2
    (ax,) = scatter(frame, x="y", y="other", by=[], log=False, resamples=20).axes
    assert "4 runs; left out: 1 unfinished" in ax.get_title()
    frame.attrs["unfinished"] = tuple(f"r{i}" for i in range(1, 6))  # a sweep that is under way
    assert table(frame, columns=["y"], by=["lr"])["y"].tolist() == [3.0]


def test_few_points_have_no_interval_and_the_legend_no_place_among_them():
    frame = made([(f"r{i}", {"lr": 0.1 * i}, [2.0, float(i)]) for i in range(1, 5)])
    frame["other"] = frame["y"] * 2
    (ax,) = scatter(frame, x="y", y="other", by=["lr"], log=False, resamples=20).axes
    assert "[" not in ax.get_title()
    box = ax.get_legend().get_bbox_to_anchor().transformed(ax.transAxes.inverted())
    assert box.x0 >= 1


def test_a_legend_names_no_run_without_a_curve():
    frame = made([(f"r{i}", {"lr": 0.1 * i}, [2.0, float(i)]) for i in range(1, 4)])
    frame["recovery_error"] = frame["y"].where(frame["run"] != "r2")
    ax = recovery(frame, x="step").axes[0]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["lr 0.1", "lr 0.3"]


def test_a_scatter_says_how_many_diverged_runs_it_leaves_out():
    runs = [(f"r{i}", {"lr": 0.1 * i}, [2.0, float(i)]) for i in range(1, 5)]
    frame = made([*runs, ("gone", {"lr": 9.0}, [2.0, 1e9])])
    frame["diverged"] = (frame["run"] == "gone") & (frame["step"] == 1)
    frame["other"] = frame["y"] * 2
    (ax,) = scatter(frame, x="y", y="other", by=[], log=False, resamples=20).axes
    assert "4 runs; left out: 1 diverged" in ax.get_title()


def test_a_run_that_diverges_does_not_press_the_others_to_the_axis():
    frame = made(
        [("calm", {"lr": 0.1}, [3.0, 5.0]), ("a", {"lr": 9.0}, [3.0, 1e9]), ("b", {"lr": 8.0}, [3.0, 1e8])]
    )
    frame = frame.rename(columns={"y": "lambda_1"})
    frame["diverged"] = (frame["run"] != "calm") & (frame["step"] == 1)
    (ax,) = sharpness(frame, x="step").axes
    assert ax.get_ylim()[1] < 10
    assert [line.get_label() for line in ax.lines].count("diverged") == 1
    (alone,) = sharpness(frame[frame["run"] == "a"], x="step").axes
    assert alone.get_ylim()[1] > 1e9


def test_a_curve_of_a_run_that_diverged_says_so_and_sets_no_limit():
    frame = made([("calm", {"lr": 0.1}, [3.0, 5.0]), ("gone", {"lr": 9.0}, [3.0, 1e9])])
    frame["diverged"] = (frame["run"] == "gone") & (frame["step"] == 1)
    (ax,) = compare(frame, x="step", y="y", by=["lr"], log=False).axes
    assert {"lr 0.1", "lr 9, diverged"} <= {line.get_label() for line in ax.lines}
    assert ax.get_ylim() == (pytest.approx(2.9), pytest.approx(5.1))


def test_the_line_between_the_ends_is_one_on_a_log_axis_too():
    frame = pd.DataFrame({"curve": "line", "t": [0.0, 0.5, 1.0], "loss": [1e-3, 5.0, 10.0]})
    frame.attrs = {"barriers": {"line": {"height": 0.0, "error": 0.0}}, "of": "a - b"}
    (ax,) = connect(frame, log=True).axes
    (between,) = (line for line in ax.lines if line.get_linestyle() == "--")
    t, y = between.get_data()
    assert np.allclose(y, 1e-3 + t * (10.0 - 1e-3)) and len(t) > 50


def test_a_score_that_the_problem_has_not_is_no_matter_of_measuring():
    frame = made([("net", {"lr": 0.1}, [1.0, 2.0])]).assign(scores="train_loss test_loss")
    with pytest.raises(Refusal, match="its problem's scores are train_loss, test_loss"):
        need(frame, "recovery_error", "scores")


def test_a_diverged_run_has_no_final_value_and_is_counted():
    frame = swept({(("method", "sgd"),): [1.0, 3.0]})
    frame["diverged"] = [None, None, None, True]
    out = table(frame, columns=["y"], by=["method"])
    assert list(out["y"]) == [1.0] and list(out["diverged"]) == [1] and list(out["runs"]) == [2]


TEXTS = {
    ".md": "| sgd      |      2 | 2.0 ± 1.4 |",
    ".tex": r" sgd      &      2 & $2.0 \pm 1.4$ \\",
    ".csv": "sgd,2,2.0,1.4142135623730951",
    ".txt": "sgd            2  2.0 ± 1.4",
}


@pytest.mark.parametrize("ending", TEXTS)
def test_a_table_in_each_format(ending):
    out = table(swept({(("method", "sgd"),): [1.0, 3.0]}), columns=["y"], by=["method"])
    text = as_text(out, ending)
    assert TEXTS[ending] in text.splitlines()
    if ending == ".tex":
        assert [line for line in text.splitlines() if line.startswith("\\")] == [
            r"\begin{tabular}{lrr}", r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}"
        ]  # fmt: skip


CELLS = {
    (83.2131, 0.1234): "83.21 ± 0.12",
    (1234.5, 56.0): "1234 ± 56",
    (1.5e-9, 2e-10): "1.5e-09 ± 2e-10",
    (float("nan"), None): "-",
    (0.5, float("nan")): "0.5",
    (3, None): "3",
}


@pytest.mark.parametrize("value", CELLS)
def test_a_value_is_written_to_the_second_digit_of_its_spread(value):
    assert cell(*value) == CELLS[value]


def test_a_grid_has_the_mean_over_seeds_in_each_cell():
    fig = grid(swept(SWEEP), x="lr", y="method", value="y", log=False)
    ax = fig.axes[0]
    assert ax.images[0].get_array().tolist() == [[0.375, 3.0], [2.0, 5.25]]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["sam", "sgd"]
    assert sorted(t.get_text() for t in ax.texts) == ["0.375", "2", "3", "5.25"]
    with pytest.raises(Refusal, match="where"):
        grid(swept(SWEEP), x="lr", y="seed", value="y", log=False)


def test_ranks_are_scipys_and_within_a_hyperparameter_those_of_its_groups():
    rng = np.random.default_rng(0)
    runs = []
    for i, lr in enumerate((0.1, 0.2, 0.4)):
        for j, rho in enumerate((0.0, 0.1, 0.2)):
            # lr raises both; rho raises x and lowers z
            runs.append((f"{i}{j}", {"lr": lr, "rho": rho, "seed": 0}, [0.0, 10 * i + j]))
    frame = made(runs)
    last = frame["step"] == 1
    frame.loc[last, "z"] = [10 * i - j + 0.01 * rng.random() for i in range(3) for j in range(3)]
    fig = scatter(frame, x="y", y="z", by=["lr"], log=False, resamples=200)
    ends = frame[last]
    tau = kendalltau(ends["y"], ends["z"]).statistic
    title = fig.axes[0].get_title()
    assert f"= {tau:.2f} [" in title and "within: lr 1.00, rho -1.00" in title
    points = np.concatenate([line.get_xydata() for line in fig.axes[0].lines])
    assert sorted(map(tuple, points)) == sorted(zip(ends["y"], ends["z"], strict=True))
    low, high = interval(ends["y"].to_numpy(), ends["z"].to_numpy(), 500)
    assert -1 <= low < tau < high <= 1
    with pytest.raises(Refusal, match="a rank needs 3"):
        scatter(frame[frame["run"].isin(["00", "01"])], x="y", y="z", by=[], log=False, resamples=9)


# --- measures over training ---

DRAWN = {
    "noise": (("measure=[gradient_noise]", "method=sgd", "batch_size=10"), "noise_trace", 3),
    "alignment": (("measure=[alignment]", "measure.alignment.k=2"), "alignment_share", 2),
    "recovery": (("problem=uv", "method=sgd", "lr=0.01", "measure=[scores,norms]"), "recovery_error", 2),
    "phases": (("problem=uv", "method=label_noise", "lr=0.05", "measure=[trace,uv_flow]"), "trace", 4),
}


@pytest.mark.parametrize("name", DRAWN)
def test_each_measures_plot_draws_its_rows(sharp, folder, name):
    words, column, axes = DRAWN[name]
    words = (*(() if "problem=uv" in words else TINY), *words, "steps=8", "measure_every=2", "threads=1")
    assert sharp("train", *words).code == 0
    (run,) = in_directory(folder / "runs")
    said = sharp("plot", name, run.name)
    assert said.code == 0, said.err
    assert (run.path / f"{name}.png").exists()
    settings = {} if name == "phases" else {"x": "step"}
    plot = importlib.import_module(f"sharpcli.plots.{name}")
    frame = of(folder)
    fig = getattr(plot, name)(frame, **settings)
    assert len(fig.axes) == axes
    rows = frame[frame[column].notna()]
    lines = [line for ax in fig.axes for line in ax.lines if len(line.get_xdata())]
    shown = rows[column][1:] if name == "phases" else rows[column]  # a log scale has no step 0
    assert any(list(line.get_ydata()) == list(shown) for line in lines)


def test_a_plot_without_its_measure_names_the_command(sharp, folder):
    assert sharp("train", *SHORT).code == 0
    for name in ("noise", "alignment", "phases", "layers", "density"):
        assert "sharp measure gd-" in sharp("plot", name, "runs").refusal
    assert "its problem's scores are" in sharp("plot", "recovery", "runs").refusal  # no measure adds it


@pytest.mark.parametrize(
    "problem", ["uv", "hadamard", "squares", "matrix_sensing", "uv problem.instance=3 seed=1,2"]
)
def test_learned_draws_the_entries_whose_error_is_the_logged_one(sharp, folder, problem):
    words = (f"problem={problem}".split(), "lr=0.01", "steps=8", "measure=[scores]", "measure_every=4")
    sweep = ("-m",) if "," in problem else ()
    assert sharp("train", *words[0], *words[1:], "checkpoint_every=4", "threads=1", *sweep).code == 0
    assert sharp("plot", "learned", "runs", "-o", "x.png").code == 0
    runs = in_directory(folder / "runs")
    for step in (4, None):
        frame = entries(asked=Asked(runs, [], []), step=step)
        fig = learned(frame, most=1000)
        truth, *dots, _ = fig.axes[0].lines
        for run, line in zip(runs, dots, strict=True):
            off = np.linalg.norm(line.get_ydata() - truth.get_ydata()) / np.linalg.norm(truth.get_ydata())
            row = next(row for row in run.logged() if row["step"] == (step or 8))
            expected = row["recovery_error"] if problem == "matrix_sensing" else row["recovery_error"] ** 0.5
            assert off == pytest.approx(expected, rel=1e-6)
        assert (np.diff(np.abs(truth.get_ydata())) <= 0).all()
    few = learned(frame, most=5).axes[0]
    assert len(few.lines[1].get_ydata()) == 5 and "the first 5 of " in few.get_xlabel()


def test_learned_draws_each_of_several_truths(sharp, folder):
    words = ("problem=uv", "lr=0.01", "steps=4", "problem.instance=0,1", "-m")
    assert sharp("train", *words).code == 0
    frame = entries(asked=Asked(in_directory(folder / "runs"), [], []), step=None)
    lines = learned(frame, most=1000).axes[0].lines[:-1]
    colours = [line.get_color() for line in lines]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    for line, (_, rows) in zip(lines[::2], frame.groupby("run", sort=False), strict=True):
        assert sorted(line.get_ydata()) == sorted(rows["truth"])
    assert sharp("train", *SHORT).code == 0
    assert "log recovery_error" in sharp("plot", "learned", "gd-network").err
    several = sharp("plot", "learned", "runs", "-o", "x.png")
    assert several.code == 0 and "gd-network" in several.err and "left out" in several.err
    assert "most=0" in sharp("plot", "learned", "runs", "most=0").err
    assert "has checkpoints at 0, 4" in sharp("plot", "learned", rows["run"].iloc[0], "step=3").refusal


def test_layers_draws_what_was_measured_by_layer(sharp, folder):
    assert sharp("train", *SHORT, "checkpoint_every=4", "measure=[trace]").code == 0
    (run,) = in_directory(folder / "runs")
    assert sharp("measure", run.name, "--by", "layer", "measure=[trace]").code == 0
    frame = frame_of([run], of_layers=True)
    fig = layers(frame, params="*", x="step", y="trace", log=False)
    for name, line in drawn(fig.axes[0]).items():
        rows = frame[frame["params"] == name]
        assert list(line.get_ydata()) == list(rows["trace"]) and list(line.get_xdata()) == [0, 4, 8]
    assert set(drawn(fig.axes[0])) == {"1", "3"}
    assert set(drawn(layers(frame, params="3", x="epoch", y="trace", log=True).axes[0])) == {"3"}
    assert frame_of([run])["step"].is_unique  # no other plot has them
    assert sharp("plot", "layers", run.name, "y=trace", "-o", "l.pdf").code == 0
    assert "has no trace of layers" in sharp("plot", "layers", run.name, "y=trace", "params=9").refusal


# --- files ---


def test_rows_of_a_file_are_drawn_as_those_of_a_run(sharp, folder):
    assert sharp("train", *SHORT, "checkpoint_every=4").code == 0
    (run,) = in_directory(folder / "runs")
    assert sharp("measure", run.name, "measure=[sharpness,trace]", "-o", "x.jsonl").code == 0
    frame = frame_of_file(Path("x.jsonl"))
    assert list(frame["step"]) == [0, 4, 8] and frame["run"].nunique() == 1 and frame["trace"].notna().all()
    assert sharp("plot", "compare", "x.jsonl", "y=trace", "by=[]", "-o", "t.png").code == 0
    assert sharp("plot", "sharpness", "x.jsonl", "-o", "s.png").code == 0
    Path("x.jsonl").write_text("nonsense\n")
    assert "x.jsonl" in sharp("plot", "compare", "x.jsonl", "by=[]").refusal


@pytest.mark.parametrize("look", LOOKS)
def test_a_figure_holds_its_command_and_has_the_look_asked_for(sharp, folder, look):
    assert sharp("train", *SHORT, "steps=2").code == 0
    words = ("plot", "compare", "runs", "y=train_loss", f"style={look}")
    for ending in ("svg", "png", "pdf"):
        assert sharp(*words, "-o", f"x.{ending}").code == 0
        text = Path(f"x.{ending}").read_bytes()
        assert b"sharp plot compare runs y=train_loss" in text, ending
    width = float(re.search(r'width="([\d.]+)pt"', Path("x.svg").read_text())[1])
    wanted = LOOKS[look].get("figure.figsize", (6.4, 0))[0]
    assert width == pytest.approx(72 * wanted)
    assert ("#16181d" in Path("x.svg").read_text()) == (look == "dark")
    assert "did you mean paper" in sharp(*words, "style=papre").refusal


def test_help_of_a_plot_lists_its_settings(sharp, folder):
    said = sharp("plot", "scatter", "--help")
    assert (
        said.code == 0
        and "\nresamples " in said.out
        and "plot.resamples" not in said.out
        and "Kendall" in said.out
    )
    assert "sharp plot scatter --help" in sharp("plot", "--help").out
    assert "did you mean scatter" in sharp("plot", "scater", "--help").refusal


def test_claims_are_drawn_where_they_lie_between_their_bounds():
    frame = pd.DataFrame(
        [
            {"claim": "both", "low": 1.0, "high": 1.2, "measured": 1.15, "spread": 0.05, "as_expected": True},
            {
                "claim": "least",
                "low": 0.8,
                "high": np.inf,
                "measured": 1.0,
                "spread": 0.0,
                "as_expected": True,
            },
            {
                "claim": "far",
                "low": -np.inf,
                "high": 0.01,
                "measured": 5.0,
                "spread": 0.0,
                "as_expected": False,
            },
            {
                "claim": "none",
                "low": 0.0,
                "high": 1.0,
                "measured": None,
                "spread": None,
                "as_expected": False,
            },
        ]
    ).assign(words="w", asked="x: 1 to 2", verdict="holds")
    (ax,) = claims(frame).axes
    dots = {line.get_ydata()[0]: line for line in ax.lines if len(line.get_xdata()) == 1}
    assert dots[3].get_xdata()[0] == pytest.approx(0.5) and dots[2].get_xdata()[0] == pytest.approx(-0.5)
    assert dots[1].get_xdata()[0] == 3 and dots[1].get_marker() == ">" and 0 not in dots
    assert to_hex(dots[1].get_color()) == "#d55e00" and to_hex(dots[3].get_color()) == "#0072b2"
    spread = next(line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_ydata()[0] == 3)
    assert list(spread.get_xdata()) == pytest.approx([0.0, 1.0])
    assert [text.get_text() for text in ax.get_yticklabels()] == ["none", "far", "least", "both"]


def test_claims_that_were_judged_are_drawn_without_naming_a_run(sharp, folder):
    assert "no claim was judged" in sharp("plot", "claims").refusal
    assert sharp("claim", "check", "sam_edge", "--dirty").code in (0, 1)
    assert sharp("plot", "claims", "-o", "c.pdf").code == 0 and Path("c.pdf").exists()
    assert sharp("plot", "claims", "all_checks=true", "-o", "c.png").code == 0


def test_a_density_over_training_has_a_curve_for_each_step(sharp, folder):
    assert sharp("train", *SHORT, "measure=[density]").code == 0
    frame = of(folder)
    (above, below) = density(frame, width=0.01, over_training=True).axes
    assert list(drawn(above)) == [f"step {step}" for step in (0, 2, 4, 6, 8)]
    assert len({line.get_color() for line in above.lines}) == 5
    assert len(density(frame, width=0.01, over_training=False).axes[0].lines) == 1


def test_measured_rows_of_words_and_numbers_in_a_column_are_refused(tmp_path):
    (tmp_path / "m.jsonl").write_text(
        '{"file": "a.pt", "step": 0, "trace": 1.5}\n{"file": "b.pt", "step": 0, "trace": "x"}\n'
    )
    with pytest.raises(Refusal, match="trace is x at step 0 and else a number"):
        frame_of_file(tmp_path / "m.jsonl")


@pytest.mark.parametrize(("line", "ends"), [("x", (1.0, 4.0)), ("x + y", (2.1, 1.9)), ("1", (1.0, 1.0))])
def test_the_line_of_a_theory_spans_all_points_where_it_is_a_function_of_x_alone(line, ends):
    frame = pd.DataFrame(
        {"part": list("aabbc"), "run": list("12345"), "x": [1.0, 1, 2, 2, 4], "y": [1.1, 0.9, 2.2, 1.9, 4.1]}
    )

    ax = theory(frame, x="x", y="y", line=line, parts=[], log=[], only_last=True).axes[0]
    (drawn,) = (curve for curve in ax.lines if curve.get_label() == "theory")
    assert (drawn.get_ydata()[0], drawn.get_ydata()[-1]) == pytest.approx(ends)


@pytest.mark.parametrize("only_last", [True, False])
def test_no_two_parts_of_a_claim_look_alike_in_its_picture(only_last):
    names = [f"part_{i:02}" for i in range(20)]
    frame = pd.DataFrame({"part": names * 2, "run": names * 2, "x": [0] * 20 + [1] * 20, "y": range(40)})
    ax = theory(frame, x="x", y="y", line=None, parts=[], log=[], only_last=only_last).axes[0]
    looks = [(curve.get_color(), curve.get_marker()) for curve in ax.lines]
    assert len(looks) == len(set(looks)) == 20 and "None" not in {marker for _, marker in looks}
    ends = [curve.get_markevery() for curve in ax.lines]
    assert ends == [None if only_last else [1]] * 20


def of_one_row(**columns):
    """A frame of two runs, each of a single row."""
    about = {"run": ["a", "b"], "lr": [0.1, 0.2], "seed": 0, "step": 0, "scores": "train_loss"}
    frame = pd.DataFrame({**about, **columns})
    frame.attrs = {"settings": ("lr", "seed")}
    return frame


@pytest.mark.parametrize(
    "plot, settings, columns",
    [
        ("loss", {"x": "step"}, {"train_loss": [1.0, 2.0]}),
        ("compare", {"x": "step", "y": "y", "by": ["lr"], "log": False}, {"y": [1.0, 2.0]}),
        ("alignment", {"x": "step"}, {"alignment_share": [0.1, 0.2], "alignment_1": [0.1, 0.2]}),
        ("sharpness", {"x": "step"}, {"train_loss": [1.0, 2.0], "lambda_1": [1.0, 2.0]}),
        ("phases", {}, {"trace": [1.0, 2.0], "step": [5, 5]}),
    ],
)
def test_a_run_of_one_row_is_seen_in_its_picture(plot, settings, columns):
    draw = getattr(importlib.import_module(f"sharpcli.plots.{plot}"), plot)
    for ax in draw(of_one_row(**columns), **settings).axes:
        lines = [line for line in ax.lines if len(line.get_xdata())]
        assert lines and all(line.get_marker() not in ("None", None) for line in lines), ax.get_ylabel()


def test_a_run_that_diverged_does_not_press_the_losses_of_others_to_the_axis():
    values = {"train_loss": [1.0, 0.5, 1.0, 1e37], "test_loss": [1.1, 0.6, 1.1, 1e37]}
    about = {"run": [*"aabb"], "lr": [0.1, 0.1, 9.0, 9.0], "seed": 0, "step": [0, 1] * 2}
    frame = pd.DataFrame({**about, **values, "diverged": [None, None, None, True]})
    frame = frame.assign(scores="train_loss test_loss", lambda_1=1.0)
    frame.attrs = {"settings": ("lr", "seed")}
    for plot in ("loss", "sharpness"):
        draw = getattr(importlib.import_module(f"sharpcli.plots.{plot}"), plot)
        axes = draw(frame, x="step").axes
        assert 0.3 < axes[0].get_ylim()[0] < 0.5 and 1.1 < axes[0].get_ylim()[1] < 2, plot
        assert "diverged" in [line.get_label() for ax in axes for line in ax.lines]
    (alone,) = draw(frame[frame["run"] == "b"].assign(train_loss=np.nan), x="step").axes[-1:]
    assert alone.get_ylim()[1] >= 1


def test_no_two_groups_of_a_scatter_look_alike():
    rng = np.random.default_rng(0)
    names = [f"r{i}" for i in range(20)]
    frame = pd.DataFrame({"run": names, "lr": range(20), "seed": 0, "step": 0})
    frame = frame.assign(x=rng.normal(size=20), y=rng.normal(size=20))
    frame.attrs = {"settings": ("lr", "seed")}
    ax = scatter(frame, x="x", y="y", by=["lr"], log=False, resamples=10).axes[0]
    looks = {(line.get_color(), line.get_marker()) for line in ax.lines}
    assert len(looks) == len(ax.lines) == 20


def test_pairs_that_differ_in_the_seed_alone_say_nothing_of_a_setting():
    """Two learning rates and two seeds: x and y rise with lr within a seed, and are opposed between them."""
    frame = pd.DataFrame({"lr": [0.1, 0.1, 0.2, 0.2], "seed": [0, 1, 0, 1]})
    frame = frame.assign(x=[1.0, 3.0, 2.0, 4.0], y=[3.0, 1.0, 4.0, 2.0])
    x, y, lr = (frame[name] for name in ("x", "y", "lr"))
    pairs = [(i, j) for i in range(4) for j in range(i) if lr[i] != lr[j]]
    signs = [np.sign((x[i] - x[j]) * (y[i] - y[j])) for i, j in pairs]
    assert len(pairs) == 4 and tau_between(x, y, lr) == pytest.approx(np.mean(signs)) == pytest.approx(0.0)
    assert tau_between(x, y, lr) != pytest.approx(kendalltau(x, y).statistic)
    assert tau_between(x, x, lr) == 1 and np.isnan(tau_between(x, 0 * y, lr))
