"""A neural network on data: data x model x loss as a function of one flat weight vector."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sharpcli.data import Dataset
from sharpcli.errors import Refusal
from sharpcli.problem import Problem, chunks
from sharpcli.surface import Batch, LossSurface

Model = Callable[[tuple[int, ...], int], nn.Module]
Predict = Callable[[Tensor, Tensor], Tensor]


def network(
    seed: int,
    device: torch.device,
    chunk: int,
    graph_budget: int,
    data: Dataset,
    model: Model,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    dtype: Literal["float32", "float64"],
    batchnorm: Literal["batch", "population"],
) -> Problem:
    """w is the concatenation of the module's parameters in PyTorch's order; w0 is what `torch.manual_seed(seed)` and
    then building the module gives.

    Batch norm keeps no running statistics in training. `batchnorm=batch` normalizes by whatever is evaluated at once
    (`chunk` examples when measuring), which makes the loss a function of w; `population` fixes, before scoring or
    measuring at w, the statistics of the training data at w. Refuses a model whose outputs differ between two passes
    (dropout): its loss is no function of w.
    """
    place = {"device": device, "dtype": getattr(torch, dtype)}
    x_train, y_train = data.x_train.to(**place), data.y_train.to(**place)
    x_test, y_test = data.x_test.to(**place), data.y_test.to(**place)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = model(tuple(x_train.shape[1:]), y_train.shape[1]).to(**place).requires_grad_(False)
    for norm in batch_norms(module):
        norm.track_running_stats = False
        norm.running_mean = norm.running_var = norm.num_batches_tracked = None
    w0 = torch.cat([p.detach().flatten() for p in module.parameters()])
    predict = flat(module)
    surface = LossSurface(predict, loss, chunks((x_train, y_train), chunk), graph_budget=graph_budget)
    _check(predict, w0, x_train, y_train)

    def at(w: Tensor) -> LossSurface:
        if batchnorm == "batch" or not batch_norms(module):
            return surface
        return replace(surface, predict=flat(with_population_statistics(module, predict, w, surface.batches)))

    def scores(w: Tensor) -> dict[str, float]:
        here, out = at(w), {}
        for split, batches in (("train", surface.batches), ("test", chunks((x_test, y_test), chunk))):
            value, right = evaluate(here.on(batches), w)
            out[f"{split}_loss"] = value
            if data.classes:
                out[f"{split}_accuracy"] = right
        return out

    return Problem(w0, (x_train, y_train), surface, scores, at)


def flat(module: nn.Module) -> Predict:
    """The module as a function (w [D], x [n, ...]) -> outputs [n, C] of its flat parameters."""
    names, parameters = zip(*module.named_parameters(), strict=True)
    sizes, shapes = [p.numel() for p in parameters], [p.shape for p in parameters]

    def predict(w: Tensor, x: Tensor) -> Tensor:
        parts = (part.view(shape) for part, shape in zip(w.split(sizes), shapes, strict=True))
        return torch.func.functional_call(module, dict(zip(names, parts, strict=True)), (x,))

    return predict


def evaluate(surface: LossSurface, w: Tensor) -> tuple[float, float]:
    """Mean loss, and the share of examples whose largest output is the largest target, over the whole surface."""
    total, right = 0.0, 0
    with torch.no_grad():
        for x, y in surface.batches:
            outputs = surface.predict(w, x)
            total += float(surface.loss(outputs, y)) * len(y)
            right += int((outputs.argmax(1) == y.argmax(1)).sum())
    return total / surface.examples, right / surface.examples


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """Every batch-norm layer of the module."""
    return [m for m in module.modules() if isinstance(m, _BatchNorm)]


def with_population_statistics(module: nn.Module, predict: Predict, w: Tensor, batches: tuple[Batch, ...]) -> nn.Module:
    """A copy of the module whose batch-norm layers use the mean and variance of their inputs over all of `batches` at
    w, each batch weighted by its size, where the layers below normalize by batch."""
    layers = batch_norms(module)
    moments = [[torch.zeros(m.num_features, dtype=torch.float64, device=w.device) for _ in "12"] for m in layers]

    def note(into: list[Tensor]) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].double()
            dims = [d for d in range(x.ndim) if d != 1]
            share = len(x) / sum(len(y) for _, y in batches)
            into[0] += x.mean(dims) * share
            into[1] += x.square().mean(dims) * share

        return hook

    hooks = [m.register_forward_pre_hook(note(into)) for m, into in zip(layers, moments, strict=True)]
    try:
        with torch.no_grad():
            for x, _ in batches:
                predict(w, x)
    finally:
        for hook in hooks:
            hook.remove()
    fixed = copy.deepcopy(module)
    for m, (mean, square) in zip(batch_norms(fixed), moments, strict=True):
        m.track_running_stats, m.training = True, False
        m.running_mean, m.running_var = mean.to(w), (square - mean.square()).clamp_min(0).to(w)
    return fixed


def _check(predict: Predict, w: Tensor, x: Tensor, y: Tensor) -> None:
    x, y = x[:8], y[:8]
    with torch.no_grad(), torch.random.fork_rng():
        first, second = predict(w, x), predict(w, x)
    if first.shape != y.shape:
        raise Refusal(
            f"the model gives outputs {list(first.shape)} for targets {list(y.shape)}; its last layer must fit the data"
        )
    if not torch.equal(first, second):
        raise Refusal(
            "the model's outputs differ between two passes over the same images (dropout?); its loss is no function of w"
        )
