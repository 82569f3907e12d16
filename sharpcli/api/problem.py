"""A user's model, loss and data as a `Problem`, with the model left as it was."""

from __future__ import annotations

import fnmatch
import inspect
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sharpcli.api.data import read
from sharpcli.errors import Refusal
from sharpcli.landscape.batches import Batch, Examples, mapped, tree_of
from sharpcli.landscape.compiled_products import CompiledProducts
from sharpcli.landscape.surface import LossSurface, examples_in
from sharpcli.problems.network import Arguments, batch_norms, flat
from sharpcli.problems.network_norms import structural_norms
from sharpcli.problems.problem import Problem
from sharpcli.problems.user_parts import check_loss, check_model, check_parts, check_precision, check_tensors

MODELS = ("model", "net", "network", "module")  # names of a loss's first parameter that is the model
HALF = 2  # bytes of a number in half precision

Loss = Callable[..., Tensor]
Weight = Callable[[Any], Any]


@dataclass(frozen=True)
class Own:
    """A user's problem, the `module` it is made of, whether it is measured in eval mode, and the `population`
    of examples of which the measured ones are a part, where it is known."""

    problem: Problem
    module: nn.Module
    eval_mode: bool = False
    population: int | None = None

    def untouched(self) -> AbstractContextManager[None]:
        """Within it the model is called; after it, it is as before."""
        return untouched(self.module, self.eval_mode)

    def w(self) -> Tensor:
        """The module's weights of now [D], in the problem's dtype."""
        parts = dict(self.module.named_parameters())
        names = [name for name, _ in self.problem.layout]
        return torch.cat([parts[name].detach().flatten().to(self.problem.w0) for name in names])

    def part(self, params: str | Sequence[str]) -> Own:
        """The same in the parameters whose names match a pattern of `params`, the others held."""
        names = matching(self.problem.names, params)
        return replace(self, problem=self.problem.only(self.problem.w0, names))

    def named(self, v: Tensor) -> dict[str, Tensor]:
        """A flat vector [D] as tensors, named and shaped as the parameters."""
        return dict(zip(self.problem.names, self.problem.tensors(v), strict=True))

    def vector(self, named: Mapping[str, Tensor]) -> Tensor:
        """Tensors, named and shaped as the parameters, as a flat vector [D]; parameters without a tensor are
        0. Refuses names and shapes that are not the parameters'."""
        layout = dict(self.problem.layout)
        for name, t in named.items():
            if name not in layout:
                raise Refusal(f"{name}: no parameter of the model; it has {', '.join(list(layout)[:8])}")
            if t.shape != layout[name]:
                raise Refusal(f"{name}: of the shape {list(t.shape)}; the parameter has {list(layout[name])}")
        w0 = self.problem.w0
        parts = (named.get(name, torch.zeros(shape)).to(w0).flatten() for name, shape in layout.items())
        return torch.cat(list(parts))


def own(
    model: nn.Module,
    loss: Loss,
    data: Any,
    *,
    params: str | Sequence[str] | None,
    weight: Weight | None,
    chunk: int,
    examples: int | None,
    graph_budget: int,
    eval_mode: bool,
) -> Own:
    """The mean loss of the model as it is now on the data, in its own modes or in `eval_mode`, as a function
    of the parameters that require gradients (and match a pattern of `params`, as in "layer4.*").

    A loss takes (outputs, targets), or (model, batch) for batches of any structure, and is the mean over the
    batch; `weight(batch)` says over how much, where it is not the examples: a number for each batch, as in
    `lambda batch: (batch["labels"] != -100).sum()`. Weights in half precision are measured in float32 copies.
    Batch norm in training mode normalizes by the statistics of each batch of the data.

    Refuses what `problems/user_parts.py` refuses, data that `read` refuses, a pattern without a parameter,
    and a model on several devices.
    """
    if not isinstance(model, nn.Module):
        raise Refusal(f"model: a {type(model).__name__}; give a torch.nn.Module")
    if not callable(loss):
        raise Refusal(f"loss: a {type(loss).__name__}; give a function (outputs, targets) -> mean")
    module = unwrapped(model)
    chosen = [name for name, p in module.named_parameters() if p.requires_grad]
    if not chosen:
        raise Refusal("the model has no parameter with requires_grad=True; leave some of them trainable")
    chosen = chosen if params is None else matching(chosen, params)
    parts = dict(module.named_parameters())
    if len(devices := {str(p.device) for p in parts.values()}) > 1:
        raise Refusal(f"the model is on {' and '.join(sorted(devices))}; move it to one device")
    real = {p.dtype for p in parts.values() if p.is_floating_point() and p.dtype.itemsize > HALF}
    dtype = torch.float64 if torch.float64 in real else torch.float32
    check_tensors(module, dtype)
    w0 = torch.cat([parts[name].detach().flatten().to(dtype) for name in chosen])
    with untouched(module, eval_mode):
        batches, population = read(data, chunk, examples)
        problem = _problem_of(module, loss, batches, chosen, w0, weight, graph_budget)
    return Own(problem, module, eval_mode, population)


def _problem_of(
    module: nn.Module,
    loss: Loss,
    batches: tuple[Batch, ...],
    names: Sequence[str],
    w0: Tensor,
    weight: Weight | None,
    graph_budget: int,
) -> Problem:
    if _form(loss, batches[0]) == "outputs":
        try:
            return _problem(module, loss, batches, names, w0, weight, graph_budget, whole=False)
        except TypeError as problem:  # a loss that takes the model calls the outputs
            if "object is not callable" not in str(problem):
                raise
    return _problem(module, loss, batches, names, w0, weight, graph_budget, whole=True)


def matching(names: Sequence[str], params: str | Sequence[str]) -> list[str]:
    """The names that match a pattern. Refuses patterns that match none."""
    patterns = [params] if isinstance(params, str) else list(params)
    chosen = [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
    if not chosen:
        raise Refusal(
            f"params={params}: no trainable parameter is called so; possible: {', '.join(names[:8])}"
        )
    return chosen


def _problem(
    module: nn.Module,
    loss: Loss,
    batches: tuple[Batch, ...],
    names: Sequence[str],
    w0: Tensor,
    weight: Weight | None,
    graph_budget: int,
    whole: bool,
) -> Problem:
    """`whole`: the loss takes the model and a batch."""
    layout = tuple((name, module.get_parameter(name).shape) for name in names)
    joint = bool(batch_norms(module))
    moved = _moved(w0)
    called: nn.Module = module
    if whole:
        batches = tuple(_undivided(batch) for batch in batches)
        called, names = _Whole(module, loss), [f"net.{name}" for name in names]

        def given(x: Any) -> Arguments:
            return (moved(x),), {}

        def mean(outputs: Any, targets: Any) -> Tensor:
            return outputs
    else:

        def given(x: Any) -> Arguments:
            x = moved(x)
            if isinstance(x, dict):
                return (), x
            return (tuple(x), {}) if isinstance(x, tuple | list) else ((x,), {})

        def mean(outputs: Any, targets: Any) -> Tensor:
            return loss(outputs, moved(targets))

    weigh = examples_in if weight is None else _weigher(weight, whole)
    batches = tuple(batch for batch in batches if weigh(batch) > 0)
    if not batches:
        raise Refusal("weight=: gives 0 for every batch; give what the loss averages over")
    x, y = batches[0]
    buffers = [name for name, _ in called.named_buffers()]
    trial = flat(called, names, eager=True, given=given, changed=buffers)
    tried = check_model(called, trial, w0, x)
    if not whole:
        check_precision(tried.outputs, w0)
    # what batch norm counts in training is no input of its outputs, but must not change in the user's model
    predict = flat(
        called, names, eager=tried.compiled, given=given, changed=buffers if module.training or joint else ()
    )
    check_loss(predict, mean, w0, x, y, weigh)
    surface = LossSurface(
        predict,
        mean,
        batches,
        graph_budget=graph_budget,
        joint=joint,
        compiled=CompiledProducts("false", predict, mean),
        weigh=weigh,
    )
    check_parts(surface, w0)
    parts = dict(module.named_parameters())
    frozen = {name: p.detach() for name, p in parts.items() if name not in dict(layout)}
    return Problem(
        w0=w0,
        examples=batches[0],
        surface=surface,
        scores=lambda w: {"train_loss": float(surface.value(w))},
        at=lambda w: surface,
        layout=layout,
        frozen=tuple(frozen),
        held=frozen,
        last_matrix=next((name for name, p in reversed(list(parts.items())) if p.ndim > 1), ""),
        norms=structural_norms(module, [name for name, _ in layout]),
    )


class _Whole(nn.Module):
    """A model with its loss: batch -> the mean loss of the batch."""

    def __init__(self, net: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.net, self.loss = net, loss

    def forward(self, batch: Any) -> Tensor:
        return self.loss(self.net, batch)


def _form(loss: Loss, batch: Batch) -> str:
    """Whether a loss takes `outputs` and targets, or the `model` and a batch: what its first parameter is
    called, and for a batch that is no pair always the model."""
    if batch[0] is batch[1]:
        return "model"
    if isinstance(loss, nn.Module):
        return "outputs"
    try:
        first = next(iter(inspect.signature(loss).parameters), "")
    except (TypeError, ValueError):  # a function written in C
        first = ""
    return "model" if first in MODELS else "outputs"


def _undivided(batch: Batch) -> Batch:
    """A batch as it came, for a loss that takes it whole."""
    x, y = batch
    rows = x if x is y else Examples((tree_of(x), tree_of(y)), len(y))
    return rows, rows


def _weigher(weight: Weight, whole: bool) -> Callable[[Batch], float]:
    def weigh(batch: Batch) -> float:
        x, y = batch
        value = float(weight(tree_of(x) if whole else (tree_of(x), tree_of(y))))
        if not value >= 0:
            raise Refusal(f"weight=: gives {value} for a batch; give a number of at least 0")
        return value

    return weigh


def _moved(w: Tensor) -> Callable[[Any], Any]:
    """What puts a batch where the weights are: on their device, half precision in theirs."""

    def moved(t: Tensor) -> Tensor:
        half = t.is_floating_point() and t.dtype.itemsize <= HALF
        return t.to(device=w.device, dtype=w.dtype if half else t.dtype)

    return lambda rows: mapped(moved, tree_of(rows))


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside `torch.compile` or `DistributedDataParallel`, whose parameters it shares."""
    for inside in ("_orig_mod", "module"):
        inner = model._modules.get(inside)
        if isinstance(inner, nn.Module) and len(list(model.children())) == 1 and not model._parameters:
            return unwrapped(inner)
    return model


@contextmanager
def untouched(module: nn.Module, eval_mode: bool = False) -> Iterator[None]:
    """Within it the model may be called, with `eval_mode` in eval mode; after it, its attributes and all
    random generators are as before. Parameters and buffers are never written to."""
    before = [(m, dict(vars(m))) for m in module.modules()]
    tensors = [(t, t.detach().clone()) for _, held in before for t in held.values() if isinstance(t, Tensor)]
    of_python, of_numpy = random.getstate(), np.random.get_state()
    devices = sorted({p.device for p in module.parameters() if p.device.type == "cuda"}, key=str)
    try:
        with torch.random.fork_rng(devices=devices):
            if eval_mode:
                module.eval()
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        for m, held in before:
            vars(m).clear()
            vars(m).update(held)
        with torch.no_grad():
            for t, was in tensors:
                if not torch.equal(t, was):
                    t.copy_(was)
