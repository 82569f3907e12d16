"""lambda_1 to 1e-3 of networks of one's own, by `sharp.measure` and by the alternatives, in one run.

Prints for each the value, its distance from a value solved to 1e-6, the products, the seconds (the median of
three, in turns) and the growth of memory, on a torchvision ResNet-18 and on a GPT-2 of four layers, 128 wide;
and what the Python door costs over the command's own path.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import sharpcli as sharp

TOL = 1e-3
BATCH = 256  # examples evaluated at once, by every tool, unless --batch says another number
STEPS = 40  # of Lanczos, as in the example that hessian-eigenthings publishes


def resnet(images: int) -> tuple[nn.Module, Any, tuple[Tensor, Tensor]]:
    """ResNet-18 of torchvision in eval mode, on images of CIFAR-10 where they are, else on noise."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    net = resnet18(num_classes=10).eval()
    try:
        from torchvision.datasets import CIFAR10

        raw = CIFAR10("data", download=False)
        x = torch.from_numpy(raw.data[:images]).permute(0, 3, 1, 2).float().div(255).sub(0.5).div(0.25)
        y = torch.tensor(raw.targets[:images])
    except (RuntimeError, OSError):
        x, y = torch.randn(images, 3, 32, 32), torch.randint(0, 10, (images,))
    return net, nn.CrossEntropyLoss(), (x.contiguous(), y)


class Logits(nn.Module):
    """The logits of all tokens but the last, [n (T - 1), C]: what every tool can take."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [n, T] -> [n (T - 1), C]."""
        return self.net(input_ids=x).logits[:, :-1].flatten(0, 1)


class NextToken(nn.Module):
    """The mean cross-entropy over the next tokens."""

    reduction = "mean"  # curvlinops asks

    def forward(self, outputs: Tensor, tokens: Tensor) -> Tensor:
        """Of outputs [n (T - 1), C] and the tokens [n, T] themselves."""
        return nn.functional.cross_entropy(outputs, tokens[:, 1:].flatten())


def gpt(sequences: int) -> tuple[nn.Module, Any, tuple[Tensor, Tensor]]:
    """A GPT-2 of four layers, 128 wide, on sequences of 64 tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"n_layer": 4, "n_embd": 128, "n_head": 4, "vocab_size": 256, "n_positions": 64}
    config = GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, attn_implementation="eager", use_cache=False)
    tokens = torch.randint(0, 256, (sequences, 64))
    return Logits(GPT2LMHeadModel(config)).eval(), NextToken(), (tokens, tokens)


def by_sharp(net: nn.Module, loss: Any, data: tuple[Tensor, Tensor], batch: int) -> tuple[float, float]:
    """sharp.measure at its defaults."""
    found = sharp.measure(net, loss, data, tol=TOL, chunk=batch)
    return found["lambda_1"], found["sharpness_products"]


def by_pyhessian(net: nn.Module, loss: Any, data: tuple[Tensor, Tensor], batch: int) -> tuple[float, float]:
    """PyHessian's power iteration, the change of an iteration its criterion."""
    from pyhessian import hessian

    pieces = list(zip(data[0].split(batch), data[1].split(batch), strict=True))
    tool = (
        hessian(net, loss, dataloader=pieces, cuda=False)
        if len(pieces) > 1
        else hessian(net, loss, data=data, cuda=False)
    )
    values, _ = tool.eigenvalues(maxIter=200, tol=TOL / 10, top_n=1)
    return float(values[0]), float("nan")


def by_eigenthings(net: nn.Module, loss: Any, data: tuple[Tensor, Tensor], batch: int) -> tuple[float, float]:
    """hessian-eigenthings' Lanczos, which always takes the steps that it is told."""
    from hessian_eigenthings import HessianOperator, lanczos  # type: ignore[attr-defined]

    pieces = list(zip(data[0].split(batch), data[1].split(batch), strict=True))
    operator = HessianOperator(net, pieces, lambda model, pair: loss(model(pair[0]), pair[1]))
    result = lanczos(operator, k=1, max_iter=STEPS, tol=TOL, which="LA")
    return float(result.eigenvalues[0]), float("nan")


def by_curvlinops(net: nn.Module, loss: Any, data: tuple[Tensor, Tensor], batch: int) -> tuple[float, float]:
    """curvlinops' Hessian in SciPy's eigsh."""
    from curvlinops import HessianLinearOperator
    from scipy.sparse.linalg import eigsh

    pieces = list(zip(data[0].split(batch), data[1].split(batch), strict=True))
    params = [p for p in net.parameters() if p.requires_grad]
    operator = HessianLinearOperator(net, loss, params, pieces, check_deterministic=False)
    as_scipy = operator.to_scipy()
    counted = [0]
    inner = as_scipy._matvec

    def product(v: Any) -> Any:
        counted[0] += 1
        return inner(v)

    as_scipy._matvec = product
    values = eigsh(as_scipy, k=1, which="LA", tol=TOL, return_eigenvectors=False)
    return float(values[0]), counted[0]


TOOLS: dict[str, Callable[..., tuple[float, float]]] = {
    "sharp": by_sharp,
    "PyHessian": by_pyhessian,
    "hessian-eigenthings": by_eigenthings,
    "curvlinops": by_curvlinops,
}


NETWORKS = {"GPT-2": gpt, "ResNet-18": resnet}


def rss() -> float:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class Peak:
    """The most memory that the process had while it lasted, above that at its start."""

    def __enter__(self) -> Peak:
        self.start, self.most, self._on = rss(), 0.0, True
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while self._on:
            self.most = max(self.most, rss() - self.start)
            time.sleep(0.01)

    def __exit__(self, *_: object) -> None:
        self._on = False
        self._thread.join()


def once(network: str, tool: str, examples: int, batch: int) -> None:
    """Measures in this process, and prints the value, the products, the seconds and the growth of memory."""
    net, loss, data = NETWORKS[network](examples)
    batch = min(examples, batch)
    with Peak() as peak:
        began = time.perf_counter()
        value, products = TOOLS[tool](net, loss, data, batch)
        seconds = time.perf_counter() - began
    print("measured", value, products, seconds, peak.most)


def compare(network: str, examples: int, repeats: int, batch: int) -> None:
    """A table of all tools on a network, each measurement in a process of its own, in turns."""
    net, loss, data = NETWORKS[network](examples)
    exact = sharp.measure(net, loss, data, tol=1e-6, chunk=BATCH)["lambda_1"]
    weights = sum(p.numel() for p in net.parameters())
    print(
        f"\n{network}: {weights:,} weights, {examples} examples, {batch} at once, lambda_1 {exact:.6g}",
        flush=True,
    )
    said: dict[str, list[list[float]]] = {tool: [] for tool in TOOLS}
    for _ in range(repeats):
        for tool, rows in said.items():
            command = [sys.executable, str(Path(__file__)), "--once", network, tool, str(examples)]
            command += ["--batch", str(batch)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            lines = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("measured")]
            if lines:
                rows.append([float(number) for number in lines[0]])
            else:  # a tool that cannot take this network says so
                print(f"{tool}: {done.stderr.strip().splitlines()[-1][:150]}")
    print(f"{'':22}{'lambda_1':>12}{'error':>10}{'products':>10}{'seconds':>10}{'over sharp':>12}{'GB':>8}")
    own = statistics.median(row[2] for row in said["sharp"])
    for tool, rows in said.items():
        if not rows:
            continue
        value, products = rows[0][:2]
        took, memory = (statistics.median(row[i] for row in rows) for i in (2, 3))
        error = abs(value - exact) / abs(exact)
        costs = f"{products:10.3g}{took:10.2f}{took / own:12.2f}{memory / 1e9:8.2f}"
        print(f"{tool:22}{value:12.6g}{error:10.1e}{costs}", flush=True)


def door(repeats: int) -> None:
    """What `sharp.measure` takes over the command's own path, on the same network and examples: each builds
    its problem, tries it, and measures once."""
    from sharpcli.config.check import check
    from sharpcli.config.words import compose
    from sharpcli.engine.experiment import build
    from sharpcli.engine.measuring import measure
    from sharpcli.losses.half_squared import half_squared
    from sharpcli.models.mlp import mlp

    words = [
        "data.train_examples=1500",
        "model.widths=[200,200]",
        "measure=[sharpness]",
        "measure.sharpness.k=10",
    ]
    checked = check(compose(words), words)
    experiment = build(checked)  # once beforehand: the examples are read and kept
    torch.manual_seed(0)
    module = mlp((1, 8, 8), 10, widths=[200, 200], activation="tanh")
    paths: dict[str, list[float]] = {"command": [], "python": []}
    for _ in range(repeats):
        began = time.perf_counter()
        experiment = build(checked)
        row, _ = measure(experiment, experiment.problem.w0, 0, {}, experiment.measures)
        paths["command"].append(time.perf_counter() - began)
        began = time.perf_counter()
        found = sharp.measure(module, half_squared, experiment.problem.examples, ["sharpness"], k=10)
        paths["python"].append(time.perf_counter() - began)
        assert found["lambda_1"] == row["lambda_1"]
    command, python = (statistics.median(paths[path]) for path in ("command", "python"))
    more = python / command - 1
    print(f"\nsharp.measure over the command's own path: {more:+.1%} ({python:.3f} s, {command:.3f} s)")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--network", choices=NETWORKS, help="only this network")
    parser.add_argument("--once", nargs=3, metavar=("NETWORK", "TOOL", "EXAMPLES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        once(*options.once[:2], int(options.once[2]), options.batch)
        sys.exit()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    door(2 * options.repeats + 1)
    for name, examples in (("GPT-2", options.sequences), ("ResNet-18", options.images)):
        if options.network in (name, None):
            compare(name, examples, options.repeats, options.batch)
