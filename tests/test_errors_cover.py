"""The errors that measures state cover the truth, in both precisions: a small part of benchmarks/coverage.py,
which fills the table of docs/measure.md. And the edges: constant losses, one example, one weight."""

import importlib.util
import json
import math
import re
import sys

import pytest
import torch
from conftest import ROOT, TINY, only_run, rows_of

from sharpcli.commands import columns
from sharpcli.losses.cross_entropy import cross_entropy


@pytest.fixture
def coverage(monkeypatch):
    """The benchmark as a module, with a smaller network and fewer samples behind a truth."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("benchmark_of_errors", ROOT / "benchmarks/coverage.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "MANY", 400)
    monkeypatch.setattr(module, "STEPS", (20,))
    tiny = "data.train_examples=20 measure.density.probes=4 measure.batch_sharpness.max_batches=60"
    monkeypatch.setattr(module, "SETTINGS", module.SETTINGS.replace("data.train_examples=60", tiny))
    return module


def test_the_stated_error_of_every_column_covers_the_truth_in_both_precisions(folder, coverage):
    network = {"mlp": ("model.widths=[2] model.activation=softplus loss=cross_entropy", 0.1)}
    shares = coverage.covered(4, network)
    stated = [
        column
        for measure in columns.measures()
        for column in columns.of_measure(measure)
        if column.error.endswith(("_error", "_stderr"))
    ]
    names = {name.partition(", ")[0] for name, _ in shares}
    unknown = [c.name for c in stated if not any(re.fullmatch(columns.pattern(c.name), n) for n in names)]
    assert not unknown, "benchmarks/coverage.py computes no truth for them"
    assert {dtype for _, dtype in shares} == {"float32", "float64"}
    missed = {key: share for key, share in shares.items() if share.cases - share.covered > 1}
    assert not missed
    assert sum(share.covered for share in shares.values()) >= 0.95 * sum(s.cases for s in shares.values())
    widths = [width for (name, _), share in shares.items() if name != "rank" for width in share.widths]
    assert min(widths) > 0  # a number of eigenvalues far from the cut is certain, all else is rounded


def measured(sharp, folder, *words):
    """The rows of a run, which has to end without a complaint."""
    said = sharp("train", *words)
    assert said.code == 0, said.err
    return rows_of(only_run(folder) / "metrics.jsonl")


EVERY = (
    "measure=[sharpness,trace,density,log_det,gauss_newton,eps_sharpness,adaptive_sharpness,"
    "pac_bayes_sharpness,batch_sharpness,fisher_rao,gradient_noise,sam_sharpness,preconditioned_sharpness,"
    "alignment,gradient_norm,hessian_rank,gradient_flow_distance]"
)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_single_example_and_a_single_weight_are_measured(sharp, folder, dtype):
    words = (*TINY, "data.train_examples=1", "steps=1", "measure_every=1", f"problem.dtype={dtype}")
    rows = measured(sharp, folder, *words, EVERY, "measure.batch_sharpness.batch_size=1")
    for row in rows:
        assert abs(row["noise_trace"]) <= 2 * row["noise_trace_stderr"]  # one gradient has no spread
        assert abs(row["noise_lambda_1"]) <= row["noise_lambda_1_error"]
        assert row["batch_sharpness_converged"] and row["lambda_1"] > 0


@pytest.mark.parametrize("eigenvalues", [[3.0], [-2.0], [-3.0, -1.0], [0.0, 0.0, 0.0], [0.0, -2.0, -2.0]])
def test_measures_of_a_quadratic_are_right_at_the_edges(sharp, folder, eigenvalues):
    start, k = [1.0] * len(eigenvalues), len(eigenvalues)
    toy = (f"problem.eigenvalues={eigenvalues}", f"problem.start={start}", "steps=1", "measure_every=1")
    more = (f"measure.sharpness.k={k}", "measure.sharpness.least=true", f"measure.alignment.k={k}")
    row = measured(sharp, folder, "problem=quadratic", *toy, EVERY, *more)[0]
    largest_first = sorted(eigenvalues, reverse=True)
    scale = max(map(abs, eigenvalues))
    for i, lam in enumerate(largest_first):
        assert abs(row[f"lambda_{i + 1}"] - lam) <= row[f"lambda_{i + 1}_error"] <= 1e-12 * scale
    assert row["lambda_min"] == pytest.approx(largest_first[-1], abs=1e-12)
    assert row["sharpness_converged"] and row["lambda_min_converged"] and row["trace_converged"]
    assert row["trace"] == row["ggn_trace"] == pytest.approx(sum(eigenvalues))
    assert row["rank"] == sum(lam > 0 for lam in eigenvalues)
    assert row["hessian_rank"] == sum(lam != 0 for lam in eigenvalues)
    assert abs(row["density_mean"] - sum(eigenvalues) / k) <= 2 * row["density_mean_stderr"] + 1e-12
    assert row["noise_alignment"] == 0 and abs(row["noise_trace"]) <= 2 * row["noise_trace_stderr"]
    if sum(eigenvalues) / 2 <= -1:  # the loss at the start
        assert row["keskar_sharpness"] is None


def test_measures_of_one_weight_s_budget_say_that_they_have_not_converged(sharp, folder):
    budgets = (
        "measure.sharpness.max_products=1",
        "measure.trace.max_products=8",
        "measure.gauss_newton.max_products=8",
        "measure.gradient_noise.max_products=1",
        "measure.batch_sharpness.max_batches=8",
        "measure.batch_sharpness.batch_size=2",
    )
    names = "measure=[sharpness,trace,gauss_newton,gradient_noise,batch_sharpness]"
    row = measured(sharp, folder, *TINY, "steps=1", "measure_every=1", names, *budgets)[0]
    flags = [name for name in row if name.endswith("_converged")]
    assert len(flags) == 5 and not any(row[name] for name in flags)
    assert all(math.isfinite(row[name]) for name in row if name.endswith(("_error", "_stderr")))
    assert row["lambda_1_error"] > abs(row["lambda_1"])


def test_a_softmax_near_its_least_loss_keeps_its_digits_in_float32():
    f, y = torch.tensor([[14.0, 1.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])

    def loss(outputs):
        return cross_entropy(outputs, y.to(outputs))

    single, double = (torch.autograd.functional.hessian(loss, outputs) for outputs in (f, f.double()))
    assert single.dtype == torch.float32
    assert float((single.double() - double).norm() / double.norm()) < 1e-6  # 1e-3 by a softmax in float32


def test_what_a_flow_and_a_projection_cost_is_counted(sharp, folder):
    toy = ("problem=uv", "problem.d=6", "problem.n=3", "problem.k=1", "method=gd", "lr=0.01", "steps=4")
    names = "measure=[projected,manifold,gradient_flow_distance]"
    row = measured(sharp, folder, *toy, "measure_every=4", names)[-1]
    assert row["projected_gradients"] >= 3  # a Jacobian of three outputs
    assert row["manifold_gradients"] >= 6 and row["manifold_products"] == 2 * 12
    assert row["gradient_flow_distance_gradients"] >= 10


def test_the_columns_say_whether_they_converged(sharp, folder):
    names = "measure=[relative_flatness,gradient_noise]"
    row = measured(sharp, folder, *TINY, "steps=1", "measure_every=1", names)[0]
    assert {"relative_flatness_converged", "gradient_noise_converged"} <= row.keys()


def test_sam_flow_always_says_whether_it_reached_an_interpolator(sharp, folder):
    toy = ("problem=uv", "method=sam", "batch_size=1", "lr=0.01", "steps=40", "measure_every=40")
    assert all(row["flow_reached"] is True for row in measured(sharp, folder, *toy, "measure=[sam_flow]"))


def test_json_has_no_nan(sharp, folder):
    toy = ("problem=quadratic", "problem.eigenvalues=[0.0]", "problem.start=[1.0]", "steps=2")
    measured(sharp, folder, *toy, "measure_every=1", EVERY)
    text = (only_run(folder) / "metrics.jsonl").read_text()
    assert "NaN" not in text and "Infinity" not in text and json.loads(text.splitlines()[-1])["lambda_1"] == 0
