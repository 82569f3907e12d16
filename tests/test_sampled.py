"""What a sample of the examples shows: how the Hessian has changed, and where a solve has not looked."""

import statistics
from dataclasses import replace

import pytest
import torch
from torch import nn

import sharpcli as sharp
from sharpcli.landscape.batches import Examples
from sharpcli.landscape.surface import LEAST_SAMPLED, LossSurface
from sharpcli.linalg.lanczos import from_remembered, largest
from sharpcli.linalg.nearby import Remembered
from sharpcli.linalg.sampled import Sampled


class Towers(nn.Module):
    """Two networks side by side: their Hessian has two blocks, and no product leads from one to the other."""

    def __init__(self, width):
        super().__init__()
        self.a, self.b = (nn.Sequential(nn.Linear(12, width), nn.Tanh(), nn.Linear(width, 1)) for _ in "ab")

    def forward(self, x):
        return torch.cat([self.a(x), self.b(x)], 1)


def half_squared(outputs, targets):
    return 0.5 * (outputs - targets).square().sum(1).mean()


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("width", [24, 7])  # 674 weights are tracked, 198 start a block
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("n", [60, 1200])  # all examples, and a sample of them
def test_an_eigenvalue_of_another_block_that_overtakes_is_seen(width, seed, n):
    torch.manual_seed(seed)
    x, y = torch.randn(n, 12), torch.randn(n, 2)
    if n > 60:
        y = torch.stack([x[:, 0], x[:, 1:3].prod(1)], 1) + y
    model = Towers(width)
    with torch.no_grad():
        for p in model.b.parameters():
            p.mul_(0.5)
    groups = [{"params": model.a.parameters(), "lr": 1e-3}, {"params": model.b.parameters(), "lr": 0.15}]
    optimizer = torch.optim.SGD(groups)
    watch = sharp.Watch(model, half_squared, (x, y), every=10)
    for _ in range(200):
        optimizer.zero_grad()
        half_squared(model(x), y).backward()
        optimizer.step()
        if watch.step():
            truth = sharp.measure(model, half_squared, (x, y), tol=1e-6)
            error = abs(watch.last["lambda_1"] - truth["lambda_1"])
            assert error <= watch.last.error("lambda_1") + truth.error("lambda_1")


@pytest.mark.parametrize("d", [8, 30])
@pytest.mark.parametrize("n", [200, 3000])
def test_the_copies_of_a_multiple_eigenvalue_are_counted(d, n):
    # a linear classifier of zero weights: H = (I - 11^T / K) / K x E[x x^T], every eigenvalue K - 1 = 9 times
    torch.manual_seed(n + d)
    x, y = torch.randn(n, d), torch.randint(0, 10, (n,))
    model = nn.Linear(d, 10)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    inputs = torch.cat([x, torch.ones(n, 1)], 1)
    truth = torch.linalg.eigvalsh(inputs.T @ inputs / n)[-1] / 10
    for k in (2, 5):
        found = sharp.measure(model, nn.functional.cross_entropy, (x, y), k=k)
        for i in range(1, k + 1):
            error = found.error(f"lambda_{i}") + 1e-12
            assert abs(found[f"lambda_{i}"] - float(truth)) <= error, (k, i)


def normal(*shape, seed):
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draws, dtype=torch.float64)


def rotated(lam, turn, t):
    turns = torch.linalg.matrix_exp(t * (turn - turn.T))
    return turns @ torch.diag(lam) @ turns.T


D = 300
SPECTRUM = torch.tensor(
    [10, 9.8, 9.6, 9.3, 9.1, 8.8, *torch.linspace(-1, 5, D - 6).tolist()], dtype=torch.float64
)


def products_along(times, turn, crowd_turn, sampling):
    """The products of each solve but the first where A turns by `turn`, its six largest eigenvectors among
    themselves by `crowd_turn`, from one of the `times` to the next; `sampling` says whether a sample of the
    examples shows nothing, what has been missed, or also how A has changed."""
    turns, crowd = turn * normal(D, D, seed=1) / D**0.5, torch.zeros(D, D)
    crowd[:6, :6] = crowd_turn * normal(6, 6, seed=2)
    noise = normal(D, D, seed=3) / D**0.5
    noise, other = 0.5 * (noise + noise.T), 0.03 * normal(D, D, seed=4) / D**0.5
    remembered, products, previous = None, [], None
    for t in times:
        A = rotated(SPECTRUM, turns + crowd, float(t))
        if remembered is None:
            ritz = largest(lambda V, A=A: V @ A, normal(1, D, seed=5), 1, 1e-3, D)
        else:
            change = A - previous + other + other.T

            def near(V, A=A):
                return V @ (A + noise)

            def changed(V, change=change):
                return V @ change

            sampled = Sampled(near, changed, 0.02, lambda t=t: normal(D, seed=100 + int(10 * t)))
            ritz = from_remembered(
                lambda V, A=A: V @ A,
                remembered,
                1,
                1e-3,
                D,
                D,
                fresh=lambda t=t: normal(D, seed=100 + int(10 * t)),
                sampled={"none": None, "missed": replace(sampled, change=None), "change": sampled}[sampling],
            )
            products.append(ritz.products)
        truth = torch.linalg.eigvalsh(A)[-1]
        assert abs(ritz.values[0] - truth) <= ritz.errors[0] <= 1.001e-3 * truth
        remembered, previous = ritz.remembered, A
    return products


def test_a_sample_s_change_spares_a_quarter_of_the_products_where_a_crowd_turns():
    spent = {
        sampling: statistics.mean(products_along(range(25), 0.02, 0.4, sampling)[1:])
        for sampling in ("none", "change")
    }
    assert spent["change"] < 0.75 * spent["none"]


def test_a_sample_is_asked_where_the_vectors_jump_though_they_were_well_predicted():
    smooth = torch.arange(0, 2, 0.1).tolist()
    for jump in (0.5, 1.0):
        times = [*smooth, 1.9 + jump]
        spent = {way: products_along(times, 0.3, 0.2, way)[-1] for way in ("missed", "change")}
        assert spent["change"] < 0.75 * spent["missed"]


def test_the_foretold_pairs_are_those_of_the_changed_matrix_to_second_order():
    lam = torch.cat([torch.tensor([10.0, 9.9, 9.7, 9.5]), torch.linspace(-0.1, 0.1, 36)])
    A, small = rotated(lam, normal(40, 40, seed=1), 1.0), 1e-3 * normal(40, 40, seed=2)
    values, V = torch.linalg.eigh(A)
    values, U = values.flip(0)[:4], V.T.flip(0)[:4]
    before = Remembered.new(U, values, torch.zeros(4), U[:1])
    after, sine = before.foretold(U @ (small + small.T))
    truth, X = torch.linalg.eigh(A + small + small.T)
    assert torch.allclose(after.values, truth.flip(0)[:4], atol=1e-5)
    assert torch.allclose(after.vectors @ after.vectors.T, torch.eye(4), atol=1e-12)
    missing = 1 - (after.vectors @ X[:, -4:]).square().sum(1)  # of the squared lengths, in the true span
    assert float(missing.max()) ** 0.5 < 0.1 * sine
    assert sine == pytest.approx(float((1 - (U @ X[:, -4:]).square().sum(1)).max()) ** 0.5, rel=0.3)


def test_what_a_sample_foretells_of_a_long_jump_states_no_error_that_is_too_small():
    times = [*torch.arange(0, 2, 0.1).tolist(), 4.9]  # the vectors turn by 0.5: a first-order model is off
    assert len(products_along(times, 0.3, 0.2, "change")) == len(times) - 1


def surface_of(batches, joint=False):
    def predict(w, x):
        return (x.tree["x"] if isinstance(x, Examples) else x) @ w

    return LossSurface(predict, lambda outputs, y: (outputs - y).square().mean(), tuple(batches), joint=joint)


def test_a_sample_leaves_out_batches_without_a_target_that_counts():
    x, y = torch.randn(4000, 3), torch.randn(4000)
    halves = [(x[:2000], y[:2000]), (x[2000:], torch.full((2000,), torch.nan))]
    surface = replace(surface_of(halves), weigh=lambda batch: float(batch[1].isfinite().sum()))
    assert [len(b[1]) for b in surface.sample(torch.Generator().manual_seed(0)).batches] == [50]


def test_a_sample_is_of_every_batch_of_whole_batches_or_of_all():
    x, y = torch.randn(4000, 3), torch.randn(4000)
    halves = [(x[:2000], y[:2000]), (x[2000:], y[2000:])]
    draws = torch.Generator().manual_seed(0)
    sample = surface_of(halves).sample(draws)
    assert [len(b[1]) for b in sample.batches] == [50, 50] and sample.examples == 100
    few = [(x[i : i + 40], y[i : i + 40]) for i in range(0, 4000, 40)]
    whole = surface_of(few, joint=True).sample(draws)
    assert [len(b[1]) for b in whole.batches] == [40, 40, 40]
    uncut = [(Examples({"x": a}, len(a), whole=True), b) for a, b in few]
    assert {len(b[1]) for b in surface_of(uncut).sample(draws).batches} == {40}
    for all_of in (surface_of([(x, y)], joint=True), surface_of([(x[: 2 * LEAST_SAMPLED - 1], y[:127])])):
        assert all_of.sample(draws) is all_of
