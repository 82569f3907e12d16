"""Compiled steps: the general path's trajectory, draw by draw, and the same answers to Ctrl-C, divergence and
resuming."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import only_run, rows_of

from sharpcli.engine.steps import advance, compiled
from sharpcli.rng import generator
from sharpcli.rng.laws import LAWS, draws

CASES = [
    "problem=uv method=label_noise batch_size=1 lr=0.01",
    "problem=uv method=label_noise batch_size=3 lr=0.01 objective.label_noise.distribution=normal",
    "problem=uv method=label_noise batch_size=3 replacement=true lr=0.01 "
    "objective.label_noise.distribution=uniform",
    "problem=uv method=sgd batch_size=1 replacement=true lr=0.01 problem.inputs=normal problem.spread=0.1",
    "problem=uv method=label_noise batch_size=3 lr=0.01 objective.label_noise.distribution=student",
    "problem=hadamard method=label_noise batch_size=full lr=0.01 objective.label_noise.shared=true",
    "problem=squares method=gd lr=0.01",
    "problem=squares method=label_noise batch_size=1 lr=0.01 objective.label_noise.distribution=student",
    "problem=least_squares method=sgd batch_size=1 replacement=true lr=0.1",
    "problem=least_squares method=sgd batch_size=4 lr=0.1",
    "problem=matrix_sensing method=label_noise batch_size=1 lr=0.005 problem.d=4 problem.n=9",
    "problem=matrix_factorization method=sam lr=0.1 optimizer.normalized=false problem.d=3 problem.rank=1",
    "problem=deep_factorization method=momentum optimizer.nesterov=true batch_size=2 lr=0.001",
    "problem=teacher method=label_noise batch_size=1 lr=0.01",
    "problem=teacher problem.bias=true method=sam batch_size=1 lr=0.01",
    "problem=teacher problem.depth=3 problem.width=9 problem.init=fan_in method=label_noise batch_size=1 "
    "lr=0.01",
    "problem=teacher problem.depth=5 problem.width=6 problem.bias=true problem.init=fan_in method=sam "
    "batch_size=4 lr=0.05",
    "problem=xor problem.bias=true method=sam batch_size=full lr=0.01 problem.n=12",
    "problem=xor problem.norm=layer problem.bias=true method=sam batch_size=1 lr=0.01",
    "problem=teacher problem.norm=layer method=label_noise batch_size=2 lr=0.01",
    "problem=valley method=gd",
    "problem=quartic method=momentum lr=0.01",
    "problem=two_well method=sam lr=0.05",
    "problem=uv method=label_noise batch_size=1 lr=0.01 schedule=cosine schedule.warmup=0.2",
    "problem=uv method=momentum batch_size=2 lr=0.005 schedule=cosine",
]


@pytest.mark.parametrize("words", CASES)
def test_compiled_steps_are_the_general_path_s_draw_by_draw(experiment, words):
    e = experiment(*words.split(), "steps=300")
    assert compiled(e) is not None
    w, state = e.problem.w0, e.optimizer.init(e.problem.w0)
    quick, quick_state, step = advance(e)(w, state, 0, 300)
    assert step == 300 and (quick - w).norm() > 1e-3 * w.norm() and torch.equal(w, e.problem.w0)
    slow, slow_state, step = w, state, 0
    one_by_one = advance(replace(e, compile_toys=False))
    while step < 300:
        slow, slow_state, step = one_by_one(slow, slow_state, step, 300)
    assert (quick - slow).norm() <= 1e-12 * slow.norm()
    for a, b in zip(quick_state, slow_state, strict=True):
        assert torch.allclose(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    "words", ["problem=uv batch_size=1", "problem=uv batch_size=3", "problem=teacher batch_size=1"]
)
def test_where_a_compiled_run_is_interrupted_changes_no_bit(experiment, words):
    e = experiment(*words.split(), "method=label_noise", "lr=0.01", "steps=300")
    start, state, ahead = e.problem.w0, e.optimizer.init(e.problem.w0), advance(e)
    whole, parts, step = ahead(start, state, 0, 300)[0], start, 0
    for stop in (1, 2, 7, 150, 299, 300):
        parts, _, step = ahead(parts, state, step, stop)
    assert torch.equal(whole, parts)


@pytest.mark.parametrize(
    "problem", ["uv", "hadamard", "squares", "matrix_sensing", "deep_factorization", "teacher", "xor"]
)
def test_a_kernel_s_gradient_is_the_surface_s(experiment, problem):
    p = experiment(f"problem={problem}", "method=gd").problem
    w, k = p.w0.numpy(), p.compiled
    g, c = np.zeros_like(w), np.zeros(k.scratch)
    for i in range(len(k.y)):
        k.pull(w, k.x[i], c, (k.output(w, k.x[i], c) - k.y[i]) / len(k.y), g)
    assert np.allclose(g, p.surface.grad(p.w0).numpy(), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    "words",
    [
        "problem=uv optimizer=adam",
        "problem=uv objective=[weight_decay]",
        "problem=quadratic",
        "problem=teacher problem.depth=3 problem.norm=layer",
        "data.train_examples=60",
    ],
)
def test_what_has_no_compiled_form_takes_the_general_path(experiment, words):
    assert compiled(experiment(*words.split())) is None


def test_a_run_is_the_same_compiled_or_not_and_measures_the_same_steps(sharp, folder):
    words = (
        "problem=uv",
        "method=label_noise",
        "batch_size=1",
        "steps=200",
        "measure=[scores]",
        "lr=0.01",
        "measure_every=30",
    )
    rows = []
    for is_compiled in ("true", "false"):
        assert sharp("train", *words, f"compile_toys={is_compiled}", f"runs_dir={is_compiled}/runs").code == 0
        rows.append(rows_of(only_run(folder / is_compiled) / "metrics.jsonl"))
    assert (
        [row["step"] for row in rows[0]]
        == [row["step"] for row in rows[1]]
        == [0, 30, 60, 90, 120, 150, 180, 200]
    )
    for quick, slow in zip(*rows, strict=True):
        assert quick["recovery_error"] == pytest.approx(slow["recovery_error"], rel=1e-9)


@pytest.mark.parametrize("method", [["method=gd", "lr=5"], ["method=sgd", "batch_size=1", "lr=5"]])
def test_a_compiled_run_that_diverges_says_at_which_step_as_the_general_path_does(sharp, folder, method):
    words = ("problem=uv", *method, "steps=100000", "measure_every=50000", "measure=[scores]")
    last = []
    for is_compiled in ("true", "false"):
        said = sharp("train", *words, f"compile_toys={is_compiled}", f"runs_dir={is_compiled}/runs")
        assert said.code == 0 and "diverged" in said.out
        last.append(rows_of(only_run(folder / is_compiled) / "metrics.jsonl")[-1])
    assert last[0]["diverged"] and 1 < last[0]["step"] < 100 and last[0] == last[1]


def test_the_laws_of_the_words_that_compiled_loops_draw():
    n = 200_000
    signs, uniform, normal, student = (draws(law, generator(3, "law", 7), n) for law in LAWS)
    assert np.array_equal(signs, generator(3, "law", 7).signs(n))
    assert np.allclose(normal, generator(3, "law", 7).normal(n), rtol=1e-12)
    assert student.mean() == pytest.approx(0, abs=0.01) and student.var() == pytest.approx(1, rel=0.1)
    assert (student**4).mean() > 6  # heavy tails: the moment does not exist
    assert set(signs) == {-1.0, 1.0} and abs(signs.mean()) < 4 / n**0.5
    assert uniform.min() >= -1 and uniform.max() < 1 and uniform.var() == pytest.approx(1 / 3, rel=0.01)
    assert normal.mean() == pytest.approx(0, abs=0.01) and normal.var() == pytest.approx(1, rel=0.02)
    assert (normal**4).mean() == pytest.approx(3, rel=0.05)
    counts = np.bincount(generator(3, "law", 8).choices(n, 7), minlength=7)
    assert len(counts) == 7 and np.abs(counts / n * 7 - 1).max() < 0.03
    firsts = [generator(0, "order", epoch).permutation(5) for epoch in range(4000)]
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in firsts[:50])
    places = np.zeros((5, 5))
    for order in firsts:
        places[np.arange(5), order] += 1
    assert np.abs(places / 4000 - 0.2).max() < 0.03  # every example is as likely at every place
    neighbours = np.corrcoef(
        [draws("uniform", generator(0, "law", step), 1)[0] for step in range(4001)][:-1], range(4000)
    )[0, 1]
    assert abs(neighbours) < 0.06


@pytest.mark.parametrize(
    "word, said",
    [
        ("measure_every=log 5", [0, 1, 6, 32, 178, 1000]),
        ("measure_every=[7,3,1000]", [3, 7, 1000]),
        ("measure_every=400", 4),
    ],
)
def test_measuring_at_log_spaced_or_stated_steps(sharp, folder, word, said):
    assert (
        sharp("train", "problem=uv", "method=gd", "lr=0.01", "steps=1000", "measure=[scores]", word).code == 0
    )
    steps = [row["step"] for row in rows_of(only_run(folder) / "metrics.jsonl")]
    assert steps == (said if isinstance(said, list) else [0, 400, 800, 1000])
