"""What a step is shown: noise with the stated law, the same for both gradients of a step."""

import math

import numpy as np
import pytest
import torch
from conftest import sam
from scipy.stats import kstest, t

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import LossSurface
from sharpcli.landscape.third_derivatives import check_penalty
from sharpcli.losses.half_squared import half_squared
from sharpcli.objectives.crop_flip import crop_flip
from sharpcli.objectives.cutout import cutout
from sharpcli.objectives.gradient_penalty import gradient_penalty
from sharpcli.objectives.label_flips import LabelFlips
from sharpcli.objectives.label_noise import LabelNoise
from sharpcli.objectives.langevin import langevin
from sharpcli.objectives.mixup import mixup
from sharpcli.objectives.sde_noise import sde_noise
from sharpcli.objectives.svag import svag
from sharpcli.objectives.trace_penalty import trace_penalty
from sharpcli.objectives.weight_decay import weight_decay
from sharpcli.objectives.weight_noise import weight_noise
from sharpcli.optimizers.gd import GD
from sharpcli.rng import generator
from sharpcli.rng.laws import draws

X = torch.arange(1.0, 7.0, dtype=torch.float64)[:, None]
Y = torch.zeros(6, 1, dtype=torch.float64)
SIGNS = {"distribution": "signs", "shared": False}
W = torch.tensor([0.5], dtype=torch.float64)
SURFACE = LossSurface(lambda w, x: x * w, half_squared, ((X[:4], Y[:4]), (X[4:], Y[4:])))


def test_label_noise_takes_two_values_independent_for_each_example():
    draws = [
        torch.cat([y for _, y in LabelNoise(delta=0.3, **SIGNS)(SURFACE, W, generator(0, "n", s)).batches])
        for s in range(2000)
    ]
    y = torch.cat(draws, 1)
    assert set(y.unique().tolist()) == {-0.3, 0.3}
    covariance = y @ y.T / y.shape[1]
    assert torch.allclose(
        covariance, 0.09 * torch.eye(6).double(), atol=0.01
    )  # variance delta^2, no correlation
    assert y.mean().abs() < 0.01


def test_a_noisy_surface_gives_the_same_gradient_twice_and_the_clean_one_is_untouched():
    noisy = LabelNoise(delta=0.3, **SIGNS)(SURFACE, W, generator(0, "n", 0))
    assert torch.equal(noisy.grad(W), noisy.grad(W)) and not torch.equal(noisy.grad(W), SURFACE.grad(W))
    assert torch.equal(SURFACE.batches[0][1], Y[:4])


def test_langevin_adds_noise_of_its_own_shape_to_the_gradient_and_nothing_to_the_curvature():
    w = torch.tensor([0.5, -2.0], dtype=torch.float64)
    plain = LossSurface(
        lambda w, x: x @ w[:, None], half_squared, ((torch.eye(2, dtype=torch.float64), torch.zeros(2, 1)),)
    )
    for shape, sizes in (("spherical", [0.3, 0.3]), ("weights", [0.15, 0.6])):
        noisy = [langevin(plain, w, generator(0, "l", s), sigma=0.3, shape=shape) for s in range(3000)]
        xi = torch.stack([surface.grad(w) for surface in noisy]) - plain.grad(w)
        assert (
            torch.allclose(xi.std(0), torch.tensor(sizes).double(), rtol=0.05)
            and xi.mean(0).abs().max() < 0.04
        )
        assert torch.allclose(noisy[0].hvp(w, w), plain.hvp(w, w)) and torch.equal(
            noisy[0].grad(w), noisy[0].grad(w)
        )
    with pytest.raises(Refusal, match="at least 0"):
        langevin(plain, w, generator(0, "l", 0), sigma=-1.0, shape="weights")


def test_weight_noise_is_the_loss_at_moved_weights_and_costs_half_sigma_squared_times_the_trace():
    moved = [weight_noise(SURFACE, W, generator(0, "m", s), sigma=0.2) for s in range(4000)]
    xi = torch.tensor(
        [
            float((surface.grad(W) - SURFACE.grad(W)) / SURFACE.hvp(W, torch.ones(1).double()))
            for surface in moved
        ]
    )
    assert float(xi.std()) == pytest.approx(0.2, rel=0.05) and abs(float(xi.mean())) < 0.02
    rise = sum(float(surface.value(W)) for surface in moved) / len(moved) - float(SURFACE.value(W))
    assert rise == pytest.approx(
        0.02 * float(SURFACE.hvp(W, torch.ones(1).double())), rel=0.15
    )  # sigma^2 / 2 Tr H
    with pytest.raises(Refusal, match="at least 0"):
        weight_noise(SURFACE, W, generator(0, "m", 0), sigma=-1.0)


def test_student_noise_is_student_s_with_variance_one():
    drawn = np.sort(draws("student", generator(0, "t", 0), 20_000))
    assert kstest(drawn * 2**0.5, "t", args=(4,)).pvalue > 0.01
    assert np.mean(np.abs(drawn) > 4) == pytest.approx(
        2 * t.sf(4 * 2**0.5, 4), rel=0.3
    )  # a normal number would be there 6e-5 of the time


def test_weight_decay_has_the_gradient_of_torch_s():
    decayed = weight_decay(SURFACE, W, generator(0, "w", 0), strength=0.1)
    assert torch.allclose(decayed.grad(W), SURFACE.grad(W) + 0.1 * W)
    twice = weight_decay(decayed, W, generator(0, "w", 0), strength=0.1)
    assert torch.allclose(twice.grad(W), SURFACE.grad(W) + 0.2 * W)
    assert torch.allclose(decayed.hvp(W, W), SURFACE.hvp(W, W) + 0.1 * W)


def test_crop_flip_moves_whole_images_and_without_padding_only_flips_them():
    x = torch.arange(2 * 3 * 5 * 5.0).reshape(2, 3, 5, 5) + 1
    surface = LossSurface(lambda w, x: x, half_squared, ((x, torch.zeros(2, 1)),))
    for step in range(8):
        ((moved, _),) = crop_flip(surface, W, generator(0, "c", step), pad=0).batches
        assert all(torch.equal(a, b) or torch.equal(a, b.flip(2)) for a, b in zip(moved, x, strict=True))
    seen = set()
    for step in range(60):
        ((moved, _),) = crop_flip(surface, W, generator(0, "c", step), pad=1).batches
        assert moved.shape == x.shape
        centre = moved[0, 0, 2, 2].item()  # lands on one of the nine neighbours of the old centre
        seen.add(centre)
    assert seen == {x[0, 0, i, j].item() for i in (1, 2, 3) for j in (1, 2, 3)}


def test_cutout_hides_a_square_of_each_image_that_may_reach_over_the_edge():
    x = torch.arange(2 * 3 * 5 * 6.0).reshape(2, 3, 5, 6) + 1
    surface = LossSurface(lambda w, x: x, half_squared, ((x, torch.zeros(2, 1)),))
    hidden, corners = torch.zeros(5, 6), 0
    for step in range(400):
        ((shown, _),) = cutout(surface, W, generator(0, "c", step), size=3).batches
        gone = shown == 0
        assert torch.equal(gone, gone[:, :1].expand_as(gone)) and torch.equal(shown[~gone], x[~gone])
        for image in gone[:, 0]:
            rows, columns = image.any(1).sum().item(), image.any(0).sum().item()
            assert image.sum().item() == rows * columns and rows in (2, 3) and columns in (2, 3)
            corners += rows * columns == 4
            hidden += image
    # a pixel is hidden when the centre is within one of it: 3 of 5 rows, 2 at the edge; as for columns
    chance = torch.tensor([2, 3, 3, 3, 2])[:, None] * torch.tensor([2, 3, 3, 3, 3, 2]) / 30
    assert torch.allclose(hidden / 800, chance, atol=0.06) and corners > 0
    with pytest.raises(Refusal, match="hides all of images of 5 x 6 pixels"):
        cutout(surface, W, generator(0, "c", 0), size=12)


@pytest.mark.parametrize("power", [1, 2])
def test_gradient_penalty_has_the_stated_gradient(power):
    H = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    A = torch.linalg.cholesky(H).T * 2**0.5  # L = 1/2 |A w|^2 / 2 = 1/2 w.H w
    w = torch.tensor([0.7, -1.1], dtype=torch.float64)
    surface = LossSurface(lambda w, x: (x @ w)[:, None], half_squared, ((A, torch.zeros(2, 1).double()),))
    g = surface.grad(w)
    assert torch.allclose(g, H @ w)
    penalized = gradient_penalty(surface, w, generator(0, "g", 0), strength=0.3, power=power)
    assert torch.allclose(penalized.value(w), surface.value(w) + 0.3 * g.norm() ** power)
    added = H @ g / g.norm() if power == 1 else 2 * H @ g
    assert torch.allclose(penalized.grad(w), g + 0.3 * added)
    at_minimum = gradient_penalty(surface, w, generator(0, "g", 0), strength=0.3, power=power).grad(0 * w)
    assert torch.equal(at_minimum, torch.zeros(2).double())
    assert gradient_penalty(surface, w, generator(0, "g", 0), strength=0.0, power=power) is surface


def test_sam_descends_on_the_gradient_penalty_to_first_order_in_rho(experiment):
    e = experiment("data.train_examples=60", "model.widths=[6]", "problem.dtype=float64")
    surface, w, off = e.problem.surface, e.problem.w0, []
    for rho in (0.02, 0.01):
        penalized = gradient_penalty(surface, w, generator(0, "g", 0), strength=rho, power=1)
        step = (w - sam(rho, True, GD()).step(w, (), surface.grad, 1.0)[0]) - penalized.grad(w)
        off.append(float(step.norm()))
    assert off[0] / off[1] == pytest.approx(4, rel=0.1)  # what is left is of the order rho^2


ONE_HOT = torch.eye(4, dtype=torch.float64)[torch.arange(4000) % 4]
CLASSES = LossSurface(
    lambda w, x: x * w,
    half_squared,
    ((torch.zeros(2500, 4).double(), ONE_HOT[:2500]), (torch.zeros(1500, 4).double(), ONE_HOT[2500:])),
)


def test_flipped_labels_are_of_another_class_each_as_often_and_drawn_again_at_each_step():
    first, second = (
        torch.cat([y for _, y in LabelFlips(0.3)(CLASSES, W, generator(0, "n", s)).batches]) for s in (0, 1)
    )
    assert not torch.equal(first, second) and torch.equal(first.sum(1), torch.ones(4000).double())
    ahead = (first.argmax(1) - ONE_HOT.argmax(1)) % 4
    shares = torch.bincount(ahead, minlength=4) / 4000
    for share, expected in zip(shares.tolist(), (0.7, 0.1, 0.1, 0.1), strict=True):
        assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / 4000)
    again = LabelFlips(0.3)(CLASSES, W, generator(0, "n", 0)).joined[1]
    assert torch.equal(first, again)
    assert torch.equal(LabelFlips(0.0)(CLASSES, W, generator(0, "n", 0)).joined[1], ONE_HOT)
    always = LabelFlips(1.0)(CLASSES, W, generator(0, "n", 0)).joined[1]
    assert not (always.argmax(1) == ONE_HOT.argmax(1)).any()


def test_a_flip_keeps_the_values_of_targets_that_are_not_one_hot():
    y = torch.tensor([[-0.1, 0.9, -0.1]], dtype=torch.float64)
    surface = CLASSES.on([(torch.zeros(1, 3).double(), y)])
    flipped = LabelFlips(1.0)(surface, W, generator(0, "n", 0)).joined[1]
    assert sorted(flipped[0].tolist()) == [-0.1, -0.1, 0.9] and flipped.argmax() != 1


def test_flips_refuse_what_has_no_classes():
    with pytest.raises(Refusal, match="two classes or more"):
        LabelFlips(0.1)(SURFACE, W, generator(0, "n", 0))
    tokens = SURFACE.on([(X, torch.zeros(6, 3, dtype=torch.long))])
    with pytest.raises(Refusal, match="two classes or more"):
        LabelFlips(0.1)(tokens, W, generator(0, "n", 0))
    with pytest.raises(Refusal, match="probability=1.5"):
        LabelFlips(1.5)


def test_mixup_mixes_inputs_and_targets_alike_by_a_beta_distributed_weight():
    surface = SURFACE.on([(X, 10 * X), (X + 6, 10 * X + 60)])
    weights = []
    for step in range(400):
        mixed = mixup(surface, W, generator(0, "m", step), alpha=0.4)
        assert [len(y) for _, y in mixed.batches] == [6, 6]
        x, y = mixed.joined
        assert torch.allclose(10 * x, y)  # the same partner and the same weight
        assert x.sum() == pytest.approx(78)  # a permutation
        moved = (x[:, 0] - torch.arange(1.0, 13.0)).abs()
        if moved.max() > 0:
            rng = generator(0, "m", step)
            gammas = torch._standard_gamma(torch.full((2,), 0.4).double(), generator=rng)
            c = float(gammas[0] / gammas.sum())
            other = torch.randperm(12, generator=rng)
            whole = torch.arange(1.0, 13.0).double()
            assert torch.allclose(x[:, 0], c * whole + (1 - c) * whole[other])
            weights.append(c)
    assert kstest(weights, "beta", args=(0.4, 0.4)).pvalue > 1e-3
    assert mixup(surface, W, generator(0, "m", 0), alpha=0.0) is surface
    with pytest.raises(Refusal, match="alpha >= 0"):
        mixup(surface, W, generator(0, "m", 0), alpha=-1.0)
    with pytest.raises(Refusal, match="real inputs"):
        mixup(SURFACE.on([(X.long(), Y)]), W, generator(0, "m", 0), alpha=1.0)


def test_label_noise_of_other_laws_has_their_variance_and_may_be_shared():
    for law, variance in (("uniform", 0.03), ("normal", 0.09)):
        told = {"delta": 0.3, "distribution": law, "shared": False}
        y = torch.cat(
            [b for s in range(2000) for _, b in LabelNoise(**told)(SURFACE, W, generator(0, "n", s)).batches]
        )
        assert y.var().item() == pytest.approx(variance, rel=0.05) and y.mean().abs() < 0.01
    shared = LabelNoise(delta=0.3, distribution="normal", shared=True)(SURFACE, W, generator(0, "n", 0))
    assert len(torch.cat([y for _, y in shared.batches]).unique()) == 1


def test_trace_penalty_is_the_trace_in_the_mean_and_its_gradient_a_third_derivative():
    surface = LossSurface(lambda w, x: x * w.pow(3), half_squared, ((X, Y),))  # L = 1/2 mean x^2 w^6
    w, mean_square = W, X.square().mean()
    penalized = trace_penalty(surface, w, generator(0, "t", 0), strength=0.1, probes=1)
    assert torch.allclose(penalized.value(w), surface.value(w) + 0.1 * 15 * mean_square * w**4)
    assert torch.allclose(penalized.grad(w), surface.grad(w) + 0.1 * 60 * mean_square * w**3)
    assert trace_penalty(surface, w, generator(0, "t", 0), strength=0.0, probes=1) is surface
    both = weight_decay(penalized, w, generator(0, "w", 0), strength=0.1)
    assert torch.allclose(both.grad(w), penalized.grad(w) + 0.1 * w)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_penalty_whose_gradient_torch_computes_wrongly_is_refused_before_the_first_step(
    sharp, folder, norm
):
    """torch.func gives batch norm a wrong third derivative (torch 2.14)."""
    network = (
        f"model=resnet model.depth=8 model.width=4 model.norm={norm} model.groups=2 data.train_examples=16"
    )
    how = "objective=[trace_penalty] method=gd steps=1 measure=[scores] loss=cross_entropy"
    said = sharp("train", *network.split(), *how.split(), f"runs_dir={folder}")
    if norm == "group":
        assert said.code == 0, said.err
    else:
        assert (
            said.code == 2
            and "objective.trace_penalty: the gradient of what it adds to the loss is" in said.err
        )
        assert len(said.err.strip().splitlines()) == 1 and not list(folder.glob("*/metrics.jsonl"))


SINGLE = """
import math, torch

class Single(torch.nn.Module):  # evaluates in float32 alone
    def __init__(self, inputs, outputs):
        super().__init__()
        self.linear = torch.nn.Linear(inputs, outputs)

    def forward(self, x):
        return torch.nn.functional.linear(x.flatten(1).float(), self.linear.weight, self.linear.bias)

def net(shape, outputs):
    return Single(math.prod(shape), outputs)
"""


@pytest.mark.parametrize("objective", ["sde_noise", "trace_penalty"])
def test_of_a_model_that_float64_does_not_fit_nothing_is_known_and_it_trains(
    sharp, folder, monkeypatch, objective
):
    (folder / "single_precision.py").write_text(SINGLE)
    monkeypatch.syspath_prepend(str(folder))
    words = ["model._target_=single_precision.net", "~model.widths", "~model.activation", "method=gd"]
    words += ["trust=[single_precision]", "data.train_examples=20", "measure=[scores]", "steps=1"]
    said = sharp("train", *words, f"objective=[{objective}]", f"runs_dir={folder / 'runs'}")
    assert said.code == 0, said.err


def test_a_penalty_of_one_s_own_with_another_gradient_is_refused():
    w = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    check_penalty(lambda w: w.pow(4).sum() + w.abs().sum(), w, "of_mine")
    check_penalty(lambda w: 0.0 * w.sum(), w, "nothing")
    with pytest.raises(Refusal, match=r"objective.of_mine: the gradient of what it adds .* wrong: \S+ along"):
        check_penalty(lambda w: (w * w.detach()).square().sum(), w, "of_mine")


@pytest.mark.parametrize("amplified", [1.0, 3.0])
def test_svag_keeps_the_mean_and_scales_the_covariance_by_l(amplified):
    x = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.randn(4, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    w = torch.tensor([0.3, -0.7], dtype=torch.float64)
    whole = LossSurface(lambda w, x: (x @ w)[:, None], half_squared, ((x, y),))
    singles = torch.stack([whole.on([(x[i : i + 1], y[i : i + 1])]).grad(w) for i in range(4)])
    pairs = [
        (i, j) for i in range(4) for j in range(4)
    ]  # every pair drawn with replacement: the law, exactly
    rng = generator(0, "s", 0)
    drawn = torch.stack(
        [svag(whole.on([(x[[i, j]], y[[i, j]])]), w, rng, l=amplified).grad(w) for i, j in pairs]
    )
    assert torch.allclose(drawn.mean(0), singles.mean(0))
    assert torch.allclose(drawn.T.cov(correction=0), amplified * singles.T.cov(correction=0))
    if amplified > 1:  # without its square root the covariance would not be that
        assert not torch.allclose(drawn.T.cov(correction=0), amplified**2 * singles.T.cov(correction=0))


def test_sde_noise_has_the_covariance_of_the_gradients_of_sgd():
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y, w = torch.ones(5, 1, dtype=torch.float64), torch.tensor([0.3, -0.7], dtype=torch.float64)
    surface = LossSurface(lambda w, x: (x @ w)[:, None], half_squared, ((x, y),))
    singles = torch.stack([surface.on([(x[i : i + 1], y[i : i + 1])]).grad(w) for i in range(5)])
    told = {"sgd_lr": 0.1, "dt": 0.05, "batch": 2, "delta": 0.4}
    for sampling, right in (
        (True, singles.T.cov(correction=0) + 0.16 * x.T @ x / 5),
        (False, 0.16 * x.T @ x / 5),
    ):
        made = (
            sde_noise(surface, w, generator(0, "e", s), 0.05, **told, sampling=sampling) for s in range(4000)
        )
        drawn = torch.stack([one.grad(w) for one in made]) - surface.grad(w)
        assert torch.allclose(drawn.T.cov(), right * 0.1 / 0.05 / 2, rtol=0.1, atol=0.02)
        assert (drawn.mean(0).abs() < 4 * drawn.std(0) / 4000**0.5).all()


def test_sde_noise_of_cross_entropy_has_its_covariance():
    x = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.eye(3, dtype=torch.float64)[[0, 1, 2, 0, 1, 2]]
    w = torch.linspace(-1, 1, 6, dtype=torch.float64)
    surface = LossSurface(lambda w, x: x @ w.view(2, 3), torch.nn.functional.cross_entropy, ((x, y),))
    singles = torch.stack([surface.on([(x[i : i + 1], y[i : i + 1])]).grad(w) for i in range(6)])
    told = {"sgd_lr": 0.1, "dt": 0.05, "batch": 2, "delta": 0.0}
    made = (sde_noise(surface, w, generator(0, "e", s), 0.05, **told, sampling=True) for s in range(4000))
    drawn = torch.stack([one.grad(w) for one in made]) - surface.grad(w)
    assert torch.allclose(drawn.T.cov(), singles.T.cov(correction=0) * 0.1 / 0.05 / 2, rtol=0.1, atol=0.02)


def test_the_sde_of_a_linear_model_is_the_ornstein_uhlenbeck_process():
    # n = 1 and 4,000 outputs w_j x_j: independent dX = -h X dt + sqrt(eta h) delta dW with h = x^2
    m, h, eta, delta, dt, steps = 4000, 0.8, 0.1, 0.5, 0.01, 200
    surface = LossSurface(
        lambda w, x: w[None] * x,
        half_squared,
        ((torch.full((1, m), h**0.5).double(), torch.zeros(1, m).double()),),
    )
    w = torch.ones(m, dtype=torch.float64)
    for step in range(steps):
        noisy = sde_noise(
            surface, w, generator(0, "ou", step), dt, sgd_lr=eta, dt=dt, batch=1, delta=delta, sampling=False
        )
        w = w - dt * noisy.grad(w)
    t = dt * steps
    assert w.mean().item() == pytest.approx(math.exp(-h * t), abs=0.01)
    assert w.var().item() == pytest.approx(eta * delta**2 / 2 * (1 - math.exp(-2 * h * t)), rel=0.08)


@pytest.mark.parametrize(
    "words",
    [
        ["schedule=cosine"],
        ["schedule=multistep", "schedule.at=[0.4]"],
        ["optimizer=momentum"],
        ["optimizer=sign_descent"],
        ["objective.sde_noise.dt=0.5"],
    ],
)
def test_sde_noise_refuses_steps_of_another_time(experiment, words):
    """The noise of a step of time dt is sqrt(lr dt) Sigma^(1/2), of another size in another."""
    with pytest.raises(Refusal, match="sde_noise.dt"):
        experiment("problem=uv", "method=sde", "steps=9", *words)


def test_sde_noise_of_momentum_takes_the_time_of_its_steps(experiment):
    words = ["optimizer=momentum", "optimizer.beta=0.5", "lr=0.1"]
    assert experiment("problem=uv", "method=sde", *words, "objective.sde_noise.dt=0.2")


def test_objectives_refuse_what_is_out_of_range():
    for make in (
        lambda: sde_noise(
            SURFACE, W, generator(0, "", 0), 0.1, sgd_lr=0.0, dt=0.1, batch=1, delta=0.1, sampling=True
        ),
        lambda: trace_penalty(SURFACE, W, generator(0, "", 0), strength=-1.0, probes=1),
        lambda: trace_penalty(SURFACE, W, generator(0, "", 0), strength=1.0, probes=0),
        lambda: svag(SURFACE, W, generator(0, "", 0), l=0.5),
        lambda: svag(SURFACE.on(SURFACE.batches[:1]).on([(X[:3], Y[:3])]), W, generator(0, "", 0), l=2.0),
        lambda: LabelNoise(delta=-1.0, **SIGNS)(SURFACE, W, generator(0, "", 0)),
        lambda: weight_decay(SURFACE, W, generator(0, "", 0), strength=-1.0),
        lambda: crop_flip(SURFACE, W, generator(0, "", 0), pad=2),
        lambda: cutout(SURFACE, W, generator(0, "", 0), size=2),
        lambda: gradient_penalty(SURFACE, W, generator(0, "", 0), strength=-1.0, power=1),
        lambda: gradient_penalty(SURFACE, W, generator(0, "", 0), strength=1.0, power=3),
    ):
        with pytest.raises(Refusal):
            make()


def test_generators_depend_on_seed_consumer_and_step_and_on_nothing_else():
    def draw(*key):
        return torch.randn(3, generator=generator(*key)).tolist()

    assert draw(0, "a", 1) == draw(0, "a", 1)
    assert len({tuple(draw(*key)) for key in ((0, "a", 1), (1, "a", 1), (0, "b", 1), (0, "a", 2))}) == 4
