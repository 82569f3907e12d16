"""What is optimized: where it starts, its training surface, its scores; and the mini-batches drawn from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sharpcli.rng import generator
from sharpcli.surface import Batch, LossSurface

if TYPE_CHECKING:
    from sharpcli.kernel import Kernel


@dataclass(frozen=True)
class Problem:
    """A toy and a CIFAR ResNet are both this.

    `w0` [D] is where training starts; `surface` the mean loss over all training `examples` (x [n, ...], y [n, ...]);
    `at(w)` the surface to measure at w, with whatever a normalization policy fixes there (the training surface where
    it fixes nothing); `scores(w)` named numbers about w, `train_loss` among them. `layout` names the tensors that w is
    the concatenation of; `error(surface, w)` is the share of a surface's examples that are classified wrongly, where
    there are classes; `norms(w)` what a model's own structure defines; `kernel` the same loss as compiled functions, where a
    toy has them.
    """

    w0: Tensor
    examples: Batch
    surface: LossSurface
    scores: Callable[[Tensor], dict[str, float]]
    at: Callable[[Tensor], LossSurface]
    layout: tuple[tuple[str, torch.Size], ...] = ()
    error: Callable[[LossSurface, Tensor], float] | None = None
    norms: Callable[[Tensor], dict[str, float]] = lambda w: {}
    kernel: Kernel | None = None

    @property
    def names(self) -> list[str]:
        """The parameters' names, in the order of w; one, `w`, where the problem has no tensors."""
        return [name for name, _ in self.layout] or ["w"]

    def tensors(self, w: Tensor) -> list[Tensor]:
        """w as the parameters' tensors: views of it."""
        if not self.layout:
            return [w]
        sizes = [shape.numel() for _, shape in self.layout]
        return [part.view(shape) for part, (_, shape) in zip(w.split(sizes), self.layout, strict=True)]

    def only(self, w: Tensor, chosen: Sequence[str]) -> Problem:
        """The same problem in some of its parameters alone, the others held at w: its `w0` are theirs at w."""
        names, pieces = self.names, [t.flatten() for t in self.tensors(w.detach())]
        sizes = [piece.numel() for name, piece in zip(names, pieces, strict=True) if name in chosen]

        def embed(u: Tensor) -> Tensor:
            free = iter(u.split(sizes))
            return torch.cat([next(free) if name in chosen else piece for name, piece in zip(names, pieces, strict=True)])

        error = self.error
        return Problem(
            torch.cat([piece for name, piece in zip(names, pieces, strict=True) if name in chosen]),
            self.examples,
            self.surface.through(embed),
            lambda u: self.scores(embed(u)),
            lambda u: self.at(embed(u)).through(embed),
            tuple(item for item in self.layout if item[0] in chosen),
            error,
        )


def chunks(examples: Batch, size: int) -> tuple[Batch, ...]:
    """The examples in order, `size` at a time; the last may be smaller."""
    x, y = examples
    return tuple((x[i : i + size], y[i : i + size]) for i in range(0, len(y), size))


@dataclass(frozen=True)
class Minibatches:
    """The examples of each step: all of them, or `batch_size` of an order drawn anew each epoch from (seed, epoch), or
    `batch_size` drawn at each step from (seed, step) with replacement.

    Without replacement the last batch of an epoch is what is left and may be smaller.
    """

    examples: Batch
    batch_size: int
    seed: int
    replacement: bool = False

    @property
    def per_epoch(self) -> int:
        """Steps in an epoch."""
        return -(-len(self.examples[1]) // self.batch_size)

    @property
    def whole(self) -> bool:
        """Whether every step sees every example once."""
        return self.per_epoch == 1 and not self.replacement

    def order(self, epoch: int) -> Tensor:
        """The permutation [n] of one epoch."""
        y = self.examples[1]
        return torch.from_numpy(generator(self.seed, "order", epoch).permutation(len(y))).to(y.device)

    def __call__(self, step: int, order: Tensor) -> Batch:
        """The batch of a step, given its epoch's order (of no use with replacement)."""
        x, y = self.examples
        if self.replacement:
            drawn = generator(self.seed, "order", step).choices(self.batch_size, len(y))
            picked = torch.from_numpy(drawn).to(y.device)
        else:
            i = step % self.per_epoch * self.batch_size
            picked = order[i : i + self.batch_size]
        return x[picked], y[picked]
