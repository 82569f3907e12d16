"""Regression toys: problems of a few examples, one output and half squared loss in float64, whose steps can
run compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sharpcli.data import Dataset
from sharpcli.errors import Refusal
from sharpcli.landscape.surface import Layout, LossSurface
from sharpcli.losses.half_squared import half_squared
from sharpcli.problems.minibatches import chunks
from sharpcli.problems.problem import Better, ClosedFlows, Problem, Recovery
from sharpcli.rng import generator
from sharpcli.theory.convex import least_l1

if TYPE_CHECKING:
    from sharpcli.problems.compiled import CompiledToy

Scores = Callable[[Tensor], dict[str, float]]


def regression(
    predict: Callable[[Tensor, Tensor], Tensor],
    w0: Tensor,
    x: Tensor,
    y: Tensor,
    chunk: int,
    layout: Layout,
    *,
    compiled: CompiledToy | None = None,
    scores: Scores = lambda w: {},
    better: Mapping[str, Better] = MappingProxyType({}),
    norms: Scores = lambda w: {},
    flows: ClosedFlows | None = None,
    least_norm: Callable[[Tensor, bool], dict[str, float]] | None = None,
    recovery: Recovery | None = None,
    joint: bool = False,
) -> Problem:
    """The problem L(w) = (1/2n) sum_i (predict(w, x_i) - y_i)^2 with x [n, ...], y [n, 1] and predict(w, x)
    [n, 1], in batches of `chunk` examples, from w0 [D].

    `scores(w)` are the toy's scores beside `train_loss`, and `better` says for those that a reader wants to
    see whether a lower or a higher one is better; `joint` says that the outputs of a batch depend on one
    another. The other arguments are as in `Problem`.
    """
    surface = LossSurface(predict, half_squared, chunks((x, y), chunk), joint=joint)

    def all_scores(w: Tensor) -> dict[str, float]:
        return {"train_loss": float(surface.value(w)), **scores(w)}

    return Problem(
        w0=w0,
        examples=(x, y),
        surface=surface,
        scores=all_scores,
        at=lambda w: surface,
        better={"train_loss": "lower", **better},
        layout=layout,
        norms=norms,
        flows=flows,
        least_norm=least_norm,
        recovery=recovery,
        compiled=compiled,
    )


def users_examples(data: Dataset, dims: int, name: str) -> tuple[Tensor, Tensor]:
    """The inputs Z [n, d] (or [n, d, d] for `dims` = 3) and labels y [n, 1] of a user's data, in float64.
    Refuses, in the name of problem `name`, inputs of other dimensions and several labels an example."""
    x, y = data.x_train.double(), data.y_train.double()
    if x.ndim != dims or y.shape != (len(x), 1):
        shape = ", ".join(["n", *["d"] * (dims - 1)])
        raise Refusal(
            f"problem={name}: the data's inputs are {list(x.shape)} and its labels {list(y.shape)}; give "
            f"[{shape}] and [n]"
        )
    return x.contiguous(), y.contiguous()


def sparsest(x: Tensor, y: Tensor, name: str, positive: bool = False) -> Tensor:
    """The vector w [d] of least l1 norm with x w = y, x [n, d] and y [n, 1]; `positive` admits vectors
    without negative entries alone. Refuses, in the name of problem `name`, labels that no such vector
    fits."""
    try:
        return torch.from_numpy(least_l1(x.numpy(), y[:, 0].numpy(), positive=positive)[0])
    except ValueError as problem:
        vector = "vector without negative entries" if positive else "vector"
        raise Refusal(f"problem={name}: {problem}; give labels that some {vector} fits") from None


def normal(shape: tuple[int, ...], seed: int, who: str) -> Tensor:
    """Independent N(0, 1) in float64: the same for the same seed and `who`, the name of what draws them."""
    return torch.randn(shape, generator=generator(seed, who, 0), dtype=torch.float64)


def signs(shape: tuple[int, ...], seed: int, who: str) -> Tensor:
    """Independent +-1, each with probability 1/2, in float64; as for `normal`."""
    return torch.randint(0, 2, shape, generator=generator(seed, who, 0)).double() * 2 - 1


def start_around(start: float, spread: float, size: int, seed: int) -> Tensor:
    """w0 [size]: every entry is `start` plus `spread` times a normal number of `seed`. Refuses 0, a saddle of
    toys whose output is a product of weights."""
    if start == 0 and spread == 0:
        raise Refusal(
            "problem.start=0: the gradient vanishes there and no coordinate ever moves; take another"
        )
    return start + spread * normal((size,), seed, "start")


def layout(**shapes: tuple[int, ...]) -> Layout:
    """A problem's layout: the names and shapes of the tensors whose concatenation is w, in order."""
    return tuple((name, torch.Size(shape)) for name, shape in shapes.items())
