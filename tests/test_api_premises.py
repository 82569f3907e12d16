"""What `sharp.measure` assumes of a user's model, loss and data is checked: the right number, or one line."""

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune
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
    with pytest.raises(sharp.Refused, match="parameter a in another way"):
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
    "k=1000: the model has 43 parameters": lambda: sharp.measure(mlp(), CE, (X, Y), k=1000),
    "give batch_size=": lambda: sharp.measure(mlp(), CE, (X, Y), ["batch_sharpness"]),
    "or the measures manifold,projected": lambda: sharp.measure(mlp(), CE, (X, Y), ["uv_flow"]),
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


def zero_head(net):
    nn.init.zeros_(net[-1].weight)
    nn.init.zeros_(net[-1].bias)
    return net


@pytest.mark.parametrize("make", [mlp, lambda: mlp().to(torch.bfloat16), lambda: zero_head(mlp())])
def test_a_term_of_the_parameters_in_a_loss_of_outputs_is_refused(make):
    net = make()
    x = X.to(net[0].weight.dtype)
    with pytest.raises(sharp.Refused, match="depends on the parameter 0.weight in another way"):
        sharp.measure(
            net, lambda f, y: CE(f, y) + 1e-6 * sum(p.pow(2).sum() for p in net.parameters()), (x, Y)
        )
    net, held = mlp(), lambda_1(mlp(), CE, (X, Y))

    def with_l2(model, batch):
        return CE(model(batch[0]), batch[1]) + 0.05 * sum(p.pow(2).sum() for p in model.parameters())

    assert lambda_1(net, with_l2, (X, Y)) == pytest.approx(held + 0.1, rel=1e-4)


def test_a_list_s_parameter_is_seen_behind_a_head_of_zeros():
    net = of(
        lambda s, x: s.b(F.linear(x, s.held[0]).tanh()), a=lambda: nn.Linear(4, 5), b=lambda: nn.Linear(5, 3)
    )
    nn.init.zeros_(net.b.weight)
    net.held = [net.a.weight]
    with pytest.raises(sharp.Refused, match=r"parameter a.weight in another way"):
        sharp.measure(net, CE, (X, Y))


def test_a_loss_that_reads_what_a_hook_has_stored_is_no_loss_of_outputs():
    net, seen = mlp(), {}
    net[1].register_forward_hook(lambda module, inputs, output: seen.update(h=output))
    with pytest.raises(sharp.Refused, match="another way than by the model's outputs"):
        sharp.measure(net, lambda f, y: CE(f, y) + seen["h"].square().mean(), (X, Y))


def test_batches_are_weighed_rightly_before_the_outputs_differ():
    wrong, y = "no mean over the examples", Y.clone()
    y[9:15] = -100  # targets that do not count, in one batch of three
    batches = [(X[i : i + 10], y[i : i + 10]) for i in (0, 10, 20)]
    with pytest.raises(sharp.Refused, match=wrong):
        sharp.measure(zero_head(mlp()), CE, batches)
    found = lambda_1(zero_head(mlp()), CE, batches, weight=lambda b: int((b[1] != -100).sum()))
    kept = y >= 0
    assert found == pytest.approx(lambda_1(zero_head(mlp()), CE, (X[kept], y[kept])), rel=1e-4)
    norm = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    with pytest.raises(sharp.Refused, match="sums over them"):
        sharp.measure(norm, lambda model, b: CE(model(b[0]), b[1], reduction="sum"), batches)
    assert lambda_1(norm, lambda model, b: CE(model(b[0]), b[1]), [(X, Y)]) > 0


def test_what_counts_the_nodes_of_graphs_is_asked_for():
    def graph(n, edges):
        return {"edges": torch.zeros(2, edges), "x": X[:n], "y": Y[:n]}

    def loss(model, batch):
        return CE(model(batch["x"]), batch["y"])

    graphs = [graph(4, 12), graph(20, 60)]
    with pytest.raises(sharp.Refused, match=r"lengths \[2, 4, 4\] or \[2, 20, 20\].*weight="):
        sharp.measure(mlp(), loss, graphs)
    joined = [{"x": torch.cat([X[:4], X[:20]]), "y": torch.cat([Y[:4], Y[:20]])}]
    found = lambda_1(mlp(), loss, graphs, weight=lambda b: len(b["y"]))
    assert found == pytest.approx(lambda_1(mlp(), loss, joined), rel=1e-4)


@pytest.mark.parametrize("form", [tuple, lambda b: dict(zip(("x", "target", "length"), b, strict=True))])
def test_batches_of_one_length_each_say_what_they_average_over(form):
    net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3))
    draws = torch.Generator().manual_seed(0)
    batches = []
    for T in (3, 5):
        x, y = torch.randint(0, 9, (6, T), generator=draws), torch.randint(0, 3, (6, T), generator=draws)
        batches.append(form((x, y, torch.full((6,), T))))

    def loss(model, batch):
        x, y = list(batch.values())[:2] if isinstance(batch, dict) else batch[:2]
        return CE(model(x).flatten(0, 1), y.flatten())

    with pytest.raises(sharp.Refused, match="3 to 5 targets an example"):
        sharp.measure(net, loss, batches)


def test_an_iterable_may_refill_its_tensors_too():
    class Prefetched:
        def __iter__(self):
            x, y = torch.empty(10, 4), torch.empty(10, dtype=torch.long)
            for i in (0, 10, 20):
                yield x.copy_(X[i : i + 10]), y.copy_(Y[i : i + 10])

    assert lambda_1(mlp(), CE, Prefetched()) == pytest.approx(lambda_1(mlp(), CE, (X, Y)), rel=1e-4)


def test_a_layer_that_draws_rarely_is_random():
    net = of(
        lambda s, x: (
            s.b(h + s.c(h).tanh() if float(torch.rand(())) > s.p else h) if (h := s.a(x)) is not None else h
        ),
        a=lambda: nn.Linear(4, 5),
        b=lambda: nn.Linear(5, 3),
        c=lambda: nn.Linear(5, 5),
    )
    net.p = 0.15
    with pytest.raises(sharp.Refused, match="differ between two passes"):
        sharp.measure(net, CE, (X, Y))
    net.p = -1.0
    assert lambda_1(net, CE, (X, Y)) > 0


def test_a_transformer_with_padding_has_one_loss_with_gradients_and_without():
    net = of(
        lambda s, x, mask: s.head(s.encoder(x, src_key_padding_mask=mask).mean(1)),
        encoder=lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 1),
        head=lambda: nn.Linear(4, 3),
    ).eval()
    mask = torch.zeros(6, 5, dtype=torch.bool)
    mask[:, 3:] = True
    x = torch.randn(6, 5, 4, generator=torch.Generator().manual_seed(2))
    was = torch.backends.mha.get_fastpath_enabled()
    found = sharp.measure(net, CE, [({"x": x, "mask": mask}, Y[:6])], ["scores"])
    with torch.enable_grad():
        assert found["train_loss"] == pytest.approx(float(CE(net(x, mask), Y[:6]).detach()), rel=1e-5)
    assert torch.backends.mha.get_fastpath_enabled() == was


def test_a_padding_row_is_held_wherever_it_occurs():
    net = nn.Sequential(nn.Embedding(7, 3, padding_idx=0), nn.Flatten(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        net[0].weight[0] = torch.tensor([1.0, -2.0, 0.5])
    x = torch.randint(1, 7, (30, 2), generator=torch.Generator().manual_seed(3))
    x[::2, 0] = 0  # the padding
    row, rest = net[0].weight[:1].detach().clone(), net[0].weight[1:].detach().clone()

    def loss(u):
        table = torch.cat([row, u[:18].view(6, 3)])
        return CE(table[x].flatten(1) @ u[18:36].view(3, 6).T + u[36:], Y)

    u = torch.cat([rest.flatten(), net[2].weight.detach().flatten(), net[2].bias.detach()])
    truth = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, u))
    found = sharp.measure(net, CE, (x, Y), ["sharpness", "trace"], tol=1e-7)
    assert found["lambda_1"] == pytest.approx(float(truth[-1]), rel=1e-6)
    assert found["trace"] == pytest.approx(float(truth.sum()), rel=1e-6)


def test_views_that_share_numbers_are_refused_and_views_that_share_none_are_not():
    net = of(lambda s, x: F.linear(s.a(x).tanh(), s.b), a=lambda: nn.Linear(4, 5))
    net.b = nn.Parameter(net.a.weight.t())
    with pytest.raises(sharp.Refused, match=r"a.weight and b share memory|b and a.weight share memory"):
        sharp.measure(net, F.mse_loss, (X, X))
    columns = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
    net.a.weight, net.b = nn.Parameter(columns[:, ::2]), nn.Parameter(columns[:, 1::2].t())
    assert lambda_1(net, F.mse_loss, (X, X)) > 0


def test_a_first_layer_that_writes_into_the_data_is_refused():
    x = X.clone()
    with pytest.raises(sharp.Refused, match="writes into its inputs"):
        sharp.measure(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3)), CE, (x, Y))
    assert torch.equal(x, X)


def test_a_layer_listed_twice_counts_twice_in_norms_and_one_of_other_parameters_not():
    layer = nn.Linear(4, 4, bias=False)
    found = sharp.measure(nn.Sequential(layer, layer), F.mse_loss, (X, X), ["norms"])
    product = layer.weight.detach() @ layer.weight.detach()
    assert found["nuclear_norm"] == pytest.approx(float(torch.linalg.svdvals(product).sum()), rel=1e-5)
    other = prune.random_unstructured(nn.Linear(4, 3), "weight", 0.5)
    assert "nuclear_norm" not in sharp.measure(nn.Sequential(other), CE, (X, Y), ["norms"])


def test_a_cache_of_parametrizations_is_not_measured():
    net = nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)), nn.Tanh(), nn.Linear(4, 3))
    alone = lambda_1(net, CE, (X, Y))
    with nn.utils.parametrize.cached():
        net(X)
        assert lambda_1(net, CE, (X, Y)) == alone


def test_second_derivatives_are_tried_again_while_weights_move():
    torch.manual_seed(0)
    net = zero_head(
        nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3))
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
    watch = sharp.Watch(net, F.mse_loss, (X, Z), ["trace"], every=20)
    with pytest.raises(sharp.Refused, match="products of this model are wrong"):
        for _ in range(40):
            optimizer.zero_grad()
            F.mse_loss(net(X), Z).backward()
            optimizer.step()
            watch.step()


def test_what_a_bound_loss_keeps_is_as_before():
    class Centered(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0
            self.register_buffer("center", torch.zeros(3))

        def compute(self, f, y):
            self.calls += 1
            return CE(f - self.center, y)

    criterion = Centered()
    sharp.measure(mlp(), criterion.compute, (X, Y))
    assert criterion.calls == 0


def test_batches_of_targets_count_in_the_worst_case_as_in_the_loss():
    y = torch.cat([Y, torch.full((30,), -100)])
    y[30:33] = Y[:3]
    x = torch.cat([X, X])

    def worst(**settings):
        counted = {"weight": lambda b: int((b[1] != -100).sum())}
        measures = {"adaptive_sharpness": {"batch": 30, "rho": 0.01} | settings}
        return sharp.measure(mlp(), CE, [(x[:30], y[:30]), (x[30:], y[30:])], measures, **counted)

    first, second = (
        sharp.measure(mlp(), CE, part, {"adaptive_sharpness": {"rho": 0.01}})["adaptive_worst"]
        for part in ((X, Y), (X[:3], Y[:3]))
    )
    mean = (30 * first + 3 * second) / 33
    assert worst()["adaptive_worst"] == pytest.approx(mean, rel=1e-3)


def test_a_number_without_an_estimate_has_no_error():
    found = sharp.measure(mlp(), CE, (X, Y), ["gradient_noise"])
    found.row["noise_scale_stderr"] = None
    with pytest.raises(sharp.Refused, match="could not be estimated"):
        found.error("noise_scale")


def test_batches_of_other_lengths_are_joined_by_no_measure():
    net = of(lambda s, x: s.b(s.a(x).mean(1)), a=lambda: nn.Embedding(9, 4), b=lambda: nn.Linear(4, 3))
    batches = [(torch.randint(0, 9, (5, T)), Y[:5]) for T in (3, 4)]
    assert lambda_1(net, CE, batches) > 0
    for measures in (
        {"batch_sharpness": {"batch_size": 2}},
        {"adaptive_sharpness": {"batch": 2}},
        "manifold",
    ):
        with pytest.raises(sharp.Refused, match="cannot be joined.*one shape"):
            sharp.measure(net, CE, batches, measures)


def test_outputs_that_hold_a_number_have_no_gauss_newton_matrix():
    net = of(lambda s, x: (s.a(x), s.a.weight.square().sum()), a=lambda: nn.Linear(4, 3))

    def loss(f, y):
        return CE(f[0], y) + 0.1 * f[1]

    assert lambda_1(net, loss, (X, Y)) > 0.2
    for measure in ("gauss_newton", "gradient_noise"):
        with pytest.raises(sharp.Refused, match="outputs"):
            sharp.measure(net, loss, (X, Y), measure)


def test_a_watched_model_whose_parameters_become_others_is_refused():
    def pruned(net):
        prune.random_unstructured(net[0], "weight", 0.5)

    def replaced(net):
        net[2] = nn.Linear(5, 3, bias=False)

    for change, name in ((pruned, "0.weight"), (replaced, "2.bias")):
        net = mlp()
        watch = sharp.Watch(net, CE, (X, Y))
        change(net)
        with pytest.raises(sharp.Refused, match=f"parameter {name} .* no longer there"):
            watch.step()


def test_outputs_that_are_named_twice_are_taken():
    net = of(lambda s, x: (f := s.a(x), f), a=lambda: nn.Linear(4, 3))
    once = lambda_1(net.a, CE, (X, Y))
    assert lambda_1(net, lambda f, y: CE(f[0], y), (X, Y)) == pytest.approx(once, rel=1e-5)
