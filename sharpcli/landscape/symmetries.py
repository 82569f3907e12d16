"""Which hidden units of a network may change places without changing its outputs, read from one forward pass.

Each dimension of each weight has an index for each unit that it belongs to. The forward pass is followed
operation by operation: a product identifies the inputs of a matrix with the units that it is applied to, a
sum identifies the units of its summands (so that the channels of a shortcut and of its block are one), and
what tells units apart (an image's channels, the classes, an operation that is not known here) fixes them.
Units that occur in the same places of the same weights can be exchanged.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sharpcli.landscape.surface import Layout

# for each dimension of a tensor the unit of each index, or None where no unit is followed
Units = tuple[np.ndarray | None, ...]


@dataclass(frozen=True)
class Exchangeable:
    """`size` units any two of which can change places. `places`: for each weight and dimension in which they
    occur the indices [size, m] of each unit there, m of them where a unit is a channel with m positions."""

    size: int
    places: dict[tuple[int, int], np.ndarray]


class Symmetries(NamedTuple):
    """The sets of exchangeable units, and the names of PyTorch's operations whose units could not be followed
    and count as fixed."""

    sets: list[Exchangeable]
    unknown: list[str]


def exchangeable(predict: Callable[[Tensor, Any], Any], w: Tensor, x: Any, layout: Layout) -> Symmetries:
    """The sets of exchangeable units of the network `predict(w, x)` of weights w [D], whose tensors `layout`
    names, in the order in which the first of them occurs. `x` is a batch of inputs, of at least two."""
    w = w.detach().clone()
    tracer = _Tracer(w, layout)
    with torch.no_grad(), tracer:
        outputs = predict(w, x)
    return Symmetries(tracer.sets(outputs), sorted(tracer.unknown))


class _Tracer(TorchDispatchMode):
    """Follows the units of a network through the operations of its forward pass."""

    def __init__(self, w: Tensor, layout: Layout) -> None:
        super().__init__()
        self.storage = w.untyped_storage().data_ptr()
        sizes = [shape.numel() for _, shape in layout]
        starts = np.cumsum([0, *sizes])[:-1].tolist()
        self.at = {
            (start, tuple(shape)): k for k, (start, (_, shape)) in enumerate(zip(starts, layout, strict=True))
        }
        self.parent: list[int] = [0]  # of each unit, in a tree of those that are one; 0 is fixed
        self.marks: dict[int, set[tuple[int, int]]] = {}  # what tells units apart beside their places
        self.serial = itertools.count()
        self.weights = [tuple(self.new(n) for n in shape) for _, shape in layout]
        self.used: set[int] = set()
        self.unknown: set[str] = set()
        self.followed: dict[int, tuple[Tensor, Units]] = {}  # by id; the tensor is held, so that its id is

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs or {})) if isinstance(t, Tensor)]
        if any(self.units(t) is not None for t in tensors):
            name = func._schema.name.removeprefix("aten::")
            rule = RULES.get(name.removesuffix("_") if name not in RULES else name)
            if rule is None and torch.Tag.pointwise in func.tags:
                rule = _pointwise
            if rule is None and name.startswith("upsample_"):
                rule = _pool
            if rule is None or not rule(self, out, args):
                self.unknown.add(name)
                self.fix(*tensors)
                for t in tree_leaves(out):
                    if isinstance(t, Tensor):
                        self.follow(t, (None,) * t.ndim)
        return out

    def new(self, n: int) -> np.ndarray:
        """n new units."""
        first = len(self.parent)
        self.parent += range(first, first + n)
        return np.arange(first, first + n)

    def units(self, t: Tensor) -> Units | None:
        """The units of a weight or of what was computed from weights; None of other tensors."""
        if id(t) in self.followed:
            return self.followed[id(t)][1]
        if t.untyped_storage().data_ptr() != self.storage:
            return None
        k = self.at.get((t.storage_offset(), tuple(t.shape)))
        if k is None or not t.is_contiguous():
            return None
        self.used.add(k)
        return self.weights[k]

    def follow(self, t: Tensor, units: Sequence[np.ndarray | None]) -> bool:
        """Keeps the units of a new tensor; true."""
        self.followed[id(t)] = (t, tuple(units))
        return True

    def root(self, unit: int) -> int:
        """The unit that stands for all that are one with it."""
        while self.parent[unit] != unit:
            self.parent[unit] = unit = self.parent[self.parent[unit]]
        return unit

    def same(self, a: np.ndarray | None, b: np.ndarray | None) -> None:
        """Makes the units of two dimensions one, index by index; with None, fixes them."""
        if a is None or b is None:
            for unit in a if a is not None else b if b is not None else ():
                self.join(int(unit), 0)
            return
        for one, other in zip(a, b, strict=True):
            self.join(int(one), int(other))

    def join(self, one: int, other: int) -> None:
        low, high = sorted((self.root(one), self.root(other)))
        self.parent[high] = low

    def mark(self, units: np.ndarray, parts: np.ndarray) -> None:
        """Tells units of different `parts` apart."""
        serial = next(self.serial)
        for unit, part in zip(units, parts, strict=True):
            self.marks.setdefault(int(unit), set()).add((serial, int(part)))

    def fix(self, *tensors: Tensor) -> None:
        """Fixes all units of these tensors."""
        for t in tensors:
            for units in self.units(t) or ():
                self.same(units, None)

    def sets(self, outputs: Any) -> list[Exchangeable]:
        """The sets of units with the same places and marks, none of them fixed or in the outputs."""
        self.fix(*(t for t in tree_leaves(outputs) if isinstance(t, Tensor)))
        places: dict[int, dict[tuple[int, int], list[int]]] = {}
        for k, dims in enumerate(self.weights):
            for d, units in enumerate(dims):
                for i, unit in enumerate(units):
                    root = self.root(int(unit)) if k in self.used else 0
                    places.setdefault(root, {}).setdefault((k, d), []).append(i)
        places.pop(0, None)
        marks: dict[int, set[tuple[int, int]]] = {}
        for unit, marked in self.marks.items():
            marks.setdefault(self.root(unit), set()).update(marked)
        alike: dict[Any, list[dict[tuple[int, int], list[int]]]] = {}
        for root, at in places.items():
            kind = (tuple((place, len(found)) for place, found in at.items()), frozenset(marks.get(root, ())))
            alike.setdefault(kind, []).append(at)
        return [
            Exchangeable(len(units), {place: np.array([at[place] for at in units]) for place in units[0]})
            for units in alike.values()
            if len(units) > 1
        ]


Rule = Callable[[_Tracer, Any, Any], bool]  # (tracer, out, args): follows the operation, or says false


def _pointwise(tracer: _Tracer, out: Any, args: Any) -> bool:
    """Broadcasting: the units of all summands or factors are one. A number that differs along a dimension and
    is no weight tells its units apart."""
    units: list[np.ndarray | None] = []
    tensors = [t for t in tree_leaves(args) if isinstance(t, Tensor)]
    for back in range(1, out.ndim + 1):
        n = out.shape[-back]
        facing = [t for t in tensors if t.ndim >= back and t.shape[-back] == n]
        known = [u[-back] for t in facing if (u := tracer.units(t)) is not None]
        held = [t for t in facing if tracer.units(t) is None]
        first = next((u for u in known if u is not None), None)
        if n > 1 and any(bool((t != t.narrow(-back, 0, 1)).any()) for t in held):
            known.append(None)
        for other in known:
            tracer.same(first, other)
        units.insert(0, first)
    return tracer.follow(out, units)


def _convolution(tracer: _Tracer, out: Any, args: Any) -> bool:
    x, weight, bias, groups, transposed = args[0], args[1], args[2], args[8], args[6]
    of_x, of_w = tracer.units(x), tracer.units(weight)
    if of_w is None or (transposed and groups > 1):
        return False
    if transposed:  # [in, out, ...]
        of_w = (of_w[1], of_w[0], *of_w[2:])
    for units in of_w[2:]:
        tracer.same(units, None)
    incoming = None if of_x is None else of_x[1]
    if groups == 1:
        tracer.same(incoming, of_w[1])
    elif groups == len(of_w[0] if of_w[0] is not None else ()) and incoming is not None:
        tracer.same(of_w[1], None)  # a filter for each channel: its one input
        if len(incoming) != groups:
            return False
        tracer.same(incoming, of_w[0])
    else:
        return False
    if bias is not None:
        of_bias = tracer.units(bias)
        tracer.same(of_w[0], None if of_bias is None else of_bias[0])
    return tracer.follow(out, (None, of_w[0], *(None for _ in of_w[2:])))


def _product(tracer: _Tracer, out: Any, args: Any) -> bool:
    """a [..., n, k] times b [..., k, m]."""
    a, b = (tracer.units(t) or (None,) * t.ndim for t in args[-2:])
    if args[-2].ndim != args[-1].ndim or args[-1].ndim < 2:
        return False
    tracer.same(a[-1], b[-2])
    for one, other in zip(a[:-2], b[:-2], strict=True):
        tracer.same(one, other)
    return tracer.follow(out, (*a[:-1], b[-1]))


def _affine(tracer: _Tracer, out: Any, args: Any) -> bool:
    """bias + a b."""
    if not _product(tracer, out, args[1:3]):
        return False
    return _pointwise(tracer, out, (args[0], out))


def _transpose(tracer: _Tracer, out: Any, args: Any) -> bool:
    units = list(tracer.units(args[0]) or ())
    i, j = args[1:3] if len(args) > 1 else (0, len(units) - 1)
    units[i], units[j] = units[j], units[i]
    return tracer.follow(out, units)


def _permute(tracer: _Tracer, out: Any, args: Any) -> bool:
    units = tracer.units(args[0]) or ()
    return tracer.follow(out, [units[d] for d in args[1]])


def _view(tracer: _Tracer, out: Any, args: Any) -> bool:
    """Dimensions that are merged: a unit has all positions of the others; and split again."""
    of, old, shape = tracer.units(args[0]) or (), args[0].shape, out.shape
    units: list[np.ndarray | None] = []
    i, j = 0, 0
    while j < len(shape):  # the fewest old and new dimensions from here on that hold equally many numbers
        first, next_j, m, n = i, j + 1, 1, shape[j]
        if i < len(old):
            m, i = old[i], i + 1
        while m != n:
            if m < n:
                m, i = m * old[i], i + 1
            else:
                n, next_j = n * shape[next_j], next_j + 1
        while next_j == len(shape) and i < len(old):  # ones at the end
            i += 1
        merged = _merged(tracer, of[first:i], old[first:i])
        units += _split(tracer, merged, shape[j:next_j])
        j = next_j
    return tracer.follow(out, units)


def _merged(tracer: _Tracer, units: Sequence[np.ndarray | None], shape: Sequence[int]) -> np.ndarray | None:
    """The units of dimensions made one: of the only dimension with units, at each position of the others."""
    having = [d for d, u in enumerate(units) if u is not None and shape[d] > 1]
    if len(having) != 1:
        for d in having:
            tracer.same(units[d], None)
        return None
    (d,) = having
    of = units[d]
    assert of is not None
    return np.tile(np.repeat(of, int(np.prod(shape[d + 1 :]))), int(np.prod(shape[:d])))


def _split(tracer: _Tracer, units: np.ndarray | None, shape: Sequence[int]) -> list[np.ndarray | None]:
    """The units of each of the dimensions that one is split into: of that along which alone they differ,
    else they are fixed."""
    out: list[np.ndarray | None] = [None] * len(shape)
    if units is not None:
        grid = units.reshape(shape)
        for d, n in enumerate(shape):
            along = np.moveaxis(grid, d, 0).reshape(n, -1)
            if (along == along[:, :1]).all():
                out[d] = along[:, 0]
                return out
        tracer.same(units, None)
    return out


def _keeps(tracer: _Tracer, out: Any, args: Any) -> bool:
    """The same tensor, or one whose dimensions mean the same."""
    return tracer.follow(out, tracer.units(args[0]) or (None,) * out.ndim)


def _stack(tracer: _Tracer, out: Any, args: Any) -> bool:
    """A new dimension; the units of all tensors are one, dimension by dimension."""
    tensors, dim = args[0], (args[1] if len(args) > 1 else 0) % out.ndim
    all_units = [tracer.units(t) or (None,) * t.ndim for t in tensors]
    units = list(all_units[0])
    for other in all_units[1:]:
        for d, of in enumerate(other):
            tracer.same(units[d], of)
    units.insert(dim, None)
    return tracer.follow(out, units)


def _vector_product(tracer: _Tracer, out: Any, args: Any) -> bool:
    """A matrix [n, k] times a vector [k]."""
    a, v = (tracer.units(t) or (None,) * t.ndim for t in args)
    tracer.same(a[1], v[0])
    return tracer.follow(out, (a[0],))


def _first_pointwise(tracer: _Tracer, out: Any, args: Any) -> bool:
    """Of several outputs the first, each number of it of one of the input."""
    return _pointwise(tracer, out[0], args)


def _gated(tracer: _Tracer, out: Any, args: Any) -> bool:
    """The first half of a dimension times a function of the second: unit by unit."""
    x, dim = args[0], (args[1] if len(args) > 1 else -1) % out.ndim
    units = list(tracer.units(x) or ())
    of = units[dim]
    if of is not None:
        half = len(of) // 2
        tracer.mark(of, np.arange(2 * half) // half)
        tracer.same(of[:half], of[half:])
        units[dim] = of[:half]
    return tracer.follow(out, units)


def _expand(tracer: _Tracer, out: Any, args: Any) -> bool:
    missing = out.ndim - args[0].ndim
    shape = [*[1] * missing, *args[0].shape]
    units = [*[None] * missing, *(tracer.units(args[0]) or ())]
    return tracer.follow(
        out, [u if n == m else None for u, n, m in zip(units, shape, out.shape, strict=True)]
    )


def _unsqueeze(tracer: _Tracer, out: Any, args: Any) -> bool:
    units = list(tracer.units(args[0]) or ())
    units.insert(args[1] % out.ndim, None)
    return tracer.follow(out, units)


def _squeeze(tracer: _Tracer, out: Any, args: Any) -> bool:
    x = args[0]
    chosen = range(x.ndim) if len(args) == 1 else [args[1]] if isinstance(args[1], int) else args[1]
    gone = {d % x.ndim for d in chosen if x.shape[d] == 1}
    units = tracer.units(x) or ()
    return tracer.follow(out, [u for d, u in enumerate(units) if d not in gone])


def _pool(tracer: _Tracer, out: Any, args: Any) -> bool:
    """Over the positions [n, channels, ...] of each channel."""
    units = tracer.units(args[0]) or ()
    first = out if isinstance(out, Tensor) else out[0]
    for of_positions in units[2:]:
        tracer.same(of_positions, None)
    return tracer.follow(first, (*units[:2], *(None for _ in units[2:])))


def _reduce(tracer: _Tracer, out: Any, args: Any) -> bool:
    """Sums and means: the order of what is summed does not matter."""
    x = args[0]
    dims = args[1] if len(args) > 1 and args[1] else list(range(x.ndim))
    gone = {d % x.ndim for d in ([dims] if isinstance(dims, int) else dims)}
    units = [None if d in gone else u for d, u in enumerate(tracer.units(x) or ())]
    if out.ndim == x.ndim:
        return tracer.follow(out, units)
    return tracer.follow(out, [u for d, u in enumerate(units) if d not in gone])


def _batch_norm(tracer: _Tracer, out: Any, args: Any) -> bool:
    """Statistics of each channel; stored ones that differ fix the channels."""
    units = list(tracer.units(args[0]) or (None,) * args[0].ndim)
    held = [t for t in args[1:5] if isinstance(t, Tensor)]
    for t in held:
        of = tracer.units(t)
        if of is not None:
            tracer.same(units[1], of[0])
            units[1] = units[1] if units[1] is not None else of[0]
        elif bool((t != t[0]).any()):
            tracer.same(units[1], None)
    return tracer.follow(out[0] if not isinstance(out, Tensor) else out, units)


def _group_norm(tracer: _Tracer, out: Any, args: Any) -> bool:
    """Only channels of one group are exchangeable."""
    x, weight, bias, groups = args[0], args[1], args[2], args[6]
    channels = (tracer.units(x) or (None,) * x.ndim)[1]
    for t in (weight, bias):
        if t is not None:
            of = tracer.units(t)
            tracer.same(channels, None if of is None else of[0])
    if channels is not None:
        tracer.mark(channels, np.arange(len(channels)) // (len(channels) // groups))
    return tracer.follow(out[0], tracer.units(x) or (None,) * x.ndim)


def _layer_norm(tracer: _Tracer, out: Any, args: Any) -> bool:
    x, shape, affine = args[0], args[1], args[2:4]
    units = tracer.units(x) or (None,) * x.ndim
    for t in affine:
        if t is not None:
            of = tracer.units(t) or (None,) * t.ndim
            for one, other in zip(units[-len(shape) :], of, strict=True):
                tracer.same(one, other)
    return tracer.follow(out[0], units)


def _embedding(tracer: _Tracer, out: Any, args: Any) -> bool:
    units = tracer.units(args[0])
    if units is None:
        return False
    tracer.same(units[0], None)  # the words
    return tracer.follow(out, (*(None for _ in range(out.ndim - 1)), units[1]))


def _pad(tracer: _Tracer, out: Any, args: Any) -> bool:
    """New indices are new units, apart from the old."""
    x, pads = args[0], args[1]
    units = list(tracer.units(x) or ())
    for back in range(len(pads) // 2):
        d, (before, after) = x.ndim - 1 - back, pads[2 * back : 2 * back + 2]
        of = units[d]
        if not before and not after:
            continue
        if of is None or min(before, after) < 0:
            tracer.same(of, None)
            units[d] = None
            continue
        units[d] = np.concatenate([tracer.new(before), of, tracer.new(after)])
        tracer.mark(units[d], np.repeat([0, 1, 2], [before, len(of), after]))
    return tracer.follow(out, units)


def _slice(tracer: _Tracer, out: Any, args: Any) -> bool:
    """A part of the units is apart from the rest."""
    given = [*args[1:], *[0, None, None, 1][len(args) - 1 :]]
    dim, start, end, step = int(given[0]), *given[1:]
    units = list(tracer.units(args[0]) or ())
    of = units[dim]
    if of is not None and out.shape[dim] != len(of):
        kept = np.zeros(len(of), dtype=int)
        kept[start:end:step] = 1
        tracer.mark(of, kept)
        units[dim] = of[kept == 1]
    return tracer.follow(out, units)


def _pieces(tracer: _Tracer, out: Any, args: Any) -> bool:
    """Each piece of the units is apart from the others."""
    dim = args[2] if len(args) > 2 else 0
    of = list(tracer.units(args[0]) or ())
    lengths = [piece.shape[dim] for piece in out]
    ends = np.cumsum(lengths)
    units = of[dim]
    if units is not None:
        tracer.mark(units, np.repeat(np.arange(len(out)), lengths))
    for piece, end, n in zip(out, ends, lengths, strict=True):
        of[dim] = None if units is None else units[end - n : end]
        tracer.follow(piece, of)
    return True


def _cat(tracer: _Tracer, out: Any, args: Any) -> bool:
    tensors, dim = args[0], (args[1] if len(args) > 1 else 0) % out.ndim
    all_units = [tracer.units(t) or (None,) * t.ndim for t in tensors]
    units: list[np.ndarray | None] = []
    for d in range(out.ndim):
        of = [u[d] for u in all_units]
        if d != dim:
            first = next((u for u in of if u is not None), None)
            for other in of:
                tracer.same(first, other)
            units.append(first)
        elif any(u is not None for u in of):
            pieces = [
                u if u is not None else np.zeros(t.shape[d], int) for u, t in zip(of, tensors, strict=True)
            ]
            units.append(np.concatenate(pieces))
        else:
            units.append(None)
    return tracer.follow(out, units)


RULES: dict[str, Rule] = {
    "convolution": _convolution,
    **dict.fromkeys(("mm", "bmm"), _product),
    "mv": _vector_product,
    **dict.fromkeys(("addmm", "baddbmm"), _affine),
    **dict.fromkeys(("t", "transpose"), _transpose),
    "permute": _permute,
    **dict.fromkeys(("view", "_unsafe_view"), _view),
    **dict.fromkeys(("clone", "detach", "alias", "_to_copy", "lift_fresh"), _keeps),
    **dict.fromkeys(("_softmax", "_log_softmax"), _keeps),
    "expand": _expand,
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    **dict.fromkeys(
        ("max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d"), _pool
    ),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), _reduce),
    **dict.fromkeys(
        (
            *("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training"),
            *("cudnn_batch_norm", "_batch_norm_with_update", "_batch_norm_no_update"),
        ),
        _batch_norm,
    ),
    "native_group_norm": _group_norm,
    "native_layer_norm": _layer_norm,
    "embedding": _embedding,
    "constant_pad_nd": _pad,
    "slice": _slice,
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _pieces),
    "cat": _cat,
    "stack": _stack,
    "glu": _gated,
    **dict.fromkeys(("hardswish", "_prelu_kernel"), _pointwise),
    "log_sigmoid_forward": _first_pointwise,
}
