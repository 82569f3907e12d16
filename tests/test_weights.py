"""`sharp measure` on somebody else's file of weights, in parts, in several processes, and interrupted."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import TINY, only_run, rows_of
from safetensors.torch import save_file, save_model
from torch import nn

from sharpcli.commands.state_dict import content, read
from sharpcli.errors import Refusal
from sharpcli.models.mlp import mlp
from sharpcli.models.resnet import resnet
from sharpcli.problems.weights import load
from sharpcli.run import Run

MLP = ("model=mlp", "model.widths=[6]", "data.train_examples=60")
RESNET = (
    "model=resnet",
    "model.depth=8",
    "model.width=2",
    "model.groups=1",
    "data.train_examples=24",
    "loss=cross_entropy",
)


def network(seed=5):
    torch.manual_seed(seed)
    return mlp((1, 8, 8), 10, widths=[6], activation="tanh")


def last_json(said):
    assert said.code == 0, said.err
    return json.loads(said.out.splitlines()[-1])


@pytest.mark.parametrize("wrap", ["plain", "safetensors", "state_dict", "parallel"])
def test_a_file_of_weights_is_measured_whatever_it_is_wrapped_in(sharp, folder, wrap):
    state = network().state_dict()
    if wrap == "safetensors":
        save_file(state, folder / "w.safetensors")
    else:
        held = {"plain": state, "state_dict": {"epoch": 3, "state_dict": state}}.get(wrap)
        torch.save(held or {f"module.{key}": value for key, value in state.items()}, folder / "w.pt")
    file = "w.safetensors" if wrap == "safetensors" else "w.pt"
    before = (folder / file).read_bytes()
    row = last_json(sharp("measure", file, *MLP, "measure=[scores,sharpness,trace]", "--json"))
    assert (folder / file).read_bytes() == before and row["sharpness_converged"] and row["trace_stderr"] >= 0
    x = torch.from_numpy(
        __import__("sklearn.datasets", fromlist=["load_digits"]).load_digits().images
    ).float()[:60]
    x = ((x - x.mean(0)) / x.std(0, correction=0).where(x.std(0, correction=0) > 0, torch.tensor(1.0))).view(
        60, 1, 8, 8
    )
    y = torch.nn.functional.one_hot(
        torch.tensor(__import__("sklearn.datasets", fromlist=["load_digits"]).load_digits().target[:60]), 10
    ).float()
    loss = (network()(x) - y).square().sum() / 120
    assert row["train_loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert not (folder / "runs").exists()


class Holder(nn.Module):
    """A net that itself holds a part called model, and one called net."""

    def __init__(self):
        super().__init__()
        self.model, self.net = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.net(self.model(x))


class Inner(nn.Module):
    """A net whose every name begins with model."""

    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))

    def forward(self, x):
        return self.model(x)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(3, 5, bias=False), nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(x)


def under(*prefixes):
    """A state dict whose names have the prefixes in front, the last outermost."""
    front = "".join(f"{prefix}." for prefix in reversed(prefixes))
    return lambda net: {front + name: value for name, value in net.state_dict().items()}


def inside(name, part):
    """Puts a wrapper's name behind the first part of a name, as wrapping a submodule does."""
    first, _, rest = name.partition(".")
    return f"{first}.{part}.{rest}"


FILES = {
    "plain": under(),
    "compiled": lambda net: torch.compile(net).state_dict(),
    "parallel, compiled": lambda net: nn.DataParallel(torch.compile(net)).state_dict(),
    "compiled, parallel": under("module", "_orig_mod"),
    "lightning": lambda net: {
        "epoch": 3,
        "state_dict": under("model")(net),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
        "callbacks": {"checkpoint": {"best": torch.zeros(())}},
    },
    "lightning of a compiled net": lambda net: {"state_dict": under("_orig_mod", "net")(net)},
    "averaged": lambda net: torch.optim.swa_utils.AveragedModel(net).state_dict(),
    "averaged, parallel": lambda net: nn.DataParallel(torch.optim.swa_utils.AveragedModel(net)).state_dict(),
    "parallel, averaged": lambda net: torch.optim.swa_utils.AveragedModel(nn.DataParallel(net)).state_dict(),
    "timm, average alone": lambda net: {"epoch": 1, "model_ema": under("module")(net)},
    "dicts in dicts": lambda net: {"checkpoint": {"models": {"student": under("backbone")(net)}}},
    "a compiled submodule": lambda net: {inside(n, "_orig_mod"): v for n, v in net.state_dict().items()},
    "a parallel submodule": lambda net: {
        f"module.{inside(n, 'module')}": v for n, v in net.state_dict().items()
    },
    "bfloat16": lambda net: {name: value.bfloat16() for name, value in net.bfloat16().state_dict().items()},
    "parameters": lambda net: dict(net.named_parameters()),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("make", [Holder, Inner, lambda: nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))])
def test_names_are_fitted_to_the_network_s_own_in_every_nesting(tmp_path, make, kind):
    torch.manual_seed(0)
    trained, fresh = make(), make()
    torch.save(FILES[kind](trained), tmp_path / "w.pt")
    load(fresh, read(tmp_path / "w.pt"), statistics=False)
    for name, value in trained.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], value.float()), name


def test_a_network_inside_another_is_served_by_the_file_of_either(tmp_path):
    net = Inner()
    torch.save(net.model.state_dict(), tmp_path / "w.pt")
    fresh = Inner()
    load(fresh, read(tmp_path / "w.pt"), statistics=False)
    assert torch.equal(fresh.model[1].bias, net.model[1].bias)
    torch.save(net.state_dict(), tmp_path / "w.pt")
    fresh = torch.compile(Inner())  # whose own names hold a wrapper
    load(fresh, read(tmp_path / "w.pt"), statistics=False)
    assert torch.equal(fresh.model[1].bias, net.model[1].bias)


def test_a_prefix_whose_removal_makes_two_names_equal_stays(tmp_path):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.module, self.weight = nn.Linear(2, 1, bias=False), nn.Parameter(torch.randn(1, 2))

    net, fresh = Both(), Both()
    torch.save({f"_orig_mod.{name}": value for name, value in net.state_dict().items()}, tmp_path / "w.pt")
    load(fresh, read(tmp_path / "w.pt"), statistics=False)
    assert torch.equal(fresh.weight, net.weight) and torch.equal(fresh.module.weight, net.module.weight)


@pytest.mark.parametrize("left_out", ["embed.weight", "head.weight"])
def test_a_name_tied_to_one_that_came_is_not_missing(tmp_path, left_out):
    net, fresh = Tied(), Tied()
    save_model(net, tmp_path / "w.safetensors")  # keeps one of the two names
    load(fresh, read(tmp_path / "w.safetensors"), statistics=False)
    assert torch.equal(fresh.head.weight, net.head.weight)
    kept = {name: value for name, value in net.state_dict().items() if name != left_out}
    torch.save(kept, tmp_path / "w.pt")
    load(Tied(), read(tmp_path / "w.pt"), statistics=False)


def test_tied_names_with_different_numbers_are_refused_and_so_are_no_names(tmp_path):
    torch.save({"embed.weight": torch.zeros(5, 3), "head.weight": torch.ones(5, 3)}, tmp_path / "w.pt")
    with pytest.raises(Refusal, match=r"it is one tensor with (head|embed)\.weight"):
        load(Tied(), read(tmp_path / "w.pt"), statistics=False)
    torch.save({"other": torch.zeros(5, 3)}, tmp_path / "w.pt")
    with pytest.raises(Refusal, match="2 missing"):
        load(Tied(), read(tmp_path / "w.pt"), statistics=False)


def test_what_an_older_version_of_a_layer_saved_is_renamed_by_the_layer_s_own_hook(tmp_path):
    make = lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))  # noqa: E731
    net, fresh = make(), make()
    state = net.state_dict()
    torch.save(
        {
            "module.0.bias": state["0.bias"],
            "module.0.weight_g": state["0.parametrizations.weight.original0"],
            "module.0.weight_v": state["0.parametrizations.weight.original1"],
        },
        tmp_path / "w.pt",
    )
    load(fresh, read(tmp_path / "w.pt"), statistics=False)
    assert torch.equal(fresh[0].weight, net[0].weight)


def test_where_the_weights_and_their_average_are_in_one_file_the_weights_are_measured_with_a_word(
    sharp, folder
):
    net, other = network(), network(6)
    torch.save({"model_ema": other.state_dict(), "model": net.state_dict(), "epoch": 1}, folder / "both.pt")
    torch.save(net.state_dict(), folder / "w.pt")
    words = (*MLP, "measure=[scores]", "--json")
    both = sharp("measure", "both.pt", *words)
    assert "under model, which are measured, and others under model_ema" in both.err
    alone = sharp("measure", "w.pt", *words)
    assert alone.err == "" and last_json(alone)["train_loss"] == last_json(both)["train_loss"]


def shards(folder, ending, net):
    """Two files, the weights of either in one, and their index."""
    state, places = net.state_dict(), {}
    save = save_file if ending == ".safetensors" else torch.save
    for i, part in enumerate((list(state)[:2], list(state)[2:]), 1):
        shard = f"{'model' if ending == '.safetensors' else 'pytorch_model'}-{i:05}-of-00002{ending}"
        save({name: state[name] for name in part}, folder / shard)
        places |= dict.fromkeys(part, shard)
    index = folder / f"{shard.partition('-')[0]}{ending}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index, shard


@pytest.mark.parametrize("ending", [".safetensors", ".bin"])
def test_shards_are_read_by_their_index_and_one_alone_says_its_name(sharp, folder, ending):
    index, shard = shards(folder, ending, network())
    row = last_json(sharp("measure", index.name, *MLP, "measure=[scores]", "--json"))
    torch.save(network().state_dict(), folder / "whole.pt")
    whole = last_json(sharp("measure", "whole.pt", *MLP, "measure=[scores]", "--json"))
    assert row["train_loss"] == whole["train_loss"]
    assert f"name the index of them all, {index.name}" in sharp("measure", shard, *MLP).refusal
    before = content(index)
    (torch.save if ending == ".bin" else save_file)({"3.bias": torch.zeros(10)}, folder / shard)
    assert content(index) != before
    assert "does not hold what the index says" in sharp("measure", index.name, *MLP).refusal
    (folder / shard).unlink()
    assert f"names the shard {shard}, which is missing" in sharp("measure", index.name, *MLP).refusal
    index.write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))
    assert "shards are files beside their index" in sharp("measure", index.name, *MLP).refusal
    for text in ("", "[1]", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', "[" * 100_000, "\xff"):
        index.write_text(text)
        assert "not readable as the index of shards" in sharp("measure", index.name, *MLP).refusal


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "held, named",
    [
        (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        ({"args": argparse.Namespace(lr=1), "model": {"w": torch.zeros(2)}}, "argparse.Namespace"),
        ({"best": __import__("numpy").float64(0.5), "w": torch.zeros(2)}, "multiarray.scalar"),
        ({"net": Tied()}, "test_weights.Tied"),
    ],
)
def test_what_cannot_be_read_safely_names_the_class_and_how_to_save_it(sharp, folder, held, named, legacy):
    torch.save(held, folder / "w.pt", _use_new_zipfile_serialization=not legacy)
    said = sharp("measure", "w.pt", *MLP).refusal
    assert named in said and "torch.save(model.state_dict()" in said and "\x1b" not in said
    assert len(said) < 400 and "weights_only" not in said


def test_names_in_a_file_cannot_write_to_the_terminal(sharp, folder):
    torch.save(network().state_dict() | {"\x1b[31mred\u202e\n": torch.zeros(2)}, folder / "w.pt")
    said = sharp("measure", "w.pt", *MLP).refusal
    assert r"\x1b[31mred\u202e" in said and "\x1b" not in said
    torch.save({"model": network(6).state_dict(), "\x1b[31m": network().state_dict()}, folder / "w.pt")
    said = sharp("measure", "w.pt", *MLP, "measure=[scores]")
    assert said.code == 0 and r"others under \x1b[31m" in said.err and "\x1b" not in said.err


PECULIAR = {
    "int8": lambda w: w.mul(10).to(torch.int8),
    "torch.bool": lambda w: w > 0,
    "torch.float8_e4m3fn": lambda w: w.to(torch.float8_e4m3fn),
    "sparse (torch.sparse_coo)": lambda w: w.to_sparse(),
    "sparse (torch.sparse_csr)": lambda w: w.to_sparse_csr(),
    "on the meta device": lambda w: w.to("meta"),
    "torch.complex64": lambda w: w.to(torch.complex64),
    "torch.int64": lambda w: w.long(),
    "quantized (torch.qint8)": lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8),
    "would round": lambda w: w.double() + 1e-12,
    "infinity": lambda w: w.double() * 1e300 * 1e300,
    "float32 would round": lambda w: w.double() * 1e300,
}


@pytest.mark.filterwarnings("ignore")  # that sparse CSR is in beta, and quantized tensors will go
@pytest.mark.parametrize("what", PECULIAR)
def test_numbers_that_the_network_cannot_take_unchanged_are_refused_by_name(sharp, folder, what):
    state = network().state_dict()
    torch.save(state | {"3.weight": PECULIAR[what](state["3.weight"])}, folder / "w.pt")
    said = sharp("measure", "w.pt", *MLP, "measure=[scores]").refusal
    assert what in said and "3.weight" in said


def test_float64_weights_are_measured_in_float64_and_half_precision_exactly(sharp, folder):
    net = network().double()
    state = {name: value + 1e-10 for name, value in net.state_dict().items()}
    torch.save(state, folder / "w.pt")
    words = (*MLP, "measure=[scores]", "--json")
    row = last_json(sharp("measure", "w.pt", *words, "problem.dtype=float64"))
    net.load_state_dict(state)
    from sharpcli.data.digits import digits

    d = digits(train_examples=60, wrong=0)
    with torch.no_grad():
        loss = (net(d.x_train.double()) - d.y_train).square().sum() / 120
    assert row["train_loss"] == pytest.approx(loss.item(), rel=1e-12)
    halves = {name: value.half() for name, value in network().state_dict().items()}
    torch.save(halves, folder / "h.pt")
    torch.save({name: value.float() for name, value in halves.items()}, folder / "f.pt")
    rows = [last_json(sharp("measure", file, *words)) for file in ("h.pt", "f.pt")]
    assert rows[0]["train_loss"] == rows[1]["train_loss"]


def test_a_file_that_was_saved_without_checksums_is_read(tmp_path):
    net, fresh = Inner(), Inner()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(net.state_dict(), tmp_path / "w.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    load(fresh, read(tmp_path / "w.pt"), statistics=False)
    assert torch.equal(fresh.model[0].weight, net.model[0].weight)


def test_statistics_of_batch_norm_are_those_of_the_file_or_a_choice(tmp_path):
    make = lambda tracks: nn.Sequential(nn.BatchNorm1d(2, track_running_stats=tracks))  # noqa: E731
    net = make(True)
    net[0].running_mean, net[0].running_var = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    torch.save(net.state_dict(), tmp_path / "w.pt")
    fresh = make(False)  # as model=resnet keeps none in training
    load(fresh, read(tmp_path / "w.pt"), statistics=True)
    x = torch.randn(5, 2)
    assert torch.equal(fresh.eval()(x), net.eval()(x))
    torch.save(make(False).state_dict(), tmp_path / "none.pt")
    for tracks in (True, False):
        with pytest.raises(Refusal, match="no running statistics"):
            load(make(tracks), read(tmp_path / "none.pt"), statistics=True)
        load(make(tracks), read(tmp_path / "none.pt"), statistics=False)
    net[0].running_var[0] = -1
    torch.save(net.state_dict(), tmp_path / "w.pt")
    with pytest.raises(Refusal, match="negative"):
        load(make(True), read(tmp_path / "w.pt"), statistics=True)
    load(make(True), read(tmp_path / "w.pt"), statistics=False)


def test_a_batch_norm_that_the_model_froze_takes_the_statistics_of_the_file_under_every_choice(tmp_path):
    net, fresh = (
        nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2)),
        nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2)),
    )
    for norm in net:
        norm.running_mean = torch.tensor([1.0, 2.0])
    torch.save(net.state_dict(), tmp_path / "w.pt")
    fresh[1].eval()
    load(fresh, read(tmp_path / "w.pt"), statistics=False)
    assert torch.equal(fresh[1].running_mean, net[1].running_mean) and not fresh[0].running_mean.any()
    torch.save({k: v for k, v in net.state_dict().items() if "running" not in k}, tmp_path / "w.pt")
    with pytest.raises(Refusal, match=r"no running statistics \(1.running_mean\)"):
        load(fresh, read(tmp_path / "w.pt"), statistics=False)


def test_images_that_do_not_fit_say_what_the_network_takes(sharp, folder):
    import numpy as np

    def data(*shape):
        x, y = np.zeros((4, *shape), np.float32), np.arange(4) % 2
        np.savez(folder / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y)

    words = ("train", "data=arrays", "data.file=a.npz", "steps=1")
    data(1, 16, 16)
    assert "takes images of 3 channels" in sharp(*words, "model=torchvision", "model.name=resnet18").refusal
    data(3, 16, 16)
    said = sharp(*words, "model=torchvision", "model.name=squeezenet1_1").refusal
    assert "does not take images of 3x16x16" in said and "at least 3x17x17" in said
    assert (
        "model.patch=5: patches must tile the 16x16 image"
        in sharp(*words, "model=vit", "model.patch=5").refusal
    )
    pytest.importorskip("timm")
    data(3, 8, 8)
    said = sharp(*words, "model=timm", "model.name=vit_tiny_patch16_224").refusal
    assert "it takes 3x224x224; give model.img_size=224" in said
    from sharpcli.models.timm import timm

    net = timm((1, 8, 8), 2, name="vit_tiny_patch16_224", img_size=32)
    assert net(torch.zeros(2, 1, 8, 8)).shape == (2, 2) and net.training


def test_rows_go_to_a_file_with_what_they_were_computed_on(sharp, folder):
    torch.save(network().state_dict(), folder / "w.pt")
    said = sharp("measure", "weights=w.pt", *MLP, "measure=[sharpness,fisher_rao]", "-o", "out.jsonl")
    assert said.code == 0 and "lambda_1" in said.out and "±" in said.out and "products" in said.out
    first, second = map(json.loads, (folder / "out.jsonl").read_text().splitlines())
    assert first["file"] == "w.pt" and first["lambda_1_error"] >= 0 and second["fisher_rao"] > 0
    facts = first["provenance"]
    assert (
        len(facts["sha256"]) == 64
        and facts["config"]["problem"]["batchnorm"] == "stored"
        and facts["packages"]["torch"]
    )


def test_a_foreign_network_with_batch_norm_is_measured_with_its_own_statistics_in_eval_mode(sharp, folder):
    torch.manual_seed(0)
    net = resnet((1, 8, 8), 10, depth=8, width=2, norm="batch", groups=1, skip=True)
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.track_running_stats = True
            m.running_mean, m.running_var = torch.randn(m.num_features), torch.rand(m.num_features) + 0.5
            m.num_batches_tracked = torch.tensor(7)
    torch.save(net.state_dict(), folder / "w.pt")
    words = ["model._target_=own_net.Net", "~model.widths", "~model.activation", "trust=[own_net]"]
    (folder / "own_net.py").write_text(
        "import torch\nfrom sharpcli.models.resnet import resnet\n\n\ndef Net(shape, outputs):\n"
        "    net = resnet(shape, outputs, depth=8, width=2, norm='batch', groups=1, skip=True)\n"
        "    for m in net.modules():\n        if isinstance(m, torch.nn.BatchNorm2d):\n"
        "            m.__init__(m.num_features)\n    return net\n"
    )
    common = ("data.train_examples=24", "loss=cross_entropy", "measure=[scores,sharpness]", "--json")
    stored = last_json(sharp("measure", "w.pt", *words, *common))
    other = last_json(sharp("measure", "w.pt", *words, "problem.batchnorm=population", *common))
    from sharpcli.data.digits import digits

    d = digits(train_examples=24, wrong=0)
    loss = torch.nn.functional.cross_entropy(net.eval()(d.x_train), d.y_train)
    assert (
        stored["train_loss"]
        == pytest.approx(loss.item(), rel=1e-4)
        != pytest.approx(other["train_loss"], rel=1e-2)
    )


@pytest.mark.parametrize("name, file", [("torchvision", "w.safetensors"), ("timm", "w.pt")])
def test_networks_of_torchvision_and_timm_are_built_by_name(sharp, folder, name, file):
    if name == "timm":
        timm = pytest.importorskip("timm")
        net = timm.create_model("vit_tiny_patch16_224", num_classes=10, in_chans=3, img_size=(32, 32))
        words = ["model=timm", "model.name=vit_tiny_patch16_224"]
    else:
        from torchvision.models import get_model

        net = get_model("squeezenet1_1", num_classes=10)
        words = ["model=torchvision", "model.name=squeezenet1_1"]
    save_file(net.state_dict(), folder / file) if file.endswith("tensors") else torch.save(
        net.state_dict(), folder / file
    )
    import numpy as np

    g = np.random.default_rng(0)
    x, y = g.normal(size=(6, 3, 32, 32)), np.arange(6) % 10
    np.savez(folder / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y, classes=10)
    more = [
        "data=arrays",
        "data.file=a.npz",
        "loss=cross_entropy",
        "measure=[sharpness]",
        "measure.sharpness.max_products=4",
    ]
    row = last_json(sharp("measure", file, *words, *more, "--json"))
    assert abs(row["lambda_1"]) > 0 and row["sharpness_products"] == 4


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda s: s | {"3.weight": torch.zeros(10, 7)}, "3.weight is [10, 7] for [10, 6]"),
        (lambda s: {k: v for k, v in s.items() if k != "3.bias"}, "1 missing (3.bias)"),
        (lambda s: s | {"head.weight": torch.zeros(2)}, "1 not in the model (head.weight)"),
        (lambda s: s | {"1.bias": torch.full((6,), float("nan"))}, "NaN or infinity in 1.bias"),
        (lambda s: {"optimizer": {"lr": 0.1}}, "holds no state dict (it has optimizer)"),
        (lambda s: [1, 2], "holds no state dict"),
        (lambda s: network(), "save a state dict"),
    ],
)
def test_a_file_of_something_else_is_refused_with_a_list(sharp, folder, spoil, said):
    torch.save(spoil(network().state_dict()), folder / "w.pt")
    assert said in sharp("measure", "w.pt", *MLP, "measure=[sharpness]").refusal


def test_what_cannot_be_asked_of_a_file_of_weights_is_refused(sharp, folder):
    torch.save(network().state_dict(), folder / "w.pt")
    (folder / "b.pt").write_bytes(b"nothing")
    for words, said in [
        (["b.pt", *MLP], "not readable as weights"),
        (["w.pt", *MLP, "--step", "3"], "a file of weights has no steps"),
        (["w.pt", "problem=uv"], "takes no file of weights"),
        (["w.pt", *MLP, "measure=[preconditioned_sharpness]"], "needs the optimizer's state"),
        (["w.pt", *MLP, "measure=[pac_bayes_sharpness]"], "take prior=zero"),
        (["w.pt", *MLP, "measure=[sharpness]", "measure.sharpness.k=99999"], "take 1 to"),
    ]:
        assert said in sharp("measure", *words).refusal, words


def test_layers_and_patterns_are_measured_alone_and_do_not_replace_the_network_s_numbers(sharp, folder):
    assert sharp("train", *TINY, "steps=4", "measure_every=2").code == 0
    run = Run(only_run(folder))
    whole = run.rows()[-1]["lambda_1"]
    said = sharp("measure", run.name, "--step", "4", "measure=[sharpness,trace]", "--by", "layer")
    assert said.code == 0 and [line.split()[0] for line in said.out.splitlines()[1:4]] == ["layer", "1", "3"]
    row = last_json(
        sharp("measure", run.name, "--step", "4", "measure=[sharpness]", "--params", "3.*", "--json")
    )
    assert row["params"] == "3.*" and row["lambda_1"] < whole * (
        1 + 1e-3
    )  # a principal submatrix has no larger one
    assert Run(run.path).rows()[-1]["lambda_1"] == whole
    late = [json.loads(line) for line in (run.path / "measured.jsonl").read_text().splitlines()]
    assert {row.get("params") for row in late} == {"1", "3", "3.*"}


def test_ctrl_c_leaves_what_is_finished_on_disk(process, folder):
    torch.save(network().state_dict(), folder / "w.pt")
    slow = ["measure=[sharpness,density]", "measure.density.probes=100000", "measure.density.steps=100"]
    child = process("measure", "w.pt", *MLP, *slow, "-o", "out.jsonl")
    deadline = time.time() + 60
    out = folder / "out.jsonl"
    while not (out.exists() and out.stat().st_size) and time.time() < deadline:
        time.sleep(0.1)
    time.sleep(0.3)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    lines = [line for line in err.splitlines() if line.startswith("sharp: ")]
    assert child.returncode == 130 and lines == ["sharp: interrupted; 1 measurements are in out.jsonl"], err
    (row,) = map(json.loads, (folder / "out.jsonl").read_text().splitlines())
    assert row["sharpness_converged"]


def test_memory_that_runs_out_is_one_line_that_names_the_chunk_to_try(sharp, folder, monkeypatch):
    torch.save(network().state_dict(), folder / "w.pt")
    from sharpcli.landscape.hessian_products import Linearization

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(Linearization, "hvp", full)
    said = sharp("measure", "w.pt", *MLP, "measure=[sharpness]", "chunk=40").refusal
    assert "out of memory at 40 examples at once" in said and "try chunk=10" in said


def by_two_processes(folder, *words):
    """What `torchrun` with two processes of sharp ends with, which is 0."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, "-m", "sharpcli", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_two_processes_measure_and_train_as_one_does(sharp, folder):
    words = [
        *TINY[1:],
        "data.train_examples=61",
        "chunk=40",
        "method=sgd",
        "batch_size=16",
        "steps=6",
        "measure_every=3",
    ]
    words += ["measure=[scores,sharpness,gauss_newton,trace,gradient_noise]", "problem.dtype=float64"]
    assert sharp("train", *words).code == 0
    for more in (["train", *words, "runs_dir=two"], ["measure", "two", "--step", "6"]):
        done = by_two_processes(folder, *more)
    (run,) = (folder / "two").glob("*/provenance.json")
    alone, both = rows_of(only_run(folder) / "metrics.jsonl"), rows_of(run.parent / "metrics.jsonl")
    assert [row["step"] for row in both] == [0, 3, 6] and json.loads(run.read_text())["processes"] == 2
    for a, b in zip(alone, both, strict=True):
        for key, value in a.items():
            assert b[key] == pytest.approx(value, rel=1e-6, abs=1e-6), key
    assert done.stdout.count("lambda_1") >= 1 and "ggn_trace" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("batch_size=1", "steps=4"),
        ("batch_size=8", "data.train_examples=17", "steps=4"),
        ("method=sam", "optimizer.m=1", "batch_size=4", "steps=4"),
    ],
    ids=["batches of 1", "a last batch of 1", "groups of 1"],
)
def test_a_process_without_an_example_of_a_batch_takes_part(sharp, folder, words):
    words = [
        "data.train_examples=16",
        "model.widths=[4]",
        "measure=[scores]",
        "measure_every=2",
        "lr=0.05",
        *words,
    ]
    words += ["threads=1", "problem.dtype=float64"]
    assert sharp("train", *words).code == 0
    by_two_processes(folder, "train", *words, "runs_dir=two")
    (both,) = (folder / "two").glob("*/metrics.jsonl")
    for a, b in zip(rows_of(only_run(folder) / "metrics.jsonl"), rows_of(both), strict=True):
        assert b["train_loss"] == pytest.approx(a["train_loss"], rel=1e-10)
