"""What is optimized: where it starts, its training surface, its scores, and the closed forms that are known
of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from sharpcli.landscape.batches import Batch
from sharpcli.landscape.surface import Layout, LossSurface

if TYPE_CHECKING:
    from sharpcli.problems.compiled import CompiledToy

Better = Literal["lower", "higher", "neither"]


@dataclass(frozen=True)
class ClosedFlows:
    """Closed forms of a problem's gradient flow and limiting flows, as functions of flat weights [D] in
    float64.

    `limit(w)` is Phi(w), where gradient flow from w ends; `trace` and `sharpness` are Tr H and lambda_1 at an
    interpolator; `trace_flow(w, tau, rate, delta)` and `sharpness_flow(w, tau, rate)` where the flows dY/dtau
    = -rate delta^2 grad Tr H and -rate grad lambda_1 along the interpolators, from Phi(w), are at tau;
    `elapsed(w, w_0)` the A for which Phi(w) is `trace_flow` from w_0 at 8 rate delta^2 tau = A (None where w
    has none), and `clock(w, tau, lr, delta)` the tau at which a run of step size lr is, to the next order in
    lr; `l1` the l1 norm of the vector that w stands for. Each raises `errors.Unreachable` where its flow does
    not exist. `idle`, where it is not empty, says why nothing flows.
    """

    limit: Callable[[Tensor], Tensor]
    trace: Callable[[Tensor], float]
    sharpness: Callable[[Tensor], float]
    trace_flow: Callable[[Tensor, float, float, float], Tensor]
    sharpness_flow: Callable[[Tensor, float, float], Tensor]
    elapsed: Callable[[Tensor, Tensor], float | None]
    clock: Callable[[Tensor, float, float, float], float]
    l1: Callable[[Tensor], float]
    idle: str = ""


@dataclass(frozen=True)
class Recovery:
    """What the data of a problem were made of, and what weights say that it is: the `truth`, a vector [d] or
    a matrix [d, d], and `of(w)`, that which w [D] stands for, of the same shape."""

    truth: Tensor
    of: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """A toy and a CIFAR ResNet are both this.

    `w0` [D] is where training starts; `surface` the mean loss over all training `examples` (x [n, ...], y [n,
    ...]); `at(w)` the surface to measure at w, with whatever a normalization policy fixes there (the training
    surface where it fixes nothing); `scores(w)` named numbers about w, `train_loss` among them, and `better`
    whether a lower or a higher one is better, for each name that a reader wants to see. `layout` names the
    tensors that w is the concatenation of, `frozen` names the model's parameters that are held and no part of
    w, `held` are their values and the model's buffers; `last_matrix` names the last weight matrix of the
    whole model, in w or not; `tests` are the test examples that scores use, where there are any.
    `fewest` is the least number of examples that a batch may have (2 under batch norm), and
    `channels_last` whether its images are faster to train on with their channels side by side.
    `error(surface, w)` is the share of a surface's examples that are classified wrongly, where there are
    classes, and `test_error(surface, w)` that of the test examples, with the normalization of the surface;
    `norms(w)` what a model's own structure defines.

    What is known in closed form a problem supplies itself: `flows`, `least_norm(w, positive)`, named numbers
    about the solutions of least norm, and the `recovery` of what its data were made of. `compiled` is the
    same loss as compiled functions, where a toy has them.
    """

    w0: Tensor
    examples: Batch
    surface: LossSurface
    scores: Callable[[Tensor], dict[str, float]]
    at: Callable[[Tensor], LossSurface]
    better: Mapping[str, Better] = field(default_factory=lambda: {"train_loss": "lower"})
    layout: Layout = ()
    frozen: tuple[str, ...] = ()
    held: Mapping[str, Tensor] = field(default_factory=dict)
    last_matrix: str = ""
    tests: Batch | None = None
    fewest: int = 1
    channels_last: bool = False
    error: Callable[[LossSurface, Tensor], float] | None = None
    test_error: Callable[[LossSurface, Tensor], float] | None = None
    norms: Callable[[Tensor], dict[str, float]] = lambda w: {}
    flows: ClosedFlows | None = None
    least_norm: Callable[[Tensor, bool], dict[str, float]] | None = None
    recovery: Recovery | None = None
    compiled: CompiledToy | None = None

    @property
    def names(self) -> list[str]:
        """The parameters' names, in the order of w; one, `w`, where the problem has no tensors."""
        return [name for name, _ in self.layout] or ["w"]

    @property
    def last_of_layout(self) -> str:
        """The name of the last tensor of w that is a matrix; empty where none is."""
        return next((name for name, shape in reversed(self.layout) if len(shape) > 1), "")

    def tensors(self, w: Tensor) -> list[Tensor]:
        """w as the parameters' tensors: views of it."""
        if not self.layout:
            return [w]
        sizes = [shape.numel() for _, shape in self.layout]
        return [part.view(shape) for part, (_, shape) in zip(w.split(sizes), self.layout, strict=True)]

    def only(self, w: Tensor, chosen: Sequence[str]) -> Problem:
        """The same problem in the `chosen` parameters alone, the others held at w: its `w0` are theirs at
        w."""
        names, pieces = self.names, [t.flatten() for t in self.tensors(w.detach())]
        kept = [piece for name, piece in zip(names, pieces, strict=True) if name in chosen]
        sizes = [piece.numel() for piece in kept]

        def embed(u: Tensor) -> Tensor:
            parts = iter(u.split(sizes))
            return torch.cat(
                [next(parts) if name in chosen else p for name, p in zip(names, pieces, strict=True)]
            )

        known = self.recovery
        return Problem(
            w0=torch.cat(kept),
            examples=self.examples,
            surface=self.surface.through(embed),
            scores=lambda u: self.scores(embed(u)),
            at=lambda u: self.at(embed(u)).through(embed),
            better=self.better,
            last_matrix=self.last_matrix or self.last_of_layout,
            layout=tuple((name, shape) for name, shape in self.layout if name in chosen),
            tests=self.tests,
            fewest=self.fewest,
            channels_last=self.channels_last,
            error=self.error,
            test_error=self.test_error,
            recovery=None if known is None else Recovery(known.truth, lambda u: known.of(embed(u))),
        )
