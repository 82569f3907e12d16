"""Every measure against what is known: closed forms, dense Hessians, invariances, nominal coverage."""

import json
import math
from dataclasses import replace

import pytest
import torch
from conftest import TINY, only_run, rows_of

from sharpcli.config.check import check
from sharpcli.config.words import compose
from sharpcli.engine.measuring import each, measure
from sharpcli.errors import Refusal
from sharpcli.landscape.surface import LossSurface
from sharpcli.losses.half_squared import half_squared

NET = (*TINY, "model.activation=relu", "problem.dtype=float64", "data.train_examples=24")
QUADRATIC = ("problem=quadratic", "problem.eigenvalues=[5.0,2.0,0.5,-1.0]", "problem.start=[0.0,0.0,0.0,0.0]")


@pytest.fixture
def found(experiment):
    """The row of one measure: `found("trace", "problem=uv", "measure.trace.rtol=0.1", w=..., step=...)`."""

    def row(name, *words, w=None, step=0, state=None):
        e = experiment(*words, f"measure=[{name}]")
        w = e.problem.w0 if w is None else w
        return measure(e, w, step, {}, [name], e.optimizer.init(w) if state is None else state)[0]

    return row


def dense(e, w=None):
    """The Hessian and gradient of an experiment's surface."""
    w = e.problem.w0 if w is None else w
    return e.problem.surface.hvp(w, torch.eye(len(w), dtype=w.dtype)), e.problem.surface.grad(w)


def minimum(e, steps=400):
    """A point where the gradient has all but vanished, by damped Newton steps."""
    w = e.problem.w0
    for _ in range(steps):
        H, g = dense(e, w)
        lam, Q = torch.linalg.eigh(H)
        w = w - Q @ ((Q.T @ g) / (lam.abs() + 1e-3 + g.norm()))
        if g.norm() < 1e-9:
            break
    return w


def test_every_measure_works_in_training_and_leaves_no_trace_on_what_is_trained(experiment):
    names = [
        "scores",
        "sharpness",
        "gauss_newton",
        "trace",
        "density",
        "log_det",
        "eps_sharpness",
        "pac_bayes_sharpness",
    ]
    names += [
        "adaptive_sharpness",
        "fisher_rao",
        "relative_flatness",
        "gradient_noise",
        "batch_sharpness",
        "sam_sharpness",
    ]
    names += ["preconditioned_sharpness", "alignment", "norms"]
    few = ["measure.density.steps=4", "measure.density.probes=2", "measure.pac_bayes_sharpness.pairs=4"]
    e = experiment(*TINY, "batch_size=16", "method=sgd", f"measure=[{','.join(names)}]", *few)
    w, x = e.problem.w0, e.problem.examples[0]
    before, generator, pixels = w.clone(), torch.get_rng_state(), x.clone()
    row, warm = measure(e, w, 0, {}, names, e.optimizer.init(w))
    again, _ = measure(e, w, 0, {}, names, e.optimizer.init(w))
    same = {key: value for key, value in row.items() if not key.endswith("seconds")}
    assert same == {key: value for key, value in again.items() if not key.endswith("seconds")}
    assert torch.equal(w, before) and w.grad is None and not w.requires_grad and torch.equal(x, pixels)
    assert torch.equal(torch.get_rng_state(), generator)
    spent = {
        name
        for name in names
        if f"{name}_products" in row and f"{name}_examples" in row and f"{name}_seconds" in row
    }
    assert spent == set(names) - {"scores", "norms"}
    assert measure(e, w, 1, warm, names, e.optimizer.init(w))[0]["sharpness_converged"]


def test_lambda_min_and_the_largest_are_those_of_the_dense_hessian(found, experiment):
    lam = torch.linalg.eigvalsh(dense(experiment(*NET))[0])
    row = found(
        "sharpness",
        *NET,
        "measure.sharpness.least=true",
        "measure.sharpness.k=3",
        "measure.sharpness.tol=1e-8",
    )
    assert [row[f"lambda_{i}"] for i in (1, 2, 3)] == pytest.approx(lam.flip(0)[:3].tolist(), rel=1e-6)
    assert row["lambda_min"] == pytest.approx(lam[0].item(), rel=1e-5) and row["sharpness_converged"]


@pytest.mark.parametrize("method", ["hutchinson", "hutchpp", "xtrace"])
def test_trace_is_exact_where_it_can_be_and_within_its_error_where_not(found, experiment, method):
    H, _ = dense(experiment(*NET))
    row = found("trace", *NET, f"measure.trace.method={method}", "measure.trace.max_products=1000")
    assert row["trace"] == pytest.approx(H.trace().item(), rel=1e-9)
    assert 0 < row["trace_stderr"] < 1e-12 * H.norm()  # rounding
    row = found(
        "trace",
        *NET,
        f"measure.trace.method={method}",
        "measure.trace.max_products=300",
        "measure.trace.rtol=0.03",
    )
    assert abs(row["trace"] - H.trace().item()) <= 4 * row["trace_stderr"] and row["trace_converged"]


def test_density_has_the_moments_and_the_ends_of_the_dense_spectrum(found, experiment):
    lam = torch.linalg.eigvalsh(dense(experiment(*NET))[0])
    row = found("density", *NET, "measure.density.probes=6", "measure.density.steps=30")
    assert abs(row["density_mean"] - lam.mean()) <= 3 * row["density_mean_stderr"]
    assert abs(row["density_square"] - lam.square().mean()) <= 3 * row["density_square_stderr"]
    assert row["density_most"] == pytest.approx(lam[-1].item(), rel=1e-4) and row["density_products"] == 180
    assert sum(row["density_weights"][0]) == pytest.approx(1)


def test_together_sharpness_density_and_log_det_cost_what_the_most_demanding_costs_alone(
    experiment, monkeypatch
):
    from sharpcli.measures import log_det as module

    monkeypatch.setattr(module, "DENSE", 0)
    few = [
        "measure.density.probes=3",
        "measure.density.steps=40",
        "measure.log_det.probes=3",
        "measure.log_det.steps=40",
    ]
    for order in (["density", "log_det", "sharpness"], ["sharpness", "density", "log_det"]):
        e = experiment(*NET, f"measure=[{','.join(order)}]", *few, "measure.sharpness.least=true")
        row, _ = measure(e, e.problem.w0, 0, {}, order)
        assert sum(row[f"{name}_products"] for name in order) <= 120 and row["sharpness_converged"]


def test_log_det_and_rank_of_a_quadratic_and_by_quadrature(found, experiment, monkeypatch):
    row = found("log_det", *QUADRATIC)
    assert (
        row["log_det"] == pytest.approx(math.log(5 * 2 * 0.5))
        and row["rank"] == 3
        and row["log_det_below"] == 1
    )
    lam = torch.linalg.eigvalsh(dense(experiment(*NET))[0])
    from sharpcli.measures import log_det as module

    monkeypatch.setattr(module, "DENSE", 0)
    words = ("measure.log_det.cut=0.05", "measure.log_det.probes=40", "measure.log_det.steps=60")
    row = found("log_det", *NET, *words)
    over = lam[lam > row["log_det_cut"]]
    assert abs(row["rank"] - len(over)) <= 4 * row["rank_stderr"]
    assert abs(row["log_det"] - over.log().sum()) <= 4 * row["log_det_stderr"]


def test_eps_sharpness_of_a_quadratic_at_its_minimum_is_lambda_1_and_the_box_s_is_its_diagonal(found):
    convex = ("problem=quadratic", "problem.eigenvalues=[5.0,2.0,0.5]", "problem.start=[0.0,0.0,0.0]")
    row = found(
        "eps_sharpness", *convex, "measure.eps_sharpness.eps=0.3", "measure.eps_sharpness.box_eps=0.01"
    )
    assert row["eps_sharpness"] == pytest.approx(5, rel=1e-6) and row["eps_rise"] == pytest.approx(
        5 * 0.3**2 / 2, rel=1e-6
    )
    assert row["keskar_sharpness"] == pytest.approx(100 * 0.5 * 7.5 * 0.01**2, rel=1e-6)
    assert row["eps_sharpness_converged"]


def test_eps_sharpness_away_from_a_minimum_is_the_trust_region_s(found):
    words = ("problem=quadratic", "problem.eigenvalues=[3.0,1.0]", "problem.start=[0.2,1.0]")
    row = found(
        "eps_sharpness",
        *words,
        "measure.eps_sharpness.eps=0.5",
        "measure.eps_sharpness.rtol=1e-9",
        "measure.eps_sharpness.steps=500",
    )
    angle = torch.linspace(0, 2 * math.pi, 200_001, dtype=torch.float64)
    w = torch.stack([0.2 + 0.5 * angle.cos(), 1 + 0.5 * angle.sin()])
    best = float((1.5 * w[0] ** 2 + 0.5 * w[1] ** 2).max() - (1.5 * 0.04 + 0.5))
    assert row["eps_rise"] == pytest.approx(best, rel=1e-6)


def test_pac_bayes_of_a_quadratic_is_half_sigma_squared_times_the_trace(found):
    row = found("pac_bayes_sharpness", *QUADRATIC, "measure.pac_bayes_sharpness.sigma=0.3")
    assert (
        row["pac_bayes_sharpness"] == pytest.approx(0.045 * 6.5, rel=1e-9)
        and row["pac_bayes_sharpness_stderr"] < 1e-12
    )
    words = ("measure.pac_bayes_sharpness.sigma=0.3", "measure.pac_bayes_sharpness.control=false")
    row = found("pac_bayes_sharpness", *QUADRATIC, *words)
    assert abs(row["pac_bayes_sharpness"] - 0.045 * 6.5) <= 4 * row["pac_bayes_sharpness_stderr"]


def test_pac_bayes_bound_is_mcallester_s_and_the_harmless_sigma_is_bracketed(found, experiment):
    words = (
        "measure.pac_bayes_sharpness.sigmas=[0.1]",
        "measure.pac_bayes_sharpness.target=0.2",
        "measure.pac_bayes_sharpness.tested=true",
    )
    e = experiment(*NET)
    w = e.problem.w0 + 0.01
    row = found("pac_bayes_sharpness", *NET, *words, w=w)
    m, D = 24, len(w)
    excess = D * 0.01**2 / (2 * 0.1**2) + math.log(2 * math.sqrt(m) / 0.05)
    error = row["pac_bayes_bound"] - math.sqrt(excess / (2 * m))
    talk = D**0.5 * 0.01 / (2 * 0.1 * math.sqrt(2 * m))  # |w - w0| / (2 sigma sqrt(2m))
    assert 0 <= error <= 1 and row["pac_bayes_bound_talk"] == pytest.approx(error + talk)
    assert row["pac_bayes_train_error"] == pytest.approx(error) and 0 <= row["pac_bayes_test_error"] <= 1
    assert row["sigma_harmless_low"] <= row["sigma_harmless"] <= (row["sigma_harmless_high"] or math.inf)
    two = found("pac_bayes_sharpness", *NET, "measure.pac_bayes_sharpness.sigmas=[0.1,1e9]", w=w)
    assert two["pac_bayes_bound_sigma"] in (0.1, 1e9)


def test_the_pac_bayes_test_error_needs_test_examples(experiment):
    e = experiment(*NET, "measure=[pac_bayes_sharpness]", "measure.pac_bayes_sharpness.tested=true")
    untested = replace(e, problem=replace(e.problem, test_error=None))
    with pytest.raises(Refusal, match="tested=true: this problem has no test examples with classes"):
        measure(untested, e.problem.w0, 0, {}, ["pac_bayes_sharpness"])


def rescaled(e, w, c):
    """Each hidden ReLU neuron's incoming weights and bias times c_j, its outgoing weights divided by c_j."""
    W1, b1, W2, b2 = e.problem.tensors(w)
    return torch.cat([(W1 * c[:, None]).flatten(), b1 * c, (W2 / c).flatten(), b2])


def test_what_is_scale_free_does_not_move_under_a_rescaling_of_neurons_and_what_is_not_does(
    found, experiment
):
    e = experiment(*NET)
    w = e.problem.w0
    v = rescaled(e, w, torch.tensor([0.3, 1.0, 2.0, 3.0, 0.5, 4.0]).double())
    assert torch.allclose(e.problem.surface.value(v), e.problem.surface.value(w), rtol=1e-12)
    exact = ("measure.adaptive_sharpness.max_products=600", "measure.adaptive_sharpness.tol=1e-9")
    one = ("measure.adaptive_sharpness.steps=200", "measure.adaptive_sharpness.average=uniform")
    for scale, keys in (("element", ["adaptive_worst", "adaptive_average"]), ("filter", [])):
        words = (*NET, *exact, *one, f"measure.adaptive_sharpness.scale={scale}")
        a, b = (found("adaptive_sharpness", *words, w=u) for u in (w, v))
        for key in ("adaptive_lambda_1", "adaptive_trace", *keys):
            assert a[key] == pytest.approx(b[key], rel=2e-3), (scale, key)
    layer = [
        found("adaptive_sharpness", *NET, *exact, "measure.adaptive_sharpness.scale=layer", w=u)
        for u in (w, v)
    ]
    assert layer[0]["adaptive_trace"] != pytest.approx(layer[1]["adaptive_trace"], rel=0.02)
    assert found("fisher_rao", *NET, w=w)["fisher_rao"] == pytest.approx(
        found("fisher_rao", *NET, w=v)["fisher_rao"], rel=1e-9
    )
    sharp = [found("sharpness", *NET, w=u)["lambda_1"] for u in (w, v)]
    assert sharp[0] != pytest.approx(sharp[1], rel=0.05)
    first = [
        found(
            "relative_flatness",
            *NET,
            "measure.relative_flatness.layer=1.weight",
            "measure.relative_flatness.max_products=5000",
            w=u,
        )["relative_flatness"]
        for u in (w, v)
    ]
    assert first[0] == pytest.approx(first[1], rel=1e-6)


def test_adaptive_sharpness_of_a_quadratic_in_closed_form(found):
    words = ("problem=quadratic", "problem.eigenvalues=[5.0,2.0]", "problem.start=[0.1,-2.0]")
    w = torch.tensor([0.0, -2.0], dtype=torch.float64)
    row = found(
        "adaptive_sharpness",
        *words,
        "measure.adaptive_sharpness.norm=linf",
        "measure.adaptive_sharpness.rho=0.1",
        w=w,
    )
    assert row["adaptive_lambda_1"] == pytest.approx(2 * 4) and row["adaptive_trace"] == pytest.approx(8)
    assert row["adaptive_worst"] == pytest.approx(
        0.5 * 2 * (2.2**2 - 4), rel=1e-6
    )  # a weight of 0 does not move
    average = found(
        "adaptive_sharpness",
        *words,
        "measure.adaptive_sharpness.samples=4000",
        "measure.adaptive_sharpness.rho=0.1",
        w=w,
    )
    assert abs(average["adaptive_average"] - 0.5 * 0.01 * 8) <= 4 * average["adaptive_average_stderr"]


def test_adaptive_sharpness_by_batch_is_the_mean_of_the_batches_and_logits_can_be_normalized(found):
    each_one = found("adaptive_sharpness", *NET, "measure.adaptive_sharpness.batch=7")
    whole = found("adaptive_sharpness", *NET)
    assert each_one["adaptive_worst"] > whole["adaptive_worst"]
    normal = found("adaptive_sharpness", *NET, "measure.adaptive_sharpness.normalize_logits=true")
    assert normal["adaptive_worst"] != pytest.approx(whole["adaptive_worst"], rel=0.01)


def test_fisher_rao_of_a_linear_model_is_the_mean_squared_output(found, experiment):
    words = (TINY[0], "model.widths=[]", "problem.dtype=float64")
    e = experiment(*words)
    outputs = e.problem.surface.predict(e.problem.w0, e.problem.examples[0])
    assert found("fisher_rao", *words)["fisher_rao"] == pytest.approx(
        outputs.square().sum(1).mean().item(), rel=1e-10
    )


def test_relative_flatness_is_the_sum_over_neuron_pairs_of_dense_blocks(found, experiment):
    H, _ = dense(experiment(*NET))
    e = experiment(*NET)
    *_, W, b = e.problem.tensors(e.problem.w0)
    first, (d, m) = len(e.problem.w0) - W.numel() - b.numel(), W.shape
    block = H[first : first + d * m, first : first + d * m].view(d, m, d, m)
    truth = torch.einsum("si,ti,sjtj->", W, W, block)
    row = found("relative_flatness", *NET)
    assert (
        row["relative_flatness"] == pytest.approx(truth.item(), rel=1e-9)
        and 0 < row["relative_flatness_stderr"] < 1e-12 * abs(truth)  # rounding
    )
    rough = found(
        "relative_flatness",
        *NET,
        "measure.relative_flatness.max_products=32",
        "measure.relative_flatness.rtol=1e-6",
    )
    assert abs(rough["relative_flatness"] - truth.item()) <= 4 * rough["relative_flatness_stderr"] > 0


def test_gauss_newton_equals_the_hessian_where_residuals_vanish_and_the_dense_one_elsewhere(
    found, experiment
):
    words = ("problem=uv", "problem.d=6", "problem.n=4", "problem.k=2")
    e = experiment(*words)
    w = minimum(e)
    assert e.problem.surface.value(w) < 1e-15
    a, b = found("gauss_newton", *words, w=w), found("sharpness", *words, w=w)
    assert a["ggn_lambda_1"] == pytest.approx(b["lambda_1"], rel=1e-6)
    assert a["ggn_trace"] == pytest.approx(4 * w.square().sum().item(), rel=1e-6)
    net = experiment(*NET, "loss=cross_entropy")
    G = net.problem.surface.linearize(net.problem.w0).ggn(torch.eye(len(net.problem.w0), dtype=torch.float64))
    row = found("gauss_newton", *NET, "loss=cross_entropy", "measure.gauss_newton.max_products=600")
    assert row["ggn_lambda_1"] == pytest.approx(torch.linalg.eigvalsh(G)[-1].item(), rel=1e-3)
    assert row["ggn_trace"] == pytest.approx(G.trace().item(), rel=1e-9)


def test_gradient_noise_is_the_covariance_of_single_gradients(found, experiment):
    e = experiment(*NET)
    x, y = e.problem.examples
    single = torch.stack(
        [e.problem.surface.on([(x[i : i + 1], y[i : i + 1])]).grad(e.problem.w0) for i in range(len(y))]
    )
    C = torch.cov(single.T, correction=0)
    H, g = dense(e)
    row = found("gradient_noise", *NET, "measure.gradient_noise.probes=200")
    assert abs(row["noise_trace"] - C.trace()) <= 4 * row["noise_trace_stderr"]
    assert row["noise_lambda_1"] == pytest.approx(torch.linalg.eigvalsh(C)[-1].item(), rel=1e-3)
    assert abs(row["noise_scale"] - C.trace() / g.square().sum()) <= 4 * row["noise_scale_stderr"]
    alignment = (H @ C).trace() / (H.norm() * C.norm())
    assert abs(row["noise_alignment"] - alignment) <= 4 * row["noise_alignment_stderr"]


def test_gradient_noise_of_linear_regression_in_closed_form(found, experiment):
    words = ("problem=uv", "problem.d=5", "problem.n=30", "problem.k=2")
    e = experiment(*words)
    x, y = e.problem.examples
    u, v = e.problem.w0.split(5)
    residual = (x @ (u * u - v * v))[:, None] - y
    single = residual * torch.cat([2 * u * x, -2 * v * x], 1)
    truth = (single - single.mean(0)).square().sum(1).mean()
    row = found("gradient_noise", *words, "measure.gradient_noise.probes=400")
    assert abs(row["noise_trace"] - truth) <= 4 * row["noise_trace_stderr"]


def test_batch_sharpness_of_the_full_batch_is_the_rayleigh_quotient_and_of_single_examples_their_mean(
    found, experiment
):
    e = experiment(*NET)
    H, g = dense(e)
    whole = found("batch_sharpness", *NET, "measure.batch_sharpness.batch_size=full")
    assert whole["batch_sharpness"] == pytest.approx((g @ H @ g / (g @ g)).item(), rel=1e-9)
    x, y = e.problem.examples
    ratios = []
    for i in range(len(y)):
        one = e.problem.surface.on([(x[i : i + 1], y[i : i + 1])])
        g = one.grad(e.problem.w0)
        ratios.append(float(g @ one.hvp(e.problem.w0, g) / (g @ g)))
    row = found(
        "batch_sharpness", *NET, "measure.batch_sharpness.batch_size=1", "measure.batch_sharpness.rtol=0.04"
    )
    assert abs(row["batch_sharpness"] - sum(ratios) / len(ratios)) <= 3 * row["batch_sharpness_stderr"]
    assert (
        row["batch_sharpness_converged"]
        and 2 * row["batch_sharpness_stderr"] <= 0.04 * row["batch_sharpness"]
    )


def test_batches_without_a_gradient_are_counted_and_left_out(found):
    words = ("problem=quadratic", "problem.eigenvalues=[1.0]", "problem.start=[0.0]")
    row = found("batch_sharpness", *words)
    assert row["batch_sharpness"] is None and row["batch_sharpness_zero"] == 1


def test_sam_sharpness_and_edge_of_a_quadratic(found):
    words = ("problem=quadratic", "problem.eigenvalues=[4.0]", "problem.start=[0.5]", "lr=0.1")
    row = found("sam_sharpness", *words, "measure.sam_sharpness.rho=0.1")
    assert row["sam_sharpness"] == pytest.approx(2 * (0.6**2 - 0.5**2))
    g = 2.0
    edge = row["sam_edge"]
    # the edge solves lr H (1 + rho H / |g|) = 2 for the curvature H
    assert 0.1 * edge * (1 + 0.1 * edge / g) == pytest.approx(2)
    tiny = found("sam_sharpness", *words, "measure.sam_sharpness.rho=1e-7")
    assert tiny["sam_edge"] == pytest.approx(2 / 0.1, rel=1e-4)


def test_preconditioned_sharpness_is_sharpness_for_gd_and_adam_s_own_after_a_step(found, experiment):
    words = ("problem=quadratic", "problem.eigenvalues=[4.0,1.0]", "problem.start=[0.5,2.0]", "lr=0.1")
    row = found("preconditioned_sharpness", *words)
    assert row["preconditioned_lambda_1"] == pytest.approx(4) and row["preconditioned_edge"] == pytest.approx(
        20
    )
    e = experiment(*words, "optimizer=adam")
    state = e.optimizer.init(e.problem.w0)
    assert "preconditioned_lambda_1" not in found("preconditioned_sharpness", *words, "optimizer=adam")
    w = e.problem.w0
    for _ in range(3):
        w, state = e.optimizer.step(w, state, e.problem.surface.grad, 0.1)
    P, edge = e.optimizer.preconditioner(state, 0.1)
    truth = (torch.tensor([4.0, 1.0]) / P).max().item()
    row = found("preconditioned_sharpness", *words, "optimizer=adam", w=w, step=3, state=state)
    assert row["preconditioned_lambda_1"] == pytest.approx(truth, rel=1e-6) and edge == pytest.approx(
        38 / 0.1
    )


def test_alignment_on_a_quadratic(found):
    words = (
        "problem=quadratic",
        "problem.eigenvalues=[4.0,1.0,0.5]",
        "problem.start=[0.3,1.6,0.0]",
        "measure.alignment.k=2",
    )
    g = torch.tensor([1.2, 1.6, 0.0])
    row = found("alignment", *words, "measure.alignment.rho=0.1")
    assert row["alignment_1"] == pytest.approx(0.6, abs=1e-6) and row["alignment_share"] == pytest.approx(1)
    ascent = torch.tensor([4.0, 1.0, 0.5]) * (torch.tensor([0.3, 1.6, 0.0]) + 0.1 * g / g.norm())
    assert row["sam_alignment_1"] == pytest.approx((ascent[0] / ascent.norm()).item(), rel=1e-5)
    assert found("alignment", *QUADRATIC)["alignment_1"] is None  # no gradient, no direction


def test_the_distance_from_gradient_flow_is_that_of_the_exponential_and_is_carried_on(experiment):
    lam, lr = torch.tensor([2.0, 0.5], dtype=torch.float64), 0.1
    quadratic = (
        "problem=quadratic",
        "problem.eigenvalues=[2.0,0.5]",
        "problem.start=[1.0,-1.0]",
        "method=gd",
        f"lr={lr}",
    )
    e, warm = (
        experiment(
            *quadratic, "measure=[gradient_flow_distance]", "measure.gradient_flow_distance.rtol=1e-10"
        ),
        {},
    )
    for step in (0, 3, 10):
        w = e.problem.w0 * (1 - lr * lam) ** step
        row, warm = measure(e, w, step, warm, ["gradient_flow_distance"], ())
        flow = e.problem.w0 * torch.exp(-lam * lr * step)
        right = float((w - flow).norm() / (flow - e.problem.w0).norm()) if step else 0.0
        assert row["gradient_flow_distance"] == pytest.approx(right, rel=1e-5)


def test_the_distance_from_gradient_flow_is_from_where_a_run_began_and_needs_time_to_run_forwards(
    sharp, folder
):
    base = ("train", *TINY, "measure=[scores,norms,gradient_flow_distance]", "measure_every=even 3", "lr=0.1")
    assert sharp(*base, "steps=30").code == 0
    first = only_run(folder).name
    assert sharp(*base, "steps=20", f"init_from={first}").code == 0
    (second,) = (path for path in (folder / "runs").iterdir() if path.name != first)
    rows = rows_of(second / "metrics.jsonl")
    assert rows[0]["init_distance"] == 0 and 0 < rows[-1]["gradient_flow_distance"] < 0.2
    measured = sharp("measure", second.name, "measure=[norms]", "--step", "20", "--json")
    assert json.loads(measured.out)["init_distance"] == rows[-1]["init_distance"]
    said = sharp(*base, "steps=40", "schedule=cosine", "measure_every=4")
    assert said.code == 2 and said.err.splitlines()[-1].startswith(
        "sharp: measure=gradient_flow_distance: its time is lr^1 step"
    )


def test_the_central_flow_s_measure_needs_a_central_flow(found):
    with pytest.raises(Refusal, match="use method=central_flow"):
        found("central_flow", *TINY)


def test_the_least_trace_over_rescalings_is_reached_by_the_best_one_and_rescaling_moves_the_trace_alone(
    experiment,
):
    words = (
        "problem=teacher",
        "problem.d=3",
        "problem.n=90",
        "problem.width=5",
        "problem.bias=true",
        "method=gd",
    )
    plain, scaled = (experiment(*words, f"problem.rescale={r}").problem for r in (1, 50))
    inner, a, b = plain.tensors(plain.w0)
    H = plain.surface.hvp(plain.w0, torch.eye(len(plain.w0), dtype=torch.float64))
    rows = torch.stack(
        [
            H[[*range(3 * j, 3 * j + 3), 20 + j]][:, [*range(3 * j, 3 * j + 3), 20 + j]].trace()
            for j in range(5)
        ]
    )
    outer = H.diagonal()[15:20]
    floor = plain.norms(plain.w0)["trace_floor"]
    assert floor == pytest.approx(float(2 * (rows * outer).sqrt().sum()), rel=1e-10) and floor < float(
        H.trace()
    )
    # scaling by c_j multiplies Tr H_aj by c_j^2 and divides Tr H_wj by it: so both are equal; 0/0 is a neuron
    # that is never on
    c = (rows / outer).nan_to_num(1.0) ** 0.25
    best = torch.cat([(inner * c[:, None]).flatten(), a / c, b * c])
    assert float(plain.surface.hvp(best, torch.eye(25, dtype=torch.float64)).trace()) == pytest.approx(
        floor, rel=1e-9
    )
    assert torch.allclose(
        scaled.surface.predict(scaled.w0, plain.examples[0]),
        plain.surface.predict(plain.w0, plain.examples[0]),
    )
    assert scaled.norms(scaled.w0)["trace_floor"] == pytest.approx(floor, rel=1e-10)


def test_norms_by_hand(found, experiment):
    words = ("problem=uv", "problem.d=3", "problem.n=2", "problem.k=1")
    w = torch.tensor([1.0, 2.0, 0.0, 3.0, 0.0, 0.5], dtype=torch.float64)
    row = found("norms", *words, w=w)
    assert row["l1_norm"] == pytest.approx(8 + 4 + 0.25) and row["l2_norm"] == pytest.approx(w.norm().item())
    assert row["init_distance"] == pytest.approx((w - 0.5).norm().item())
    e = experiment(*NET)
    W1, b1, W2, b2 = e.problem.tensors(e.problem.w0)
    row = found("norms", *NET)
    paths = (W2.abs() @ (W1.abs().sum(1) + b1.abs()) + b2.abs()).sum()
    barron = sum(W2[:, j].abs().sum() * torch.cat([W1[j], b1[j : j + 1]]).norm() for j in range(6))
    assert row["path_norm"] == pytest.approx(paths.item()) and row["barron_norm"] == pytest.approx(
        barron.item()
    )
    deep = (TINY[0], "model.widths=[4,3]", "model.activation=identity", "problem.dtype=float64")
    e = experiment(*deep)
    W1, _, W2, _, W3, _ = e.problem.tensors(e.problem.w0)
    S = torch.linalg.svdvals(W3 @ W2 @ W1)
    row = found("norms", *deep)
    assert row["nuclear_norm"] == pytest.approx(S.sum().item())
    assert row["schatten_norm"] == pytest.approx((S ** (2 / 3)).sum().item(), abs=1e-4)
    assert "path_norm" not in found("norms", *TINY)  # tanh has none


def test_the_manifold_of_uv_has_its_rank_its_distance_and_the_slope_of_the_trace(found, experiment):
    words = ("problem=uv", "problem.d=6", "problem.n=4", "problem.k=2")
    e = experiment(*words)
    row = found("manifold", *words)
    assert row["manifold_rank"] == 4 and row["manifold_converged"] and row["manifold_residual"] <= 1e-8
    w = minimum(e)
    at = found("manifold", *words, w=w)
    assert at["manifold_distance"] < 1e-6
    x, _ = e.problem.examples
    u, v = w.split(6)
    J = torch.cat([2 * x * u, -2 * x * v], 1)
    pull = (
        8 * w
    )  # Tr H = 4 |w|^2 on the manifold; off it the residuals' part of the gradient vanishes with them
    H, _ = dense(e, w)
    assert H.trace().item() == pytest.approx(4 * w.square().sum().item(), rel=1e-6)
    tangent = pull - J.T @ torch.linalg.solve(J @ J.T, J @ pull)
    assert at["manifold_slope"] == pytest.approx(tangent.norm().item(), rel=1e-4)


def test_on_a_quadratic_with_a_flat_direction_the_manifold_is_at_its_distance(found):
    row = found("manifold", "problem=valley", "problem.start=[2.0,1.0]")
    assert row["manifold_rank"] == 1 and row["manifold_converged"]
    assert 0.3 < row["manifold_distance"] < 0.7


BAD = [
    ("sharpness", "k=0"),
    ("sharpness", "tol=-1"),
    ("gauss_newton", "k=0"),
    ("gauss_newton", "rtol=0"),
    ("trace", "rtol=0"),
    ("density", "probes=1"),
    ("log_det", "cut=2"),
    ("eps_sharpness", "eps=0"),
    ("eps_sharpness", "box_eps=-1"),
    ("pac_bayes_sharpness", "sigma=0"),
    ("pac_bayes_sharpness", "sigmas=[]"),
    ("pac_bayes_sharpness", "delta=1"),
    ("adaptive_sharpness", "rho=0"),
    ("adaptive_sharpness", "samples=1"),
    ("relative_flatness", "rtol=0"),
    ("gradient_noise", "probes=2"),
    ("batch_sharpness", "batch_size=0"),
    ("batch_sharpness", "rtol=0"),
    ("sam_sharpness", "rho=0"),
    ("preconditioned_sharpness", "k=0"),
    ("alignment", "rho=-1"),
    ("manifold", "cut=0"),
]


@pytest.mark.parametrize("name, word", BAD, ids=lambda v: v)
def test_a_value_out_of_range_is_refused_before_anything_is_computed(experiment, name, word):
    with pytest.raises(Refusal, match=rf"measure\.{name}"):
        experiment(*TINY, f"measure=[{name}]", f"measure.{name}.{word}")


def test_a_layer_that_is_not_there_and_a_jacobian_too_large_are_refused(found):
    with pytest.raises(Refusal, match=r"name one of 1.weight, 3.weight"):
        found("relative_flatness", *NET, "measure.relative_flatness.layer=4*")
    with pytest.raises(Refusal, match="at most 20,000,000"):
        found("manifold", "data.train_examples=1500", "model.widths=[60]")


def test_a_budget_too_small_says_what_was_reached(found):
    row = found("sharpness", *NET, "measure.sharpness.max_products=3", "measure.sharpness.tol=1e-9")
    assert not row["sharpness_converged"] and row["lambda_1_error"] > 0 and row["sharpness_products"] == 3
    row = found("trace", *NET, "measure.trace.max_products=16", "measure.trace.rtol=1e-6")
    assert not row["trace_converged"] and row["trace_stderr"] > 0


def gaussian_surface(seed, n=12):
    rng = torch.Generator().manual_seed(seed)
    x, y = (
        torch.randn(n, 3, generator=rng, dtype=torch.float64),
        torch.randn(n, 1, generator=rng, dtype=torch.float64),
    )
    return LossSurface(
        lambda w, x: torch.tanh(x @ w.view(3, 2)).sum(1, keepdim=True), half_squared, ((x, y),)
    )


def test_standard_errors_of_pac_bayes_and_batch_sharpness_cover_the_truth_over_200_seeds(experiment):
    words = ("problem=uv", "problem.d=4", "problem.n=60", "problem.k=2")
    e = experiment(
        *words,
        "measure=[batch_sharpness,pac_bayes_sharpness]",
        "measure.batch_sharpness.batch_size=2",
        "measure.batch_sharpness.rtol=1e-9",
        "measure.batch_sharpness.max_batches=40",
        "measure.pac_bayes_sharpness.control=false",
        "measure.pac_bayes_sharpness.sigma=0.3",
    )
    w = e.problem.w0 + 0.3 * torch.randn(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    long = experiment(
        *words,
        "measure=[batch_sharpness,pac_bayes_sharpness]",
        "measure.batch_sharpness.batch_size=2",
        "measure.batch_sharpness.rtol=1e-9",
        "measure.batch_sharpness.max_batches=3000",
        "measure.pac_bayes_sharpness.control=false",
        "measure.pac_bayes_sharpness.sigma=0.3",
        "measure.pac_bayes_sharpness.pairs=10000",
    )
    truth, _ = measure(long, w, 0, {}, long.measures)
    for name in ("batch_sharpness", "pac_bayes_sharpness"):
        hits = 0
        for step in range(1, 201):
            (taken,) = each(e, w, step, {}, [name])
            row = taken.row
            hits += abs(row[name] - truth[name]) <= 2 * row[f"{name}_stderr"]
        assert hits / 200 >= 0.93, (name, hits)


def test_standard_errors_of_gradient_noise_and_density_cover_the_truth_over_200_seeds(experiment):
    e = experiment(
        "problem=uv",
        "problem.d=5",
        "problem.n=30",
        "problem.k=2",
        "measure=[gradient_noise,density]",
        "measure.gradient_noise.probes=24",
        "measure.density.probes=16",
        "measure.density.steps=3",
    )
    w = e.problem.w0 + 0.3 * torch.randn(10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    here, eye = e.problem.surface.linearize(w), torch.eye(10, dtype=torch.float64)
    H, C = here.hvp(eye), here.second_moment(eye) - torch.outer(here.grad, here.grad)
    truth = {"noise_trace": C.trace(), "noise_alignment": (H @ C).trace() / (H.norm() * C.norm())}
    truth |= {"density_mean": H.trace() / 10, "density_square": H.square().sum() / 10}
    hits = dict.fromkeys(truth, 0)
    for step in range(200):
        row, _ = measure(e, w, step, {}, ["gradient_noise", "density"])
        for key, value in truth.items():
            hits[key] += abs(row[key] - float(value)) <= 2 * row[f"{key}_stderr"]
    assert all(count / 200 >= 0.93 for count in hits.values()), hits


def test_the_tested_predictors_of_pac_bayes_are_those_of_the_bound(experiment):
    """Under batchnorm=population the statistics are those at w: noise in the weights moves them."""
    words = ["model=resnet", "model.depth=8", "model.width=2", "model.norm=batch", "data.train_examples=40"]
    words += ["problem.batchnorm=population", "measure=[pac_bayes_sharpness]", "problem.dtype=float64"]
    settings = {"tested": "true", "sigmas": "[0.3]", "samples": "4", "pairs": "4", "control": "false"}
    e = experiment(*words, *(f"measure.pac_bayes_sharpness.{k}={v}" for k, v in settings.items()))
    w, seen = e.problem.w0, []
    original = e.problem.test_error

    def watched(surface, at):
        seen.append((surface, at))
        return original(surface, at)

    e = replace(e, problem=replace(e.problem, test_error=watched))
    row, _ = measure(e, w, 0, {}, ["pac_bayes_sharpness"])
    fixed = e.problem.at(w).on([e.problem.tests])
    expected = [e.problem.error(fixed, at) for _, at in seen]
    assert len(seen) == 4 and row["pac_bayes_test_error"] == pytest.approx(sum(expected) / 4, abs=1e-12)
    moving = [1 - e.problem.scores(at)["test_accuracy"] for _, at in seen]
    assert moving != expected


def test_the_prior_of_pac_bayes_knows_no_examples(experiment):
    """Where training began at weights of another run (init_from=), which may have been trained on the same
    examples, the prior is about the weights that the seed drew."""
    e = experiment(*NET, "method=gd", "measure=[pac_bayes_sharpness]")
    e = replace(e, init=e.problem.w0 + 0.1)
    row, _ = measure(e, e.init, 0, {}, ["pac_bayes_sharpness"])
    sigma, m = row["pac_bayes_bound_sigma"], len(e.problem.examples[1])
    kl = len(e.init) * 0.01 / (2 * sigma**2)
    root = row["pac_bayes_bound_talk"] - row["pac_bayes_train_error"]
    assert root == pytest.approx((kl / (4 * m)) ** 0.5, rel=1e-9)


@pytest.mark.parametrize(
    "words",
    [
        ["optimizer=clipping", "optimizer@optimizer.base=sam", "optimizer.base.rho=0.5"],
        ["optimizer=averaging", "optimizer@optimizer.base=sam", "optimizer.base.rho=0.5"],
        ["optimizer=switch", "optimizer@optimizer.after=sam", "optimizer.after.rho=0.5"],
        [
            *("optimizer=averaging", "optimizer@optimizer.base=clipping"),
            *("optimizer@optimizer.base.base=switch", "optimizer@optimizer.base.base.before=sam"),
            *("optimizer@optimizer.base.base.after=gd", "optimizer.base.base.before.rho=0.5"),
        ],
    ],
)
def test_the_rho_of_sam_within_another_rule_is_that_of_its_measures(experiment, words):
    e = experiment("problem=uv", *words, "measure=[sam_sharpness]")
    alone = experiment("problem=uv", "method=sam", "optimizer.rho=0.5", "measure=[sam_sharpness]")
    rows = [measure(one, one.problem.w0, 0, {}, ["sam_sharpness"])[0] for one in (e, alone)]
    assert rows[0]["sam_edge"] == rows[1]["sam_edge"]


def test_two_ascent_radii_are_no_default(experiment):
    words = ["optimizer=switch", "optimizer@optimizer.before=sam", "optimizer@optimizer.after=sam"]
    words += ["optimizer.before.rho=0.5", "measure=[sam_sharpness]", "problem=uv"]
    with pytest.raises(Refusal, match="before.rho=0.5 optimizer.after.rho=0.05"):
        experiment(*words)
    assert experiment(*words, "measure.sam_sharpness.rho=0.1")


def test_the_ascent_radius_of_a_rule_of_ones_own_is_what_it_states(experiment, tmp_path, monkeypatch):
    """A setting that happens to be called rho is none."""
    body = "    def init(self, w):\n        return ()\n    def step(self, w, state, grad, lr):\n"
    body += "        return w - lr * grad(w), state\n"
    head = "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass "
    (tmp_path / "own_rules.py").write_text(
        f"{head}Decay:\n    rho: float = 0.9\n{body}"
        f"{head}Ascent:\n    states = {{'ascent_radius': 'radius'}}\n    radius: float = 0.5\n{body}"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    radius = {}
    for name in ("Decay", "Ascent"):
        words = [f"optimizer=own_rules.{name}", "trust=[own_rules]", "measure=[sam_sharpness]"]
        checked = check(compose(["problem=uv", *words], "config"))
        radius[name] = checked.config["measure"]["sam_sharpness"]["rho"]
    assert radius == {"Decay": 0.05, "Ascent": 0.5}


@pytest.mark.parametrize("size, share", [(8, 8), (4, 4), (7, 1.75), (6, 3), (5, 3.75)])
def test_label_noise_of_batches_that_do_not_divide_the_examples_moves_faster(experiment, size, share):
    """Of 8 examples in batches of 7 every second step sees a single one, with seven times the noise."""
    words = ["problem=uv", "method=label_noise", f"batch_size={size}"]
    assert experiment(*words).flow_strength == pytest.approx(1 / share)
    assert experiment(*words, "replacement=true").flow_strength == pytest.approx(1 / size)
    both = experiment(*words, "objective=[label_noise,weight_decay]")
    assert both.flow_strength is None, "the flow of both is another"
    langevin = experiment("problem=uv", "method=gd", "objective=[langevin]")
    assert langevin.flow_strength is None, "its flow is not that of label noise"
    assert experiment("problem=uv", "method=gd").flow_strength == 1, "no noise: the flow that is asked for"
