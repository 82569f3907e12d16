"""What a graphics card says in at most eight minutes: products with the Hessian of a ResNet-18 and a GPT-2
against the alternatives, ResNet-18 trained to 94 % on CIFAR-10, and verdicts of claims of tier gpu, the
cheapest first, as many as fit.

`python benchmarks/gpu.py [--minutes 8] [--device cuda]`, or `make gpu`; needs `pip install -e '.[bench]'` and
CIFAR-10. What the time cuts off is carried on by the same command. `--images 8 --sequences 2 --words
steps=2` is small enough to try the command itself on a processor.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from common import machine, seconds
from own_loop import gpt, resnet
from torch import Tensor, nn

import sharpcli as sharp
from sharpcli import CONF
from sharpcli.errors import Refusal
from sharpcli.landscape.compiled_products import CompiledProducts

ROUNDS = 20
BELIEVED = 1e-3  # relative difference from the eager product above which a product is not believed
ACCURACY = 0.94
TO_94 = (
    *(
        "data=cifar10",
        "data.standardized=channel",
        "model=resnet18",
        "model.norm=batch",
        "loss=cross_entropy",
    ),
    *("method=momentum", "optimizer.nesterov=true", "objective=[crop_flip,weight_decay]", "precision=bf16"),
    *("objective.weight_decay.strength=0.0005", "schedule=one_cycle", "batch_size=512", "lr=0.2"),
    *("steps=24 epochs", "measure_every=1 epoch", "measure=[scores]", "chunk=1000"),
)


def products(
    name: str,
    net: nn.Module,
    loss: Any,
    data: tuple[Tensor, Tensor],
    device: torch.device,
    compile_too: bool,
) -> None:
    """Prints the milliseconds of a product on all examples at once, by every tool, and its relative
    difference from the eager one of sharp."""
    net, x, y = net.to(device), *(part.to(device) for part in data)
    H = sharp.hessian(net, loss, (x, y), chunk=len(x))
    problem = H._own.problem
    surface, w = replace(problem.surface, compiled=None, graph_budget=10**12), problem.w0
    v = torch.randn(len(w), generator=torch.Generator().manual_seed(0)).to(w)
    compiled = replace(surface, compiled=CompiledProducts("true", surface.predict, surface.loss))
    eager = surface.linearize(w)
    tools: dict[str, Callable[[], Tensor]] = {"sharp": lambda: eager.hvp(v)}
    found: dict[str, Tensor] = {"sharp": tools["sharp"]()}
    ways: dict[str, Callable[[], Callable[[Tensor], Tensor]]] = rivals(net, loss, (x, y), w)
    if compile_too:
        ways = {"sharp, compiled": lambda: compiled.linearize(w).hvp} | ways
    for tool, make in ways.items():
        try:
            product = make()
            found[tool] = product(v)
            tools[tool] = lambda product=product: product(v)
        except (Exception, Refusal) as problem_of_tool:  # a tool that cannot take this network says so
            print(f"  {tool}: {str(problem_of_tool).splitlines()[0][:120]}", flush=True)
    timed = [ended(lambda: surface.grad(w), device), *(ended(call, device) for call in tools.values())]
    gradient, *each = seconds(ROUNDS, *timed)
    print(f"\n{name}, {len(w):,} weights, {len(x)} examples ({machine()}, {kind_of(device)})")
    print(f"  {'':22}{'ms':>10}{'gradients':>12}{'difference':>12}")
    print(f"  {'a gradient':22}{1e3 * gradient:10.2f}{1:12.2f}")
    for tool, took in zip(tools, each, strict=True):
        off = float((found[tool] - found["sharp"]).norm() / found["sharp"].norm())
        said = "" if off <= BELIEVED else "  not believed"
        print(f"  {tool:22}{1e3 * took:10.2f}{took / gradient:12.2f}{off:12.0e}{said}", flush=True)


def rivals(
    net: nn.Module, loss: Any, data: tuple[Tensor, Tensor], w: Tensor
) -> dict[str, Callable[[], Callable[[Tensor], Tensor]]]:
    """Each alternative's product v [D] -> H v [D]."""
    params = [p for p in net.parameters() if p.requires_grad]
    sizes = [p.numel() for p in params]

    def pyhessian() -> Callable[[Tensor], Tensor]:
        from pyhessian.utils import get_params_grad, hessian_vector_product

        loss(net(data[0]), data[1]).backward(create_graph=True)
        parameters, gradients = get_params_grad(net)

        def product(v: Tensor) -> Tensor:
            pieces = [piece.view_as(p) for piece, p in zip(v.split(sizes), params, strict=True)]
            return torch.cat([t.flatten() for t in hessian_vector_product(gradients, parameters, pieces)])

        return product

    def eigenthings() -> Callable[[Tensor], Tensor]:
        from hessian_eigenthings import HessianOperator  # type: ignore[attr-defined]

        operator = HessianOperator(net, [data], lambda model, pair: loss(model(pair[0]), pair[1]))
        return operator.matvec

    def curvlinops() -> Callable[[Tensor], Tensor]:
        from curvlinops import HessianLinearOperator

        operator = HessianLinearOperator(net, loss, params, [data], check_deterministic=False)
        return lambda v: operator @ v

    return {"PyHessian": pyhessian, "hessian-eigenthings": eigenthings, "curvlinops": curvlinops}


def ended(call: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """The call, which returns once the device has done its work."""

    def run() -> None:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def kind_of(device: torch.device) -> str:
    """The device in words."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the processor"


def command(words: Sequence[str], until: float) -> bool:
    """Runs `sharp` with these words; whether it ended by itself before the time, at which it saves and
    ends."""
    child = subprocess.Popen([sys.executable, "-m", "sharpcli", *words], stdout=subprocess.DEVNULL)
    try:
        child.wait(max(1.0, until - time.time()))
        return child.returncode == 0
    except subprocess.TimeoutExpired:
        child.terminate()
        child.wait()
        return False


def to_94(device: torch.device, until: float, words: Sequence[str]) -> None:
    """Prints the seconds of training up to the first epoch with 94 % of the test images right."""
    folder = Path("runs/gpu")
    ran = command(["train", *TO_94, f"device={device}", f"runs_dir={folder}", *words], until)
    rows = [
        json.loads(line) for file in folder.glob("*/metrics.jsonl") for line in file.read_text().splitlines()
    ]
    right = [row for row in rows if row.get("test_accuracy", 0) >= ACCURACY]
    best = max((row.get("test_accuracy", 0.0) for row in rows), default=0.0)
    print(f"\nResNet-18 on CIFAR-10, bf16 ({kind_of(device)})")
    if right:
        print(f"  94 % after {right[0]['seconds']:.0f} s, epoch {right[0]['epoch']:.0f}; best {best:.2%}")
    else:
        print(f"  94 % not reached{'' if ran else ' in the time'}: best {best:.2%} after {len(rows)} rows")


def claims(until: float) -> None:
    """Checks the claims of tier gpu in the order of their stated seconds while there is time."""
    stated = {file.stem: yaml.safe_load(file.read_text()) for file in (CONF / "claim").glob("*.yaml")}
    names = sorted((c["seconds"], name) for name, c in stated.items() if c["tier"] == "gpu")
    for _, name in names:
        if time.time() > until - 5:
            print(f"  {name}: no time left", flush=True)
        else:
            ran = command(["claim", "check", name], until)
            print(f"  {name}: {'has a verdict (sharp claim list)' if ran else 'not done'}", flush=True)


def main() -> None:
    """All three, within the time."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--words", nargs="*", default=[], help="settings that change the training")
    options = parser.parse_args()
    until, device = time.time() + 60 * options.minutes, torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit(
            "benchmarks/gpu.py: this machine has no graphics card that torch can use; --device cpu tries it"
        )
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    products("GPT-2", *gpt(options.sequences), device, compile_too=True)
    # compiling a ResNet-18 recompiles for the sizes of its layers, and takes minutes
    products("ResNet-18", *resnet(options.images), device, compile_too=False)
    to_94(device, min(until, time.time() + 30 * options.minutes), options.words)
    print("\nclaims of tier gpu")
    claims(until)


if __name__ == "__main__":
    main()
