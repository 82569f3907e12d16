"""The networks: published numbers of parameters, what each is by its definition, and what they refuse."""

from itertools import pairwise

import pytest
import torch
from conftest import only_run

from sharpcli.errors import Refusal
from sharpcli.models.deep_linear import deep_linear
from sharpcli.models.gpt import gpt
from sharpcli.models.resnet import resnet
from sharpcli.models.resnet18 import resnet18
from sharpcli.models.scaled_mlp import scaled_mlp
from sharpcli.models.vgg import vgg
from sharpcli.models.wide_resnet import wide_resnet
from sharpcli.run import Run

CIFAR = ((3, 32, 32), 10)
BATCH = {"norm": "batch", "groups": 1}


def count(net):
    return sum(p.numel() for p in net.parameters())


def test_gpt_has_the_parameters_of_gpt_2():
    with torch.device("meta"):  # 124 million weights, of which none is kept
        assert count(gpt((1024,), 50_257, width=768, depth=12, heads=12)) == 124_439_808


def test_gpt_is_gpt_2_of_transformers_with_the_exact_gelu():
    transformers = pytest.importorskip("transformers")
    sizes = {"n_layer": 2, "n_embd": 8, "n_head": 2, "vocab_size": 11, "n_positions": 7}
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**sizes, activation_function="gelu", bos_token_id=0, eos_token_id=0)
    ).eval()
    torch.manual_seed(0)
    ours = gpt((7,), 11, width=8, depth=2, heads=2)
    weights = theirs.transformer
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_()
        copies = [(ours.embed.weight, weights.wte.weight), (ours.positions.position, weights.wpe.weight)]
        copies += zip(ours.norm.parameters(), weights.ln_f.parameters(), strict=True)
        for mine, other in zip(ours.blocks, weights.h, strict=True):
            copies += zip(mine.norm1.parameters(), other.ln_1.parameters(), strict=True)
            copies += zip(mine.norm2.parameters(), other.ln_2.parameters(), strict=True)
            for layer, convolution in (
                (mine.attend, other.attn.c_attn),
                (mine.project, other.attn.c_proj),
                (mine.network[0], other.mlp.c_fc),
                (mine.network[2], other.mlp.c_proj),
            ):
                copies += [(layer.weight, convolution.weight.T), (layer.bias, convolution.bias)]
        for mine, other in copies:
            mine.copy_(other)
        ids = torch.arange(14).reshape(2, 7) % 11
        assert torch.allclose(ours(ids), theirs(ids).logits, atol=1e-4)


def test_a_token_of_gpt_sees_none_after_it_and_its_weights_start_as_gpt_2_s():
    torch.manual_seed(0)
    net = gpt((6,), 40, width=64, depth=8, heads=4)
    ids = torch.randint(0, 40, (3, 6))
    changed = ids.clone()
    changed[:, 4] = (ids[:, 4] + 1) % 40
    with torch.no_grad():
        before, after = net(ids), net(changed)
    assert torch.equal(before[:, :4], after[:, :4]) and not torch.allclose(before[:, 4:], after[:, 4:])
    block = net.blocks[3]
    assert block.attend.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.project.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)  # sqrt(2 * 8)
    assert block.network[2].weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
    assert net.head.weight is net.embed.weight and not block.attend.bias.any()
    with pytest.raises(Refusal, match="takes tokens"):
        gpt((3, 8, 8), 10, width=8, depth=1, heads=1)


def test_gpt_learns_the_characters_of_a_text(sharp, folder):
    (folder / "x.txt").write_text("to be or not to be, that is the question\n" * 30)
    words = ("data=characters", "data.file=x.txt", "data.length=8", "loss=cross_entropy", "model=gpt")
    sizes = ("model.width=8", "model.depth=1", "model.heads=2", "method=adamw", "lr=0.01", "batch_size=16")
    said = sharp("train", *words, *sizes, "steps=60", "measure_every=60", "threads=1")
    assert said.code == 0, said.err
    first, last = Run(only_run(folder)).logged()
    assert last["test_loss"] < 0.8 * first["test_loss"] and last["lambda_1"] > 0


@pytest.mark.parametrize(
    "net, published",
    [
        # He et al. 2016, table 6: 0.27, 0.46, 0.85 and 1.7 million
        (lambda: resnet(*CIFAR, depth=20, width=16, skip=True, **BATCH), 269_722),
        (lambda: resnet(*CIFAR, depth=110, width=16, skip=True, **BATCH), 1_727_962),
        (lambda: resnet18(*CIFAR, blocks=[2, 2, 2, 2], width=64, **BATCH), 11_173_962),
        (lambda: resnet18(*CIFAR, blocks=[3, 4, 6, 3], width=64, **BATCH), 21_282_122),
        # Zagoruyko & Komodakis 2016, table 5: 2.7 and 36.5 million
        (lambda: wide_resnet(*CIFAR, depth=16, widen=4, **BATCH), 2_748_890),
        (lambda: wide_resnet(*CIFAR, depth=28, widen=10, **BATCH), 36_479_194),
        # 14,728,266 with the 4,224 biases that batch normalization takes out again
        (lambda: vgg(*CIFAR, depth=16, width=64, **BATCH), 14_728_266 - 4_224),
        (lambda: vgg(*CIFAR, depth=11, width=64, **BATCH), 9_231_114 - 2_752),
    ],
)
def test_numbers_of_parameters_are_the_published(net, published):
    assert count(net()) == published


NETS = {
    "resnet": "model.depth=8 model.width=4",
    "resnet18": "model.blocks=[1,1] model.width=4",
    "wide_resnet": "model.depth=10 model.widen=1",
    "deep_linear": "model.width=10 model.balanced=true",
}


@pytest.mark.parametrize("norm", ["group", "batch", "layer", "none"])
@pytest.mark.parametrize("name", ["resnet", "resnet18", "wide_resnet"])
def test_convolutional_networks_train_under_every_normalization(sharp, folder, name, norm):
    words = (f"model={name}", *NETS[name].split(), f"model.norm={norm}", "data.train_examples=40", "lr=0.05")
    said = sharp("train", *words, "steps=4", "measure_every=4", "measure=[scores,sharpness]", "threads=1")
    assert said.code == 0, said.err
    first, last = Run(only_run(folder)).logged()
    assert last["train_loss"] < first["train_loss"] and last["lambda_1"] > 0


def test_vgg_takes_images_that_five_poolings_leave(sharp):
    net = vgg((1, 32, 64), 7, depth=13, width=2, **BATCH)
    assert net(torch.randn(3, 1, 32, 64)).shape == (3, 7)
    assert "five poolings" in sharp("train", "model=vgg").refusal  # digits are 8 x 8
    with pytest.raises(Refusal, match="possible: 11, 13, 16, 19"):
        vgg(*CIFAR, depth=12, width=64, **BATCH)


def test_layer_normalization_is_over_all_channels_of_an_example():
    torch.manual_seed(0)
    net = resnet((1, 8, 8), 3, depth=8, width=4, norm="layer", groups=2, skip=True)
    x = torch.randn(5, 1, 8, 8)
    inner = net[1](net[0](x))
    assert torch.allclose(inner.mean((1, 2, 3)), torch.zeros(5), atol=1e-5)
    assert torch.allclose(inner.var((1, 2, 3), unbiased=False), torch.ones(5), atol=1e-3)
    assert float(inner[:, :2].mean((1, 2, 3)).detach().abs().min()) > 1e-3  # not each half by itself
    assert torch.allclose(net(x)[:1], net(x[:1]), atol=1e-5)  # an example does not know the others


@pytest.mark.parametrize(
    "net",
    [
        lambda: resnet(*CIFAR, depth=8, width=4, skip=True, **BATCH),
        lambda: resnet18(*CIFAR, blocks=[1, 1], width=4, **BATCH),
        lambda: wide_resnet(*CIFAR, depth=10, widen=1, **BATCH),
    ],
)
def test_a_residual_block_without_weights_is_its_shortcut(net):
    kept, moved = [block for block in net() if hasattr(block, "conv2")][:2]
    x = torch.rand(3, kept.conv1.in_channels, 8, 8)  # positive, as behind a ReLU
    with torch.no_grad():
        for block in (kept, moved):
            block.conv2.weight.zero_()
        assert torch.equal(kept(x), x)
    y = moved(x).detach()
    assert y.shape == (3, 2 * x.shape[1], 4, 4) and float(y.abs().sum()) > 0


@pytest.mark.parametrize("balanced", [True, False])
def test_a_deep_linear_network_is_a_product_of_matrices(balanced):
    torch.manual_seed(0)
    net = deep_linear((2, 3), 2, depth=4, width=5, scale=0.7, balanced=balanced).double()
    matrices = [layer.weight.detach() for layer in net[1:]]
    x = torch.randn(4, 2, 3).double()
    product = matrices[3] @ matrices[2] @ matrices[1] @ matrices[0]
    assert torch.allclose(net(x), x.flatten(1) @ product.T)
    for low, high in pairwise(matrices):
        assert torch.allclose(high.T @ high, low @ low.T, atol=1e-6) is balanced
    if balanced:
        assert torch.allclose(torch.linalg.svdvals(product), torch.full((2,), 0.7**4).double(), atol=1e-6)


def test_deep_linear_trains_by_gradient_descent_and_keeps_its_balance(sharp, folder):
    words = ("model=deep_linear", *NETS["deep_linear"].split(), "data.train_examples=40", "lr=0.02")
    assert sharp("train", *words, "problem.dtype=float64", "steps=20", "threads=1").code == 0
    run = Run(only_run(folder))
    w = run.load(20)["w"]
    first, second, third = (
        piece.view(shape)
        for piece, shape in zip(w.split([640, 100, 100]), [(10, 64), (10, 10), (10, 10)], strict=True)
    )
    for low, high in ((first, second), (second, third)):  # up to lr^2 a step
        assert float((high.T @ high - low @ low.T).norm() / (low @ low.T).norm()) < 0.02


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: wide_resnet(*CIFAR, depth=17, widen=4, **BATCH), "6 m . 4"),
        (lambda: wide_resnet(*CIFAR, depth=16, widen=0, **BATCH), "at least 1"),
        (lambda: wide_resnet(*CIFAR, depth=16, widen=1, norm="group", groups=5), "divide width"),
        (lambda: resnet18(*CIFAR, blocks=[], width=4, **BATCH), "at least one stage"),
        (lambda: resnet18((5,), 10, blocks=[1], width=4, **BATCH), "takes images"),
        (lambda: deep_linear((4,), 3, depth=0, width=5, scale=1.0, balanced=False), "at least 1"),
        (lambda: deep_linear((4,), 3, depth=3, width=2, scale=1.0, balanced=True), "width=3 or more"),
    ],
)
def test_networks_refuse_what_does_not_fit(make, message):
    with pytest.raises(Refusal, match=message):
        make()


# --- parametrizations of fully connected networks ---


def one_step(parametrization, width, seed):
    """How far a step of gradient descent at lr = 0.1 moves the outputs and the last hidden units of a network
    with two hidden layers, as root mean squares over the error that drives it; and its output before."""
    torch.manual_seed(seed)
    net = scaled_mlp((10,), 1, widths=[width, width], activation="tanh", parametrization=parametrization)
    x = torch.randn(1, 10)
    hidden = net[:-1]
    outputs, units = net(x), hidden(x).detach()
    (net(x) - 1).square().sum().div(2).backward()
    before, error = outputs.abs().item(), (outputs - 1).abs().item()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter -= 0.1 * parameter.grad
        moved = (hidden(x) - units).square().mean().sqrt().item()
        return (net(x) - outputs).abs().item() / error, moved / error, before


@pytest.mark.parametrize(
    "parametrization, hidden",
    [("mup", 1.0), ("ntk", 1 / 4)],  # of a network 16 times as wide
)
def test_one_learning_rate_serves_every_width(parametrization, hidden):
    narrow, wide = (
        torch.tensor([one_step(parametrization, width, seed) for seed in range(12)]).median(0).values
        for width in (128, 2048)
    )
    outputs, units, _ = (wide / narrow).tolist()
    assert outputs == pytest.approx(1.0, rel=0.1) and units == pytest.approx(hidden, rel=0.1)


def test_the_outputs_of_mup_vanish_with_the_width_and_those_of_ntk_do_not():
    starts = {
        (name, width): torch.tensor([one_step(name, width, seed)[2] for seed in range(20)]).mean()
        for name in ("mup", "ntk")
        for width in (64, 1024)
    }
    assert starts["mup", 1024] / starts["mup", 64] == pytest.approx(1 / 4, rel=0.5)
    assert starts["ntk", 1024] / starts["ntk", 64] == pytest.approx(1.0, rel=0.5)


def test_parametrizations_by_their_table():
    torch.manual_seed(0)
    x = torch.randn(3, 5)
    for name, forms in {
        "ntk": [(1, 5**-0.5, 1), (1, 200**-0.5, 1), (1, 300**-0.5, 1)],
        "mup": [(200**-0.5, (200 / 5) ** 0.5, 200**0.5), (200**-0.5, 1, 300**0.5), (300**-0.5, 300**-0.5, 1)],
    }.items():
        net = scaled_mlp((5,), 400, widths=[200, 300], activation="identity", parametrization=name)
        z = x
        for layer, (spread, of_weights, of_biases) in zip(net[1::2], forms, strict=True):
            assert layer.weight.std().item() == pytest.approx(spread, rel=0.05) and not layer.bias.any()
            torch.nn.init.normal_(layer.bias)
            z = of_weights * z @ layer.weight.T + of_biases * layer.bias
        assert torch.allclose(net(x), z, rtol=1e-3, atol=1e-3)
    with pytest.raises(Refusal, match="at least one hidden layer"):
        scaled_mlp((5,), 2, widths=[], activation="tanh", parametrization="mup")


BASES = ("resnet model.base.depth=8", "resnet18 model.base.blocks=[1,1]", "wide_resnet model.base.depth=10")


@pytest.mark.parametrize("norm", ["group", "batch", "layer"])
@pytest.mark.parametrize("base", BASES)
def test_the_loss_of_a_scale_invariant_network_does_not_know_the_size_of_its_weights(experiment, base, norm):
    words = ("model=scale_invariant", f"model@model.base={base.split()[0]}", *base.split()[1:])
    width = "model.base.widen=1" if "wide" in base else "model.base.width=4"
    e = experiment(
        *words, width, f"model.base.norm={norm}", "data.train_examples=12", "problem.dtype=float64"
    )
    surface, w = e.problem.surface, e.problem.w0
    g, product = surface.grad(w), surface.hvp(w, w)
    assert float(surface.value(3 * w)) == pytest.approx(float(surface.value(w)), rel=1e-3)
    assert abs(float(w @ g)) < 1e-3 * float(w.norm() * g.norm())  # g is orthogonal to w
    assert float((3 * surface.grad(3 * w) - g).norm() / g.norm()) < 1e-2
    assert float((product + g).norm() / g.norm()) < 1e-2  # H w = -g, from grad L(c w) = grad L(w) / c
    assert all("weight" in name for name, _ in e.problem.layout) and e.problem.frozen


def test_gradient_descent_lets_the_weights_of_a_scale_invariant_network_grow(sharp, folder):
    words = ["model=scale_invariant", "model.base.depth=8", "model.base.width=4", "data.train_examples=30"]
    said = sharp("train", *words, "steps=5", "lr=0.5", "measure_every=1", "measure=[norms]", "threads=1")
    assert said.code == 0, said.err
    squares = [row["l2_norm"] ** 2 for row in Run(only_run(folder)).logged()]
    # |w - lr g|^2 = |w|^2 + lr^2 |g|^2, g being orthogonal to w
    assert all(after > before for before, after in pairwise(squares))


@pytest.mark.parametrize(
    "words", [["model@model.base=cnn"], ["model@model.base=mlp"], ["model.base.norm=none"]]
)
def test_a_network_that_is_not_scale_invariant_is_refused(sharp, words):
    assert (
        "at twice the weights its outputs change" in sharp("train", "model=scale_invariant", *words).refusal
    )


def start(experiment, *words):
    """The tensors of a network on small images at its start, by name."""
    problem = experiment("data.train_examples=12", "problem.dtype=float64", *words).problem
    return dict(zip([name for name, _ in problem.layout], problem.tensors(problem.w0), strict=True))


@pytest.mark.parametrize("law", ["kaiming", "xavier", "orthogonal"])
def test_a_network_starts_from_weights_of_the_law_and_scale_that_were_asked_for(experiment, law):
    words = ("model=initialized", "model.base.widths=[200,100]", f"model.law={law}", "model.scale=0.2")
    tensors = start(experiment, *words)
    assert all(torch.count_nonzero(w) == 0 for name, w in tensors.items() if "bias" in name)
    matrices = [w for w in tensors.values() if w.ndim == 2]
    assert [tuple(w.shape) for w in matrices] == [(200, 64), (100, 200), (10, 100)]
    for w in matrices:
        m, d = w.shape
        if law == "orthogonal":
            gram = w @ w.T if m <= d else w.T @ w
            assert torch.allclose(gram, 0.04 * torch.eye(min(m, d), dtype=w.dtype), atol=1e-6)
        else:
            std = 0.2 * (2 / d if law == "kaiming" else 2 / (d + m)) ** 0.5
            assert abs(float(w.std()) / std - 1) < 4 / (2 * w.numel()) ** 0.5  # four standard errors
            assert abs(float(w.mean())) < 4 * std / w.numel() ** 0.5
    again, other = start(experiment, *words), start(experiment, *words, "seed=7")
    assert all(torch.equal(w, again[name]) for name, w in tensors.items())
    assert not torch.equal(tensors["1.weight"], other["1.weight"])


def test_the_start_of_a_network_is_its_own_where_nothing_else_is_asked_for(experiment):
    base = ("model.depth=8", "model.width=4", "model.norm=group")
    plain = start(experiment, "model=resnet", *base)
    words = (
        "model=initialized",
        "model@model.base=resnet",
        *(w.replace("model.", "model.base.") for w in base),
    )
    same = start(experiment, *words, "model.law=null", "model.zero_biases=false")
    assert list(plain) == list(same) and all(torch.equal(w, same[name]) for name, w in plain.items())
    half = start(experiment, *words, "model.law=null", "model.scale=0.5")
    for name, w in plain.items():  # convolutions and the last layer are halved; what normalizes is not
        if w.ndim > 1:
            assert torch.equal(half[name], w / 2), name
        elif name.endswith("bias") and name.startswith(list(plain)[-1].split(".")[0]):
            assert torch.count_nonzero(half[name]) == 0
        else:
            assert torch.equal(half[name], w), name


@pytest.mark.parametrize(
    "words, said",
    [
        (["model.scale=0"], "model.scale=0"),
        (["model.scale=inf"], "model.scale=inf"),
        (["model.law=he"], "model.law=he"),
        (["model@model.base=scaled_mlp"], "no linear layer and no convolution"),
    ],
)
def test_a_start_that_cannot_be_drawn_is_refused(sharp, words, said):
    assert said in sharp("train", "model=initialized", *words).refusal
