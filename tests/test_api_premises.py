"""What `sharp.measure` assumes of a user's model, loss and data is checked: the right number, or one line."""

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

import sharpcli as sharp

G = torch.Generator().manual_seed(0)
X, Z = torch.randn(30, 4, generator=G), torch.randn(30, 3, generator=G)
Y = torch.randint(0, 3, (30,), generator=G)
CE = F.cross_entropy


def mlp():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def of(forward, **parts):
    """A module with these parts and this forward."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(1)
            for name, make in parts.items():
                setattr(self, name, make())

        def forward(self, *args, **kwargs):
            return forward(self, *args, **kwargs)

    return Net()


def lambda_1(*args, **kwargs):
    return sharp.measure(*args, tol=1e-6, **kwargs)["lambda_1"]


def test_a_parameter_that_a_list_holds_is_refused_and_named():
    net = of(lambda s, x: s.b(torch.tanh(x @ s.held[0])), a=lambda: nn.Parameter(torch.randn(4, 5)))
    net.b, net.held = nn.Linear(5, 3), [net.a]
    with pytest.raises(sharp.Refused, match="parameter a in another way than as an attribute"):
        sharp.measure(net, CE, (X, Y))
    net.held = nn.ParameterList([net.a])
    assert lambda_1(net, CE, (X, Y)) > 0


@pytest.mark.parametrize("seed", range(5))
def test_spectral_norm_in_training_is_refused_and_measured_in_eval_mode(seed):
    torch.manual_seed(seed)
    net = nn.Sequential(spectral_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3))
    with pytest.raises(sharp.Refused, match="products of this model are wrong"):
        sharp.measure(net, CE, (X, Y))
    assert lambda_1(net, CE, (X, Y), eval_mode=True) > 0


def test_a_mean_over_targets_is_seen_in_any_batch():
    x, y = torch.randn(2, 40, 6, 4, generator=G), torch.randint(1, 3, (2, 40, 6), generator=G)
    y[1, 8:, 1:] = 0

    def loss(outputs, targets):
        return CE(outputs.flatten(0, 1), targets.flatten(), ignore_index=0)

    with pytest.raises(sharp.Refused, match="no mean over the examples"):
        sharp.measure(nn.Linear(4, 3), loss, list(zip(x, y, strict=True)), ["trace"])


def test_the_noise_of_examples_that_do_not_count_alike_is_refused():
    x, y = torch.randn(16, 5, 4, generator=G), torch.randint(0, 3, (16, 5), generator=G)
    y[torch.rand(16, 5, generator=G) < 0.5] = -100

    def loss(outputs, targets):
        return CE(outputs.flatten(0, 1), targets.flatten())

    with pytest.raises(sharp.Refused, match="no mean over examples, of which each counts alike"):
        sharp.measure(
            nn.Linear(4, 3), loss, (x, y), ["gradient_noise"], weight=lambda b: (b[1] != -100).sum()
        )


def test_the_noise_needs_outputs_with_the_examples_first_and_takes_one_number_each():
    turned = of(lambda s, x: s.a(x).T, a=lambda: nn.Linear(4, 3))
    with pytest.raises(sharp.Refused, match="along the first dimension"):
        sharp.measure(turned, lambda o, t: F.mse_loss(o.T, t), (X, Z), ["gradient_noise"])
    flat = of(lambda s, x: s.a(x).squeeze(-1), a=lambda: nn.Linear(4, 1))
    column = of(lambda s, x: s.a(x), a=lambda: nn.Linear(4, 1))
    one, other = (
        sharp.measure(net, F.mse_loss, (X, y), ["gradient_noise"])["noise_trace"]
        for net, y in ((flat, Z[:, 0]), (column, Z[:, :1]))
    )
    assert one == pytest.approx(other, rel=1e-5)


def test_a_generator_that_refills_its_tensors_is_kept_as_it_was_read():
    def refilled():
        x, y = torch.empty(10, 4), torch.empty(10, dtype=torch.long)
        for i in range(0, 30, 10):
            x.copy_(X[i : i + 10]), y.copy_(Y[i : i + 10])
            yield x, y

    assert lambda_1(mlp(), CE, refilled()) == pytest.approx(lambda_1(mlp(), CE, (X, Y)), rel=1e-5)


def test_pieces_of_a_batch_hold_at_least_two_examples(monkeypatch):
    squeezed = of(lambda s, x: s.a(x).squeeze(), a=lambda: nn.Linear(4, 3))
    whole = lambda_1(squeezed, CE, (X[:13], Y[:13]))
    monkeypatch.setattr("sharpcli.landscape.surface.PIECE_BYTES", 100)
    monkeypatch.setattr("sharpcli.landscape.surface.PIECE_VECTORS", 0)
    assert lambda_1(squeezed, CE, (X[:13], Y[:13])) == pytest.approx(whole, rel=1e-5)


def test_a_loss_of_the_model_and_a_batch_needs_no_certain_name():
    expected = lambda_1(mlp(), CE, (X, Y))

    def loss(m, batch):
        x, y = batch
        return CE(m(x), y)

    module = of(lambda s, model, batch: loss(model, batch))
    assert (
        lambda_1(mlp(), loss, (X, Y)) == lambda_1(mlp(), module, (X, Y)) == pytest.approx(expected, rel=1e-5)
    )
    named = of(lambda s, x: {"o": s.net(x)}, net=mlp)
    assert lambda_1(named, lambda m, b: CE(m(b[0])["o"], b[1]), (X, Y)) == pytest.approx(expected, rel=1e-5)


def test_a_mask_as_long_as_the_examples_is_not_cut():
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
    net = of(lambda s, x, mask: s.o(s.m(x, src_mask=mask)), m=lambda: layer, o=lambda: nn.Linear(4, 3))
    mask = torch.triu(torch.full((10, 10), -torch.inf), 1)
    x, y = torch.randn(10, 10, 4, generator=G), torch.randint(0, 3, (10, 10), generator=G)

    def loss(outputs, targets):
        return CE(outputs.flatten(0, 1), targets.flatten())

    with_mask = lambda_1(net, loss, [({"x": x, "mask": mask}, y)])
    inside = of(lambda s, x: net(x, mask))
    inside.net = net
    assert with_mask == pytest.approx(lambda_1(inside, loss, (x, y)), rel=1e-5)


def test_what_a_model_and_a_loss_keep_is_as_before():
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.seen, self.rng = mlp(), [1], torch.Generator()

        def forward(self, x):
            self.seen.append(self.net(x))
            torch.randn(2, generator=self.rng)
            return self.seen[-1]

    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, outputs, targets):
            self.calls += 1
            return CE(outputs, targets)

    net, loss = Keeps(), Counts()
    before = net.rng.get_state()
    sharp.measure(net, loss, (X, Y))
    assert net.seen == [1] and torch.equal(net.rng.get_state(), before) and float(loss.calls) == 0


H = sharp.hessian(mlp(), CE, (X, Y))
WRONG = {
    "params=[]": lambda: sharp.measure(mlp(), CE, (X, Y), params=[]),
    "params=5": lambda: H.block(5),
    "graph_gb=None": lambda: sharp.measure(mlp(), CE, (X, Y), graph_gb=None),
    "basis_gb=-1": lambda: sharp.measure(mlp(), CE, (X, Y), basis_gb=-1),
    "eval_mode='x'": lambda: sharp.measure(mlp(), CE, (X, Y), eval_mode="x"),
    "seed=1.5": lambda: sharp.measure(mlp(), CE, (X, Y), seed=1.5),
    "sharpness has 5": lambda: sharp.measure(mlp(), CE, (X, Y), {"sharpness": 5}),
    "0.weight: a ndarray": lambda: H @ {"0.weight": np.ones((5, 4), "f")},
    "is empty": lambda: H @ torch.ones(43, 0),
    "is complex": lambda: H.scipy_operator() @ (1j * np.ones(43)),
    "tol='x'": lambda: H.eigenpairs(tol="x"),
    "rtol=None": lambda: H.trace(rtol=None),
    "probes=2.5": lambda: H.density(probes=2.5),
    "steps='x'": lambda: H.density(steps="x"),
    "probes=1: give a whole number, at least 2": lambda: H.grad_trace(probes=1),
    "no shape yet": lambda: sharp.measure(nn.LazyLinear(3), CE, (X, Y)),
    "sparse gradients": lambda: sharp.measure(
        nn.Sequential(nn.Embedding(3, 4, sparse=True), nn.Linear(4, 3)), CE, (Y, Y)
    ),
    "on the meta device": lambda: sharp.measure(mlp(), CE, (X.to("meta"), Y)),
    "infinity in the inputs": lambda: sharp.measure(mlp(), CE, (X.clone().fill_(torch.inf), Y)),
    "every=0": lambda: sharp.Watch(mlp(), CE, (X, Y), every=0),
    "sinks=5": lambda: sharp.Watch(mlp(), CE, (X, Y), sinks=5),
    "runs_dir=5": lambda: sharp.Watch(mlp(), CE, (X, Y), runs_dir=5),
    "k='5': a text; give 5": lambda: sharp.measure(mlp(), CE, (X, Y), k="5"),
    "tol='1e-2': a text": lambda: sharp.measure(mlp(), CE, (X, Y), {"sharpness": {"tol": "1e-2"}}),
    "a NoneType is no state": lambda: sharp.Watch(mlp(), CE, (X, Y)).load_state_dict(None),
    "where=5: give a text": lambda: sharp.runs("runs", where=5),
}


@pytest.mark.parametrize("said", WRONG)
def test_a_wrong_argument_is_one_line_that_names_it(said):
    with pytest.raises(sharp.Refused) as refused:
        WRONG[said]()
    assert said in str(refused.value) and "\n" not in str(refused.value) and len(str(refused.value)) < 300


def test_what_was_measured_goes_to_another_process():
    found = sharp.measure(mlp(), CE, (X, Y), ["sharpness", "trace"], k=2)
    came = pickle.loads(pickle.dumps(found))
    assert came.row == found.row and str(came) == str(found)
    for mine, theirs in zip(found.vectors("sharpness"), came.vectors("sharpness"), strict=True):
        assert list(mine) == list(theirs) and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_numbers_of_numpy_and_no_limit_are_taken():
    found = sharp.measure(mlp(), CE, (X, Y), k=np.int64(2), examples=np.int64(20), graph_gb=float("inf"))
    assert found["lambda_2"] > 0
    assert len(H.eigenpairs(np.int64(2)).values) == 2


def test_the_exact_diagonal_is_that_of_the_dense_matrix():
    assert torch.allclose(H.diagonal(exact=True)[0], H.dense().diagonal(), atol=1e-6)
