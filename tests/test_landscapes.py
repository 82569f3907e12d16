"""Pictures of the loss and curves between minima: what is computed equals the loss, the curvature and closed
forms; what is drawn equals what is computed."""

import json
import signal
import time

import numpy as np
import pytest
import torch
from conftest import TINY
from torch import nn

from sharpcli.commands.landscapes import Answer
from sharpcli.config.check import check
from sharpcli.config.words import compose
from sharpcli.engine.experiment import build
from sharpcli.landscape import paths, planes
from sharpcli.landscape.permutations import reordered
from sharpcli.landscape.symmetries import exchangeable
from sharpcli.plots.connect import connect
from sharpcli.plots.landscape import landscape
from sharpcli.runs_dir import in_directory

SHORT = (*TINY, "lr=0.5", "steps=8", "measure_every=4", "checkpoint_every=2", "threads=1")


def rows_of(folder):
    """The rows of the only landscape in the only run, and what is said of them."""
    (file,) = (folder / "runs").glob("*/landscapes/*.jsonl")
    return Answer(file, ["loss"])


def test_at_its_origin_the_picture_has_the_loss_of_the_run(sharp, folder):
    assert sharp("train", *SHORT).code == 0
    (run,) = in_directory(folder / "runs")
    said = sharp("plot", "landscape", run.name, "points=3", "-o", "l.png")
    assert said.code == 0 and said.out.strip() == "l.png", said.err
    answer = rows_of(folder)
    assert len(answer.rows) == 9
    middle = answer.rows[4]
    assert (middle["a"], middle["b"]) == (0, 0)
    assert middle["loss"] == pytest.approx(run.last()["train_loss"], rel=1e-6)
    # its other points by hand
    experiment = build(check(compose([*SHORT]), []))
    basis = random_directions(experiment, run.load(8)["w"])
    w = run.load(8)["w"] + basis[0] * answer.rows[0]["a"] + basis[1] * answer.rows[0]["b"]
    assert answer.rows[0]["loss"] == pytest.approx(float(experiment.problem.surface.value(w)), rel=1e-5)
    frame = answer.frame(run.name)
    (ax, _) = landscape(frame, surface=False, log=False).axes
    assert [list(line.get_xdata()) for line in ax.lines] == [[0]]
    solid = landscape(frame, surface=True, log=True).axes[0]
    assert solid.name == "3d"


def random_directions(experiment, w):
    from sharpcli.rng import generator

    shapes = [shape for _, shape in experiment.problem.layout]
    drawn = [
        torch.randn(len(w), generator=generator(0, "landscape", i), dtype=torch.float64).to(w) for i in (0, 1)
    ]
    return [planes.filter_normalized(v, w, shapes) for v in drawn]


def test_along_an_eigenvector_the_curvature_is_the_eigenvalue(sharp, folder):
    assert sharp("train", *SHORT, "problem.dtype=float64", "measure=[sharpness]").code == 0
    (run,) = in_directory(folder / "runs")
    words = ("directions=eigenvectors", "dimensions=1", "points=3", "span=1e-3")
    assert sharp("plot", "landscape", run.name, *words, "-o", "l.svg").code == 0
    answer = rows_of(folder)
    left, middle, right = (answer.rows[k]["loss"] for k in range(3))
    assert (left - 2 * middle + right) / 1e-6 == pytest.approx(run.last()["lambda_1"], rel=1e-3)
    assert answer.about["eigenvalues"][0] == pytest.approx(run.last()["lambda_1"], rel=1e-3)
    (ax,) = landscape(answer.frame(run.name), surface=False, log=False).axes
    (dashed,) = [line for line in ax.lines if line.get_linestyle() == "--"]
    # the parabola that is drawn rises as the loss does without its slope
    assert dashed.get_ydata()[0] - middle == pytest.approx((left + right) / 2 - middle, rel=1e-2)


def test_a_trajectory_lies_in_its_plane_and_ends_at_the_origin(sharp, folder):
    assert sharp("train", *SHORT).code == 0
    (run,) = in_directory(folder / "runs")
    assert sharp("plot", "landscape", run.name, "directions=trajectory", "points=5", "-o", "l.png").code == 0
    answer = rows_of(folder)
    trail = answer.about["trajectory"]
    assert [step for step, _, _ in trail] == run.checkpoints() and len(trail) == 5
    assert trail[-1][1:] == pytest.approx([0, 0], abs=1e-6)
    moves = np.stack([(run.load(step)["w"] - run.load(8)["w"]).numpy() for step, _, _ in trail])
    left, singular, _ = np.linalg.svd(moves, full_matrices=False)
    drawn = np.array([c for _, *c in trail])
    assert np.abs(drawn) == pytest.approx(np.abs(left[:, :2] * singular[:2]), abs=1e-5)
    assert answer.about["shares"] == pytest.approx(singular[:2] ** 2 / (singular**2).sum(), rel=1e-4)
    (ax, _) = landscape(answer.frame(run.name), surface=False, log=True).axes
    line = next(line for line in ax.lines if line.get_label() == "checkpoints")
    assert np.array(line.get_xydata()) == pytest.approx(drawn)


def test_three_runs_lie_in_their_plane(sharp, folder):
    assert sharp("train", *SHORT, "seed=0,1,2", "-m").code == 0
    runs = in_directory(folder / "runs")
    names = [run.name for run in runs]
    assert sharp("plot", "landscape", *names, "directions=checkpoints", "points=3", "-o", "l.png").code == 0
    answer = rows_of(folder)
    basis = planes.plane_through(*(run.load(8)["w"] for run in runs))
    for run, (_, a, b) in zip(runs, answer.about["trajectory"], strict=True):
        w = runs[0].load(8)["w"] + a * basis[0] + b * basis[1]
        assert torch.allclose(w, run.load(8)["w"], atol=1e-5)
    assert "takes three runs" in sharp("plot", "landscape", names[0], "directions=checkpoints").refusal


def test_an_interrupted_picture_goes_on_and_a_whole_one_is_read(sharp, process, folder):
    assert sharp("train", *SHORT).code == 0
    (run,) = in_directory(folder / "runs")
    words = ("plot", "landscape", run.name, "points=5", "-o", "l.png")
    assert sharp(*words).code == 0
    answer = rows_of(folder)
    lines = answer.file.read_text().splitlines(keepends=True)
    # as a kill leaves it: part of the rows, and half a line
    answer.file.write_text("".join(lines[:10]) + lines[10][:9])
    again = sharp(*words)
    assert again.code == 0 and "point 25/25" in again.err
    assert rows_of(folder).rows == answer.rows
    stamp = answer.file.stat().st_mtime_ns
    whole = sharp(*words)
    assert whole.code == 0 and "point" not in whole.err and answer.file.stat().st_mtime_ns == stamp
    # another checkpoint of the same name is another question
    assert sharp(*words, "seed=1").code == 0
    assert len(list(answer.file.parent.glob("*.jsonl"))) == 2


def test_ctrl_c_keeps_the_points(process, sharp, folder):
    assert sharp("train", *SHORT, "data.train_examples=1000").code == 0
    (run,) = in_directory(folder / "runs")
    words = ("plot", "landscape", run.name, "points=151", "chunk=50", "threads=1", "-o", "l.png")
    child = process(*words)
    folder_of_rows = run.path / "landscapes"
    for _ in range(600):
        if folder_of_rows.exists() and any(f.stat().st_size > 500 for f in folder_of_rows.glob("*.jsonl")):
            break
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130 and "the same command goes on" in err and "Traceback" not in err
    assert 0 < len(rows_of(folder).rows) < 151**2


def test_batch_norm_is_taken_by_its_policy_at_every_point(sharp, folder):
    words = (
        "model=resnet",
        "model.depth=8",
        "model.norm=batch",
        "data.train_examples=40",
        "steps=2",
        "threads=1",
    )
    words = (*words, "measure=[]", "problem.batchnorm=population", "chunk=20")
    assert sharp("train", *words).code == 0
    (run,) = in_directory(folder / "runs")
    assert sharp("plot", "landscape", run.name, "dimensions=1", "points=3", "-o", "l.png").code == 0
    answer = rows_of(folder)
    experiment = build(check(compose([*words]), []))
    w = run.load(2)["w"]
    w = w + answer.rows[2]["a"] * random_directions(experiment, w)[0]
    at_the_point = float(experiment.surface_at(w).value(w))
    elsewhere = float(experiment.surface_at(run.load(2)["w"]).value(w))
    assert answer.rows[2]["loss"] == pytest.approx(at_the_point, rel=1e-5)
    assert abs(at_the_point - elsewhere) > 1e-3 * at_the_point  # the policy makes a difference


WRONG = {
    ("points=2",): "at least 3",
    ("dimensions=3",): "1 or 2",
    ("span=-1",): "above 0",
    ("directions=randon",): "did you mean random",
    ("step=3",): "has checkpoints at 0, 2, 4, 6, 8",
    ("through=[0,2,4]",): "directions=checkpoints",
    ("directions=trajectory", "dimensions=1"): "a plane",
    ("log=true", "pionts=3"): "pionts",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_words_are_one_line(sharp, folder, words):
    assert sharp("train", *SHORT).code == 0
    (run,) = in_directory(folder / "runs")
    assert WRONG[words] in sharp("plot", "landscape", run.name, *words).refusal
    assert not (run.path / "landscape.png").exists()


# --- directions ---


def test_filters_have_the_norms_of_the_weights():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5))
    w = torch.cat([p.detach().flatten() for p in net.parameters()])
    v = torch.randn(len(w))
    shapes = [p.shape for p in net.parameters()]
    out = planes.filter_normalized(v, w, shapes)
    for part, weights, shape in zip(
        *(t.split([s.numel() for s in shapes]) for t in (out, w)), shapes, strict=True
    ):
        if len(shape) == 1:
            assert not part.any()
        else:
            rows = (t.view(shape[0], -1).norm(dim=1) for t in (part, weights))
            assert torch.allclose(*rows)


def test_points_of_a_small_loss_are_evaluated_together_and_equal():
    problem = build(check(compose(["problem=uv"]), [])).problem
    points = problem.w0 + torch.randn(20, len(problem.w0), dtype=torch.float64)
    single = [float(problem.surface.value(w)) for w in points]
    assert planes.values(problem.surface, points) == pytest.approx(single, rel=1e-12)


# --- curves between minima ---


@pytest.mark.parametrize("curve", ["line", "bezier", "chain"])
def test_the_ends_of_a_curve_are_the_minima(curve):
    first, middle, last = torch.randn(3, 7)
    assert torch.equal(paths.point(curve, 0.0, first, middle, last), first)
    assert torch.equal(paths.point(curve, 1.0, first, middle, last), last)
    a, b, c = paths.shares(curve, 0.3)
    assert a + b + c == pytest.approx(1)


# (u v)^k = 1 at (1, 1) and (-1, -1), and any way between them crosses u = 0, where L = 1/2 and 1/4
@pytest.mark.parametrize(("problem", "height"), [("valley", 0.5), ("quartic", 0.25)])
def test_a_barrier_known_in_closed_form(sharp, folder, problem, height):
    for at in ("[1,1]", "[-1,-1]"):
        words = (f"problem={problem}", f"problem.start={at}", "problem.box=0", "steps=1", "measure=[]")
        assert sharp("train", *words, "lr=0.01").code == 0
    said = sharp("plot", "connect", *(run.name for run in in_directory(folder / "runs")), "-o", "c.png")
    assert said.code == 0, said.err
    answer = rows_of(folder)
    barriers = answer.about["barriers"]
    assert barriers["line"] == {
        "height": pytest.approx(height),
        "t": 0.5,
        "error": pytest.approx(0, abs=0.01),
    }
    for curve in ("bezier", "chain"):  # the finite grid may step over the top by its stated error
        found = barriers[curve]
        assert found["height"] + 2 * found["error"] >= height - 1e-3
    frame = answer.frame("x")
    (ax,) = connect(frame, log=False).axes
    (line,) = [line for line in ax.lines if str(line.get_label()).startswith("line:")]
    assert list(line.get_ydata()) == [row["loss"] for row in answer.rows.values() if row["curve"] == "line"]
    assert line.get_label() == f"line: barrier {height:.3g} ± {barriers['line']['error']:.1g}"


HILLS = {
    "smooth": lambda t: np.sin(np.pi * t) ** 2 * (1 + t),
    "narrow": lambda t: np.exp(-(((t - 0.57) / 0.17) ** 2)),
    "a kink": lambda t: -np.abs(t - 0.43),
    "near an end": lambda t: np.exp(-(((t - 0.1) / 0.15) ** 2)),
}


@pytest.mark.parametrize("points", [7, 12, 31])
@pytest.mark.parametrize("hill", HILLS)
def test_the_error_of_a_barrier_covers_what_the_grid_misses(hill, points):
    fine, coarse = (
        paths.barrier(t.tolist(), HILLS[hill](t).tolist())
        for t in (np.linspace(0, 1, 100_001), np.linspace(0, 1, points))
    )
    assert -1e-9 <= fine.height - coarse.height <= coarse.error + 1e-9
    assert fine.error < 1e-4


@pytest.mark.parametrize("points", [4, 5, 12, 51, 100])
def test_the_peak_where_the_lines_of_a_chain_meet_is_among_the_points(points):
    at = paths.places("chain", points)
    assert len(at) == points and at == sorted(set(at)) and (at[0], at[-1]) == (0.0, 1.0)
    peak = [0.3 - 2 * abs(t - 0.5) ** 0.5 for t in at]
    assert paths.barrier(at, peak)[:2] == (pytest.approx(2 * 0.5**0.5), 0.5)
    assert paths.places("bezier", points) == pytest.approx([i / (points - 1) for i in range(points)])


def test_a_barrier_of_a_loss_that_is_not_finite_is_infinite():
    assert paths.barrier([0, 0.5, 1], [0.0, float("nan"), 1.0]).height == float("inf")


def test_a_fitted_curve_goes_around_a_hill():
    class Hill:  # a ring of minima: |w| = 1 in the plane
        def value_and_grad(self, w):
            w = w.detach().requires_grad_()
            value = (w @ w - 1).square()
            return float(value.detach()), torch.autograd.grad(value, w)[0]

    first, last = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.1])
    middle = paths.fit(lambda step: Hill(), "bezier", first, last, 400, 0.1, torch.Generator().manual_seed(0))
    losses = [Hill().value_and_grad(paths.point("bezier", t / 20, first, middle, last))[0] for t in range(21)]
    assert max(losses) < 0.3 < 0.9  # the line climbs to nearly 1


def permute(w, layout):
    """The same function with the units of every hidden layer in another order."""
    tensors = [t.view(s) for t, (_, s) in zip(w.split([s.numel() for _, s in layout]), layout, strict=True)]
    g = torch.Generator().manual_seed(1)
    order, out, matrices = None, [], [k for k, t in enumerate(tensors) if t.ndim > 1]
    for k, t in enumerate(tensors):
        if t.ndim > 1:
            if order is not None:
                t = t.reshape(len(t), len(order), -1)[:, order].reshape(t.shape)
            order = torch.randperm(len(t), generator=g) if k != matrices[-1] else torch.arange(len(t))
        out.append(t[order])
    return torch.cat([t.flatten() for t in out])


def test_matching_lowers_the_barrier_of_a_permuted_copy_to_zero(sharp, folder):
    assert sharp("train", *SHORT, "problem.dtype=float64").code == 0
    (run,) = in_directory(folder / "runs")
    experiment = build(check(compose([*SHORT, "problem.dtype=float64"]), []))
    w, layout = run.load(8)["w"], experiment.problem.layout
    for name, vector in (("first", w), ("second", permute(w, layout))):
        tensors = zip(layout, vector.split([s.numel() for _, s in layout]), strict=True)
        torch.save({key: t.view(shape) for (key, shape), t in tensors}, f"{name}.pt")
    words = ("first.pt", "second.pt", *TINY, "problem.dtype=float64", "curves=[line]", "match=true")
    said = sharp("plot", "connect", *words, "-o", "c.png")
    assert said.code == 0, said.err
    (file,) = (folder / "landscapes").glob("*.json")
    barriers = json.loads(file.read_text())["about"]["barriers"]
    assert barriers["line"]["height"] > 1e-4 and abs(barriers["line, matched"]["height"]) < 1e-12


def test_the_channels_of_a_residual_network_are_matched(sharp, folder):
    words = (
        *("model=resnet", "model.depth=8", "model.norm=batch", "problem.dtype=float64"),
        *("data.train_examples=40", "steps=1", "threads=1", "measure=[]"),
    )
    assert sharp("train", *words).code == 0
    (run,) = in_directory(folder / "runs")
    problem = build(check(compose(list(words)), [])).problem
    w, layout = run.load(1)["w"], problem.layout
    other = w.clone()
    for units in exchangeable(problem.surface.predict, w, problem.examples[0][:2], layout).sets:
        tensors = [
            t.view(s) for t, (_, s) in zip(other.split([s.numel() for _, s in layout]), layout, strict=True)
        ]
        moved = reordered(tensors, units, np.arange(units.size)[::-1].copy())
        other = torch.cat([t.flatten() for t in moved])
    for name, vector in (("first", w), ("second", other)):
        tensors = zip(layout, vector.split([s.numel() for _, s in layout]), strict=True)
        torch.save({key: t.reshape(shape) for (key, shape), t in tensors}, f"{name}.pt")
    asked = ("first.pt", "second.pt", *words[:5], "problem.batchnorm=batch", "curves=[line]", "match=true")
    said = sharp("plot", "connect", *asked, "points=5", "-o", "c.png")
    assert said.code == 0, said.err
    (file,) = (folder / "landscapes").glob("*.json")
    barriers = json.loads(file.read_text())["about"]["barriers"]
    assert barriers["line"]["height"] > 1e-3 and abs(barriers["line, matched"]["height"]) < 1e-12


def test_a_setting_that_connect_has_not_names_those_of_what_is_computed_too(sharp, folder):
    assert sharp("train", *SHORT).code == 0
    (run,) = in_directory(folder / "runs")
    said = sharp("plot", "connect", run.name, "between=[0,8]", "macth=true").refusal
    assert "did you mean match?" in said and "fit_steps" in said and "log" in said


def test_what_has_no_hidden_units_is_not_matched(sharp, folder):
    words = ("problem=quadratic", "steps=2", "checkpoint_every=1", "threads=1")
    assert sharp("train", *words).code == 0
    (run,) = in_directory(folder / "runs")
    said = sharp("plot", "connect", run.name, "between=[0,2]", "curves=[line]", "match=true", "-o", "c.png")
    assert "no hidden units" in said.refusal


def test_ends_of_other_networks_or_data_are_refused(sharp, folder):
    assert sharp("train", *SHORT).code == 0
    assert sharp("train", *SHORT, "model.widths=[7]").code == 0
    assert sharp("train", *SHORT, "data.train_examples=61").code == 0
    one, two, three = (
        next(r.name for r in in_directory(folder / "runs") if pick(r.config))
        for pick in (
            lambda c: c["model"]["widths"] == [6] and c["data"]["train_examples"] == 60,
            lambda c: c["model"]["widths"] == [7],
            lambda c: c["data"]["train_examples"] == 61,
        )
    )
    assert "of another model" in sharp("plot", "connect", one, two).refusal
    assert "other examples" in sharp("plot", "connect", one, three).refusal
    assert "takes two different runs" in sharp("plot", "connect", one).refusal
    assert "the same weights" in sharp("plot", "connect", one, "between=[8,8]").refusal


# --- damage ---


def test_a_damaged_checkpoint_is_one_line_and_damaged_rows_are_computed_again(sharp, folder):
    assert sharp("train", *SHORT).code == 0
    (run,) = in_directory(folder / "runs")
    words = ("plot", "landscape", run.name, "points=3", "-o", "l.png")
    assert sharp(*words).code == 0
    want = rows_of(folder)
    text, notes = want.file.read_text(), want.notes.read_text()
    for damaged in ("[]", "{}", '{"about": {}, "crc32": 0}', notes.replace('"step": 8', '"step": 9')):
        want.notes.write_text(damaged)
        assert sharp(*words).code == 0 and rows_of(folder).about == want.about
    want.file.write_text(text.replace('"loss": ', '"loss": "x", "was": ', 3))
    assert sharp(*words).code == 0
    assert {k: row["loss"] for k, row in rows_of(folder).rows.items()} == {
        k: row["loss"] for k, row in want.rows.items()
    }
    checkpoint = run.path / "checkpoints" / "step_00000004.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-9])
    for more in (
        ("landscape", run.name, "directions=checkpoints", "through=[0,4,8]"),
        ("landscape", run.name, "directions=trajectory", "step=4"),
        ("connect", run.name, "between=[4,8]"),
    ):
        said = sharp("plot", *more, "points=3")
        assert said.code == 2 and "cannot be read" in said.err and "Traceback" not in said.err, said.err
    assert sharp("plot", "landscape", run.name, "directions=trajectory", "points=3", "-o", "t.png").code == 0
