"""What a model and a loss are tried for once, before anything is computed with them: that the loss is a
function of real weights, and a mean over the examples."""

from __future__ import annotations

import contextlib
import copy
import inspect
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten
from torch.utils.checkpoint import checkpoint

from sharpcli.errors import Refusal
from sharpcli.landscape.batches import Batch, Examples, Rows, can_be_cut, head, joined, mapped, tree_of
from sharpcli.landscape.surface import Layout, LossSurface, examples_in

Predict = Callable[[Tensor, Any], Any]
Loss = Callable[[Any, Any], Tensor]
Weigh = Callable[[Batch], float]

RANDOM_PASSES = 60  # over a model that draws random numbers: one in twenty passes that differ is seen
EXAMPLES = 8  # examples on which a model and a loss are tried
ALIKE = 1e-6  # of a loss: parts of a batch whose losses differ by less show nothing of how they are weighed
COUPLED = 1e-2  # of the largest output, from which outputs of other batches differ by more than rounding
UNIONS = 8  # batches whose union with the first is tried
CHANGES_ITSELF = (
    "the model's forward changes its own parameters (an embedding's max_norm?); its loss is no function of w"
)
CHECKPOINT = inspect.unwrap(checkpoint).__code__
# the file and the names of the functions in which a call of a compiled function begins, since torch 2.6
COMPILED, WRAPPERS = str(Path("torch", "_dynamo", "eval_frame.py")), ("compile_wrapper", "_fn")


def check_tensors(module: nn.Module, dtype: torch.dtype, advice: str = "") -> None:
    """Refuses, by name, a parameter or buffer that is no real tensor with values in memory, or that `dtype`
    would round (with an `advice`, by default on problem.dtype); parameters that share memory without being
    the same; and modules of TorchScript, whose parameters cannot be replaced."""
    for name, m in module.named_modules():
        if isinstance(m, torch.jit.ScriptModule):
            raise Refusal(
                f"the model's module {name or 'itself'} is TorchScript, whose parameters cannot be "
                f"replaced; give the Python module that it was made of"
            )
        if getattr(m, "sparse", None) is True:
            raise Refusal(f"the model's {name or 'embedding'} has sparse gradients; give it sparse=False")
    taken: dict[int, list[tuple[Tensor, str]]] = {}  # the parameters that each storage holds
    for name, t in [*module.named_parameters(), *module.named_buffers()]:
        if reason := _unusable(t):
            raise Refusal(f"the model's {name} is {reason}; give real numbers in memory (float32 or float64)")
        if t.is_floating_point() and not torch.equal(t.detach().to(dtype).to(t.dtype), t.detach()):
            now, would = str(t.dtype).removeprefix("torch."), str(dtype).removeprefix("torch.")
            raise Refusal(
                f"the model's {name} is {now}, and {would} would round it; "
                + (advice or f"take problem.dtype={now}, or build the model in {would}")
            )
        if isinstance(t, nn.Parameter) and t.numel():
            for other, other_name in taken.setdefault(t.untyped_storage().data_ptr(), []):
                if _overlap(t, other):
                    raise Refusal(
                        f"the model's {name} and {other_name} share memory but are two parameters; tie them "
                        f"by making both the same nn.Parameter"
                    )
            taken[t.untyped_storage().data_ptr()].append((t, name))


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Whether two views of one storage have numbers in common."""
    spans = [(int(t.storage_offset()), _end(t)) for t in (a, b)]
    if spans[0][0] >= spans[1][1] or spans[1][0] >= spans[0][1]:
        return False
    if a.is_contiguous() and b.is_contiguous():
        return True
    numbers = torch.arange(max(end for _, end in spans))
    places = [numbers.as_strided(t.shape, t.stride(), t.storage_offset()).flatten() for t in (a, b)]
    return bool(torch.isin(*places).any())


def _end(t: Tensor) -> int:
    """The place in its storage after a view's last number."""
    reach = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    return int(t.storage_offset() + reach + 1)


def _unusable(t: Tensor) -> str:
    """Why a tensor cannot be a weight; empty for one that can."""
    kind = str(t.dtype).removeprefix("torch.")
    if t.is_meta:
        return "on the meta device, without values"
    if t.is_quantized or (t.is_floating_point() and t.dtype.itemsize < 2):
        return f"quantized ({kind})"
    if t.is_complex():
        return f"complex ({kind})"
    if t.layout != torch.strided:
        return f"sparse ({str(t.layout).removeprefix('torch.')})"
    return ""


def with_numbers(module: nn.Module, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Integer inputs as the module takes them: as they are (an embedding), or in `dtype` where it fails on
    integers (a linear layer). Inputs of another kind come in `dtype` already."""
    if x.is_floating_point():
        return x
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            copy.deepcopy(module)(x[:2])  # a copy: batch norm in training counts what it sees
    except (RuntimeError, TypeError, ValueError, IndexError):
        return x.to(dtype)
    return x


@dataclass(frozen=True)
class Tried:
    """What a pass over a model showed: its `outputs`, whether it calls functions of `torch.compile`, and the
    name of the `last_matrix` that it came to; empty where no module of the model owns a matrix."""

    outputs: Any
    compiled: bool
    last_matrix: str


def check_model(module: nn.Module, predict: Predict, w: Tensor, x: Rows) -> Tried:
    """Refuses a model whose outputs differ between two passes, of many where its forward draws at random; one
    whose forward changes its own parameters, buffers or numbers, or its inputs; and one that calls
    `torch.utils.checkpoint`, whose second pass would see other weights."""
    before, at = _state(module), w.clone().requires_grad_()
    x, given = mapped(torch.clone, x), mapped(torch.clone, x)
    drawn = torch.get_rng_state()
    with torch.random.fork_rng():
        # with gradients, without which Hugging Face's models would set no checkpoints
        with _passed(module) as matrices, _called() as calls, torch.enable_grad(), _refusing_in_place():
            first = mapped(Tensor.detach, predict(at, x))
        middle = _state(module)
        with torch.enable_grad(), _refusing_in_place():
            second = mapped(Tensor.detach, predict(at, x))
        for _ in range(0 if torch.equal(torch.get_rng_state(), drawn) else RANDOM_PASSES):
            if _same_tensors(first, second):
                with torch.no_grad():
                    second = predict(at, x)
    if not _same_tensors(tree_of(x), tree_of(given)):
        raise Refusal(
            "the model's forward writes into its inputs (a first layer with inplace=True?), which are your "
            "data; take inplace=False there"
        )
    if calls.checkpoint:
        raise Refusal(
            f"the model calls torch.utils.checkpoint ({calls.checkpoint}), which would recompute activations "
            f"with other weights; turn checkpointing off, as in set_grad_checkpointing(False)"
        )
    if not torch.equal(at, w):
        raise Refusal(CHANGES_ITSELF)
    if not _same_tensors(first, second):
        raise Refusal(
            "the model's outputs differ between two passes over the same examples (dropout?); its loss is "
            "no function of w: put the model into eval mode, or take its dropout out"
        )
    after = _state(module)
    for earlier, later in ((before, middle), (middle, after)):
        # a tensor that is new after the first pass is a cache of it, such as an attention map
        if changed := [key for key in earlier if not _same(earlier[key], later.get(key))]:
            raise Refusal(
                f"the model's forward changes {changed[0]}, which its outputs may depend on; its loss is no "
                f"function of w: remove what is counted or stored in forward"
            )
    return Tried(first, calls.compiled, matrices[-1] if matrices else "")


def nearby(w: Tensor) -> Tensor:
    """Weights near w, none of which are 0: always the same."""
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(2, len(w), generator=rng, dtype=torch.float64).to(w)
    return w * (1 + 0.1 * noise[0]) + 0.01 * noise[1]


def are_coupled(predict: Predict, w: Tensor, x: Rows) -> bool:
    """Whether the outputs of examples depend on which others are evaluated with them, as under batch norm:
    tried at weights near w, since at w a last layer may be zero."""
    if len(x) < 4:
        return False
    near = nearby(w)
    with torch.no_grad():
        together = tree_leaves(predict(near, x))
        parts = [tree_leaves(predict(near, part)) for part in (x[: len(x) // 2], x[len(x) // 2 :])]
    for whole, *pieces in zip(together, *parts, strict=True):
        if not isinstance(whole, Tensor) or whole.shape[:1] != (len(x),) or not whole.is_floating_point():
            continue
        alone = torch.cat(pieces)
        size = float(whole.abs().max())
        if whole.shape == alone.shape and bool(((whole - alone).abs() > COUPLED * size).any()):
            return True
    return False


@contextmanager
def _passed(module: nn.Module) -> Iterator[list[str]]:
    """The names of the matrices of the modules that a pass has come through, in their order: the last layer
    is the one that is evaluated last, wherever the model lists it."""
    names = {id(p): name for name, p in module.named_parameters()}
    passed: list[str] = []

    def noting(own: Sequence[str]) -> Callable[..., None]:
        return lambda *_: passed.extend(own)

    hooks = []
    for m in module.modules():
        own = [names[id(p)] for p in m.parameters(recurse=False) if p.ndim > 1 and id(p) in names]
        if own:
            hooks.append(m.register_forward_hook(noting(own)))
    try:
        yield passed
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _refusing_in_place() -> Iterator[None]:
    """Turns PyTorch's refusal to write into parameters that are differentiated into one line."""
    try:
        yield
    except RuntimeError as problem:
        if "modified in" not in str(problem):
            raise
        raise Refusal(CHANGES_ITSELF) from None


def check_outputs(outputs: Any, w: Tensor, y: Tensor) -> None:
    """Refuses outputs that are no tensor, are of another dtype than w, or do not fit the targets y: real ones
    [n, C], or classes [n, T]."""
    y = y[:EXAMPLES]
    if not isinstance(outputs, Tensor):
        raise Refusal(_no_tensor(outputs))
    check_precision(outputs, w)
    fits = outputs.shape == y.shape if y.is_floating_point() else outputs.shape[:-1] == y.shape
    if not fits:
        raise Refusal(
            f"the model gives outputs {list(outputs.shape)} for targets {list(y.shape)}; its last layer must "
            f"fit the data"
        )


def check_precision(outputs: Any, w: Tensor) -> None:
    """Refuses outputs that hold real numbers of another dtype than w."""
    for leaf in tree_leaves(outputs):
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dtype != w.dtype:
            raise Refusal(
                f"the model gives {leaf.dtype} outputs for weights in {w.dtype}; leave autocast and casts "
                f"out of its forward: curvature in half precision has no correct digits"
            )


def _same_tensors(first: Any, second: Any) -> bool:
    """Whether two passes gave the same numbers; NaN says nothing."""
    pairs = zip(tree_leaves(first), tree_leaves(second), strict=False)
    return all(
        a.shape == b.shape and (torch.equal(a, b) or bool(a.isnan().any()))
        for a, b in pairs
        if isinstance(a, Tensor) and isinstance(b, Tensor)
    )


def _state(module: nn.Module) -> dict[str, Any]:
    """Copies of all that a forward could change: buffers, and numbers and tensors that are attributes."""
    out: dict[str, Any] = {name: b.detach().clone() for name, b in module.named_buffers()}
    for name, m in module.named_modules():
        for key, value in vars(m).items():
            where = f"{name}.{key}" if name else key
            if isinstance(value, Tensor):
                out[where] = value.detach().clone()
            elif isinstance(value, int | float):
                out[where] = value
    return out


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())
    return type(a) is type(b) and repr(a) == repr(b)  # repr: NaN is itself


class _Calls:
    checkpoint = ""  # file and line of the call
    compiled = False


@contextmanager
def _called() -> Iterator[_Calls]:
    """Notes, within it, calls of `torch.utils.checkpoint` and of compiled functions, by their code; nothing
    under a profiler."""
    calls = _Calls()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event != "call":
            return
        if frame.f_code is CHECKPOINT:
            caller: FrameType | None = frame.f_back
            while caller is not None and f"{Path('torch', '_')}" in caller.f_code.co_filename:
                caller = caller.f_back  # a decorator of torch between the model and the function
            if caller is not None:
                calls.checkpoint = f"{Path(caller.f_code.co_filename).name}, line {caller.f_lineno}"
        elif frame.f_code.co_name in WRAPPERS and frame.f_code.co_filename.endswith(COMPILED):
            calls.compiled = True

    if sys.getprofile() is not None:  # somebody profiles the command: a profiler cannot be put back
        yield calls
        return
    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(None)


def _no_tensor(outputs: Any) -> str:
    """The refusal for outputs that are no tensor, with a module that chooses a tensor of them."""
    kind = type(outputs).__name__
    choice, names = "[0]", ""
    if hasattr(outputs, "keys"):
        keys = [str(key) for key in list(outputs)]
        choice, names = f"[{(keys or ['outputs'])[0]!r}]", f" of {', '.join(keys[:6])}"
    elif is_dataclass(outputs) or hasattr(outputs, "_fields"):
        keys = list(getattr(outputs, "_fields", ())) or [f.name for f in fields(outputs)]
        choice, names = f".{keys[0]}", f" of {', '.join(keys[:6])}"
    elif isinstance(outputs, tuple | list):
        names = f" of {len(outputs)}"
    return (
        f"the model gives a {kind}{names} and not a tensor; choose its outputs in a module of your own, "
        f"whose forward is `return self.net(x){choice}`"
    )


def fewest_examples(predict: Predict, w: Tensor, x: Tensor) -> int:
    """2 for a model that fails on a single example (batch norm: a single value has no variance), else 1."""
    if len(x) < 2:
        return 1
    try:
        with torch.no_grad(), torch.random.fork_rng():
            predict(w, x[:1])
    except (ValueError, RuntimeError):
        return 2
    return 1


def check_loss(predict: Predict, loss: Loss, w: Tensor, x: Rows, y: Rows, weigh: Weigh = examples_in) -> None:
    """Refuses a model or loss that computes in a lower precision than w; a loss that gives no real scalar,
    has no gradient, is no mean over what `weigh` counts (the examples), or does not depend on the outputs at
    all (cross-entropy of a single output)."""
    x, y = head((x, y), EXAMPLES)
    at = w.detach().requires_grad_()
    with _Casts(w.dtype):
        outputs = predict(at, x)
        value = loss(outputs, y)
    if not isinstance(value, Tensor) or value.ndim or not value.is_floating_point():
        kind = f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise Refusal(
            f"the loss of {_described(outputs)} is {kind}; give a scalar, the mean over the examples"
        )
    if not value.requires_grad:
        raise Refusal(
            "the loss has no gradient in the weights (a detach, or outputs that ignore them); remove the "
            "cause"
        )
    f = mapped(Tensor.detach, outputs)
    finite = all(bool(torch.isfinite(leaf).all()) for leaf in _real(f))
    if finite and bool(torch.isfinite(value)):
        _check_mean(loss, f, y, weigh)
        _check_slope(loss, f, y)
        _check_by_outputs(loss, outputs, value, at, y)


def check_reached(
    module: nn.Module,
    layout: Layout,
    predict: Predict,
    w: Tensor,
    x: Rows,
    own: Callable[[], Tensor] | None,
    loss: Callable[[Any], Tensor],
) -> None:
    """Refuses a module that uses a parameter in another way than as its attribute, such as by a list of
    Python's, or a loss that holds it, where its value cannot be replaced: with all of them replaced by w the
    loss depends on the parameters still, or its gradient in w is not that of `own()`, the loss by the
    module's own parameters, where it is given."""
    parameters = [module.get_parameter(name) for name, _ in layout]
    at = w.detach().requires_grad_()
    try:
        with torch.random.fork_rng():
            value = loss(predict(at, x))
            replaced, *others = torch.autograd.grad(value, [at, *parameters], allow_unused=True)
    except RuntimeError:  # no gradient in the weights here: `check_loss` and `agreement` say so
        return
    for (name, _), g in zip(layout, others, strict=True):
        if g is not None:
            raise Refusal(
                f"the loss depends on the parameter {name} in another way than by what the model is called "
                f"with (a sum over model.parameters() in the loss, a list of Python's in the model?), where "
                f"its value cannot be replaced; give the loss as loss(model, batch), and in the model use "
                f"the attribute itself, or nn.ParameterList"
            )
    if own is None or replaced is None or any(p.dtype != w.dtype for p in parameters):
        return
    try:
        with torch.random.fork_rng():
            direct = torch.autograd.grad(own(), parameters, allow_unused=True)
    except RuntimeError:  # the module alone cannot be differentiated where it is
        return
    pieces = replaced.split([p.numel() for p in parameters])
    least = 1e-6 * max(float(piece.norm()) for piece in pieces)
    for (name, _), piece, g in zip(layout, pieces, direct, strict=True):
        g = torch.zeros_like(piece) if g is None else g.flatten()
        if float((g - piece).norm()) > 1e-2 * float(g.norm()) + least:
            raise Refusal(
                f"the model uses its parameter {name} in another way than as an attribute (a list of "
                f"Python's, a copy?), where its value cannot be replaced; use the attribute itself, or "
                f"nn.ParameterList"
            )


class _Casts(TorchFunctionMode):
    """Within it a function of the weights that is given `dtype` and gives a lower precision is refused: every
    stated error would be that of `dtype`."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """The function's own result."""
        result = function(*args, **(kwargs or {}))
        size = self.dtype.itemsize
        lower = [t for t in _real(result) if t.requires_grad and t.dtype.itemsize < size]
        if lower and any(t.requires_grad and t.dtype == self.dtype for t in _real((args, kwargs))):
            now, then = (str(dtype).removeprefix("torch.") for dtype in (self.dtype, lower[0].dtype))
            advice = f"give weights in {then}, or take" if lower[0].dtype.itemsize > 2 else "take"
            raise Refusal(
                f"a part of the model or the loss computes in {then} for weights in {now} ({_where()}), "
                f"whose precision the stated errors assume; {advice} the cast out"
            )
        return result


def _where() -> str:
    """The file and line of the nearest caller outside of torch and this package."""
    frame: FrameType | None = sys._getframe(1)
    inside = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
    while frame is not None and frame.f_code.co_filename.startswith(inside):
        frame = frame.f_back
    return "" if frame is None else f"{Path(frame.f_code.co_filename).name}, line {frame.f_lineno}"


def check_parts(surface: LossSurface, w: Tensor) -> bool:
    """Refuses a loss whose value on a batch is not the mean of its values on two parts of it, weighted as the
    surface weighs them: what a loss of outputs alone cannot show, such as a model that computes its own loss.
    Returns whether all batches were tried and the loss is finite on each.

    Tried are every batch, the first examples of the first one, and these together with those of some others.
    The outputs of a whole batch are cut where they are tensors of its examples, which saves a pass for the
    parts; of the first examples the model is given the parts too, since it may couple them itself. Where the
    parts are alike, as at a last layer of zeros, they show nothing, and weights near w are taken. Of a batch
    whose examples are normalized together, twice the batch is compared with it.
    """
    if not all(map(can_be_cut, surface.batches)):
        return False
    if surface.joint:
        _check_twice(surface, w)
        return False
    near = nearby(w)
    n = len(surface.batches)
    others = sorted({*(n * i // UNIONS for i in range(1, UNIONS)), n - 1} - {0})
    x0, y0 = head(surface.batches[0], EXAMPLES)
    heads = [(x0, y0, max(1, len(y0) // 3))]
    for i in others:
        x, y = head(surface.batches[i], EXAMPLES)
        with contextlib.suppress(RuntimeError, ValueError):  # rows of other lengths: no batch has both
            heads.append((joined([x0, x]), joined([y0, y]), len(y0)))
    batches = [(x, y, max(1, len(y) // 3)) for x, y in surface.batches]
    is_finite = True
    for number, (x, y, cut) in enumerate([*batches, *heads]):
        with torch.no_grad():
            outputs = surface.predict(w, x)
            whole = float(surface.loss(outputs, y))
            is_finite &= math.isfinite(whole)
            if len(y) < 2:
                continue
            rows = [(x[:cut], y[:cut]), (x[cut:], y[cut:])]
            weights = [surface.weigh((x, y)), *map(surface.weigh, rows)]
            if min(weights) <= 0:
                continue
            f = Examples(outputs, len(y))
            of_examples = [isinstance(t, Tensor) and t.shape[:1] == (f.n,) for t in tree_leaves(outputs)]
            if number < n and all(of_examples):
                parts = [surface.loss(part.tree, of) for part, of in ((f[:cut], y[:cut]), (f[cut:], y[cut:]))]
            else:
                parts = [surface.loss(surface.predict(w, part), of) for part, of in rows]
            if abs(float(parts[0] - parts[1])) <= ALIKE * abs(whole):
                outputs = surface.predict(near, x)
                whole = float(surface.loss(outputs, y))
                parts = [surface.loss(surface.predict(near, part), of) for part, of in rows]
        pair, share = (float(parts[0]), float(parts[1])), (weights[1], weights[2])
        _compare(whole, pair, share, len(y), w.dtype, partial(_size, surface.loss, outputs, y))
    return is_finite


def _check_twice(surface: LossSurface, w: Tensor) -> None:
    """Refuses a loss that sums over the examples of a batch: of the batch and itself it is twice as large."""
    x, y = surface.batches[0]
    with torch.no_grad():
        once = float(surface.loss(surface.predict(w, x), y))
        both: Batch = joined([x, x]), joined([y, y])
        twice = float(surface.loss(surface.predict(w, both[0]), both[1]))
    share = surface.weigh(both) / (2 * (surface.weigh((x, y)) or 1.0))
    if abs(once) > 1e-3 and abs(twice / once - 2) < 1e-3 and abs(share - 1) < 1e-3:
        raise Refusal(
            f"the loss is no mean over the examples, it sums over them: {once:.6g} on {len(y)} examples and "
            f"{twice:.6g} on twice as many; give the mean (reduction='mean')"
        )


def _size(loss: Loss, f: Any, y: Rows) -> float:
    """The loss at noisy outputs: beside it a loss at the outputs f of an interpolator is rounding alone."""
    try:
        with torch.no_grad():
            size = abs(float(loss(mapped(_noisy, f), y)))
    except (RuntimeError, ValueError):  # outside of the loss's domain
        return 0.0
    return size if math.isfinite(size) else 0.0


def _real(tree: Any) -> list[Tensor]:
    leaves = tree_leaves(tree)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _described(outputs: Any) -> str:
    return f"outputs {list(outputs.shape)}" if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"


def _check_mean(loss: Loss, f: Any, y: Rows, weigh: Weigh) -> None:
    """Refuses a loss of a union that is not the mean of the losses of its parts, weighted by their sizes: at
    the outputs f, and at noisy ones, since examples that are all alike would hide a coupling."""
    n = len(y)
    rows = Examples(f, n)
    is_inside = isinstance(f, Tensor) and not f.ndim  # the model computes its loss itself: see `check_parts`
    if n < 2 or is_inside or not can_be_cut((rows, y)):
        return
    cut = max(1, n // 3)
    try:
        noisy = loss(mapped(_noisy, f), y)
    except (RuntimeError, ValueError):  # outside of the loss's domain, such as probabilities above 1
        noisy = torch.tensor(torch.nan)
    if bool(torch.isfinite(noisy)):
        rows = rows.map(_noisy)
    with torch.no_grad():
        whole = float(loss(rows.tree, y))
        first, second = float(loss(rows[:cut].tree, y[:cut])), float(loss(rows[cut:].tree, y[cut:]))
    weights = weigh((rows[:cut], y[:cut])), weigh((rows[cut:], y[cut:]))
    if min(weights) > 0:
        _compare(whole, (first, second), weights, n, _real(f)[0].dtype, partial(_size, loss, f, y))


def _compare(
    whole: float,
    parts: tuple[float, float],
    weights: tuple[float, float],
    n: int,
    dtype: torch.dtype,
    size: Callable[[], float],
) -> None:
    """Refuses a `whole` that is not the weighted mean of its two parts, up to the rounding of a loss of this
    `size`, which is asked for where they differ."""
    first, second = parts
    mean = (weights[0] * first + weights[1] * second) / sum(weights)
    allowed = 1e3 * torch.finfo(dtype).eps * max(abs(whole), abs(first), abs(second))
    if not abs(whole - mean) > allowed:
        return
    allowed = max(allowed, 1e3 * torch.finfo(dtype).eps * size())
    if not abs(whole - mean) > allowed:
        return
    what = "sums over them" if abs(whole - first - second) <= allowed else "couples or weights them"
    raise Refusal(
        f"the loss is no mean over the examples, it {what}: {whole:.6g} on {n} examples, {first:.6g} on a "
        f"part and {second:.6g} on the others, whose mean is {mean:.6g}; give the mean "
        f"(reduction='mean'), or from Python weight= what it averages over"
    )


def _noisy(f: Tensor) -> Tensor:
    """f with independent N(0, 1/4) added, the same at each call; integers as they are."""
    return f + _noise(f) if f.is_floating_point() else f


def _noise(f: Tensor) -> Tensor:
    """Independent N(0, 1/4) of the shape of f, the same at each call."""
    rng = torch.Generator().manual_seed(0)
    return torch.randn(f.shape, generator=rng, dtype=torch.float64).to(f) / 2


def _check_by_outputs(loss: Loss, outputs: Any, value: Tensor, at: Tensor, y: Rows) -> None:
    """Refuses a loss whose gradient in the weights is not that by its outputs: it reads something else of the
    model, such as what a hook has stored, and its Gauss-Newton matrix and the noise of its gradient would
    lack that."""
    leaves, form = tree_flatten(outputs)
    ways = [*{id(leaf): leaf for leaf in _real(leaves) if leaf.requires_grad}.values()]  # each once
    if value is outputs or not ways:  # the model computes its loss itself
        return
    # apart, since one of them may be computed from another
    alone = {id(leaf): leaf.detach().requires_grad_() for leaf in ways}
    try:
        given = tree_unflatten([alone.get(id(leaf), leaf) for leaf in leaves], form)
        slopes = torch.autograd.grad(loss(given, y), [*alone.values()], materialize_grads=True)
        (whole,) = torch.autograd.grad(value, at, retain_graph=True)
        # as a number: a vector of grad_outputs imports sympy, which takes longer than all this
        along = torch.stack([(f * s.detach()).sum() for f, s in zip(ways, slopes, strict=True)]).sum()
        (by_outputs,) = torch.autograd.grad(along, at, retain_graph=True)
    except (RuntimeError, ValueError):  # outputs apart from each other are outside of the loss's domain
        return
    if float((whole - by_outputs).norm()) > 1e-3 * float(whole.norm()):
        raise Refusal(
            "the loss depends on the weights in another way than by the model's outputs (what a hook or an "
            "attribute has stored?); return that with the outputs, or give the loss as loss(model, batch)"
        )


def _check_slope(loss: Loss, f: Any, y: Rows) -> None:
    """Refuses a loss whose gradient in the outputs is 0 at the model's outputs f and at others beside
    them."""
    value = torch.tensor(torch.nan)
    for at in (f, mapped(_noisy, f)):
        tree = mapped(lambda t: t.clone().requires_grad_() if t.is_floating_point() else t, at)
        try:
            value = loss(tree, y)
            slopes = torch.autograd.grad(value, _real(tree), materialize_grads=True)
        except (RuntimeError, ValueError):  # outputs out of the loss's domain, or a loss without them
            return
        if any(bool((slope != 0).any()) for slope in slopes):
            return
    raise Refusal(
        f"the loss does not depend on {_described(f)}: it is {float(value.detach()):.6g} with gradient 0 "
        f"everywhere (cross-entropy of a single output is 0); give at least two classes, or another loss"
    )
