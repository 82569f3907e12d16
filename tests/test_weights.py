"""`sharp measure` on somebody else's file of weights, in parts, in several processes, and interrupted."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import TINY, only_run, rows_of
from safetensors.torch import save_file

from sharpcli.models.mlp import mlp
from sharpcli.models.resnet import resnet
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
    np.savez(folder / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    more = [
        "data=arrays",
        "data.file=a.npz",
        "data.classes=10",
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
    assert child.returncode == 2 and lines == ["sharp: interrupted; 1 measurements are in out.jsonl"], err
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
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    two = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "sharpcli",
    ]
    for more in (["train", *words, "runs_dir=two"], ["measure", "two", "--step", "6"]):
        done = subprocess.run(
            [*two, *more], env=env, cwd=folder, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
    (run,) = (folder / "two").glob("*/provenance.json")
    alone, both = rows_of(only_run(folder) / "metrics.jsonl"), rows_of(run.parent / "metrics.jsonl")
    assert [row["step"] for row in both] == [0, 3, 6] and json.loads(run.read_text())["processes"] == 2
    for a, b in zip(alone, both, strict=True):
        for key, value in a.items():
            assert b[key] == pytest.approx(value, rel=1e-6, abs=1e-6), key
    assert done.stdout.count("lambda_1") >= 1 and "ggn_trace" in done.stdout
