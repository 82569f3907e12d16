"""Closed forms against independent numerical computations."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from scipy.optimize import minimize

from sharpcli.engine.measuring import measure
from sharpcli.engine.steps import advance
from sharpcli.errors import Refusal
from sharpcli.landscape import flows
from sharpcli.theory import convex, thresholds, uv


def instance(seed, d=12, n=5, normal=False):
    rng = np.random.default_rng(seed)
    Z = rng.normal(size=(n, d)) if normal else rng.choice([-1.0, 1.0], size=(n, d))
    beta = np.zeros(d)
    beta[:2] = [1.0, -1.0]
    return rng.uniform(0.3, 0.9, d), rng.uniform(0.3, 0.9, d), Z, Z @ beta


def gradient(x, Z, y):
    u, v = np.split(x, 2)
    pull = Z.T @ (Z @ (u * u - v * v) - y) / len(y)
    return np.concatenate([2 * u * pull, -2 * v * pull])


def hessian_trace(x, Z):
    return uv.trace(*np.split(x, 2), Z)


@pytest.mark.parametrize("normal", [False, True])
def test_phi_is_where_an_ode_solver_takes_gradient_flow(normal):
    u, v, Z, y = instance(0, normal=normal)
    far = solve_ivp(
        lambda _, x: -gradient(x, Z, y), (0, 300), np.concatenate([u, v]), rtol=1e-11, atol=1e-13
    ).y[:, -1]
    assert np.allclose(np.concatenate(uv.limit(u, v, Z, y)), far, atol=1e-8)


@pytest.mark.parametrize("normal, rate, delta", [(False, 0.25, 1.0), (True, 0.25, 0.5), (False, 0.5, 1.0)])
def test_the_limiting_flow_solves_its_differential_equation(normal, rate, delta):
    u, v, Z, y = instance(1, normal=normal)

    def flow(_, x):  # -rate delta^2 times the projected gradient of Tr H, with the Jacobian written out
        u, v = np.split(x, 2)
        J = np.hstack([2 * Z * u, -2 * Z * v])
        pull = 8 * np.tile(np.mean(Z * Z, axis=0), 2) * x
        return -rate * delta**2 * (pull - np.linalg.pinv(J) @ (J @ pull))

    start = np.concatenate(uv.limit(u, v, Z, y))
    there = solve_ivp(flow, (0, 0.7), start, rtol=1e-10, atol=1e-12).y[:, -1]
    assert np.allclose(np.concatenate(uv.flow(u, v, Z, y, 0.7, rate, delta)), there, atol=1e-7)
    wrong = np.concatenate(uv.flow(u, v, Z, y, 0.7, 2 * rate, delta))
    assert np.abs(wrong - there).max() > 1e-2


def test_the_flow_of_lambda_1_solves_its_differential_equation():
    u, v, Z, y = instance(2, d=4, n=2)

    def largest(x):
        return uv.sharpness(*np.split(x, 2), Z)

    def flow(_, x):
        u, v = np.split(x, 2)
        J = np.hstack([2 * Z * u, -2 * Z * v])
        pull = np.array([(largest(x + 1e-6 * e) - largest(x - 1e-6 * e)) / 2e-6 for e in np.eye(len(x))])
        return -0.5 * (pull - np.linalg.pinv(J) @ (J @ pull))

    start = np.concatenate(uv.limit(u, v, Z, y))
    there = solve_ivp(flow, (0, 0.2), start, rtol=1e-8, atol=1e-10).y[:, -1]
    assert np.allclose(np.concatenate(uv.sharpest_flow(u, v, Z, y, 0.2)), there, atol=1e-4)


def test_trace_and_sharpness_of_uv_are_the_hessian_s():
    u, v, Z, y = instance(3)
    u, v = uv.limit(u, v, Z, y)
    J = np.hstack([2 * Z * u, -2 * Z * v])
    assert uv.trace(u, v, Z) == pytest.approx(np.sum(J * J) / len(y), rel=1e-12)
    assert uv.sharpness(u, v, Z) == pytest.approx(np.linalg.eigvalsh(J @ J.T)[-1] / len(y), rel=1e-12)


def test_the_clock_runs_faster_than_the_flow_by_the_trace_and_not_at_all_beyond_two():
    u, v, Z, y = instance(4)
    start = uv.trace(*uv.limit(u, v, Z, y), Z)
    for lr in (0.1 / start, 1.0 / start):
        first = uv.clock(u, v, Z, y, 1e-4, lr) / 1e-4
        assert first == pytest.approx(1 / (1 - lr * start / 2), rel=1e-3)
    assert uv.clock(u, v, Z, y, 1.0, 0.5 / start) > 1.0
    assert uv.clock(u, v, Z, y, 1.0, 2.1 / start) == float("inf")


def test_a_start_with_zeros_is_said_to_be_stuck():
    u, v, Z, y = instance(5)
    u[:], v[:] = 0, 0
    with pytest.raises(uv.Unreachable, match="12 coordinates at zero"):
        uv.limit(u, v, Z, y)


def test_basis_pursuit_is_the_limit_of_the_flow_and_has_no_duality_gap():
    u, v, Z, y = instance(6, d=20, n=9)
    w, gap = convex.least_l1(Z, y)
    assert abs(gap) < 1e-9 and np.allclose(Z @ w, y)
    found = uv.flow(u, v, Z, y, 12.0)
    assert np.allclose(found[0] ** 2 - found[1] ** 2, w, atol=1e-3)
    weighted, gap = convex.least_l1(Z, y, np.linspace(1, 3, 20))
    assert (
        abs(gap) < 1e-9
        and np.linspace(1, 3, 20) @ np.abs(weighted) <= np.linspace(1, 3, 20) @ np.abs(w) + 1e-12
    )
    with pytest.raises(ValueError, match="no vector fits"):
        convex.least_l1(np.ones((2, 3)), np.array([1.0, 2.0]))
    y = Z @ np.abs(np.random.default_rng(6).normal(size=20))
    positive, gap = convex.least_l1(Z, y, positive=True)
    free, _ = convex.least_l1(Z, y)
    assert abs(gap) < 1e-9 and np.allclose(Z @ positive, y) and positive.min() >= 0 > free.min()
    assert np.abs(free).sum() < positive.sum()
    with pytest.raises(ValueError, match="no vector fits"):
        convex.least_l1(np.ones((1, 3)), np.array([-1.0]), positive=True)


def test_the_least_nuclear_norm_has_no_duality_gap_and_beats_what_descent_finds():
    rng = np.random.default_rng(0)
    A, truth = rng.normal(size=(14, 5, 5)), np.outer(rng.normal(size=5), rng.normal(size=5))
    y = np.tensordot(A, truth, 2)
    X, gap = convex.least_nuclear(A, y)
    assert abs(gap) < 1e-6 and np.allclose(np.tensordot(A, X, 2), y, atol=1e-6)
    least = np.linalg.norm(X, "nuc")
    assert least <= np.linalg.norm(truth, "nuc") + 1e-6
    flat = np.linalg.lstsq(A.reshape(14, 25), y, rcond=None)[0].reshape(5, 5)
    assert least < np.linalg.norm(flat, "nuc") - 1e-3
    S = (A + A.transpose(0, 2, 1)) / 2
    P, gap = convex.least_nuclear(S, np.tensordot(S, truth @ truth.T, 2), positive=True)
    assert (
        abs(gap) < 1e-6
        and np.linalg.eigvalsh(P)[0] > -1e-7
        and np.trace(P) <= np.trace(truth @ truth.T) + 1e-6
    )
    with pytest.raises(ValueError, match="no matrix fits"):
        convex.least_nuclear(np.stack([np.eye(2), np.eye(2)]), np.array([1.0, 2.0]))


def test_the_least_trace_is_what_a_constrained_minimizer_finds():
    rng = np.random.default_rng(1)
    A = rng.normal(size=(6, 3, 3))
    y = np.tensordot(A, np.outer(rng.normal(size=3), rng.normal(size=3)), 2)

    def trace(x):
        U, V = x.reshape(2, 3, 3)
        return (np.sum((A @ V) ** 2) + np.sum((A.transpose(0, 2, 1) @ U) ** 2)) / len(y)

    fits = {
        "type": "eq",
        "fun": lambda x: np.tensordot(A, x[:9].reshape(3, 3) @ x[9:].reshape(3, 3).T, 2) - y,
    }
    found = [
        minimize(trace, rng.normal(size=18), constraints=fits, options={"maxiter": 500}).fun for _ in range(4)
    ]
    least, gap = convex.least_trace(A, y)
    assert abs(gap) < 1e-6 and min(found) == pytest.approx(least, rel=1e-4)


@pytest.mark.parametrize("depth", [2, 3])
def test_the_least_population_trace_is_what_a_constrained_minimizer_finds(depth):
    rng, d = np.random.default_rng(2), 2
    X = rng.normal(size=(d, d))
    nuclear = np.linalg.norm(X, "nuc")

    def product(W):
        out = np.eye(d)
        for w in W:
            out = w @ out
        return out

    def trace(x):  # E |grad|^2 = sum_l |W_L ... W_(l+1)|^2 |W_(l-1) ... W_1|^2
        W = x.reshape(depth, d, d)
        return sum(np.sum(product(W[i + 1 :]) ** 2) * np.sum(product(W[:i]) ** 2) for i in range(depth))

    fits = {"type": "eq", "fun": lambda x: (product(x.reshape(depth, d, d)) - X).ravel()}
    found = [
        minimize(trace, rng.normal(size=depth * d * d), constraints=fits, options={"maxiter": 500})
        for _ in range(8)
    ]
    best = min(one.fun for one in found if one.success)
    assert best == pytest.approx(thresholds.least_population_trace(d, nuclear, depth), rel=1e-3)
    with pytest.raises(ValueError, match="known for 2 and 3"):
        thresholds.least_population_trace(2, 1.0, 4)


@pytest.mark.parametrize("share", [0.99, 1.01])
def test_each_rule_is_stable_below_its_edge_and_not_above(share):
    lr, beta, growing = 0.3, 0.7, share > 1

    def grows(step, size=2):
        return bool(np.abs(np.linalg.matrix_power(step, 400)).max() > 10) if size else False

    lam = share * thresholds.gd(lr)
    assert (abs(1 - lr * lam) > 1) == growing
    lam = share * thresholds.polyak(lr, beta)
    assert grows(np.array([[1 - lr * lam, -lr * beta], [lam, beta]])) == growing
    lam = share * thresholds.nesterov(lr, beta)
    assert grows(np.array([[1 - lr * (1 + beta) * lam, -lr * beta**2], [lam, beta]])) == growing


def test_sam_bounces_at_its_radius_and_its_edge_is_where_a_step_reflects():
    lr, rho, lam = 0.4, 0.1, np.array([2.0, 1.0, 0.3])
    w = np.ones(3)
    for _ in range(3000):
        g = lam * w
        w = w - lr * lam * (w + rho * g / np.linalg.norm(g))
    assert np.linalg.norm(w) == pytest.approx(thresholds.sam_radius(lr, rho, 2.0), rel=1e-9)
    for size in (0.3, 2.0):
        edge = thresholds.sam_edge(lr, rho, size)
        x = size / edge  # where the gradient has that norm
        assert x - lr * edge * (x + rho) == pytest.approx(-x)
    assert thresholds.sam_edge(lr, 0.0, 1.0) == thresholds.gd(lr)


def test_single_examples_are_stable_in_mean_square_up_to_two_over_the_trace():
    u, v, Z, y = instance(7)
    u, v = uv.limit(u, v, Z, y)
    J, trace = np.hstack([2 * Z * u, -2 * Z * v]), uv.trace(u, v, Z)
    e = J.T @ np.random.default_rng(0).normal(size=len(y))
    for share, grows in ((0.99, False), (1.01, True)):
        lr = share * thresholds.batch_one(trace)  # 2 / lr = trace is the same relation
        after = [e - lr * g * (g @ e) for g in J]
        assert (np.mean([a @ a for a in after]) > e @ e) == grows


def test_label_noise_fluctuates_around_the_flow_as_its_closed_form(experiment):
    words = "problem=uv problem.instance=0 problem.start=0.5 method=label_noise batch_size=1 lr=0.002"
    words += " replacement=true"
    e = experiment(
        *words.split(), "objective.label_noise.delta=0.5", "measure=[uv_flow]", "steps=200000", "seed=6"
    )
    Z, y = (part.numpy() for part in e.problem.examples)
    w, state, step, shares = e.problem.w0, e.optimizer.init(e.problem.w0), 0, []
    ahead = advance(e)
    for stop in range(20000, 200001, 100):
        while step < stop:
            w, state, step = ahead(w, state, step, stop)
        u, v = np.split(w.numpy(), 2)
        flat = uv.limit(u, v, Z, y[:, 0])
        off = np.sum((np.concatenate(flat) - w.numpy()) ** 2)
        shares.append(off / uv.fluctuation(*flat, Z, e.lr, 0.5))
    assert np.mean(shares) == pytest.approx(1, abs=0.04)


@pytest.mark.parametrize(
    "words, strength",
    [
        ("batch_size=1 lr=0.005", 1),
        ("batch_size=4 lr=0.01", 1 / 4),
        ("batch_size=full lr=0.01", 1 / 8),
        ("batch_size=1 lr=0.005 objective.label_noise.distribution=uniform", 1 / 3),
        ("batch_size=1 lr=0.002 optimizer=momentum optimizer.beta=0.6", 1),
        ("batch_size=2 lr=0.002 optimizer=momentum optimizer.beta=0.6 optimizer.nesterov=true", 1 / 2),
        ("batch_size=4 lr=0.01 objective.label_noise.shared=true", None),
    ],
)
def test_the_limiting_flow_is_that_of_the_batches_the_noise_and_the_momentum(experiment, words, strength):
    e = experiment(
        *words.split(),
        *("problem=uv", "problem.instance=0", "problem.start=0.5", "method=label_noise", "replacement=true"),
        *("objective.label_noise.delta=0.5", "measure=[uv_flow]", "steps=40000", "seed=3"),
    )
    w, state, _ = advance(e)(e.problem.w0, e.optimizer.init(e.problem.w0), 0, 40000)
    row, _ = measure(e, w, 40000, {}, ["uv_flow"], state)
    if strength is None:  # noise that a batch shares does not lower Tr H
        assert "flow_trace" in row and "flow_trace_theory" not in row
        return
    lr = e.lr / (1 - 0.6) if "momentum" in words else e.lr
    A = 8 * 0.25 * 0.5**2 * lr**2 * 40000 * strength
    assert row["flow_clock"] == pytest.approx(A, rel=0.15)  # the next order in lr is lr Tr / 2
    assert row["flow_trace"] == pytest.approx(row["flow_trace_theory"], rel=0.06)
    assert row["flow_trace_start"] > 1.3 * row["flow_trace"]  # it has moved


def test_the_error_of_the_clock_at_a_finite_lr_is_the_distance_of_the_flows_at_both_times(experiment):
    e = experiment(
        *("problem=uv", "problem.instance=0", "problem.start=0.5", "method=label_noise", "replacement=true"),
        *("batch_size=1", "objective.label_noise.delta=0.5", "measure=[uv_flow]", "lr=0.004", "steps=125000"),
        *("measure.uv_flow.clock=true", "seed=3"),
    )
    w, state, _ = advance(e)(e.problem.w0, e.optimizer.init(e.problem.w0), 0, 60000)
    row, _ = measure(e, w, 60000, {}, ["uv_flow"], state)
    u, v = np.full((2, 20), 0.5)
    Z, y = (t.numpy() for t in e.problem.examples)
    tau = 0.004**2 * 60000
    both = [
        np.concatenate(uv.flow(u, v, Z, y[:, 0], time, delta=0.5))
        for time in (tau, uv.clock(u, v, Z, y[:, 0], tau, 0.004, 0.5))
    ]
    assert row["flow_error_theory"] == pytest.approx(np.linalg.norm(both[1] - both[0]), rel=1e-6)
    assert row["flow_error"] == pytest.approx(row["flow_error_theory"], rel=0.3)  # the noise of a single run
    assert row["flow_error_theory"] > 0.01


@pytest.mark.parametrize("rule", ["momentum", "sam"])
def test_a_step_with_momentum_takes_more_time_of_gradient_flow(experiment, rule):
    words = {"momentum": ["optimizer=momentum"], "sam": ["method=sam", "optimizer@optimizer.base=momentum"]}[
        rule
    ]
    beta = {"momentum": "optimizer.beta=0.8", "sam": "optimizer.base.beta=0.8"}[rule]
    more = ["optimizer.rho=0"] if rule == "sam" else []
    e = experiment(
        *("problem=uv", "problem.instance=0", "measure=[gradient_flow_distance]", "lr=1e-4", "steps=4000"),
        *words, beta, *more,
    )  # fmt: skip
    w, state, _ = advance(e)(e.problem.w0, e.optimizer.init(e.problem.w0), 0, 4000)
    row, _ = measure(e, w, 4000, {}, ["gradient_flow_distance"], state)
    assert row["gradient_flow_distance"] < 0.01


def test_gradient_flow_of_a_quadratic_is_the_matrix_exponential(experiment):
    e = experiment("problem=quadratic", "method=gradient_flow", "lr=0.7", "steps=3")
    w, state = e.problem.w0, e.optimizer.init(e.problem.w0)
    for _ in range(3):
        w, state = e.optimizer.step(w, state, e.problem.surface, e.lr)
    right = expm(-np.diag([2.0, 1.0, 0.3]) * 2.1) @ np.ones(3)
    assert np.allclose(w.numpy(), right, rtol=1e-7)


def test_gradient_flow_stops_where_the_gradient_falls_to_its_tolerance_and_stays(experiment):
    e = experiment("problem=quadratic", "method=gradient_flow", "lr=1000", "optimizer.tol=1e-3", "steps=2")
    first, state = e.optimizer.step(e.problem.w0, (), e.problem.surface, e.lr)
    assert float(e.problem.surface.grad(first).norm()) == pytest.approx(1e-3, rel=1e-3)
    assert np.allclose(first.numpy(), [0, 0, 1e-3 / 0.3], atol=1e-5)  # the slowest direction is left
    again, _ = e.optimizer.step(first * 0.9999, state, e.problem.surface, e.lr)
    assert np.array_equal(again.numpy(), (first * 0.9999).numpy())
    short, _ = e.optimizer.step(e.problem.w0, (), e.problem.surface, 0.5)
    assert np.allclose(
        short.numpy(), np.exp(-np.array([2.0, 1.0, 0.3]) * 0.5), rtol=1e-7
    )  # it was not there yet


def flow_to(e, tau, steps):
    w, state = e.problem.w0, e.optimizer.init(e.problem.w0)
    for _ in range(steps):
        w, state = e.optimizer.step(w, state, e.problem.surface, tau / steps)
    return w


@pytest.mark.parametrize("inputs", ["signs", "normal"])
def test_the_limiting_flow_of_the_trace_is_the_closed_form(experiment, inputs):
    e = experiment(
        "problem=uv",
        "problem.d=8",
        "problem.n=3",
        f"problem.inputs={inputs}",
        "method=limiting_flow",
        "seed=4",
    )
    x, y = (part.numpy() for part in e.problem.examples)
    right = np.concatenate(uv.flow(*np.split(e.problem.w0.numpy(), 2), x, y[:, 0], 1.5))
    assert np.abs(flow_to(e, 1.5, 2).numpy() - right).max() < 1e-7


def test_the_limiting_flow_of_lambda_1_is_the_closed_form(experiment):
    e = experiment(
        "problem=uv",
        "problem.d=4",
        "problem.n=2",
        "problem.k=1",
        "method=sam_flow",
        "seed=1",
        "problem.spread=0.2",
    )
    x, y = (part.numpy() for part in e.problem.examples)
    right = np.concatenate(uv.sharpest_flow(*np.split(e.problem.w0.numpy(), 2), x, y[:, 0], 0.2))
    assert np.abs(flow_to(e, 0.2, 1).numpy() - right).max() < 5e-3


def test_the_limiting_flow_reaches_the_manifold_of_a_float32_network(experiment):
    words = ["model=mlp", "model.widths=[6]", "model.activation=tanh", "data.train_examples=4"]
    e = experiment(*words, "objective=[]", "method=limiting_flow", "measure=[scores]", "lr=0.1")
    w = flow_to(e, 0.1, 1)
    assert w.dtype == torch.float32 and float(e.problem.surface.value(w)) < 1e-10


def test_gradient_flow_of_too_many_gradients_is_given_up_before_an_interpolator(experiment, monkeypatch):
    monkeypatch.setattr(flows, "MAX_LIMIT_GRADIENTS", 100)
    e = experiment("problem=uv", "method=limiting_flow", "problem.start=1e-6", "lr=0.1")
    with pytest.raises(Refusal, match="reaches no interpolator"):
        flow_to(e, 0.1, 1)


@pytest.mark.parametrize(
    "words, said",
    [
        (
            ["problem=uv", "problem.d=5", "problem.n=7", "method=limiting_flow"],
            "the Jacobian loses rank between tau = 0",
        ),
        (
            ["problem=uv", "optimizer=sam", "optimizer@optimizer.base=limiting_flow"],
            "it is no base for another rule",
        ),
        (
            [
                "problem=least_squares",
                "problem.d=5",
                "problem.n=9",
                "problem.noise=1",
                "method=limiting_flow",
            ],
            "no interpolator",
        ),
        (["problem=uv", "method=gradient_flow", "optimizer.rtol=0"], "the first two above 0, tol at least 0"),
        (["problem=uv", "problem.d=5", "problem.n=7", "measure=[uv_flow]"], "take n below d"),
        (["problem=uv", "problem.start=0"], "no coordinate ever moves"),
        (["problem=uv", "optimizer=adam", "measure=[uv_flow]"], "follows no gradient flow"),
        (["problem=uv", "optimizer=rmsprop", "measure=[gradient_flow_distance]"], "follows no gradient flow"),
        (
            [
                "problem=uv",
                "method=label_noise",
                "batch_size=2",
                "measure=[uv_flow]",
                "measure.uv_flow.clock=true",
            ],
            "known for batch_size=1 without momentum",
        ),
        (["problem=uv", "problem.rows=[[1,2]]"], "give 8 lists of 21 numbers, y the last"),
        (
            ["problem=uv", "problem.d=2", "problem.n=2", "problem.k=1", "problem.rows=[[1,1,1],[1,1,2]]"],
            "that some vector fits",
        ),
        (["problem=matrix_sensing", "problem.rank=11"], "rank at most d"),
        (["problem=two_well", "problem.tilt=2"], "between -1 and 1"),
        (["problem=valley", "measure=[least_norm]"], "knows problem=uv and the matrix problems"),
        (["problem=valley", "measure=[sam_flow]"], "use problem=uv"),
        (["problem=uv", "measure=[projected]", "measure.projected.tol=0"], "tol above 0"),
        (["problem=uv", "measure=[hessian_rank]", "measure.hessian_rank.cut=2"], "a cut in (0, 1)"),
        (["problem=uv", "measure_every=log 1"], "measure_every=log 1: give 2 to 1000000"),
        (["problem=uv", "steps=log 10"], "steps=log 10: give a whole number of steps"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(sharp, words, said):
    words = words if any("measure=" in word for word in words) else [*words, "measure=[scores]"]
    more = [] if any(word.startswith("steps=") for word in words) else ["steps=2"]
    heard = sharp("train", *words, "lr=0.05", *more)
    assert heard.code == 2 and "Traceback" not in heard.err
    line = heard.err.strip().splitlines()[-1]  # after what was said of steps before it
    assert line.startswith("sharp: ") and said in line


@pytest.mark.parametrize("is_compiled", [True, False])
def test_projected_scores_are_those_of_the_interpolator_that_gradient_flow_reaches(experiment, is_compiled):
    e = experiment("problem=uv", "method=gd", "measure=[projected]", "problem.spread=0.1")
    problem = e.problem if is_compiled else replace(e.problem, compiled=None)
    row, _ = measure(replace(e, problem=problem), problem.w0, 0, {}, ["projected"])
    x, y = (part.numpy() for part in e.problem.examples)
    right = uv.limit(*np.split(e.problem.w0.numpy(), 2), x, y[:, 0])
    assert row["projected_trace"] == pytest.approx(uv.trace(*right, x), rel=0.02)  # descent is not quite flow
    assert row["projected_converged"] and row["projected_residual"] < 1e-9
    assert row["projected_l1_norm"] == pytest.approx(np.abs(right[0] ** 2 - right[1] ** 2).sum(), rel=0.02)
