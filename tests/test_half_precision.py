"""precision=bf16 and fp16: training steps in half precision, measured in the precision of the weights."""

import json

import pytest
import torch
from conftest import TINY, only_run, rows_of

from sharpcli.config.check import HALVES
from sharpcli.errors import Refusal
from sharpcli.landscape import half_precision
from sharpcli.landscape.half_precision import HalfPrecision
from sharpcli.landscape.surface import LossSurface
from sharpcli.objectives.gradient_penalty import gradient_penalty
from sharpcli.rng import generator
from sharpcli.run import Run

IMAGES = ("data=arrays", "data.file=images.npz", "model=resnet", "model.depth=8", "model.width=4")
PLAIN = ("threads=1", "measure=[scores,sharpness]", "steps=4", "measure_every=2", "checkpoint_every=2")


def test_the_words_of_the_config_are_those_of_the_surface():
    assert set(HALVES) == set(half_precision.HALVES) == set(half_precision.SCALES)


@pytest.fixture
def images(folder):
    """16 random images of 8 x 8 in 2 classes, as a file."""
    import numpy as np

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 3, 8, 8)).astype("float32"), np.arange(16) % 2
    np.savez(folder / "images.npz", x_train=x, y_train=y, x_test=x[:4], y_test=y[:4])


@pytest.mark.parametrize("half, digits", [("bf16", 8), ("fp16", 11)])
@pytest.mark.parametrize("norm", ["group", "batch"])
def test_a_gradient_in_half_precision_is_that_in_float32_to_its_digits(
    experiment, images, half, digits, norm
):
    e = experiment(*IMAGES, f"model.norm={norm}", f"precision={half}")
    w, half_surface = e.problem.w0, e.training_surface
    exact, rounded = e.problem.surface.grad(w), half_surface.grad(w)
    assert rounded.dtype == torch.float32
    error = float((rounded - exact).norm() / exact.norm())
    assert 2.0 ** -(digits + 3) < error < 2.0 ** -(digits - 5)
    value, gradient = half_surface.value_and_grad(w)
    assert torch.equal(gradient, rounded)
    assert value == pytest.approx(float(half_surface.value(w)), rel=1e-6)
    assert value == pytest.approx(float(e.problem.surface.value(w)), rel=2.0**-5)


def linear(scale):
    """The loss scale mean(x w) in one parameter, by way of outputs that float16 holds."""
    x = torch.ones(4, 1)
    return LossSurface(lambda w, x: x @ w[:, None], lambda f, y: scale * f.mean(), ((x, torch.zeros(4)),))


@pytest.mark.parametrize("scale", [1e-9, 1e-6, 1.0, 1e3, 6e4])
def test_small_and_large_gradients_are_neither_0_nor_infinite_in_fp16(scale):
    w = torch.ones(1)
    surface = HalfPrecision.of(linear(scale), "fp16")
    assert float(surface.grad(w)) == pytest.approx(scale, rel=5e-3)  # 1e-9 times 2^15 has 9 bits in float16
    penalized = surface.plus(lambda w: 3e5 * w.sum())  # no number of float16
    assert isinstance(penalized, HalfPrecision)
    assert float(penalized.grad(w)) == pytest.approx(3e5 + scale, rel=2e-3)


def test_what_float16_holds_at_no_scale_is_not_finite():
    w = torch.ones(1)
    assert not HalfPrecision.of(linear(1e9), "fp16").grad(w).isfinite().any()
    assert float(HalfPrecision.of(linear(1e9), "bf16").grad(w)) == pytest.approx(1e9, rel=1e-2)


@pytest.mark.parametrize("half", HALVES)
def test_a_penalty_on_the_gradient_is_in_the_precision_of_the_weights(half):
    """Its gradient, 1e-10 before any scale, is 0 in float16."""
    x, w = torch.ones(4, 1), torch.full((1,), 0.3)
    exact = LossSurface(
        lambda w, x: x @ w[:, None], lambda f, y: 1e-10 * f.square().mean() / 2, ((x, torch.zeros(4)),)
    )
    surface = HalfPrecision.of(exact, half)
    both = [
        float(gradient_penalty(s, w, None, strength=1e10, power=1).grad(w) - s.grad(w))
        for s in (surface, exact)
    ]
    assert both[1] == pytest.approx(1.0, rel=1e-2) and both[0] == pytest.approx(both[1], rel=1e-5)
    assert surface.exact.grad(w) == exact.grad(w) and exact.exact is exact


@pytest.mark.parametrize("half", HALVES)
def test_coordinates_are_those_of_the_exact_loss_too(half):
    x, w = torch.linspace(-1, 1, 8)[:, None], torch.tensor([0.5])
    exact = LossSurface(
        lambda w, x: (x @ w[:, None]).tanh(), lambda f, y: f.square().mean() / 2, ((x, x[:, 0]),)
    )
    moved, right = (s.through(lambda u: 3 * u + 1) for s in (HalfPrecision.of(exact, half), exact))
    assert torch.equal(moved.exact.grad(w), right.grad(w))
    assert moved.grad(w).item() == pytest.approx(right.grad(w).item(), rel=5e-2)
    penalized = [gradient_penalty(s, w, None, strength=1.0, power=2).grad(w).item() for s in (moved, right)]
    assert penalized[0] == pytest.approx(penalized[1], rel=0.2)  # of terms that nearly cancel


@pytest.mark.parametrize("half", HALVES)
def test_second_derivatives_are_refused(half):
    surface, w = HalfPrecision.of(linear(1.0), half), torch.ones(1)
    calls = (lambda: surface.hvp(w, w), lambda: surface.gradient_graph(w))
    for call in (*calls, lambda: surface.curvature_grad(w, w[None])):
        with pytest.raises(Refusal, match=f"precision={half}"):
            call()


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("full", [True, False])
def test_steps_are_in_half_precision_and_measurements_are_not(sharp, folder, half, full):
    words = ("train", *TINY, *PLAIN, "batch_size=full" if full else "batch_size=20")
    assert sharp(*words, "runs_dir=float").code == 0
    assert sharp(*words, f"precision={half}").code == 0
    exact = rows_of(next((folder / "float").iterdir()) / "metrics.jsonl")
    run = Run(only_run(folder))
    rows = run.logged()
    keys = ("train_loss", "lambda_1", "test_accuracy")
    assert [rows[0][key] for key in keys] == [exact[0][key] for key in keys]  # at the same weights
    for row, same in zip(rows[1:], exact[1:], strict=True):
        assert row["lambda_1"] != same["lambda_1"]
        assert row["lambda_1"] == pytest.approx(same["lambda_1"], rel=0.03)
    said = sharp("measure", run.name, "--json", "-o", "out.jsonl")
    measured = [json.loads(line) for line in said.out.splitlines() if line.startswith("{")]
    assert [m["lambda_1"] for m in measured] == [row["lambda_1"] for row in rows]


def test_a_measured_step_takes_the_gradient_that_an_unmeasured_step_takes(sharp, folder):
    words = (
        "train",
        *TINY,
        "threads=1",
        "batch_size=full",
        "steps=6",
        "precision=bf16",
        "measure=[sharpness]",
    )
    for every in (1, 0):
        assert sharp(*words, f"measure_every={every}", f"runs_dir=every{every}").code == 0
    often, never = (Run(next((folder / f"every{every}").iterdir())).load(6)["w"] for every in (1, 0))
    assert torch.equal(often, never)


RULES = (
    "method=sam",
    "method=sam optimizer.m=5",
    "method=sam optimizer.adaptive=0.01",
    "method=momentum",
    "optimizer=adam",
    "optimizer=lion",
    "optimizer=muon",
    "optimizer=schedule_free",
    "optimizer=averaging",
    "objective=[mixup]",
    "objective=[weight_decay]",
    "method=label_noise",
    "objective=[gradient_penalty]",
    "objective=[trace_penalty]",
    "chunk=7 batch_size=20",
    "replicas={seed:2,lr:[0.01,0.02]}",
)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_takes_it_and_a_run_that_was_cut_is_carried_on_bit_for_bit(sharp, folder, rule):
    words = ["train", *TINY, *PLAIN, "measure=[scores]", "batch_size=20", "lr=0.01", *rule.split()]
    words += ["precision=bf16"]
    said = sharp(*words)
    assert said.code == 0, said.err
    run = Run(only_run(folder))
    rows, lines = (
        rows_of(run.path / "metrics.jsonl"),
        (run.path / "metrics.jsonl").read_text().splitlines(True),
    )
    weights = run.load(4)
    run.drop(4)
    facts = {key: value for key, value in run.provenance.items() if key != "rows"}
    (run.path / "provenance.json").write_text(json.dumps(facts))
    (run.path / "metrics.jsonl").write_text("".join(line for line in lines if json.loads(line)["step"] < 4))
    assert sharp(*words).code == 0
    assert rows_of(run.path / "metrics.jsonl") == rows
    again = Run(run.path).load(4)
    for before, after in zip(weights.get("replicas", [weights]), again.get("replicas", [again]), strict=True):
        assert torch.equal(before["w"], after["w"])


@pytest.mark.parametrize(
    "words, said",
    [
        ("precision=bf8", "precision=bf8: possible: bf16, fp16"),
        ("precision=float32", "precision=float32: possible: bf16, fp16, or null"),
        ("precision=16", "precision=16: possible"),
        ("amp=bf16", "precision=bf16"),
        ("precision=bf16 problem.dtype=float64", "for weights in float32"),
        ("precision=fp16 problem=uv", "for weights in float32"),
        ("precision=bf16 method=central_flow", "precision=bf16"),
        ("precision=fp16 method=gradient_flow", "solves an equation"),
        ("precision=bf16 method=sam optimizer@optimizer.base=gradient_flow", "solves an equation"),
        ("precision=bf16 optimizer=switch optimizer@optimizer.after=gradient_flow", "solves an equation"),
        ("presicion=bf16", "precision"),
    ],
)
def test_wrong_words_are_one_line(sharp, words, said):
    tiny = () if "problem=uv" in words else TINY
    assert said in sharp("train", *tiny, "steps=2", *words.split()).refusal


@pytest.mark.parametrize(
    "norm, size, is_last", [("batch", 8, True), ("none", 8, True), ("group", 8, False), ("batch", 16, False)]
)
@pytest.mark.parametrize("moved", [False, True])
def test_batches_have_their_channels_last_where_the_network_is_faster_so(
    experiment, images, norm, size, is_last, moved
):
    objective = ("objective=crop_flip", "objective.crop_flip.pad=2") if moved else ()
    e = experiment(*IMAGES, f"model.norm={norm}", f"batch_size={size}", *objective)
    x, y = e.minibatches(0, e.minibatches.order(0))
    surface = e.training_surface.on([(x, y)])
    for name, change in e.objectives.items():
        surface = change(surface, e.problem.w0, generator(0, name, 0))
    seen = surface.batches[0][0]
    assert seen.is_contiguous(memory_format=torch.channels_last) is is_last
    assert seen.is_contiguous() is not is_last
    plain = surface.on([(seen.contiguous(), y)])
    w = e.problem.w0
    assert torch.allclose(surface.grad(w), plain.grad(w), rtol=1e-4, atol=1e-6)
    measured = e.surface_at(w).batches[0][0]
    assert measured.is_contiguous(), "what is measured is laid out as ever: its last digits stay"
