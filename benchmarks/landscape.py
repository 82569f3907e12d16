"""The cost of a landscape's points over that of plain forward passes: ResNet-20 on 1,000 images of CIFAR-10,
both taken in turns in one process.

    python benchmarks/landscape.py [--points 9] [--images 1000]
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from torch import nn

from sharpcli.config.check import check
from sharpcli.config.words import compose
from sharpcli.engine.experiment import build
from sharpcli.engine.landscapes import chosen, losses_at
from sharpcli.models.resnet import resnet


def main() -> None:
    """Seconds for each point and each pass, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=9)
    parser.add_argument("--images", type=int, default=1000)
    options = parser.parse_args()
    words = ["data=cifar10", f"data.train_examples={options.images}", "model=resnet", "measure=[]"]
    experiment = build(check(compose(words), words))
    w = experiment.problem.w0
    basis, _, _, _ = chosen(experiment, w, [], "random", 2, 0)
    net = resnet((3, 32, 32), 10, depth=20, width=16, norm="group", groups=4, skip=True)
    x, y = experiment.problem.examples
    targets = y.argmax(1) if y.ndim > 1 else y
    loss = nn.CrossEntropyLoss()

    def plain() -> float:
        began = time.perf_counter()
        with torch.no_grad():
            sum(
                float(loss(net(x[i : i + experiment.chunk]), targets[i : i + experiment.chunk]))
                for i in range(0, len(x), experiment.chunk)
            )
        return time.perf_counter() - began

    def point(at: np.ndarray) -> float:
        began = time.perf_counter()
        list(losses_at(experiment, w, basis, at[None]))
        return time.perf_counter() - began

    at = np.random.default_rng(0).uniform(-1, 1, (options.points + 1, 2))
    plain(), point(at[-1])
    pairs = [(point(at[i]), plain()) for i in range(options.points)]
    ratios = [a / b for a, b in pairs]
    mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"{torch.get_num_threads()} threads, {len(w):,} weights, {len(x)} images")
    print(
        f"a point {mine:.3f} s, a plain forward pass {theirs:.3f} s, ratio {statistics.median(ratios):.3f} "
        f"(of pairs {min(ratios):.3f} to {max(ratios):.3f})"
    )


if __name__ == "__main__":
    main()
