"""Norms that a network's layers define: path norm, Barron norm, nuclear norm of the end-to-end matrix
(`measure=norms`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

POSITIVE = (nn.Linear, nn.ReLU, nn.Identity, nn.Flatten)  # layers whose outputs are sums over paths


def structural_norms(module: nn.Module, names: Sequence[str]) -> Callable[[Tensor], dict[str, float]]:
    """The norms of `measures/norms.py` as a function of the flat parameters of these names, the others being
    the module's own; {} for other kinds of network than a `Sequential` of linear layers and ReLU."""
    linear = [m for m in module.modules() if isinstance(m, nn.Linear)]
    has_relu = any(isinstance(m, nn.ReLU) for m in module.modules())
    # the very classes: one that inherits from them may compute something else
    if type(module) is not nn.Sequential or not linear or not all(type(m) in POSITIVE for m in module):
        return lambda w: {}
    named = {id(p): name for name, p in module.named_parameters()}
    # a layer may be listed twice, and share its matrix with another
    weights = [m.weight for m in module if isinstance(m, nn.Linear)]
    if not all(
        id(weight) in named for weight in weights
    ):  # made of other parameters, by weight_norm or pruning
        return lambda w: {}
    shapes = [module.get_parameter(name).shape for name in names]
    sizes = [shape.numel() for shape in shapes]

    def norms(w: Tensor) -> dict[str, float]:
        tensors = {name: p.detach().double() for name, p in module.named_parameters()}
        parts = w.detach().double().split(sizes)
        tensors |= {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        matrices = [tensors[named[id(weight)]] for weight in weights]
        values = {"path_norm": _path_norm(module, tensors, matrices[0].shape[1])}
        if not has_relu:
            product = torch.linalg.multi_dot(matrices[::-1]) if len(matrices) > 1 else matrices[0]
            S = torch.linalg.svdvals(product)
            values |= {
                "nuclear_norm": float(S.sum()),
                "schatten_norm": float((S ** (2 / len(matrices))).sum()),
            }
        elif len(matrices) == 2 and _is_two_layers(module):
            (first, _), (inner, outer) = _linear_names(module), matrices
            bias = tensors.get(f"{first}.bias")
            incoming = inner if bias is None else torch.cat([inner, bias[:, None]], 1)
            values["barron_norm"] = float((outer.abs().sum(0) * incoming.norm(dim=1)).sum())
        return values

    return norms


def _linear_names(module: nn.Sequential) -> list[str]:
    return [name for name, m in module.named_children() if isinstance(m, nn.Linear)]


def _is_two_layers(module: nn.Sequential) -> bool:
    """Whether the layers with a meaning are Linear, ReLU, Linear."""
    kinds = [type(m) for m in module.modules() if isinstance(m, nn.Linear | nn.ReLU)]
    return kinds == [nn.Linear, nn.ReLU, nn.Linear]


def _path_norm(module: nn.Module, tensors: dict[str, Tensor], inputs: int) -> float:
    """The sum of the outputs on an input of ones with every weight replaced by its size."""
    ones = torch.ones(1, inputs, dtype=torch.float64, device=next(iter(tensors.values())).device)
    with torch.no_grad():
        sizes = {name: p.abs() for name, p in tensors.items()}
        return float(torch.func.functional_call(module, sizes, (ones,)).sum())
