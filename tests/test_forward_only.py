"""Curvature by values of the loss alone: against the Hessian in float64, and closed forms on quadratics."""

import copy
import math

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import sharpcli as sharp
from sharpcli.engine.measuring import measure
from sharpcli.rng import generator

CE = nn.CrossEntropyLoss()


def cases():
    for dtype in (torch.float32, torch.float64):
        for seed in range(12):
            torch.manual_seed(seed)
            activation = (nn.Tanh, nn.GELU, nn.Softplus)[seed % 3]()
            net = nn.Sequential(nn.Linear(8, 16), activation, nn.Linear(16, 3)).to(dtype)
            with torch.no_grad():
                for p in net.parameters():
                    p.mul_((1, 3, 0.3)[seed % 3])
            x, y = torch.randn(64, 8, dtype=dtype), torch.randint(0, 3, (64,))
            yield dtype, seed, net, x, y


def test_the_stated_error_of_directional_sharpness_covers_the_hessian():
    worst = {torch.float32: 0.0, torch.float64: 0.0}
    for dtype, seed, net, x, y in cases():
        H = sharp.hessian(copy.deepcopy(net).double(), CE, (x.double(), y))
        rng = generator(seed, "directional_sharpness", 0)
        normal = torch.randn(H.shape[0], generator=rng, dtype=torch.float64)
        for direction, u in (("gradient", H.grad), ("random", normal)):
            found = sharp.measure(net, CE, (x, y), "directional_sharpness", direction=direction, seed=seed)
            exact = float(u @ (H @ u) / (u @ u))
            error = found["directional_sharpness_error"]
            assert abs(found["directional_sharpness"] - exact) <= error, (dtype, seed, direction)
            assert found["directional_curvature"] == pytest.approx(
                found["directional_sharpness"] * float(u @ u), rel=1e-3
            )
            worst[dtype] = max(worst[dtype], error / abs(exact))
            assert found["directional_sharpness_gradients"] <= 1 + 13 / 3
    assert worst[torch.float64] < 1e-4 and worst[torch.float32] < 0.3


def test_a_direction_from_a_file_is_that_of_its_tensors(folder):
    _, _, net, x, y = list(cases())[13]
    H = sharp.hessian(net, CE, (x, y))
    pairs = H.eigenpairs(1, tol=1e-8)
    named, at = {}, 0
    for name, shape in H.names.items():
        named[name], at = pairs.vectors[0][at : at + shape.numel()].view(shape).clone(), at + shape.numel()
    save_file(named, folder / "v.safetensors")
    settings = {"direction": "file", "file": str(folder / "v.safetensors")}
    found = sharp.measure(net, CE, (x, y), "directional_sharpness", **settings)
    assert found["directional_sharpness"] == pytest.approx(float(pairs.values[0]), rel=1e-5)
    save_file({"0.weight": named["0.weight"]}, folder / "part.safetensors")
    for file, said in (("part", "has no 0.bias"), ("none", "not readable")):
        with pytest.raises(sharp.Refused, match=said):
            settings["file"] = str(folder / f"{file}.safetensors")
            sharp.measure(net, CE, (x, y), "directional_sharpness", **settings)
    with pytest.raises(sharp.Refused, match="possible: file, gradient, random, update"):
        sharp.measure(net, CE, (x, y), "directional_sharpness", direction="upwards")


@pytest.mark.parametrize("lr", ["0.1", "1e-320", "1e-18"])  # the last two move no weight
def test_critical_sharpness_of_a_quadratic_is_the_rayleigh_quotient_of_the_gradient(experiment, lr):
    e = experiment("problem=quadratic", "problem.eigenvalues=[5,2,0.1]", "problem.start=[1,-2,3]", f"lr={lr}")
    w = e.problem.w0
    state = e.optimizer.init(w)
    e = experiment(
        *("problem=quadratic", "problem.eigenvalues=[5,2,0.1]", "problem.start=[1,-2,3]", f"lr={lr}"),
        "measure=[critical_sharpness]",
    )
    row, warm = measure(e, w, 0, {}, e.measures, state)
    g = torch.tensor([5.0, -4.0, 0.3], dtype=torch.float64)
    exact = float((torch.tensor([5.0, 2.0, 0.1], dtype=torch.float64) * g * g).sum() / (g @ g))
    assert row["critical_sharpness"] == pytest.approx(exact, rel=1e-9)
    assert row["critical_lr"] == pytest.approx(2 / exact, rel=1e-9)
    again, _ = measure(e, w, 0, warm, e.measures, state)
    assert again["critical_forwards"] <= 4 and again["critical_sharpness"] == pytest.approx(exact, rel=1e-9)


def test_critical_sharpness_follows_the_optimizer_s_own_update(experiment):
    """For momentum d is the velocity: on a quadratic 2 / lr_c = d.Hd / g.d."""
    words = ("problem=quadratic", "problem.eigenvalues=[5,2]", "problem.start=[1,-2]", "lr=0.1")
    e = experiment(*words, "method=momentum", "optimizer.beta=0.9", "measure=[critical_sharpness]")
    w, state = e.problem.w0, e.optimizer.init(e.problem.w0)
    for _ in range(3):
        w, state = e.optimizer.step(w, state, e.problem.surface, 0.1)
    after, _ = e.optimizer.step(w, state, e.problem.surface, 0.1)
    d, h = (w - after) / 0.1, torch.tensor([5.0, 2.0], dtype=torch.float64)
    row, _ = measure(e, w, 3, {}, e.measures, state)
    slope = float((h * w) @ d)
    if slope > 0:
        assert row["critical_sharpness"] == pytest.approx(float((h * d) @ d) / slope, rel=1e-6)
    else:
        assert row["critical_sharpness"] is None and not row["critical_sharpness_converged"]


def test_critical_sharpness_of_a_rule_that_takes_no_gradient_at_w(experiment):
    """Schedule-free SGD takes its gradient between z and w: the slope along d is that at w all the same."""
    words = ("problem=quadratic", "problem.eigenvalues=[5,2]", "problem.start=[1,-2]", "lr=0.3")
    e = experiment(*words, "optimizer=schedule_free", "optimizer.beta=0.5", "measure=[critical_sharpness]")
    w, state, h = e.problem.w0, e.optimizer.init(e.problem.w0), torch.tensor([5.0, 2.0], dtype=torch.float64)
    positive = 0
    for step in range(30):
        after, following = e.optimizer.step(w, state, e.problem.surface, 0.3)
        d = (w - after) / 0.3
        row, _ = measure(e, w, step, {}, e.measures, state)
        if float((h * w) @ d) > 1e-6:
            exact, positive = float((h * d) @ d) / float((h * w) @ d), positive + 1
            assert row["critical_sharpness"] == pytest.approx(exact, abs=row["critical_sharpness_error"])
        w, state = after, following
    assert positive > 5


def test_critical_sharpness_is_bracketed_where_cross_entropy_is_flat_beyond_the_root(experiment):
    """Far out the loss grows by a thousandth of the slope at w: a secant through the bracket's end creeps,
    and that it hardly moves says nothing of the root."""
    network = ("data.train_examples=100", "model.widths=[20]", "loss=cross_entropy", "problem.dtype=float64")
    e = experiment(*network, "lr=0.1", "method=gd", "measure=[critical_sharpness]")
    w, state, warm, converged = e.problem.w0, e.optimizer.init(e.problem.w0), {}, 0
    for step in range(100):
        if step % 5 == 0:
            row, warm = measure(e, w, step, warm, e.measures, state)
            g, lr = e.problem.surface.grad(w), row["critical_lr"]
            share = row["critical_sharpness_error"] / row["critical_sharpness"]
            before, beyond = (
                float(e.problem.surface.value(w - max(lr * (1 + side * 1.01 * share), 0.0) * g))
                for side in (-1, 1)
            )
            assert before <= float(e.problem.surface.value(w)) <= beyond, (step, row)
            converged += row["critical_sharpness_converged"]
            assert row["critical_sharpness_converged"] == (share <= 0.01)
        w, state = e.optimizer.step(w, state, e.problem.surface, 0.1)
    assert converged >= 14


def test_critical_sharpness_is_where_the_loss_stops_to_fall_with_the_error_it_states():
    for dtype, seed, net, x, y in cases():
        found = sharp.measure(net, CE, (x, y), "critical_sharpness", max_forwards=30)
        double = copy.deepcopy(net).double()
        H = sharp.hessian(double, CE, (x.double(), y))
        w = torch.cat([p.detach().flatten() for p in double.parameters()])
        surface = H._own.problem.surface

        def rise(lr, surface=surface, w=w, g=H.grad):
            return float(surface.value(w - lr * g)) - float(surface.value(w))

        low, high = 0.0, 1e-3
        while rise(high) < 0:
            low, high = high, high * 1.05
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if rise(middle) < 0 else (low, middle)
        assert math.isfinite(found["critical_sharpness"])
        error = abs(found["critical_sharpness"] - 2 / high)
        assert error <= found["critical_sharpness_error"] + 1e-9, (dtype, seed)


def test_along_an_ascent_there_is_no_critical_step(experiment):
    e = experiment("problem=quadratic", "problem.eigenvalues=[-1,-2]", "problem.start=[1,0.5]")
    e = experiment(
        *("problem=quadratic", "problem.eigenvalues=[-1,-2]", "problem.start=[1,0.5]"),
        "measure=[critical_sharpness,directional_sharpness]",
    )
    row, _ = measure(e, e.problem.w0, 0, {}, e.measures)
    assert row["critical_sharpness"] is None and row["critical_sharpness_converged"] is False
    assert row["directional_sharpness"] == pytest.approx(-1.5, rel=1e-6)
