"""A user's model, loss and data as a `Problem`, with the model left as it was."""

from __future__ import annotations

import contextlib
import fnmatch
import inspect
import math
import random
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from sharpcli.api.data import named_like, read
from sharpcli.errors import Refusal
from sharpcli.landscape.batches import Batch, Examples, can_be_cut, head, mapped, tree_of
from sharpcli.landscape.compiled_products import CompiledProducts
from sharpcli.landscape.surface import LossSurface, examples_in
from sharpcli.problems.network import Arguments, batch_norms, flat
from sharpcli.problems.network_norms import structural_norms
from sharpcli.problems.problem import Problem
from sharpcli.problems.user_parts import (
    EXAMPLES,
    check_loss,
    check_model,
    check_parts,
    check_precision,
    check_reached,
    check_tensors,
)

MODELS = ("model", "net", "network", "module")  # names of a loss's first parameter that is the model
HALF = 2  # bytes of a number in half precision

Loss = Callable[..., Tensor]
Weight = Callable[[Any], Any]


@dataclass(frozen=True)
class Own:
    """A user's problem, the `module` it is made of, the `modes` in which it is measured, and the `population`
    of examples of which the measured ones are a part, where it is known."""

    problem: Problem
    module: nn.Module
    modes: Mapping[nn.Module, bool]
    population: int | None = None
    loss: nn.Module | None = None

    def untouched(self) -> AbstractContextManager[None]:
        """Within it the model is called, in the modes of when this was made; after it, it is as before."""
        return untouched(self.module, self.modes, self.loss)

    def w(self) -> Tensor:
        """The module's weights of now [D], in the problem's dtype. Refuses a module whose parameters have
        become others since."""
        parts = dict(self.module.named_parameters())
        names = [name for name, _ in self.problem.layout]
        for name, shape in self.problem.layout:
            if name not in parts or parts[name].shape != shape:
                raise Refusal(
                    f"the model's parameter {name} {list(shape)} is no longer there (a layer was replaced or "
                    f"pruned?); begin anew with the model as it is"
                )
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
            if not isinstance(t, Tensor):
                raise Refusal(f"{name}: a {type(t).__name__}; give a tensor")
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
    if not callable(loss) or isinstance(loss, type):
        kind = loss.__name__ if isinstance(loss, type) else type(loss).__name__
        raise Refusal(
            f"loss: a {kind}; give a function (outputs, targets) -> mean, or such a module's object"
        )
    if weight is not None and not callable(weight):
        raise Refusal(f"weight={weight}: give a function of a batch")
    if not isinstance(eval_mode, bool):
        raise Refusal(f"eval_mode={eval_mode!r}: give True or False")
    module = unwrapped(model)
    if lazy := next((name for name, p in module.named_parameters() if is_lazy(p)), ""):
        raise Refusal(f"the model's {lazy} has no shape yet; call the model once on a batch")
    chosen = [name for name, p in module.named_parameters() if p.requires_grad]
    if not chosen:
        raise Refusal("the model has no parameter with requires_grad=True; leave some of them trainable")
    chosen = chosen if params is None else matching(chosen, params)
    parts = dict(module.named_parameters())
    if len(devices := {str(p.device) for p in parts.values()}) > 1:
        raise Refusal(f"the model is on {' and '.join(sorted(devices))}; move it to one device")
    real = {p.dtype for p in parts.values() if p.is_floating_point() and p.dtype.itemsize > HALF}
    dtype = torch.float64 if torch.float64 in real else torch.float32
    check_tensors(module, dtype, "give the model one dtype, as by model.double()")
    modes = {m: m.training and not eval_mode for m in module.modules()}
    holder = getattr(loss, "__self__", loss)  # of a bound method
    of_loss = holder if isinstance(holder, nn.Module) and holder is not module else None
    with untouched(module, modes, of_loss):
        w0 = torch.cat([parts[name].detach().flatten().to(dtype) for name in chosen])
        batches, population = read(data, chunk, examples)
        problem = _problem_of(module, loss, batches, chosen, w0, weight, graph_budget)
    return Own(problem, module, modes, population, of_loss)


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
        except (TypeError, ValueError, AttributeError, IndexError, KeyError) as problem:
            if not _takes_model(loss, module, batches[0]):  # which fails when it is given outputs
                raise problem from None
    return _problem(module, loss, batches, names, w0, weight, graph_budget, whole=True)


def _indivisible(batches: tuple[Batch, ...]) -> tuple[Batch, ...]:
    """The batches, with structures that are never cut: a tensor as long as the examples may be of all of
    them, as a mask [T, T] of T texts."""

    def uncut(rows: Any) -> Any:
        return replace(rows, whole=True) if isinstance(rows, Examples) else rows

    return tuple(named_like(batch, *map(uncut, batch)) for batch in batches)


def _runs(predict: Callable[[Tensor, Any], Any], w: Tensor, x: Any) -> bool:
    """Whether a model takes these inputs."""
    try:
        with torch.no_grad():
            predict(w, x)
    except Exception:  # whatever it raises
        return False
    return True


def _takes_model(loss: Loss, module: nn.Module, batch: Batch) -> bool:
    """Whether loss(model, batch) gives a number."""
    try:
        with torch.no_grad():
            value = loss(module, tree_of(_undivided(batch)[0]))
    except Exception:  # what a loss raises that was meant for outputs
        return False
    return isinstance(value, Tensor) and not value.ndim


def matching(names: Sequence[str], params: str | Sequence[str]) -> list[str]:
    """The names that match a pattern. Refuses patterns that match none."""
    if not isinstance(params, str | Iterable) or not params:
        raise Refusal(f"params={params}: give a pattern of parameter names, or a list of them")
    patterns = [params] if isinstance(params, str) else [str(pattern) for pattern in params]
    matches = {p: [name for name in names if name == p or fnmatch.fnmatchcase(name, p)] for p in patterns}
    if missing := [pattern for pattern, found in matches.items() if not found]:
        some = ", ".join(names[:8])
        raise Refusal(f"params={missing[0]}: no trainable parameter is called so; possible: {some}")
    chosen = [name for name in names if any(name in found for found in matches.values())]
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
    layout, chosen = tuple((name, module.get_parameter(name).shape) for name in names), names
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

    if weight is None:
        _check_lengths(batches, whole)
    weigh = examples_in if weight is None else _weigher(weight, whole)
    batches = tuple(batch for batch in batches if weigh(batch) > 0)
    if not batches:
        raise Refusal("weight=: gives 0 for every batch; give what the loss averages over")
    x, y = head(batches[0], EXAMPLES)
    trial = flat(called, names, eager=True, given=given, restored=True)
    try:
        tried = check_model(called, trial, w0, x)
    except (RuntimeError, TypeError, ValueError, IndexError) as problem:
        uncut = _indivisible(batches)
        if can_be_cut(batches[0]) and not can_be_cut(uncut[0]) and _runs(trial, w0, uncut[0][0]):
            return _problem(module, loss, uncut, chosen, w0, weight, graph_budget, whole)
        _explain(problem, module, batches[0], whole)
        raise
    if not whole:
        check_precision(tried.outputs, w0)
    predict = flat(called, names, eager=tried.compiled, given=given, restored=True)
    check_loss(predict, mean, w0, x, y, weigh)

    def own_loss() -> Tensor:
        args, kwargs = given(x)
        buffers = {name: b.detach().clone() for name, b in called.named_buffers()}
        return mean(torch.func.functional_call(called, buffers, args, kwargs), y)

    check_reached(
        module, layout, predict, w0, x, None if tried.compiled else own_loss, lambda out: mean(out, y)
    )
    surface = LossSurface(
        predict,
        mean,
        batches,
        graph_budget=graph_budget,
        joint=joint,
        compiled=CompiledProducts("false", predict, mean),
        weigh=weigh,
    )
    if not check_parts(surface, w0) and not bool(torch.isfinite(surface.value(w0))):
        _find_not_finite(surface, w0)
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
        last_matrix=tried.last_matrix.removeprefix("net." if whole else ""),
        norms=structural_norms(module, [name for name, _ in layout]),
    )


def _check_lengths(batches: tuple[Batch, ...], whole: bool) -> None:
    """Refuses targets [n, T] whose T differs between batches: nobody but the user knows whether their loss is
    a mean over examples or over targets, and no batch holds both to try it. And batches of which it is not
    known what counts the examples, such as nodes and edges of graphs: without targets, and with tensors of
    several lengths that differ between batches."""
    lengths, unclear = set(), set()
    for batch in batches:
        targets = _targets(tree_of(batch[1]), whole)
        has_targets = isinstance(targets, Tensor) and targets.ndim > 0 and len(targets) == len(batch[1])
        if has_targets and targets.ndim > 1 and len(targets):
            lengths.add(targets[0].numel())
        sizes = [len(t) for t in tree_leaves(tree_of(batch[1])) if isinstance(t, Tensor) and t.ndim]
        if whole and not has_targets and len({*sizes}) > 1:
            unclear.add(tuple(sizes))
    if len(unclear) > 1:
        some = " or ".join(str(list(sizes)) for sizes in sorted(unclear)[:2])
        raise Refusal(
            f"the batches hold tensors of the lengths {some}; say what a batch's loss is the mean over: "
            f"weight=lambda batch: its number of examples, nodes or targets that count"
        )
    if len(lengths) > 1:
        raise Refusal(
            f"the batches have {min(lengths)} to {max(lengths)} targets an example; say what a batch's loss "
            f"is the mean over: weight=lambda batch: its number of examples, or of targets that count"
        )


def _targets(tree: Any, whole: bool) -> Any:
    """The targets in what a batch holds of them, or in a batch as a whole: by their name in a dict, the
    second of a tuple."""
    if not whole:
        return tree
    if isinstance(tree, dict):
        return next(
            (tree[name] for name in ("labels", "label", "targets", "target", "y") if name in tree), None
        )
    return tree[1] if isinstance(tree, tuple | list) and len(tree) > 1 else None


def _explain(problem: Exception, module: nn.Module, batch: Batch, whole: bool) -> None:
    """Refuses what a first pass says of dtypes, and of batches that are no pair, in one line; returns where
    the problem is another."""
    text = str(problem)
    if re.search(r"same dtype|expected scalar type|should be the same|dtypes? do(es)? not match", text):
        of_data = {str(leaf.dtype) for leaf in tree_leaves(tree_of(batch[0])) if isinstance(leaf, Tensor)}
        of_model = {str(p.dtype) for p in module.parameters()}
        raise Refusal(
            f"the model's weights are {', '.join(sorted(of_model))} and the inputs "
            f"{', '.join(sorted(of_data))}, which do not fit ({text.splitlines()[0][:120]}); give inputs of "
            f"the weights' dtype, and leave casts out of the model"
        ) from None
    if whole and isinstance(problem, TypeError) and not isinstance(tree_of(batch[0]), dict):
        raise Refusal(
            f"the batches are no pairs (inputs, targets), so that the loss is called as loss(model, batch): "
            f"{text.splitlines()[0][:160]}; give pairs, or such a loss"
        ) from None


def _find_not_finite(surface: LossSurface, w: Tensor) -> None:
    """Refuses a loss that is no number on a batch."""
    for number, batch in enumerate(surface.batches):
        value = float(surface.single(batch).value(w))
        if math.isnan(value):
            raise Refusal(
                f"the loss of batch {number} is NaN: a mean over nothing, where no target counts (give "
                f"weight=, 0 for such a batch), or infinity in the inputs or NaN in the weights"
            )


class _Whole(nn.Module):
    """A model with its loss: batch -> the mean loss of the batch."""

    def __init__(self, net: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.net, self.loss = net, loss

    def forward(self, batch: Any) -> Tensor:
        is_taken = torch.is_grad_enabled()
        with torch.enable_grad():  # a loss may take gradients itself, in its inputs
            value = self.loss(self.net, batch)
        return value if is_taken or not isinstance(value, Tensor) else value.detach()


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
    rows = x if x is y else Examples(named_like(batch, tree_of(x), tree_of(y)), len(y))
    return rows, rows


def _weigher(weight: Weight, whole: bool) -> Callable[[Batch], float]:
    def weigh(batch: Batch) -> float:
        x, y = batch
        given = weight(tree_of(x) if whole else (tree_of(x), tree_of(y)))
        try:
            value = float(given)
        except (TypeError, ValueError, RuntimeError):
            kind = f"{type(given).__name__} of {len(given)}" if hasattr(given, "__len__") else given
            raise Refusal(f"weight=: gives {kind} for a batch; give a number of at least 0") from None
        if not 0 <= value < math.inf:
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
    """The module inside `torch.compile`, `DataParallel` or `DistributedDataParallel`."""
    dynamo = sys.modules.get("torch._dynamo")  # importing it takes a second: without it nothing is compiled
    if dynamo is not None and isinstance(model, dynamo.OptimizedModule):
        return unwrapped(model._orig_mod)
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(model.module)
    return model


@contextmanager
def untouched(
    module: nn.Module, modes: Mapping[nn.Module, bool] | None = None, loss: nn.Module | None = None
) -> Iterator[None]:
    """Within it the model may be called, in the given `modes` (True: training); after it, its attributes and
    those of a loss that is a module, the lists and dicts among them, and all random generators are as before.
    Parameters and buffers of the model are never written to. Gradients are taken and nothing is cast,
    whatever context the caller is in."""
    before = [(m, dict(vars(m))) for of in (module, loss) if of is not None for m in of.modules()]
    values = [value for _, held in before for value in held.values()]
    tensors = [
        (t, t.detach().clone()) for t in [*values, *(loss.buffers() if loss else ())] if isinstance(t, Tensor)
    ]
    containers = [(c, c.copy()) for c in values if isinstance(c, list | dict | set)]
    generators = [(g, g.get_state()) for g in values if isinstance(g, torch.Generator)]
    of_python, of_numpy = random.getstate(), np.random.get_state()
    # within `parametrize.cached()` a layer would answer with the values of other weights
    parametrize: Any = sys.modules.get("torch.nn.utils.parametrize")
    cached = getattr(parametrize, "_cache_enabled", 0)
    kinds = {p.device for p in module.parameters()}
    devices = sorted({device for device in kinds if device.type == "cuda"}, key=str)
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in sorted({"cpu", *(device.type for device in kinds)} - {"meta"}):
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(torch.random.fork_rng(devices=devices))
        try:
            for m, training in (modes or {}).items():
                m.training = training
            for m in module.modules():
                if plain := vars(m).get("_original_forward"):  # accelerate has put autocast around it
                    vars(m)["forward"] = plain
            if parametrize is not None:
                parametrize._cache_enabled = 0
            yield
        finally:
            if parametrize is not None:
                parametrize._cache_enabled = cached
            random.setstate(of_python)
            np.random.set_state(of_numpy)
            for m, held in before:
                vars(m).clear()
                vars(m).update(held)
            for container, was in containers:
                container.clear()
                container.extend(was) if isinstance(container, list) else container.update(was)
            for g, state in generators:
                g.set_state(state)
            with torch.no_grad():
                for t, kept in tensors:
                    if not torch.equal(t, kept):
                        t.copy_(kept)
