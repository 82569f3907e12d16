"""Update rules: a step by hand, agreement with torch, and the property that defines each."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from conftest import sam

from sharpcli.config.build import Part
from sharpcli.errors import Refusal
from sharpcli.landscape.surface import LossSurface
from sharpcli.losses.half_squared import half_squared
from sharpcli.optimizers import average, base_edge, columns, compiled, edge, flow_step, preconditioner, shaped
from sharpcli.optimizers.adamw import AdamW
from sharpcli.optimizers.averaging import Averaging
from sharpcli.optimizers.clipping import Clipping
from sharpcli.optimizers.gd import GD
from sharpcli.optimizers.lion import Lion
from sharpcli.optimizers.momentum import Momentum
from sharpcli.optimizers.muon import Muon
from sharpcli.optimizers.schedule_free import ScheduleFree
from sharpcli.optimizers.sign_descent import SignDescent
from sharpcli.optimizers.switch import Switch
from sharpcli.schedules.constant import constant
from sharpcli.schedules.cosine import cosine
from sharpcli.schedules.linear import linear
from sharpcli.schedules.multistep import multistep
from sharpcli.schedules.one_cycle import one_cycle
from sharpcli.schedules.warmup import warmup
from sharpcli.schedules.warmup_stable_decay import warmup_stable_decay

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
    assert edge(sam(0.1, True, GD()), 0.1) is None and base_edge(sam(0.1, True, GD()), 0.1) == pytest.approx(
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
    assert torch.allclose(run(sam(0.05, True, GD()), 0.1, 1), by_hand, rtol=1e-14)
    unnormalized = W0 - 0.1 * LAM * (W0 + 0.05 * g)
    assert torch.allclose(run(sam(0.05, False, GD()), 0.1, 1), unnormalized, rtol=1e-14)


def test_sam_without_a_radius_is_its_base_rule():
    for base in (GD(), Momentum(0.9, False)):
        assert torch.equal(run(sam(0.0, True, base), 0.1, 5), run(base, 0.1, 5))


def test_sam_on_a_quadratic_orbits_at_the_known_radius_along_the_first_eigenvector():
    lr, rho = 0.4, 0.1
    w = run(sam(rho, True, GD()), lr, 3000, w=torch.tensor([0.3, 0.2, 0.1], dtype=torch.float64))
    assert w.norm().item() == pytest.approx(lr * rho * 2 / (2 - lr * 2), rel=1e-8)  # 0.0666667
    assert abs(w[0] / w.norm()) == pytest.approx(1, abs=1e-10)


def test_sam_at_a_minimum_stays():
    assert torch.equal(run(sam(0.1, True, GD()), 0.1, 3, w=torch.zeros(3).double()), torch.zeros(3).double())


X2, Y2 = torch.tensor([[1.0, 0.5], [-0.3, 2.0]]).double(), torch.tensor([[1.0], [-1.0]]).double()
TWO = LossSurface(lambda w, x: x @ w[:2, None] + w[2] ** 3, half_squared, ((X2, Y2),))  # two examples
AT = torch.tensor([0.4, -0.7, 0.9]).double()


def gradient_of(i, w):
    """The gradient of example i of TWO, by hand."""
    residual = X2[i] @ w[:2] + w[2] ** 3 - Y2[i, 0]
    return residual * torch.cat([X2[i], 3 * w[2:] ** 2])


def unit(v):
    return v / v.norm()


def test_m_sam_gives_every_group_an_ascent_point_of_its_own():
    alone = [gradient_of(i, AT + 0.2 * unit(gradient_of(i, AT))) for i in (0, 1)]
    together = (gradient_of(0, AT) + gradient_of(1, AT)) / 2
    shared = sum(gradient_of(i, AT + 0.2 * unit(together)) for i in (0, 1)) / 2
    for m, expected in ((1, sum(alone) / 2), (2, shared), (7, shared)):
        w, _ = sam(0.2, True, GD(), m=m).step(AT, (), TWO, 0.1)
        assert torch.allclose(w, AT - 0.1 * expected, rtol=1e-13), m
    assert (sum(alone) / 2 - shared).norm() > 0.01 * shared.norm()  # the two can be told apart


def test_a_group_counts_by_its_examples():
    three = TWO.on([(torch.cat([X2, X2[:1]]), torch.cat([Y2, Y2[:1]]))])
    both = (gradient_of(0, AT) + gradient_of(1, AT)) / 2
    first = sum(gradient_of(i, AT + 0.2 * unit(both)) for i in (0, 1)) / 2
    last = gradient_of(0, AT + 0.2 * unit(gradient_of(0, AT)))
    w, _ = sam(0.2, True, GD(), m=2).step(AT, (), three, 0.1)
    assert torch.allclose(w, AT - 0.1 * (2 * first + last) / 3, rtol=1e-13)


def test_examples_of_several_batches_are_grouped_across_them():
    cut = TWO.on([(X2[:1], Y2[:1]), (X2[1:], Y2[1:])])
    rule = sam(0.2, True, GD(), m=2)
    assert torch.allclose(rule.step(AT, (), cut, 0.1)[0], rule.step(AT, (), TWO, 0.1)[0], rtol=1e-13)


def test_sam_climbs_in_several_steps():
    at = W0 + 0.15 * unit(LAM * W0)
    at = at + 0.15 * unit(LAM * at)
    w = run(sam(0.3, True, GD(), ascent_steps=2), 0.1, 1)
    assert torch.allclose(w, W0 - 0.1 * LAM * at, rtol=1e-14)
    at = W0 + 0.15 * LAM * W0
    at = at + 0.15 * LAM * at
    w = run(sam(0.3, False, GD(), ascent_steps=2), 0.1, 1)
    assert torch.allclose(w, W0 - 0.1 * LAM * at, rtol=1e-14)


def test_adaptive_sam_has_a_radius_relative_to_each_weight():
    w, g = torch.tensor([2.0, -0.5, 0.0]).double(), None
    g = LAM * w + 1
    T = w.abs() + 0.01
    for normalized, length in ((True, (T * g).norm()), (False, 1.0)):
        rule = sam(0.3, normalized, GD(), adaptive=0.01)
        after, _ = rule.step(w, (), lambda w: LAM * w + 1, 0.1)
        at = w + 0.3 * T**2 * g / length
        assert torch.allclose(after, w - 0.1 * (LAM * at + 1), rtol=1e-14)


def test_layerwise_sam_moves_each_tensor_by_its_own_norm():
    layout = (("a", torch.Size([2, 1])), ("b", torch.Size([1])))
    rule = sam(0.3, True, GD(), layerwise=True).shaped(layout)
    w = torch.tensor([2.0, -0.5, 0.7]).double()
    g = LAM * w
    ascent = torch.cat([w[:2].norm() * unit(g[:2]), w[2:].norm() * unit(g[2:])])
    after, _ = rule.step(w, (), lambda w: LAM * w, 0.1)
    assert torch.allclose(after, w - 0.1 * LAM * (w + 0.3 * ascent), rtol=1e-14)
    whole = sam(0.3, True, GD(), layerwise=True)  # of a problem that names no tensors
    assert torch.allclose(
        whole.step(w, (), lambda w: LAM * w, 0.1)[0], w - 0.1 * LAM * (w + 0.3 * w.norm() * unit(g))
    )


def test_gsam_takes_a_share_of_the_orthogonal_part_of_the_gradient_away():
    w = torch.tensor([2.0, -0.5, 0.7]).double()
    g = LAM * w
    g_sam = LAM * (w + 0.3 * unit(g))
    orthogonal = g - (g @ g_sam) / (g_sam @ g_sam) * g_sam
    assert abs(float(orthogonal @ g_sam)) < 1e-12 and orthogonal.norm() > 0.01
    after, _ = sam(0.3, True, GD(), surrogate_gap=0.4).step(w, (), lambda w: LAM * w, 0.1)
    assert torch.allclose(after, w - 0.1 * (g_sam - 0.4 * orthogonal), rtol=1e-13)


def test_friendly_sam_climbs_along_the_gradient_without_its_mean():
    rule, w = sam(0.3, True, Momentum(0.9, False), friendly=0.8, friendly_decay=0.6), W0
    state, mean, velocity = rule.init(W0), torch.zeros(3).double(), torch.zeros(3).double()
    for _ in range(3):
        g = LAM * w
        mean = 0.6 * mean + 0.4 * g
        velocity = 0.9 * velocity + LAM * (w + 0.3 * unit(g - 0.8 * mean))
        expected = w - 0.1 * velocity
        w, state = rule.step(w, state, lambda w: LAM * w, 0.1)
        assert torch.allclose(w, expected, rtol=1e-13) and torch.allclose(state[-1], mean, rtol=1e-13)
    assert len(state) == 2 and columns(rule, state, 0.1) == {}


@pytest.mark.parametrize(
    ("forms", "said"),
    [
        ({"m": 0}, "optimizer.m=0"),
        ({"ascent_steps": 0}, "optimizer.ascent_steps=0"),
        ({"adaptive": -0.1}, "optimizer.adaptive=-0.1"),
        ({"surrogate_gap": -1.0}, "optimizer.surrogate_gap=-1.0"),
        ({"friendly": 1.0}, "give both"),
        ({"friendly": 1.0, "friendly_decay": 1.0}, "below 1"),
        ({"friendly": 1.0, "friendly_decay": 0.6, "m": 2}, "give one of them"),
        ({"layerwise": True, "adaptive": 0.1}, "leave out"),
    ],
)
def test_forms_of_sam_refuse_what_does_not_go_together(forms, said):
    with pytest.raises(Refusal, match=said):
        sam(0.1, True, GD(), **forms)


def test_m_sam_refuses_what_cannot_be_grouped():
    with pytest.raises(Refusal, match="no base for another rule"):
        Clipping(1.0, sam(0.1, True, GD(), m=1)).step(AT, (), TWO, 0.1)
    with pytest.raises(Refusal, match="batch_size=1"):
        sam(0.1, True, GD(), m=1).step(AT, (), replace(TWO, joint=True), 0.1)


def test_compiled_steps_know_no_other_form_of_sam():
    assert compiled(sam(0.1, True, GD())) is not None
    for forms in (
        {"m": 1},
        {"ascent_steps": 2},
        {"adaptive": 0.0},
        {"layerwise": True},
        {"surrogate_gap": 0.1},
    ):
        assert compiled(sam(0.1, True, GD(), **forms)) is None


def test_a_switch_takes_the_second_rule_from_its_step_on_with_a_state_of_its_own():
    rule = Switch(2, Momentum(0.9, False), AdamW(0.9, 0.999, 1e-8, 0.1))
    w, state = W0, rule.init(W0)
    first, second, at = Momentum(0.9, False), AdamW(0.9, 0.999, 1e-8, 0.1), W0
    own = first.init(W0)
    for step in range(5):
        if step == 2:
            own = second.init(W0)
        at, own = (first if step < 2 else second).step(at, own, lambda w: LAM * w, 0.1)
        w, state = rule.step(w, state, lambda w: LAM * w, 0.1)
        assert torch.equal(w, at), step
    assert preconditioner(rule, state, 0.1) is not None
    assert preconditioner(rule, rule.init(W0), 0.1) is None
    assert edge(rule, 0.1) is None and flow_step(rule, 0.1) is None
    assert flow_step(Switch(2, GD(), sam(0.1, True, GD())), 0.1) == 0.1
    with pytest.raises(Refusal, match="optimizer.at=-1"):
        Switch(-1, GD(), GD())


@pytest.mark.parametrize(
    ("start", "every", "decay", "counted"),
    [
        (0, 1, None, [1, 2, 3, 4, 5, 6]),
        (3, 2, None, [3, 5]),
        (0, 1, 0.8, [1, 2, 3, 4, 5, 6]),
        (2, 3, 0.8, [2, 5]),
    ],
)
def test_an_average_of_the_weights_is_kept_beside_them(start, every, decay, counted):
    rule, base = Averaging(start, every, decay, Momentum(0.9, False)), Momentum(0.9, False)
    w, state, path = W0, rule.init(W0), [W0]
    assert torch.equal(average(rule, state), W0)
    for step in range(1, 7):
        w, state = rule.step(w, state, lambda w: LAM * w, 0.1)
        path.append(run(base, 0.1, step))
        assert torch.equal(w, path[-1])  # the base's own path
        seen = [path[i] for i in counted if i <= step]
        if not seen:
            expected = w
        elif decay is None:
            expected = sum(seen) / len(seen)
        else:
            expected = seen[0]
            for later in seen[1:]:
                expected = decay * expected + (1 - decay) * later
        assert torch.allclose(average(rule, state), expected, rtol=1e-13), step
    assert edge(rule, 0.1) == edge(base, 0.1) and average(base, ()) is None
    for wrong in ((-1, 1, None), (0, 0, None), (0, 1, 1.0)):
        with pytest.raises(Refusal, match="start at least 0"):
            Averaging(*wrong, GD())


def test_rules_refuse_what_is_out_of_range():
    for make in (lambda: Momentum(1.0, False), lambda: Momentum(-0.1, False), lambda: sam(-1.0, True, GD())):
        with pytest.raises(Refusal):
            make()


def steps_of(rule, w, grad, lr, steps):
    """The weights after each step."""
    state, out = rule.init(w), []
    for _ in range(steps):
        w, state = rule.step(w, state, grad, lr)
        out.append(w)
    return out


def steps_of_torch(make, shapes, w, loss, steps, before=lambda params: None):
    """The weights after each step of a rule of torch on parameters of these shapes."""
    pieces = w.split([shape.numel() for shape in shapes])
    params = [torch.nn.Parameter(p.view(s).clone()) for p, s in zip(pieces, shapes, strict=True)]
    rule, out = make(params), []
    for _ in range(steps):
        rule.zero_grad()
        loss(torch.cat([p.flatten() for p in params])).backward()
        before(params)
        rule.step()
        out.append(torch.cat([p.detach().flatten() for p in params]))
    return out


def bowl(w):
    return (w.square() * torch.linspace(0.2, 3, len(w), dtype=w.dtype)).sum() / 2 + w.sin().sum()


def slope(w):
    return w * torch.linspace(0.2, 3, len(w), dtype=w.dtype) + w.cos()


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_adamw_agrees_with_torch_step_by_step(decay):
    theirs = steps_of_torch(
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=decay), [W0.shape], W0, bowl, 20
    )
    for ours, other in zip(steps_of(AdamW(0.9, 0.999, 1e-8, decay), W0, slope, 0.1, 20), theirs, strict=True):
        assert torch.allclose(ours, other, rtol=1e-12)


@pytest.mark.parametrize("decay", [0.0, 4.0])
def test_adamw_with_a_frozen_preconditioner_is_unstable_above_its_edge(decay):
    rule, lr = AdamW(0.9, 1 - 1e-12, 1e-8, decay), 0.1
    state = (torch.zeros(1).double(), torch.full((1,), 0.25).double(), torch.tensor(1e15).double())
    P, edge = rule.preconditioner(state, lr)
    for factor, grows in ((0.99, False), (1.01, True)):
        w, now = torch.ones(1).double(), state
        for _ in range(3000):
            w, (m, _, t) = rule.step(w, now, lambda w, h=float(P * edge * factor): h * w, lr)
            now = (m, state[1], t)
        assert (w.abs() > 10).item() is grows


def test_schedule_free_by_hand():
    # the first average is z itself, the second half of either; the third step has twice the learning rate
    z1 = W0 - 0.1 * slope(W0)
    z2 = z1 - 0.1 * slope(z1)
    w2 = (z1 + z2) / 2
    z3 = z2 - 0.2 * slope(0.1 * z2 + 0.9 * w2)
    w3 = w2 + 0.04 / 0.06 * (z3 - w2)
    rule, w, found = ScheduleFree(0.9), W0, []
    state = rule.init(w)
    for lr in (0.1, 0.1, 0.2):
        w, state = rule.step(w, state, slope, lr)
        found.append(w)
    assert torch.allclose(torch.stack(found), torch.stack([z1, w2, w3]), atol=1e-14)
    # a learning rate of 0 changes nothing, at the first step too
    state = rule.init(W0)
    w, state = rule.step(W0, state, slope, 0.0)
    assert torch.equal(w, W0) and torch.equal(state[0], W0)
    with pytest.raises(Refusal, match="below 1"):
        ScheduleFree(1.0)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("factor, grows", [(0.95, False), (1.05, True)])
def test_the_edge_of_schedule_free(beta, factor, grows):
    rule, w = ScheduleFree(beta), torch.ones(1).double()
    h, state = factor * rule.edge(0.1), rule.init(torch.ones(1).double())
    for _ in range(2000):
        w, state = rule.step(w, state, lambda v: h * v, 0.1)
    assert (w.abs().item() > 1e3) is grows
    assert flow_step(rule, 0.1) is None


def test_lion_and_sign_descent_by_hand():
    first = W0 - 0.1 * (0.1 * slope(W0)).sign() - 0.1 * 0.5 * W0
    m = 0.01 * slope(W0)
    second = first - 0.1 * ((0.9 * m + 0.1 * slope(first)).sign() + 0.5 * first)
    assert torch.allclose(
        torch.stack(steps_of(Lion(0.9, 0.99, 0.5), W0, slope, 0.1, 2)), torch.stack([first, second])
    )
    # 0.9 * 0.01 - 0.1 * 0.5 is below 0; with beta2 in place of beta1, or the other way round, it is above
    g = iter([torch.ones(3).double(), -0.5 * torch.ones(3).double()])
    w, state = Lion(0.9, 0.99, 0.0).step(W0, Lion(0.9, 0.99, 0.0).init(W0), lambda w: next(g), 0.1)
    assert torch.allclose(Lion(0.9, 0.99, 0.0).step(w, state, lambda w: next(g), 0.1)[0], W0)
    w = torch.tensor([1.0, -0.2, 0.5], dtype=torch.float64)
    assert torch.allclose(run(SignDescent(0.0), 0.1, 1, w=w), w - 0.1 * w.sign())
    # the mean of 0.1 g before and after a change of sign still points where it did
    g = iter([torch.ones(3).double(), -0.5 * torch.ones(3).double()])
    rule = SignDescent(0.9)
    w, state = rule.step(W0, rule.init(W0), lambda w: next(g), 0.1)
    assert torch.allclose(rule.step(w, state, lambda w: next(g), 0.1)[0], W0 - 0.2)
    for rule in (
        Lion(0.9, 0.99, 0.0),
        SignDescent(0.0),
        Clipping(1.0, GD()),
        sam(0.1, True, SignDescent(0.0)),
    ):
        assert flow_step(rule, 0.1) is None and edge(rule, 0.1) is None


@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_clipping_agrees_with_torch(max_norm):
    theirs = steps_of_torch(
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
        [W0.shape],
        W0,
        bowl,
        20,
        before=lambda params: torch.nn.utils.clip_grad_norm_(params, max_norm),
    )
    ours = steps_of(Clipping(max_norm, Momentum(0.9, False)), W0, slope, 0.1, 20)
    assert torch.allclose(torch.stack(ours), torch.stack(theirs), rtol=1e-12)
    assert base_edge(Clipping(1.0, GD()), 0.1) == pytest.approx(20)
    # within SAM the step is as long as lr max_norm at most, around SAM each gradient is cut
    inner, outer = sam(0.1, True, Clipping(0.5, GD())), Clipping(0.5, sam(0.1, False, GD()))
    assert float((run(inner, 0.1, 1) - W0).norm()) == pytest.approx(0.05, rel=1e-5)
    ascent = W0 + 0.1 * 0.5 * LAM / LAM.norm()
    assert torch.allclose(run(outer, 0.1, 1), W0 - 0.05 * LAM * ascent / (LAM * ascent).norm(), rtol=1e-5)


SHAPES = [torch.Size(s) for s in ([4, 3], [4], [2, 4, 1, 1], [5, 8])]
LAYOUT = [(f"p{i}", shape) for i, shape in enumerate(SHAPES)]


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon since 2.9")
def test_muon_agrees_with_torch_on_matrices():
    shapes = [SHAPES[0], SHAPES[3]]
    w = torch.randn(52, generator=torch.Generator().manual_seed(0))
    make = lambda p: torch.optim.Muon(p, lr=0.02, weight_decay=0.0, momentum=0.95)  # noqa: E731
    theirs = steps_of_torch(make, shapes, w, bowl, 6)
    rule = Muon(0.95, True, 5, 0.1, GD()).shaped([("a", shapes[0]), ("b", shapes[1])])
    ours = steps_of(rule, w, slope, 0.02, 6)
    before = w
    for mine, other in zip(ours, theirs, strict=True):  # torch's iteration is in bfloat16
        assert float((mine - other).norm() / (other - before).norm()) < 0.05
        before = other


def test_muon_steps_along_the_polar_factor_and_leaves_vectors_to_its_base():
    w = torch.randn(12 + 4 + 8 + 40, generator=torch.Generator().manual_seed(1)).double()
    rule = Muon(0.0, False, 0, 0.5, GD()).shaped(LAYOUT)
    moved = (w - steps_of(rule, w, slope, 0.1, 1)[0]).split([s.numel() for s in SHAPES])
    g = slope(w).split([s.numel() for s in SHAPES])
    for step, gradient, shape in zip(moved, g, SHAPES, strict=True):
        if len(shape) == 1:
            assert torch.allclose(step, 0.1 * 0.5 * gradient)
            continue
        matrix, G = step.view(shape[0], -1), gradient.view(shape[0], -1)
        sizes = torch.linalg.svdvals(matrix)
        assert torch.allclose(
            sizes, torch.full_like(sizes, 0.1 * max(1.0, shape[0] / matrix.shape[1]) ** 0.5)
        )
        assert torch.allclose((matrix * G).sum(), sizes[0] * torch.linalg.matrix_norm(G, "nuc"))
    # a matrix without a gradient stays, and so does one direction of a matrix of rank 1
    zero = Muon(0.0, False, 0, 0.5, GD()).shaped(LAYOUT[:1])
    assert torch.equal(run(zero, 0.1, 1, lam=torch.zeros(12).double(), w=w[:12]), w[:12])


def test_the_iteration_of_muon_takes_singular_values_to_the_stated_interval():
    Q = torch.linalg.qr(torch.randn(60, 60, generator=torch.Generator().manual_seed(3)).double())[0]
    sizes = torch.logspace(0, -2.5, 60).double()  # down to 0.003 of the largest
    V = Q @ torch.diag(sizes / sizes.norm()) @ Q.T
    kept = sizes / sizes.norm() > 0.003
    P = Muon(0.0, False, 5, 1.0, GD())._polar(V)
    after = (Q.T @ P @ Q).diagonal()  # V and P have the same singular vectors
    assert kept.sum() > 20 and after[kept].min() > 0.68 and after[kept].max() < 1.21


def test_muon_gives_its_base_further_gradients_with_the_matrices_as_they_are():
    w = torch.randn(16, generator=torch.Generator().manual_seed(2)).double()
    couple = lambda w: torch.cat([w[:12], w[12:] * w[:12].square().sum()])  # noqa: E731
    rule = Muon(0.0, False, 0, 1.0, sam(0.1, True, GD())).shaped(LAYOUT[:2])
    after, g = steps_of(rule, w, couple, 0.1, 1)[0], couple(w)[12:]
    expected = w[12:] - 0.1 * (w[12:] + 0.1 * g / g.norm()) * w[:12].square().sum()
    assert torch.allclose(after[12:], expected)


def test_muon_needs_matrices():
    with pytest.raises(Refusal, match="no matrices"):
        Muon(0.9, True, 5, 0.1, GD()).shaped([("w", torch.Size([3]))])
    inner = shaped(sam(0.1, True, Clipping(1.0, Muon(0.9, True, 5, 0.1, GD()))), LAYOUT).base.base
    assert list(inner.layout) == LAYOUT and shaped(GD(), LAYOUT) == GD()


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdamW(0.9, 0.999, 1e-8, -1.0),
        lambda: AdamW(1.0, 0.999, 1e-8, 0.0),
        lambda: Lion(1.0, 0.9, 0.0),
        lambda: SignDescent(1.0),
        lambda: Clipping(0.0, GD()),
        lambda: Muon(0.9, True, -1, 0.1, GD()),
    ],
)
def test_the_other_rules_refuse_what_is_out_of_range(make):
    with pytest.raises(Refusal, match="optimizer"):
        make()


@pytest.mark.parametrize("step, steps, factors", [(0, 1, 0), (2, 5, 0), (3, 5, 1), (6, 10, 0), (7, 10, 1)])
def test_a_drop_waits_for_its_share_of_the_steps(step, steps, factors):
    at = [0.7] if steps == 10 else [0.5, 0.75]
    assert multistep(step, steps, 1.0, at=at, factor=0.1) == pytest.approx(0.1**factors)


def test_one_cycle_and_multistep_agree_with_torch():
    param = torch.nn.Parameter(torch.zeros(1))
    rule = torch.optim.SGD([param], lr=2.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(rule, 2.0, total_steps=50, cycle_momentum=False)
    for step in range(50):
        ours = one_cycle(step, 50, 2.0, rise=0.3, first=0.04, final=4e-6)
        assert ours == pytest.approx(rule.param_groups[0]["lr"], rel=1e-9)
        rule.step()
        if step < 49:
            theirs.step()
    rule = torch.optim.SGD([param], lr=2.0)
    theirs = torch.optim.lr_scheduler.MultiStepLR(rule, [50, 75], 0.1)
    for step in range(100):
        assert multistep(step, 100, 2.0, at=[0.5, 0.75], factor=0.1) == pytest.approx(
            rule.param_groups[0]["lr"]
        )
        rule.step()
        theirs.step()


def test_linear_and_stable_schedules_and_a_warm_up_before_any():
    assert [linear(step, 4, 2.0, final=0.5) for step in range(4)] == [2.0, 1.75, 1.5, 1.25]
    stable = [warmup_stable_decay(s, 10, 1.0, warmup=0.2, decay=0.4, final=0.5) for s in range(10)]
    assert stable == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1, 1, 0.875, 0.75, 0.625])
    falling = Part(linear, {"final": 0.5}, ("step", "steps", "lr"))
    warmed = [warmup(step, 6, 2.0, math.inf, share=1 / 3, base=falling) for step in range(6)]
    assert warmed == pytest.approx([2 / 3, 4 / 3, 2.0, 1.75, 1.5, 1.25])
    flat = Part(constant, {}, ("lr",))
    assert [warmup(s, 4, 1.0, math.inf, share=0.5, base=flat) for s in range(4)] == pytest.approx(
        [1 / 3, 2 / 3, 1, 1]
    )
    for make in (
        lambda: warmup(0, 4, 1.0, math.inf, share=1.0, base=flat),
        lambda: linear(0, 4, 1.0, final=2.0),
        lambda: multistep(0, 4, 1.0, at=[0.5, 0.2], factor=0.1),
        lambda: one_cycle(0, 4, 1.0, rise=0.0, first=0.1, final=0.1),
        lambda: warmup_stable_decay(0, 4, 1.0, warmup=0.6, decay=0.6, final=0.0),
    ):
        with pytest.raises(Refusal, match="schedule"):
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
