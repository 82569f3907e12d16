"""A neural network on data: data x model x loss as a function of one flat weight vector."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from sharpcli.data import Dataset
from sharpcli.errors import Refusal
from sharpcli.landscape.compiled_products import CompiledProducts, When
from sharpcli.landscape.distributed import Processes
from sharpcli.landscape.surface import Batch, LossSurface
from sharpcli.problems.convolution import Convolutions
from sharpcli.problems.minibatches import chunks
from sharpcli.problems.network_norms import structural_norms
from sharpcli.problems.problem import Better, Problem
from sharpcli.problems.weights import load

Model = Callable[[tuple[int, ...], int], nn.Module]
Predict = Callable[[Tensor, Tensor], Tensor]


def network(
    seed: int,
    device: torch.device,
    chunk: int,
    graph_budget: int,
    compile_products: When,
    processes: Processes,
    weights: Mapping[str, Tensor] | None,
    data: Dataset,
    model: Model,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    dtype: Literal["float32", "float64"],
    batchnorm: Literal["batch", "population", "stored"],
) -> Problem:
    """w is the concatenation of the module's trainable parameters in PyTorch's order; w0 is what
    `torch.manual_seed(seed)` and then building the module gives, or the given `weights`, a state dict, with
    which the module is in eval mode. Parameters with `requires_grad=False` are held at their values: they are
    `frozen`, and no part of w.

    Batch norm keeps no running statistics in training. `batchnorm=batch` normalizes by the statistics of the
    examples that are evaluated at once (`chunk` when measuring), which makes the loss a function of w;
    `population` fixes, before scoring or measuring at w, the statistics of the whole training set at w;
    `stored` takes the running statistics of the file of weights. Refuses a model without a trainable
    parameter; one whose outputs differ between two passes (dropout): its loss is no function of w; and
    weights whose names or shapes are not the model's.
    """
    if batchnorm == "stored" and weights is None:
        raise Refusal(
            "problem.batchnorm=stored: running statistics come with a file of weights; take batch or "
            "population"
        )
    place = {"device": device, "dtype": getattr(torch, dtype)}
    x_train, y_train = data.x_train.to(**place), data.y_train.to(**place)
    x_test, y_test = data.x_test.to(**place), data.y_test.to(**place)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = built(model, x_train, y_train).to(**place)
    trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    frozen = {name: p.detach() for name, p in module.named_parameters() if not p.requires_grad}
    if not trainable:
        raise Refusal(
            f"the model has no trainable parameter ({len(frozen)} frozen by requires_grad=False); leave "
            f"some of them trainable"
        )
    if weights is not None:
        load(module, weights, statistics=batchnorm == "stored")
        module.eval()
    if batchnorm != "stored":
        for norm in batch_norms(module):
            norm.track_running_stats = False
            norm.running_mean = norm.running_var = norm.num_batches_tracked = None
    w0 = torch.cat([p.detach().flatten() for p in trainable.values()])
    predict = flat(module, list(trainable))
    # under batch norm an example's output depends on its batch, which must then not be split
    joint = batchnorm == "batch" and bool(batch_norms(module))
    pieces = chunks((x_train, y_train), chunk)
    surface = LossSurface(
        predict,
        loss,
        pieces,
        graph_budget=graph_budget,
        processes=processes,
        joint=joint,
        compiled=CompiledProducts(compile_products, predict, loss),
    )
    _check(predict, loss, w0, x_train, y_train)

    def at(w: Tensor) -> LossSurface:
        if batchnorm != "population" or not batch_norms(module):
            return surface
        fixed = with_population_statistics(module, predict, w, surface.batches)
        return replace(surface, predict=flat(fixed, list(trainable)))

    def scores(w: Tensor) -> dict[str, float]:
        fixed, out = at(w), {}
        for split, batches in (("train", surface.batches), ("test", chunks((x_test, y_test), chunk))):
            if not batches:  # a file without a test set
                continue
            value, right = evaluate(fixed.on(batches), w)
            out[f"{split}_loss"] = value
            if data.classes:
                out[f"{split}_accuracy"] = right
        return out

    def error(surface: LossSurface, w: Tensor) -> float:
        return 1 - evaluate(surface, w)[1]

    better: dict[str, Better] = {"train_loss": "lower", "test_loss": "lower"}
    if data.classes:
        better |= {"train_accuracy": "higher", "test_accuracy": "higher"}
    return Problem(
        w0=w0,
        examples=(x_train, y_train),
        surface=surface,
        scores=scores,
        at=at,
        better=better,
        layout=tuple((name, p.shape) for name, p in trainable.items()),
        frozen=tuple(frozen),
        held={**frozen, **{name: b.detach() for name, b in module.named_buffers()}},
        last_matrix=next((name for name, p in reversed(list(module.named_parameters())) if p.ndim > 1), ""),
        tests=(x_test, y_test) if len(y_test) else None,
        error=error if data.classes else None,
        norms=structural_norms(module, list(trainable)),
    )


def built(model: Model, x: Tensor, y: Tensor) -> nn.Module:
    """The model for inputs x [n, *shape] and targets y [n, C]; lazy layers take their sizes from a pass over
    two inputs. Refuses a part that makes no module."""
    module = model(tuple(x.shape[1:]), y.shape[1])
    if not isinstance(module, nn.Module):
        raise Refusal(f"model: (shape, outputs) gives a {type(module).__name__}; give a torch.nn.Module")
    if any(is_lazy(p) for p in module.parameters()):
        with torch.no_grad():
            module(x[:2].to("cpu", torch.get_default_dtype()))
    return module


def flat(module: nn.Module, names: Sequence[str]) -> Predict:
    """The module as a function (w [D], x [n, ...]) -> outputs [n, C] of the parameters of these names, flat;
    the others are the module's own."""
    shapes = [module.get_parameter(name).shape for name in names]
    sizes = [shape.numel() for shape in shapes]
    convolves = any(isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d) for m in module.modules())

    def predict(w: Tensor, x: Tensor) -> Tensor:
        parts = (part.view(shape) for part, shape in zip(w.split(sizes), shapes, strict=True))
        # PyTorch's fast kernels of attention cannot be differentiated twice; its convolutions can, but slowly
        with sdpa_kernel(SDPBackend.MATH), Convolutions() if convolves else nullcontext():
            return torch.func.functional_call(module, dict(zip(names, parts, strict=True)), (x,))

    return predict


def evaluate(surface: LossSurface, w: Tensor) -> tuple[float, float]:
    """Mean loss, and the share of examples whose largest output is the largest target, over the whole
    surface."""
    total, right = 0.0, 0
    with torch.no_grad():
        for x, y in surface.own_batches:
            outputs = surface.predict(w, x)
            total += float(surface.loss(outputs, y)) * len(y)
            right += int((outputs.argmax(1) == y.argmax(1)).sum())
    both = (
        surface.processes.sum(torch.tensor([total, right], dtype=torch.float64, device=w.device))
        / surface.examples
    )
    return float(both[0]), float(both[1])


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """Every batch-norm layer of the module."""
    return [m for m in module.modules() if isinstance(m, _BatchNorm)]


def with_population_statistics(
    module: nn.Module, predict: Predict, w: Tensor, batches: tuple[Batch, ...]
) -> nn.Module:
    """A copy of the module whose batch-norm layers use the mean and variance of their inputs over all of
    `batches` at w, each batch weighted by its size, where the layers below normalize by batch."""
    layers = batch_norms(module)
    moments = [torch.zeros(2, m.num_features, dtype=torch.float64, device=w.device) for m in layers]

    def note(into: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
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


def _check(
    predict: Predict, loss: Callable[[Tensor, Tensor], Tensor], w: Tensor, x: Tensor, y: Tensor
) -> None:
    """Refuses a model whose outputs do not fit the targets or differ between two passes, and a loss that is
    no scalar."""
    x, y = x[:8], y[:8]
    with torch.no_grad(), torch.random.fork_rng():
        first, second = predict(w, x), predict(w, x)
    if first.shape != y.shape:
        raise Refusal(
            f"the model gives outputs {list(first.shape)} for targets {list(y.shape)}; its last layer must "
            f"fit the data"
        )
    if not torch.equal(first, second):
        raise Refusal(
            "the model's outputs differ between two passes over the same images (dropout?); its loss is no "
            "function of w"
        )
    value = loss(first, y)
    if not isinstance(value, Tensor) or value.ndim:
        shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise Refusal(
            f"the loss of outputs {list(first.shape)} is {shape}; give a scalar, the mean over the examples"
        )
    at = w.detach().requires_grad_()
    if not loss(predict(at, x), y).requires_grad:
        raise Refusal(
            "the loss has no gradient in the weights (a detach, or outputs that ignore them); remove the "
            "cause"
        )
