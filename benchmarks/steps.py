"""A training step of `sharp` against the same step written by hand in plain PyTorch, timed in turn."""

from __future__ import annotations

import torch
from common import experiment, seconds, table

from sharpcli.config.build import part
from sharpcli.config.check import check
from sharpcli.config.words import compose
from sharpcli.engine.train import begin


def ratio(rounds: int, *words: str) -> float:
    """Seconds of a step of sharp in those of the step by hand."""
    e, config = experiment(*words), check(compose(words), words).config
    x, y = e.problem.examples
    torch.manual_seed(e.seed)
    module = part(config["model"], [], "model")(tuple(x.shape[1:]), y.shape[1])
    loss, rule = part(config["loss"], [], "loss"), torch.optim.SGD(module.parameters(), lr=e.lr)
    here, whole = begin(e), e.minibatches.per_epoch == 1
    order = e.minibatches.order(0)

    def ours() -> None:
        surface = e.problem.surface if whole else e.problem.surface.on([e.minibatches(0, order)])
        here.w, here.state = e.optimizer.step(here.w, here.state, surface.grad, e.schedule(0))
        assert bool(torch.isfinite(here.w.sum()))

    def by_hand() -> None:
        inputs, targets = (
            (x, y) if whole else (x[order[: e.minibatches.batch_size]], y[order[: e.minibatches.batch_size]])
        )
        rule.zero_grad()
        loss(module(inputs), targets).backward()
        rule.step()

    a, b = seconds(rounds, ours, by_hand)
    return a / b


small = ("data.train_examples=2000", "data.test_examples=100")
table(
    "a step in steps by hand",
    [
        (
            "mlp 200-200, full batch of 5,000",
            f"{ratio(25, 'experiment=eos_cifar10_5k', 'measure_every=0'):.3f}",
            "<= 1.05",
        ),
        (
            "ResNet-20, batch 128",
            f"{ratio(15, 'experiment=resnet20_cifar10', 'measure_every=0', *small):.3f}",
            "<= 1.05",
        ),
    ],
)
