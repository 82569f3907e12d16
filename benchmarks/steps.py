"""A training step of `sharp` against the same step written by hand in plain PyTorch, timed in turn.

`python benchmarks/steps.py`; needs CIFAR-10.
"""

from __future__ import annotations

import torch
from common import experiment, seconds, table

from sharpcli.config.build import part
from sharpcli.config.check import check
from sharpcli.config.words import compose
from sharpcli.engine.train import begin


def ratio(rounds: int, *overrides: str) -> float:
    """The seconds of a step of sharp over those of the step by hand, for the training of these overrides."""
    e, config = experiment(*overrides), check(compose(overrides), overrides).config
    x, y = e.problem.examples
    torch.manual_seed(e.seed)
    module = part(config["model"], [], "model")(tuple(x.shape[1:]), y.shape[1])
    loss, sgd = part(config["loss"], [], "loss"), torch.optim.SGD(module.parameters(), lr=e.lr)
    lane, whole = begin(e), e.minibatches.whole
    order = e.minibatches.order(0)

    def step_of_sharp() -> None:
        surface = e.problem.surface if whole else e.problem.surface.on([e.minibatches(0, order)])
        lane.w, lane.state = e.optimizer.step(lane.w, lane.state, surface.grad, e.schedule(0))
        assert bool(torch.isfinite(lane.w.sum()))

    def step_by_hand() -> None:
        batch = order[: e.minibatches.batch_size]
        inputs, targets = (x, y) if whole else (x[batch], y[batch])
        sgd.zero_grad()
        loss(module(inputs), targets).backward()
        sgd.step()

    of_sharp, by_hand = seconds(rounds, step_of_sharp, step_by_hand)
    return of_sharp / by_hand


def main() -> None:
    """Times both networks and prints the table."""
    mlp = ratio(25, "experiment=eos_cifar10_5k", "measure_every=0")
    small = ("data.train_examples=2000", "data.test_examples=100")
    resnet = ratio(15, "experiment=resnet20_cifar10", "measure_every=0", *small)
    table(
        "a step in steps by hand",
        [
            ("mlp 200-200, full batch of 5,000", f"{mlp:.3f}", "<= 1.05"),
            ("ResNet-20, batch 128", f"{resnet:.3f}", "<= 1.05"),
        ],
    )


if __name__ == "__main__":
    main()
