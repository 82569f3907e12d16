"""Sparse regression through f(z) = <u*u - v*v, z>: the model of Woodworth et al. 2020 and of Li, Wang & Arora 2022,
arXiv:2110.06914, section 6, whose flattest interpolators have the least l1 norm."""

from __future__ import annotations

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.losses.half_squared import half_squared
from sharpcli.problem import Problem, chunks
from sharpcli.rng import generator
from sharpcli.surface import LossSurface


def uv(seed: int, chunk: int, graph_budget: int, *, d: int, n: int, k: int, start: float) -> Problem:
    """n examples z in {-1, 1}^d with y = <beta, z>, beta having k entries +-1 and zeros else, all drawn from `seed`.

    w = (u, v) [2d] in float64, both `start` everywhere. The loss is half squared, so on the interpolators
    Tr H = 4 (|u|^2 + |v|^2). `recovery_error` is |u*u - v*v - beta|^2 / |beta|^2.
    Refuses sizes below 1, k above d, and a start at 0, from where no coordinate moves.
    """
    if min(d, n, k) < 1 or k > d:
        raise Refusal(f"problem.d={d} problem.n={n} problem.k={k}: all at least 1, and k at most d")
    if start == 0:
        raise Refusal("problem.start=0: the gradient vanishes there and no coordinate ever moves; take another")
    rng = generator(seed, "uv", 0)
    x = _signs((n, d), rng)
    beta = torch.zeros(d, dtype=torch.float64)
    beta[torch.randperm(d, generator=rng)[:k]] = _signs((k,), rng)
    examples = (x, (x @ beta)[:, None])

    def predict(w: Tensor, x: Tensor) -> Tensor:
        u, v = w.split(d)
        return (x @ (u.square() - v.square()))[:, None]

    surface = LossSurface(predict, half_squared, chunks(examples, chunk), graph_budget=graph_budget)

    def scores(w: Tensor) -> dict[str, float]:
        u, v = w.split(d)
        found, truth = u.square() - v.square(), beta.to(w)
        error = (found - truth).square().sum() / truth.square().sum()
        return {"train_loss": float(surface.value(w)), "recovery_error": float(error)}

    def norms(w: Tensor) -> dict[str, float]:
        u, v = w.split(d)
        return {"l1_norm": float((u.square() - v.square()).abs().sum())}

    w0 = torch.full((2 * d,), start, dtype=torch.float64)
    layout = (("u", torch.Size([d])), ("v", torch.Size([d])))
    return Problem(w0, examples, surface, scores, lambda w: surface, layout, norms=norms)


def _signs(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    return torch.randint(0, 2, shape, generator=rng).double() * 2 - 1
