"""Every measure on every problem: numbers that an independent dense computation confirms, or one line of
refusal."""

import math

import pytest
import torch

from sharpcli.config.folders import options
from sharpcli.engine.measuring import measure
from sharpcli.errors import Refusal

SMALL = {  # each problem at a size where the whole Hessian is a matter of milliseconds
    "deep_factorization": "problem.d=3 problem.n=5",
    "hadamard": "problem.d=6 problem.n=4 problem.spread=0.4",
    "least_squares": "problem.d=8 problem.n=5",
    "matrix_factorization": "problem.d=3 problem.n=9 problem.scale=1.0",
    "matrix_sensing": "problem.d=3 problem.n=5",
    "network": "data.train_examples=20 model.widths=[2] problem.dtype=float64 model.activation=softplus",
    "quadratic": "",
    "quartic": "",
    "self_stabilization": "",
    "squares": "problem.d=6 problem.n=4 problem.spread=0.1",
    "teacher": "problem.d=3 problem.n=6 problem.width=4",
    "two_well": "",
    "uv": "problem.d=6 problem.n=4 problem.spread=0.05",
    "valley": "",
    "xor": "problem.d=3 problem.n=6 problem.width=4 problem.bias=true",
}
CASES = {name: f"problem={name} {words}" for name, words in SMALL.items()} | {
    "network, cross-entropy": f"loss=cross_entropy {SMALL['network']}",
    "teacher, batch norm": f"problem=teacher problem.norm=batch {SMALL['teacher']}",
    "teacher, layer norm": f"problem=teacher problem.norm=layer problem.depth=3 {SMALL['teacher']}",
}
NETWORKS = ("network", "network, cross-entropy")
MATRICES = ("deep_factorization", "matrix_factorization", "matrix_sensing")
LAYERS = {*NETWORKS, *MATRICES, "teacher", "xor", "teacher, batch norm", "teacher, layer norm"}
NO_INTERPOLATORS = "no minimizer at finite outputs"
# which problems a measure refuses, and by which words; on all others it gives numbers
REFUSES = {
    "central_flow": (set(CASES), "use method=central_flow"),
    "uv_flow": (set(CASES) - {"uv"}, "supplies no closed form of its flows"),
    "sam_flow": (set(CASES) - {"uv"}, "supplies no closed form of its flows"),
    "least_norm": (set(CASES) - {"uv", *MATRICES}, "supplies no solution of least norm"),
    "relative_flatness": (set(CASES) - LAYERS, "this problem has no layers"),
    "manifold": ({"network, cross-entropy", "self_stabilization"}, NO_INTERPOLATORS),
    "projected": ({"network, cross-entropy", "self_stabilization"}, NO_INTERPOLATORS),
    "gradient_noise": ({"teacher, batch norm"}, "no example has a gradient of its own"),
}
TIGHT = (
    "measure.sharpness.tol=1e-9 measure.sharpness.k=2 measure.sharpness.least=true "
    "measure.gauss_newton.tol=1e-9 "
    "measure.alignment.tol=1e-9 measure.adaptive_sharpness.tol=1e-9 "
    "measure.preconditioned_sharpness.tol=1e-9 "
    "measure.adaptive_sharpness.max_products=400 measure.gauss_newton.max_products=400 "
    "measure.trace.max_products=400 "
    "measure.relative_flatness.max_products=400 measure.batch_sharpness.batch_size=full "
    "measure.density.probes=24 "
    "measure.density.steps=8 measure.pac_bayes_sharpness.sigma=1e-4 measure.pac_bayes_sharpness.pairs=16 "
    "measure.pac_bayes_sharpness.samples=2 measure.projected.steps=4000"
)
GENEROUS = " ".join(
    f"measure.{name}.max_products=400" for name in ("sharpness", "alignment", "preconditioned_sharpness")
)


class Dense:
    """Loss, gradient, Hessian and Gauss-Newton matrix of a problem at w by torch.autograd alone, as one
    batch."""

    def __init__(self, problem, w):
        surface = problem.at(w)
        x, y = surface.joined
        self.w, self.n = w, len(y)
        self.loss = lambda at: surface.loss(surface.predict(at, x), y)
        self.L = float(self.loss(w))
        self.g = torch.autograd.functional.jacobian(self.loss, w)
        self.H = torch.autograd.functional.hessian(self.loss, w)
        self.lam = torch.linalg.eigvalsh(self.H)
        self.J = torch.autograd.functional.jacobian(lambda at: surface.predict(at, x).flatten(), w)
        f = surface.predict(w, x).detach()
        B = torch.autograd.functional.hessian(lambda u: surface.loss(u.view_as(f), y), f.flatten())
        self.G = self.J.T @ B @ self.J
        self.of_example = lambda i: torch.autograd.functional.jacobian(
            lambda at: surface.loss(surface.predict(at, x[i : i + 1]), y[i : i + 1]), w
        )


def confirm(name, row, d, problem):
    """Asserts the numbers of a measure against the dense ones."""

    def near(key, value, rel=1e-6, sigmas=0.0):
        error = sigmas * row.get(f"{key}_stderr", 0.0)
        scale = float(d.lam.abs().max()) or 1.0
        assert row[key] == pytest.approx(float(value), rel=rel, abs=error + 1e-9 * scale), (name, key)

    w, g, H, lam = d.w, d.g, d.H, d.lam
    v = torch.linalg.eigh(H)[1][:, -1]
    if name == "scores":
        near("train_loss", d.L, 1e-10)
    elif name == "sharpness":
        near("lambda_1", lam[-1])
        near("lambda_2", lam[-2])
        near("lambda_min", lam[0])
    elif name == "preconditioned_sharpness":
        near("preconditioned_lambda_1", lam[-1])
        assert row["preconditioned_edge"] == pytest.approx(2 / 0.01)
    elif name == "trace":
        near("trace", H.trace(), 1e-8)
    elif name == "density":
        near("density_mean", H.trace() / len(w), 1e-6, sigmas=5)
        near("density_square", H.square().sum() / len(w), 1e-6, sigmas=5)
    elif name == "log_det":
        above = lam[lam > 1e-6 * lam.abs().max()]
        assert row["rank"] == len(above)
        near("log_det", above.log().sum(), 1e-6)
    elif name == "hessian_rank":
        assert row["hessian_rank"] == int((lam.abs() > 1e-6 * lam.abs().max()).sum())
    elif name == "gauss_newton":
        near("ggn_lambda_1", torch.linalg.eigvalsh(d.G)[-1])
        near("ggn_trace", d.G.trace(), 1e-8)
    elif name == "fisher_rao":
        near("fisher_rao", w @ d.G @ w, 1e-8)
    elif name == "gradient_norm":
        near("gradient_norm", g.norm(), 1e-9)
    elif name == "directional_sharpness":
        exact = g @ H @ g / (g @ g)
        assert abs(row["directional_sharpness"] - float(exact)) <= row["directional_sharpness_error"] + 1e-12
        near("directional_curvature", g @ H @ g, 1e-2)
    elif name == "critical_sharpness":
        if row["critical_lr"] is not None:
            lr, error = row["critical_lr"], row["critical_sharpness_error"] / row["critical_sharpness"]
            for side in (-1, 1):  # the loss is lower just before the critical step, and higher just after
                rise = d.loss(w - lr * (1 + side * max(2 * error, 1e-4)) * g) - d.L
                assert side * float(rise) > 0 or not row["critical_sharpness_converged"]
    elif name == "norms":
        near("l2_norm", w.norm(), 1e-12)
    elif name == "sam_sharpness":
        near("sam_sharpness", d.loss(w + 0.05 * g / g.norm()) - d.L, 1e-6)
    elif name == "batch_sharpness":
        near("batch_sharpness", g @ H @ g / (g @ g), 1e-8)
    elif name == "alignment":
        if lam[-1] - lam[-2] > 1e-3 * lam[-1]:
            near("alignment_1", (v @ g).abs() / g.norm(), 1e-4)
    elif name == "eps_sharpness":
        along = max(float(d.loss(w + s * 0.05 * v)) for s in (1, -1)) - d.L
        assert row["eps_rise"] >= along * (1 - 1e-3) - 1e-12
        assert row["eps_sharpness"] == pytest.approx(2 * row["eps_rise"] / 0.05**2)
    elif name == "adaptive_sharpness":
        T = torch.diag(w.abs())
        near("adaptive_lambda_1", torch.linalg.eigvalsh(T @ H @ T)[-1], 1e-6)
        near("adaptive_trace", (T @ H @ T).trace(), 1e-7)
    elif name == "pac_bayes_sharpness":
        expected = 0.5 * 1e-8 * float(H.trace())
        slack = (
            6 * row["pac_bayes_sharpness_stderr"] + 1e-3 * 0.5e-8 * float(lam.abs().sum()) + 1e-14 * abs(d.L)
        )
        assert abs(row["pac_bayes_sharpness"] - expected) <= slack
    elif name == "gradient_noise":
        grads = torch.stack([d.of_example(i) for i in range(d.n)])
        C = grads.T @ grads / d.n - torch.outer(g, g)
        near("noise_trace", C.trace(), 1e-6, sigmas=6)
        near("noise_lambda_1", torch.linalg.eigvalsh(C)[-1], 1e-3)
    elif name == "relative_flatness":
        tensors = problem.tensors(w)
        last = max(i for i, t in enumerate(tensors) if t.ndim > 1)
        start = sum(t.numel() for t in tensors[:last])
        W = tensors[last].flatten(1)
        s, m = W.shape
        block = H[start : start + s * m, start : start + s * m].view(s, m, s, m)
        near("relative_flatness", ((W @ W.T) * block.diagonal(dim1=1, dim2=3).sum(-1)).sum(), 1e-6)
    elif name == "manifold":
        S = torch.linalg.svdvals(d.J)
        assert row["manifold_rank"] == int((1e-6 * S[0] < S).sum())
        assert row["manifold_converged"] == (row["manifold_residual"] <= 1e-8)
    elif name == "projected":
        if row["projected_converged"]:
            assert row["projected_train_loss"] <= 1e-12 and row["projected_distance"] >= 0
    elif name == "gradient_flow_distance":
        assert row["gradient_flow_distance"] >= 0
    elif name in ("uv_flow", "sam_flow"):
        assert row.get("flow_reached", True) and row["flow_trace"] > 0
    elif name == "least_norm":
        assert row["least_norm_gap"] < 1e-6
    else:
        raise AssertionError(f"{name}: no independent number here; add one")


@pytest.mark.parametrize("case", CASES)
def test_every_measure_gives_confirmed_numbers_or_one_line(experiment, case):
    base = (*CASES[case].split(), "method=gd", "lr=0.01", "steps=10", "measure_every=1", "seed=1")
    refused = [name for name, (cases, _) in REFUSES.items() if case in cases]
    given = [name for name in options("measure") if name not in refused]
    tight = [word for word in f"{TIGHT} {GENEROUS}".split() if word.split(".")[1] in given]
    e = experiment(*base, f"measure=[{','.join(given)}]", *tight)
    w = e.problem.w0
    for _ in range(3):  # away from the start, where symmetric toys have multiple eigenvalues
        w = w - 0.01 * e.problem.surface.grad(w)
    dense = Dense(e.problem, w)
    for name in given:
        try:
            row = measure(e, w, 3, {}, [name], e.optimizer.init(w))[0]
        except Refusal as refusal:
            raise AssertionError(f"{name} refuses {case}: {refusal}") from None
        unbounded = {"sigma_harmless_high"}  # infinite where no noise of the grid does harm
        values = {key: v for key, v in row.items() if isinstance(v, float) and key not in unbounded}
        assert all(map(math.isfinite, values.values())), (name, values)
        confirm(name, row, dense, e.problem)
    for name in refused:
        with pytest.raises(Refusal) as refusal:
            e = experiment(*base, f"measure=[{name}]")
            measure(e, w, 3, {}, [name], e.optimizer.init(w))
        said = str(refusal.value)
        assert REFUSES[name][1] in said and "\n" not in said, (name, said)


def test_the_table_of_problems_is_all_of_them():
    assert set(SMALL) == set(options("problem"))
