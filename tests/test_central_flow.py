"""The central flow of gradient descent, where its oscillation is known in closed form; and the program it
solves."""

import json

import pytest
import torch
from conftest import TINY, only_run, rows_of

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import LossSurface
from sharpcli.linalg.semidefinite import least, smat, svec
from sharpcli.optimizers.central_flow import CentralFlow
from sharpcli.optimizers.gd import GD

LR, RISE = 0.5, torch.tensor([0.005, 0.002], dtype=torch.float64)


def rising(y0: float) -> tuple[LossSurface, torch.Tensor]:
    """L = -c.y + 1/2 x.Q diag(y) Q^T x in w = (x, y): the curvatures y rise at rate lr c, to 2/lr, where
    gradient descent's oscillation has E x x^T = Q diag(2 c) Q^T, since y then moves by lr (c - 1/2 (Q^T x)^2)
    = 0 on average."""
    Q = torch.linalg.qr(torch.randn(2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    nothing = torch.zeros(1, 1, dtype=torch.float64)

    def loss(w, y):
        return -(RISE * w[0, 2:]).sum() + 0.5 * (w[0, 2:] * (w[0, :2] @ Q).square()).sum()

    return LossSurface(lambda w, x: w[None], loss, ((nothing, nothing),)), torch.tensor(
        [0, 0, y0, y0], dtype=torch.float64
    )


def test_the_variance_is_the_one_that_holds_the_curvature_at_the_edge():
    surface, w = rising(2 / LR - 0.005)
    rule = CentralFlow(pieces=2, most=3)
    state = rule.init(w)
    for _ in range(12):
        w, state = rule.step(w, state, surface, LR)
    assert w[2:].tolist() == pytest.approx([2 / LR, 2 / LR], abs=1e-9)
    assert float(state[2]) == pytest.approx(2 * float(RISE.sum()), rel=1e-6)
    assert w[:2].abs().max() < 1e-9


def test_an_oscillation_in_one_direction_between_two_at_the_edge_is_the_closed_form():
    """L = -c (y1 + y2) - e y3 + 1/2 x.(y1, y3; y3, y2)x at y = (2/lr, 2/lr, 0): for e > 2 c S = s (1, 1; 1,
    1), s such that the curvature along (1, 1) stays: c - s/2 + e - s = 0, and that along (1, -1) falls by (2
    e - 4 c)/3 a unit of time."""
    c, e, nothing = 0.002, 0.01, torch.zeros(1, 1, dtype=torch.float64)

    def loss(w, _):
        x, y = w[0, :2], w[0, 2:]
        return -c * (y[0] + y[1]) - e * y[2] + 0.5 * (y[:2] * x.square()).sum() + y[2] * x[0] * x[1]

    surface = LossSurface(lambda w, x: w[None], loss, ((nothing, nothing),))
    w, rule = torch.tensor([0, 0, 2 / LR, 2 / LR, 0], dtype=torch.float64), CentralFlow(pieces=2, most=3)
    w, state = rule.step(w, rule.init(w), surface, LR)
    assert float(state[2]) == pytest.approx(4 / 3 * (c + e), rel=1e-6)
    assert float(w[2] + w[4]) == pytest.approx(2 / LR, abs=1e-9)
    assert float(w[2] - w[4]) == pytest.approx(2 / LR - LR * (2 * e - 4 * c) / 3, abs=1e-9)


def test_gradient_descent_oscillates_with_the_predicted_variance():
    surface, w = rising(2 / LR)
    w, seen = w + torch.tensor([0.1, -0.1, 0, 0], dtype=torch.float64), []
    for _ in range(6000):
        w, _ = GD().step(w, (), surface, LR)
        seen.append(float(w[:2].square().sum()))
    assert sum(seen) / len(seen) == pytest.approx(2 * float(RISE.sum()), rel=0.05)


def test_below_the_edge_it_is_gradient_flow_by_euler_s_method():
    surface, w = rising(1.0)
    new, state = CentralFlow(pieces=2, most=3).step(w, CentralFlow(2, 3).init(w), surface, LR)
    assert torch.allclose(new[2:], w[2:] + LR * RISE, rtol=1e-12) and float(state[2]) == 0


def test_too_many_eigenvalues_at_the_edge_and_another_rule_s_gradient_are_refused():
    surface, w = rising(2 / LR)
    rule = CentralFlow(pieces=1, most=1)
    with pytest.raises(Refusal, match="optimizer.most=1; raise it"):
        rule.step(w, rule.init(w), surface, LR)
    with pytest.raises(Refusal, match="no base for another rule"):
        rule.step(w, rule.init(w), lambda w: w, LR)


def test_a_quadratic_beyond_its_edge_has_no_central_flow_and_says_so(sharp):
    said = sharp("train", "problem=quadratic", "method=central_flow", "lr=1.5", "steps=2")
    assert (
        said.code == 2
        and "sharp: central_flow: no oscillation lowers the curvature 2 to 2/lr = 1.33333" in said.err
    )


def test_a_run_of_the_central_flow_resumes_to_the_rows_of_a_whole_one(sharp, folder):
    words = (
        "train",
        *TINY,
        "problem.dtype=float64",
        "method=central_flow",
        "lr=0.5",
        "measure=[scores,sharpness,central_flow]",
    )
    whole = (*words, "steps=90", "measure_every=5", "checkpoint_every=10")
    sharp(*whole)
    run = only_run(folder)
    rows = rows_of(run / "metrics.jsonl")
    assert rows[-1]["central_variance"] > 0
    for row in rows:
        assert row["central_loss"] == pytest.approx(
            row["train_loss"] + row["central_variance"] / 0.5, rel=1e-12
        )
    for file in run.glob("checkpoints/*"):
        if int("".join(c for c in file.stem if c.isdigit()) or 0) > 70:
            file.unlink()
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:16]))
    again = sharp(*whole)
    assert again.code == 0, again.err
    assert (
        "damaged" not in again.err
        and json.loads((run / "provenance.json").read_text())["resumed"][-1]["step"] > 0
    )
    assert rows_of(run / "metrics.jsonl") == rows
    measured = sharp("measure", str(run), "measure=[gradient_norm]")
    assert measured.code == 0 and "left out" not in measured.err


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_program_s_solution_is_positive_and_complementary(k):
    rng = torch.Generator().manual_seed(k)
    m = k * (k + 1) // 2
    root, a = (torch.randn(*size, generator=rng, dtype=torch.float64) for size in ((m, m + 2), (m,)))
    Q = root @ root.T
    x = least(Q, a)
    X, slope = smat(x, k), smat(Q @ x - a, k)
    assert torch.allclose(svec(X), x)
    assert torch.linalg.eigvalsh(X)[0] > -1e-7 and torch.linalg.eigvalsh(slope)[0] > -1e-7
    assert abs(float((X * slope).sum())) < 1e-7 * float(X.norm() * slope.norm() + 1)
    if k == 1:
        assert float(x) == pytest.approx(max(0.0, float(a / Q)), abs=1e-8)
