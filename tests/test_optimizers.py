"""Update rules: a step by hand, agreement with torch, and the property that defines each."""

import itertools

import pytest
import torch

from sharpcli.errors import Refusal
from sharpcli.optimizers import base_edge, columns, edge, preconditioner
from sharpcli.optimizers.gd import GD
from sharpcli.optimizers.momentum import Momentum
from sharpcli.optimizers.sam import SAM
from sharpcli.schedules.constant import constant
from sharpcli.schedules.cosine import cosine

LAM = torch.tensor([2.0, 1.0, 0.3], dtype=torch.float64)
W0 = torch.ones(3, dtype=torch.float64)


def run(rule, lr, steps, lam=LAM, w=W0):
    state = rule.init(w)
    for _ in range(steps):
        w, state = rule.step(w, state, lambda w: lam * w, lr)
    return w


def test_gd_multiplies_each_coordinate_of_a_quadratic_by_one_minus_lr_lambda():
    assert torch.allclose(run(GD(), 0.3, 7), (1 - 0.3 * LAM) ** 7, rtol=1e-12)


@pytest.mark.parametrize(
    "rule",
    [
        GD(),
        Momentum(0.9, False),
        Momentum(0.5, False),
        Momentum(0.9, True),
        Momentum(0.3, True),
        Momentum(0.0, False),
    ],
)
def test_a_rule_converges_on_a_quadratic_exactly_when_its_curvature_is_below_the_stated_edge(rule):
    edge = rule.edge(0.1)
    below, above = (
        run(rule, 0.1, 6000, torch.tensor([edge * f]).double(), torch.ones(1).double())
        for f in (0.999, 1.001)
    )
    assert below.abs() < 1e-1 and above.abs() > 10


def test_edges_have_the_stated_constants():
    assert GD().edge(0.02) == pytest.approx(100)
    assert Momentum(0.9, False).edge(0.2) == pytest.approx(19)
    assert Momentum(0.9, True).edge(0.1) == pytest.approx(2 * 1.9 / 0.28)
    assert edge(SAM(0.1, True, GD()), 0.1) is None and base_edge(SAM(0.1, True, GD()), 0.1) == pytest.approx(
        20
    )
    assert edge(GD(), 0.0) is None and preconditioner(GD(), (), 0.1) is None and columns(GD(), (), 0.1) == {}


@pytest.mark.parametrize("beta, nesterov", [(0.0, False), (0.9, False), (0.9, True)])
def test_momentum_agrees_with_torch_step_by_step(beta, nesterov):
    theirs = torch.nn.Parameter(W0.clone())
    torch_rule = torch.optim.SGD([theirs], lr=0.1, momentum=beta, nesterov=nesterov)
    rule = Momentum(beta, nesterov)
    w, state = W0, rule.init(W0)
    for _ in range(20):
        torch_rule.zero_grad()
        ((LAM * theirs.square()).sum() / 2 + theirs.sin().sum()).backward()
        torch_rule.step()
        w, state = rule.step(w, state, lambda w: LAM * w + w.cos(), 0.1)
        assert torch.allclose(w, theirs.detach(), rtol=1e-12)


def test_sam_steps_by_the_gradient_at_the_ascent_point():
    g = LAM * W0
    by_hand = W0 - 0.1 * LAM * (W0 + 0.05 * g / g.norm())
    assert torch.allclose(run(SAM(0.05, True, GD()), 0.1, 1), by_hand, rtol=1e-14)
    unnormalized = W0 - 0.1 * LAM * (W0 + 0.05 * g)
    assert torch.allclose(run(SAM(0.05, False, GD()), 0.1, 1), unnormalized, rtol=1e-14)


def test_sam_without_a_radius_is_its_base_rule():
    for base in (GD(), Momentum(0.9, False)):
        assert torch.equal(run(SAM(0.0, True, base), 0.1, 5), run(base, 0.1, 5))


def test_sam_on_a_quadratic_orbits_at_the_known_radius_along_the_first_eigenvector():
    lr, rho = 0.4, 0.1
    w = run(SAM(rho, True, GD()), lr, 3000, w=torch.tensor([0.3, 0.2, 0.1], dtype=torch.float64))
    assert w.norm().item() == pytest.approx(lr * rho * 2 / (2 - lr * 2), rel=1e-8)  # 0.0666667
    assert abs(w[0] / w.norm()) == pytest.approx(1, abs=1e-10)


def test_sam_at_a_minimum_stays():
    assert torch.equal(run(SAM(0.1, True, GD()), 0.1, 3, w=torch.zeros(3).double()), torch.zeros(3).double())


def test_rules_refuse_what_is_out_of_range():
    for make in (lambda: Momentum(1.0, False), lambda: Momentum(-0.1, False), lambda: SAM(-1.0, True, GD())):
        with pytest.raises(Refusal):
            make()


def test_schedules():
    assert constant(0.5) == 0.5
    values = [cosine(step, 100, 2.0, warmup=0.1, final=0.0) for step in range(100)]
    assert max(values) == pytest.approx(2.0) and values[0] < values[5] < values[9] and values[-1] < 0.01
    assert all(a > b for a, b in itertools.pairwise(values[11:]))
    assert cosine(55, 100, 2.0, warmup=0.1, final=0.0) == pytest.approx(1.0)
    assert cosine(0, 100, 2.0, warmup=0.0, final=0.5) == 2.0
    with pytest.raises(Refusal):
        cosine(0, 100, 2.0, warmup=1.0, final=0.0)
