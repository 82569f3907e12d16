"""A neural network on data: data x model x loss as a function of one flat weight vector."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from sharpcli.data import IGNORED, Dataset
from sharpcli.errors import Refusal
from sharpcli.landscape.batches import Batch
from sharpcli.landscape.compiled_products import CompiledProducts, When
from sharpcli.landscape.distributed import Processes
from sharpcli.landscape.surface import LossSurface, examples_in
from sharpcli.problems.convolution import Convolutions
from sharpcli.problems.minibatches import chunks
from sharpcli.problems.network_norms import structural_norms
from sharpcli.problems.problem import Better, Problem
from sharpcli.problems.user_parts import (
    EXAMPLES,
    are_coupled,
    check_loss,
    check_model,
    check_outputs,
    check_tensors,
    fewest_examples,
    with_numbers,
)
from sharpcli.problems.weights import load

Model = Callable[[tuple[int, ...], int], nn.Module]
Predict = Callable[[Tensor, Any], Any]
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


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
    `frozen`, and no part of w. Integer inputs stay integers where the module takes them.

    Batch norm keeps no running statistics in training. `batchnorm=batch` normalizes by the statistics of the
    examples that are evaluated at once (`chunk` when measuring), which makes the loss a function of w;
    `population` fixes, before scoring or measuring at w, the statistics of the whole training set at w;
    `stored` takes the running statistics of the file of weights. A batch norm that the model itself has put
    into eval mode keeps its running statistics under each of them.

    Refuses a model without a trainable parameter, weights that are not the model's, and what `user_parts`
    refuses: a loss that is no function of w, or no mean over the examples.
    """
    if batchnorm == "stored" and weights is None:
        raise Refusal(
            "problem.batchnorm=stored: running statistics come with a file of weights; take batch or "
            "population"
        )
    kind = getattr(torch, dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = built(model, _floats(data.x_train, kind), data.outputs or data.y_train.shape[1])
    check_tensors(module, kind)
    module = module.to(device=device, dtype=kind)
    x_train, x_test = (_floats(x, kind).to(device) for x in (data.x_train, data.x_test))
    y_train, y_test = (_floats(y, kind).to(device) for y in (data.y_train, data.y_test))
    x_train = with_numbers(module, x_train, kind)
    x_test = x_test.to(x_train.dtype)
    trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    frozen = {name: p.detach() for name, p in module.named_parameters() if not p.requires_grad}
    if not trainable:
        raise Refusal(
            f"the model has no trainable parameter ({len(frozen)} frozen by requires_grad=False); leave "
            f"some of them trainable"
        )
    norms = batch_norms(module)
    if weights is not None:
        load(module, weights, statistics=batchnorm == "stored")
        module.eval()
    if batchnorm != "stored":
        for norm in named(module, norms):
            norm.track_running_stats = False
            norm.running_mean = norm.running_var = norm.num_batches_tracked = None
    w0 = torch.cat([p.detach().flatten() for p in trainable.values()])
    tried = check_model(module, flat(module, list(trainable), eager=True), w0, x_train[:EXAMPLES])
    check_outputs(tried.outputs, w0, y_train)
    calls_compiled = tried.compiled
    predict = flat(module, list(trainable), eager=calls_compiled)
    weigh = counted_targets if _are_classes(y_train) else examples_in
    check_loss(predict, loss, w0, x_train, y_train, weigh)
    # under batch norm an example's output depends on its batch, which must then not be split
    joint = (batchnorm != "stored" and bool(norms)) or are_coupled(predict, w0, x_train[:EXAMPLES])
    surface = LossSurface(
        predict,
        loss,
        chunks((x_train, y_train), chunk),
        graph_budget=graph_budget,
        processes=processes,
        joint=joint,
        compiled=CompiledProducts("false" if calls_compiled else compile_products, predict, loss),
        weigh=weigh,
    )

    def at(w: Tensor) -> LossSurface:
        if batchnorm != "population" or not norms:
            return surface
        fixed = with_population_statistics(module, norms, predict, w, surface.batches)
        predict_at = flat(fixed, list(trainable), eager=calls_compiled)
        # a layer of the model's own may still couple them
        return replace(surface, predict=predict_at, joint=are_coupled(predict_at, w, x_train[:EXAMPLES]))

    tests = chunks((x_test, y_test), chunk)

    def scores(w: Tensor) -> dict[str, float]:
        fixed, out = at(w), {}
        for split, batches in (("train", surface.batches), ("test", tests)):
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
        last_matrix=tried.last_matrix,
        tests=(x_test, y_test) if len(y_test) else None,
        error=error if data.classes else None,
        test_error=(lambda surface, w: error(surface.on(tests), w)) if data.classes and tests else None,
        norms=structural_norms(module, list(trainable)),
        fewest=fewest_examples(predict, w0, x_train),
        channels_last=x_train.ndim == 4 and _is_faster_channels_last(module),
    )


def _is_faster_channels_last(module: nn.Module) -> bool:
    """Whether steps on images [n, C, H, W] are faster with the channels of a pixel side by side: of the
    networks of this package with convolutions by 1 to 40 %, but with group norm, whose kernels are slow then,
    by 7 % in float32 and by -40 % in bfloat16 (docs/benchmarks.md)."""
    kinds = {type(m) for m in module.modules()}
    return nn.Conv2d in kinds and nn.GroupNorm not in kinds


def _floats(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Inputs in the run's dtype; integers as they are."""
    return x.to(dtype) if x.is_floating_point() else x


def built(model: Model, x: Tensor, outputs: int) -> nn.Module:
    """The model for inputs x [n, *shape] and this number of outputs; lazy layers take their sizes from a pass
    over two inputs. Refuses a part that makes no module."""
    module = model(tuple(x.shape[1:]), outputs)
    if not isinstance(module, nn.Module):
        raise Refusal(f"model: (shape, outputs) gives a {type(module).__name__}; give a torch.nn.Module")
    if any(is_lazy(p) for p in module.parameters()):
        first = x[:2].to("cpu")
        with torch.no_grad():
            module(first.to(torch.get_default_dtype()) if first.is_floating_point() else first)
    return module


def one_input(x: Any) -> Arguments:
    """The arguments of a module that takes its inputs x by position."""
    return (x,), {}


def flat(
    module: nn.Module,
    names: Sequence[str],
    *,
    eager: bool,
    given: Callable[[Any], Arguments] = one_input,
    restored: bool = False,
) -> Predict:
    """The module as a function (w [D], x [n, ...]) -> outputs [n, C] of the parameters of these names, flat;
    the others are the module's own, in the precision of w. With `eager`, functions of torch.compile that the
    module calls run as they were written: the compiled ones cannot be differentiated twice. `given` makes of
    x the arguments of the module's forward. `restored`: each call has copies of the buffers, and leaves the
    attributes of the modules as they were.

    The row `padding_idx` of an `nn.Embedding` is held at the module's own: PyTorch gives it no gradient,
    though the outputs depend on it, so that it is no part of what is trained."""
    shapes = [module.get_parameter(name).shape for name in names]
    sizes = [shape.numel() for shape in shapes]
    convolves = any(isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d) for m in module.modules())

    aliases, padded = _aliases(module), _padding(module)
    # of a module that nobody else changes, whose tensors need not be asked for at each call
    own = None if restored else [*module.named_parameters(), *module.named_buffers()]
    dtypes = {t.dtype for _, t in own or () if t.is_floating_point()}

    def held(dtype: torch.dtype) -> dict[str, Tensor]:
        """What is no part of w, where it must not be the module's own tensors: in another precision, which a
        comparison or a network in half precision asks for, or buffers that may be changed."""
        if own is not None and dtypes <= {dtype}:
            return {}
        tensors = own or [*module.named_parameters(), *module.named_buffers()]
        cast = {k: t.to(dtype) for k, t in tensors if t.is_floating_point() and t.dtype != dtype}
        copies = {k: t.clone() for k, t in module.named_buffers() if k not in cast} if restored else {}
        return copies | cast

    def predict(w: Tensor, x: Any) -> Any:
        pieces = (piece.view(shape) for piece, shape in zip(w.split(sizes), shapes, strict=True))
        parts = held(w.dtype) | dict(zip(names, pieces, strict=True))
        parts = {alias: t for name, t in parts.items() for alias in aliases.get(name, (name,))}
        for name in parts.keys() & padded.keys():
            is_padding, row = padded[name]
            parts[name] = torch.where(is_padding, row.to(parts[name]), parts[name])
        args, kwargs = given(x)
        # PyTorch's fast kernels of attention cannot be differentiated twice; its convolutions can, but slowly
        # (a compiled step never is)
        ours = convolves and not torch.compiler.is_compiling()
        with (
            sdpa_kernel(SDPBackend.MATH),
            _one_attention(),
            Convolutions() if ours else nullcontext(),
            as_written(),
            _attributes_restored(module) if restored else nullcontext(),
        ):
            return torch.func.functional_call(module, parts, args, kwargs, tie_weights=False)

    def as_written() -> AbstractContextManager[Any]:
        # importing dynamo takes a second: where nobody has, nothing is compiled
        is_loaded = eager and "torch._dynamo" in sys.modules
        return torch.compiler.set_stance("force_eager") if is_loaded else nullcontext()

    return predict


def _are_classes(y: Tensor) -> bool:
    """Whether targets are classes [n, T], and not one-hot or real."""
    return not y.is_floating_point()


def counted_targets(batch: Batch) -> float:
    """The targets [n, T] of a batch that count, its weight in a mean over targets."""
    return float((batch[1] != IGNORED).sum())


def _aliases(module: nn.Module) -> dict[str, list[str]]:
    """The places of each parameter and buffer by its first name: a tensor may be in several modules (tied
    weights), and a module in several places, of which only one may be named to `functional_call`, since it
    would take its own replacement for the original in the next."""
    places: dict[int, list[str]] = {}
    for name, m in module.named_modules():  # each module once
        for key, t in [*m._parameters.items(), *m._buffers.items()]:
            if t is not None:
                places.setdefault(id(t), []).append(f"{name}.{key}" if name else key)
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return {name: places[id(t)] for name, t in tensors}


def _padding(module: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """By the name of the weights of each `nn.Embedding` with a padding row: which rows are that one [n, 1],
    and its values."""
    return {
        f"{name}.weight" if name else "weight": (
            (torch.arange(m.num_embeddings, device=m.weight.device) == m.padding_idx)[:, None],
            m.weight.detach()[m.padding_idx].clone(),
        )
        for name, m in module.named_modules()
        if isinstance(m, nn.Embedding) and m.padding_idx is not None
    }


@contextmanager
def _one_attention() -> Iterator[None]:
    """Within it nn.MultiheadAttention and nn.TransformerEncoder compute alike with and without gradients:
    their fast path, which is taken without, sets the outputs at padding to 0."""
    mha = torch.backends.mha
    was_enabled = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        mha.set_fastpath_enabled(was_enabled)


@contextmanager
def _attributes_restored(module: nn.Module) -> Iterator[None]:
    """What a forward sets on its modules is unset: activations that it stores, numbers that it counts."""
    before = [(m, dict(vars(m))) for m in module.modules()]
    try:
        yield
    finally:
        for m, held in before:
            vars(m).clear()
            vars(m).update(held)


def evaluate(surface: LossSurface, w: Tensor) -> tuple[float, float]:
    """Mean loss, and the share of examples whose largest output is the largest target, over the whole
    surface."""
    total, right = 0.0, 0.0
    with torch.no_grad():
        for x, y in surface.own_batches:
            outputs = surface.predict(w, x)
            total += float(surface.loss(outputs, y)) * surface.weigh((x, y))
            # an output that is NaN is larger than none, and argmax would name a class for it
            classes = y if _are_classes(y) else y.argmax(1)
            hits = float((outputs.argmax(-1) == classes).sum())
            right += torch.nan if bool(outputs.isnan().any()) else hits
    of_all = sum(surface.weigh(batch) for batch in surface.batches)
    sums = torch.tensor([total, right], dtype=torch.float64, device=w.device)
    both = surface.processes.sum(sums) / of_all
    return float(both[0]), float(both[1])


def batch_norms(module: nn.Module) -> list[str]:
    """The names of the batch-norm layers that normalize by the statistics of the batch: not those that the
    model has put into eval mode, which have statistics of their own."""
    return [
        name
        for name, m in module.named_modules()
        if isinstance(m, _BatchNorm) and (m.training or m.running_mean is None)
    ]


def named(module: nn.Module, names: Sequence[str]) -> list[_BatchNorm]:
    """The batch-norm layers of these names, in the order of `batch_norms`."""
    return [m for name, m in module.named_modules() if name in names and isinstance(m, _BatchNorm)]


def with_population_statistics(
    module: nn.Module, names: Sequence[str], predict: Predict, w: Tensor, batches: tuple[Batch, ...]
) -> nn.Module:
    """A copy of the module whose batch-norm layers of these names use the mean and variance of their inputs
    over all of `batches` at w, each batch weighted by its size, where the layers below normalize by batch. A
    layer that is called several times in a forward takes the inputs of all its calls together."""
    layers = named(module, names)
    # for each layer the weighted sums of x and x^2, and the weight
    moments = [torch.zeros(3, m.num_features, dtype=torch.float64, device=w.device) for m in layers]

    def note(into: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].double()
            dims = [d for d in range(x.ndim) if d != 1]
            share = len(x) / sum(len(y) for _, y in batches)
            into[0] += x.mean(dims) * share
            into[1] += x.square().mean(dims) * share
            into[2] += share

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
    for m, (total, squares, weight) in zip(named(fixed, names), moments, strict=True):
        calls = weight.round().clamp_min(1)  # in a forward; 0 for a layer that is never called
        mean, square = total / calls, squares / calls
        m.track_running_stats, m.training = True, False
        m.running_mean, m.running_var = mean.to(w), (square - mean.square()).clamp_min(0).to(w)
    return fixed
