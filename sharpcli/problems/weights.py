"""Weights from a file in a module: which tensor of the file is which of the module's, and whether the module
can take it without a number being changed."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sharpcli.errors import Refusal, printable

# keys under which training programs put the state dict into a larger dict, the likeliest first
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module", "weights")
# that torch.compile, DataParallel, FSDP and checkpointing put into a parameter's name, at any place
INSERTED = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
COUNT = "num_batches_tracked"  # of batch norm: changes nothing in eval mode
COUNTER = "n_averaged"  # that torch.optim.swa_utils.AveragedModel keeps beside its `module.`
EXTRA_STATE = "_extra_state"  # the end of the name of what nn.Module.get_extra_state gives: any object
NUMBERS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
DEPTH, MANY = 5, 64  # of dicts in dicts; of state dicts, and of namings of each, that are tried at most

State = dict[str, Any]  # tensors by name, and objects under names that end in EXTRA_STATE


@dataclass(frozen=True)
class Fit:
    """The state dict found under the key `where` of a file, by the module's names. `seen` is what the
    module's own hooks make of it; `differences` is empty where it is the module's."""

    where: str
    state: State
    seen: State
    matched: int
    differences: str


def load(module: nn.Module, weights: Mapping[str, Any], *, statistics: bool) -> None:
    """Copies the weights of a file into the module: a state dict, or dicts in dicts that hold one.

    A wrapper's prefix is taken off the names (or a wrapper of the module's put before them) only if names and
    shapes then fit. A name is not missing if the module ties it to another that came. Running statistics of
    batch norm must come where `statistics` says that they are used, or where the model itself has put a layer
    into eval mode, and are left out where not. Where several state dicts of the file fit, the likeliest is
    taken, and a line on standard error says so.

    Refuses names or shapes that are not the module's, with a list; NaN and infinity; tensors that are not
    plain numbers of the module's kind (quantized, sparse, float8, int8 for a float); and numbers that the
    module's dtype would round.
    """
    if statistics:
        _track(module)
    fits = [_fit(module, where, state, statistics) for where, state in _state_dicts(weights)]
    if not fits:
        raise Refusal(
            "the weights hold no tensor by name; save a state dict: torch.save(model.state_dict(), ...)"
        )
    whole = [fit for fit in fits if not fit.differences]
    best = whole[0] if whole else max(fits, key=lambda fit: fit.matched)
    own = module.state_dict()
    _check_kinds(best.seen, own)
    if best.differences:
        raise Refusal(
            f"the weights are those of another model: {best.differences}; choose the model that was trained, "
            f"and images of the same size"
        )
    if lost := sorted(_used_statistics(module, statistics) - best.seen.keys()):
        raise Refusal(
            f"the weights have no running statistics ({shown(lost[0])}); take problem.batchnorm=batch or "
            f"population"
        )
    _check_values(best.seen, own)
    _copy(module, best)
    if others := [fit for fit in whole[1:] if not _equal(fit.seen, best.seen)]:
        names = ", ".join(shown(fit.where) for fit in others[:4])
        print(
            printable(
                f"sharp: the file holds weights of this model under {shown(best.where)}, which are measured, "
                f"and others under {names}"
            ),
            file=sys.stderr,
            flush=True,
        )


def shown(name: str) -> str:
    """A name from a file as it is printed: at most 80 characters."""
    return name if len(name) <= 80 else f"{name[:60]}...{name[-17:]}"


def _state_dicts(held: Mapping[Any, Any]) -> list[tuple[str, State]]:
    """The key of every state dict in dicts in dicts, joined by slashes, and its tensors by name: the
    likeliest first, averaged weights (ema) last."""

    def likely(key: str) -> tuple[bool, int]:
        return "ema" in key, WRAPPERS.index(key) if key in WRAPPERS else len(WRAPPERS)

    known = set[int]()  # a dict may hold itself, or be held in a thousand places

    def walk(held: Mapping[Any, Any], where: str, depth: int) -> Iterator[tuple[str, State]]:
        if id(held) in known:
            return
        known.add(id(held))
        state = {
            key: value
            for key, value in held.items()
            if isinstance(key, str) and (isinstance(value, Tensor) or key.endswith(EXTRA_STATE))
        }
        if any(isinstance(value, Tensor) for value in state.values()):
            yield where, state
        inner = [key for key, value in held.items() if isinstance(value, Mapping) and isinstance(key, str)]
        if depth:
            for key in sorted(inner, key=likely):
                yield from walk(held[key], f"{where}/{key}".strip("/"), depth - 1)

    return list(islice(walk(held, "", DEPTH), MANY))


def _fit(module: nn.Module, where: str, state: State, statistics: bool) -> Fit:
    """The first naming of a state dict that is the module's, or else the one that shares most names with
    it."""
    own, ties, optional = module.state_dict(), _ties(module), _statistics(module)
    unused = optional - _used_statistics(module, statistics)
    best: Fit | None = None
    outer = [{name: name for name in own}, *islice(_namings(own), 1, MANY)]
    many = MANY if len(state) <= 4 * len(own) + 100 else 2  # so many more names cannot fit, however named
    for naming, into in ((n, o) for n in islice(_namings(state), many) for o in outer):
        names = {into.get(new, new): old for new, old in naming.items()}
        if len(names) < len(naming):
            continue
        renamed = {new: state[old] for new, old in names.items() if new not in unused}
        if COUNTER not in own:
            renamed.pop(COUNTER, None)
        seen = _through_hooks(module, renamed)
        matched = len(own.keys() & seen.keys())
        differences = _differences(seen, own, ties, optional)
        if best is None or not differences or matched > best.matched:
            best = Fit(where, renamed, seen, matched, differences)
        if not differences:
            break
    assert best is not None  # the names as they are, at least
    return best


def _namings(names: Iterable[str]) -> Iterator[dict[str, str]]:
    """The same names and shorter ones, new -> old: without the first part that all of them share, and without
    each of `INSERTED`, in every nesting and order."""
    queue = [{name: name for name in names}]
    known = set[frozenset[str]]()
    while queue:
        naming = queue.pop(0)
        if frozenset(naming) in known:
            continue
        known.add(frozenset(naming))
        yield naming
        tops = {name.partition(".")[0] for name in naming if name != COUNTER}
        ways = [{name: name.partition(".")[2] if name != COUNTER else name for name in naming}]
        if len(tops) != 1 or any("." not in name for name in naming if name != COUNTER):
            ways = []
        for part in INSERTED:
            if any(f".{part}." in f".{name}" for name in naming):
                ways.append({name: _without(part, name) for name in naming})
        for way in ways:
            shorter = {way[name]: old for name, old in naming.items()}
            if len(shorter) == len(naming):  # no two names became one
                queue.append(shorter)


def _without(part: str, name: str) -> str:
    *path, last = name.split(".")
    return ".".join([*(p for p in path if p != part), last])


def _through_hooks(module: nn.Module, state: State) -> State:
    """A state dict as the module's own `load_state_dict` sees it: hooks rename what older versions of a layer
    saved (weight norm's `weight_g`, for one)."""
    seen = OrderedDict(state)
    for name, part in module.named_modules(remove_duplicate=False):
        for hook in part._load_state_dict_pre_hooks.values():
            hook(seen, f"{name}." if name else "", {}, True, [], [], [])
    return dict(seen)


def _ties(module: nn.Module) -> dict[str, list[str]]:
    """For each name the other names under which the module holds the same tensor."""
    places: dict[Any, list[str]] = {}
    for name, value in module.state_dict().items():
        if not _peculiar(value) and value.numel():
            places.setdefault((value.data_ptr(), value.shape, value.stride()), []).append(name)
    return {name: [n for n in names if n != name] for names in places.values() for name in names}


def _statistics(module: nn.Module) -> set[str]:
    """The names of the running statistics of every layer of batch norm, also of layers that keep none."""
    return {
        f"{name}.{kind}".removeprefix(".")
        for name, part in module.named_modules(remove_duplicate=False)
        if isinstance(part, _BatchNorm)
        for kind in ("running_mean", "running_var", COUNT)
    }


def _used_statistics(module: nn.Module, every: bool) -> set[str]:
    """The names of the means and variances of the layers of batch norm that use them: of `every` one, or else
    of those that the model itself has put into eval mode."""
    return {
        f"{name}.{kind}".removeprefix(".")
        for name, part in module.named_modules(remove_duplicate=False)
        if isinstance(part, _BatchNorm) and part.running_mean is not None and (every or not part.training)
        for kind in ("running_mean", "running_var")
    }


def _track(module: nn.Module) -> None:
    """Gives running statistics to the layers of batch norm that keep none in training: the file has them."""
    place = next(module.parameters())
    for norm in module.modules():
        if isinstance(norm, _BatchNorm) and norm.running_mean is None:
            norm.track_running_stats = True
            norm.running_mean = torch.zeros(norm.num_features, dtype=place.dtype, device=place.device)
            norm.running_var = torch.ones_like(norm.running_mean)
            norm.num_batches_tracked = torch.zeros((), dtype=torch.long, device=place.device)


def _differences(came: State, own: State, ties: Mapping[str, list[str]], optional: set[str]) -> str:
    """In what a state dict differs from the module's own in names and shapes; empty where in nothing."""

    def is_missing(name: str) -> bool:
        return name not in came and name not in optional and not any(n in came for n in ties.get(name, ()))

    missing = [name for name in own if is_missing(name)]
    extra = [
        name
        for name, value in came.items()
        if name not in own and name not in optional and not (name.endswith(EXTRA_STATE) and value is None)
    ]
    shapes = [
        f"{shown(name)} is {list(came[name].shape)} for {list(value.shape)}"
        for name, value in own.items()
        if name in came
        and not _peculiar(came[name])
        and isinstance(value, Tensor)
        and came[name].shape != value.shape
    ]
    parts = []
    for names, what in ((missing, "missing"), (extra, "not in the model"), (shapes, "of another shape")):
        more = ", ..." if len(names) > 4 else ""
        parts += [f"{len(names)} {what} ({', '.join(map(shown, names[:4]))}{more})"] if names else []
    return "; ".join(parts)


def _peculiar(value: Any) -> str:
    """What makes a value something else than plain numbers in memory; empty where nothing does."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    if type(value) not in (Tensor, nn.Parameter):
        return f"a tensor of class {type(value).__name__}"
    if value.is_quantized:
        return f"quantized ({value.dtype})"
    if value.is_nested:
        return "a nested tensor"
    if value.layout != torch.strided:
        return f"sparse ({value.layout})"
    return "on the meta device, without numbers" if value.is_meta else ""


def _kind(dtype: torch.dtype) -> str:
    """What kind of numbers a dtype is for."""
    if dtype.is_complex or dtype == torch.bool or (dtype.is_floating_point and dtype not in NUMBERS):
        return str(dtype)
    return "float" if dtype.is_floating_point else "integer"


def _check_kinds(came: State, own: State) -> None:
    """Refuses, by its name, a tensor that is not plain numbers of the kind of the module's own."""
    for name, value in own.items():
        if name not in came or name.endswith(EXTRA_STATE):
            continue
        what = _peculiar(came[name])
        if not what and _kind(came[name].dtype) != _kind(value.dtype):
            what = str(came[name].dtype)
        if what:
            save = "save it as float32" if value.dtype in NUMBERS else f"save it as {value.dtype}"
            raise Refusal(f"{shown(name)} in the weights is {what}, for {value.dtype} in the model; {save}")


def _check_values(came: State, own: State) -> None:
    """Refuses NaN, infinity, a negative variance of batch norm, and numbers that the module's dtype would
    round."""
    names = [name for name in own if name in came and not name.endswith(EXTRA_STATE)]
    if bad := [name for name in names if not bool(came[name].isfinite().all())]:
        listed = ", ".join(map(shown, bad[:4]))
        raise Refusal(f"the weights hold NaN or infinity in {listed}; there is no curvature to measure")
    for name in names:
        value, dtype = came[name], own[name].dtype
        if name.endswith("running_var") and bool((value < 0).any()):
            raise Refusal(f"{shown(name)} in the weights is negative, and no variance; the file is damaged")
        if value.dtype != dtype and not torch.equal(value.to(dtype).to(value.dtype), value):
            advice = "take problem.dtype=float64" if value.dtype == torch.float64 else f"save it as {dtype}"
            raise Refusal(
                f"{shown(name)} in the weights is {value.dtype}, which {dtype} would round; {advice}"
            )


def _copy(module: nn.Module, fit: Fit) -> None:
    """The module takes the weights. Refuses tensors that it changes, as two that it ties and that differ."""
    try:
        module.load_state_dict(fit.state, strict=False)
    except RuntimeError as problem:
        reason = str(problem).partition("\n\t")[2] or str(problem)
        raise Refusal(
            f"the weights do not fit the model: {reason}; choose the model that was trained"
        ) from None
    ties = _ties(module)
    for name, value in module.state_dict().items():
        came = fit.seen.get(name)
        if (
            isinstance(value, Tensor)
            and isinstance(came, Tensor)
            and not torch.equal(value.cpu(), came.detach().to("cpu", value.dtype))
        ):
            cause = f"is one tensor with {shown(', '.join(ties[name]))}" if ties.get(name) else "changes it"
            raise Refusal(
                f"{shown(name)} in the weights is not what the model holds once they are loaded: it {cause}; "
                f"save the model's own state_dict()"
            )


def _equal(a: State, b: State) -> bool:
    """Whether two state dicts hold the same numbers."""
    return a.keys() == b.keys() and all(
        not _peculiar(a[name]) and not _peculiar(b[name]) and torch.equal(a[name], b[name]) for name in a
    )
