"""Images a second of `sharp train` against the same network trained in the ordinary way: a DataLoader with
torchvision's transforms, float32, contiguous tensors, torch.optim.SGD. Blocks of steps are timed in turn.

`python benchmarks/images.py`; needs CIFAR-10. The ordinary way has 0 or 2 worker processes: the faster.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from common import experiment, seconds, table
from torch import nn

from sharpcli.config.build import part
from sharpcli.config.check import check
from sharpcli.config.words import compose
from sharpcli.engine.experiment import started
from sharpcli.engine.steps import advance

STEPS, ROUNDS, BATCH = 20, 3, 128  # steps of a block; blocks of each contestant; images of a step
WORKERS = (0, 2)
ASKED = {
    ("batch", "float32"): ">= 1.5",
    ("batch", "bf16"): ">= 2.2",
    ("group", "float32"): "",
    ("group", "bf16"): ">= 1.4",
}


def overrides(norm: str, precision: str | None) -> list[str]:
    """The words of `sharp train` for a ResNet-20 with this normalization."""
    given = ["experiment=resnet20_cifar10", f"model.norm={norm}", "method=momentum", "schedule=constant"]
    given += ["lr=0.01", f"batch_size={BATCH}", "measure_every=0", "objective=crop_flip"]
    return [*given, f"precision={precision}"] if precision else given


def of_sharp(norm: str, precision: str | None) -> Callable[[], None]:
    """A block of steps of `sharp train`."""
    e = experiment(*overrides(norm, precision))
    step, at = advance(e), [e.problem.w0, started(e.optimizer, e.problem.w0), 0]

    def block() -> None:
        for _ in range(STEPS):
            at[:] = step(at[0], at[1], at[2], at[2] + 1)
        assert bool(torch.isfinite(at[0].sum()))

    return block


def ordinary(norm: str, workers: int) -> Callable[[], None]:
    """A block of steps in plain PyTorch."""
    from torchvision import transforms
    from torchvision.datasets import CIFAR10

    words = overrides(norm, None)
    checked = check(compose(words), words)
    moved = transforms.Compose(
        [
            transforms.RandomCrop(32, 4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
        ]
    )
    data = CIFAR10(str(Path(checked.local["data_dir"])), train=True, transform=moved)
    torch.manual_seed(0)
    net = part(checked.config["model"], [], "model")((3, 32, 32), 10).train()
    sgd = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    loss = nn.CrossEntropyLoss()

    def batches() -> Iterator[Any]:
        while True:
            yield from torch.utils.data.DataLoader(data, BATCH, shuffle=True, num_workers=workers)

    stream = batches()

    def block() -> None:
        for x, y in itertools.islice(stream, STEPS):
            sgd.zero_grad()
            loss(net(x), y).backward()
            sgd.step()

    return block


def main() -> None:
    """Times the networks and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--norms", nargs="+", default=["batch", "group"])
    rows = []
    for norm in parser.parse_args().norms:
        precisions = {"float32": of_sharp(norm, None), "bf16": of_sharp(norm, "bf16")}
        plain = [ordinary(norm, workers) for workers in WORKERS]
        *by_workers, float32, bf16 = seconds(ROUNDS, *plain, *precisions.values())
        best = min(by_workers)
        print(f"{norm} norm, images/s: ordinary {', '.join(f'{STEPS * BATCH / t:.0f}' for t in by_workers)}")
        for name, took in zip(precisions, (float32, bf16), strict=True):
            print(f"  sharp, {name}: {STEPS * BATCH / took:.0f}")
            rows.append((f"ResNet-20, {norm} norm, {name}", f"{best / took:.2f}", ASKED[norm, name]))
    table("images a second over the ordinary way's", rows)


if __name__ == "__main__":
    main()
