"""Norms that a network's structure defines: of paths, of neurons, of the end-to-end matrix."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

KNOWN = (nn.Linear, nn.ReLU, nn.Identity, nn.Flatten)


def structural_norms(module: nn.Module) -> Callable[[Tensor], dict[str, float]]:
    """The norms of `measures/norms.py` as a function of the flat parameters, {} for other kinds of network."""
    layers = [m for m in module.modules() if isinstance(m, nn.Linear | nn.ReLU)]
    linear = [m for m in layers if isinstance(m, nn.Linear)]
    plain = isinstance(module, nn.Sequential) and linear and all(isinstance(m, KNOWN) for m in module)
    kinds = [type(m) for m in layers]
    shapes = [p.shape for p in module.parameters()]

    def found(w: Tensor) -> dict[str, float]:
        if not plain:
            return {}
        parts = [p.view(s).double() for p, s in zip(w.split([s.numel() for s in shapes]), shapes, strict=True)]
        out = {"path_norm": _path_norm(module, parts)}
        if kinds == [nn.Linear, nn.ReLU, nn.Linear]:
            incoming = torch.cat([t.reshape(len(parts[0]), -1) for t in parts[: 1 + (linear[0].bias is not None)]], 1)
            outgoing = parts[1 + (linear[0].bias is not None)]
            out["barron_norm"] = float((outgoing.abs().sum(0) * incoming.norm(dim=1)).sum())
        if set(kinds) == {nn.Linear}:
            product = torch.linalg.multi_dot([p for p in reversed(parts) if p.ndim == 2]) if len(linear) > 1 else parts[0]
            S = torch.linalg.svdvals(product)
            out |= {"nuclear_norm": float(S.sum()), "schatten_norm": float((S ** (2 / len(linear))).sum())}
        return out

    return found


def _path_norm(module: nn.Module, parts: list[Tensor]) -> float:
    """The sum of the outputs on an input of ones with every weight replaced by its size."""
    names = [name for name, _ in module.named_parameters()]
    ones = torch.ones(1, parts[0].shape[1], dtype=torch.float64, device=parts[0].device)
    with torch.no_grad():
        sizes = {name: p.abs() for name, p in zip(names, parts, strict=True)}
        return float(torch.func.functional_call(module, sizes, (ones,)).sum())
