"""The examples of each step, and examples cut into batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sharpcli.landscape.batches import Batch, mapped
from sharpcli.rng import generator


def chunks(examples: Batch, size: int) -> tuple[Batch, ...]:
    """The examples (x [n, ...], y [n, ...]) in order, `size` at a time; the last batch may be smaller."""
    x, y = examples
    return tuple((x[i : i + size], y[i : i + size]) for i in range(0, len(y), size))


@dataclass(frozen=True)
class Minibatches:
    """The examples of each step: all of them, or `batch_size` of an order drawn anew each epoch from (seed,
    epoch), or `batch_size` drawn at each step from (seed, step) with replacement.

    Without replacement the last batch of an epoch is what is left and may be smaller. `layout` is how the
    images of a batch that is not all examples are laid out in memory.
    """

    examples: Batch
    batch_size: int
    seed: int
    replacement: bool = False
    layout: torch.memory_format = torch.contiguous_format

    @property
    def per_epoch(self) -> int:
        """Steps in an epoch."""
        return -(-len(self.examples[1]) // self.batch_size)

    @property
    def smallest(self) -> int:
        """The examples of the smallest batch: of the last of an epoch, without replacement."""
        return self.batch_size if self.replacement else (len(self.examples[1]) - 1) % self.batch_size + 1

    @property
    def size_by_noise(self) -> float:
        """The size B of equal batches with the same noise: the noise of a batch of B_t is 1/B_t of an
        example's, and 1/B its mean over the steps of an epoch. `batch_size` where it divides the examples."""
        steps = self.per_epoch
        return steps / ((steps - 1) / self.batch_size + 1 / self.smallest)

    def sizes(self, steps: int) -> set[int]:
        """The numbers of examples of the batches of a run of `steps` steps."""
        return {self.batch_size, self.smallest} if steps >= self.per_epoch else {self.batch_size}

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
            choices = generator(self.seed, "order", step).choices(self.batch_size, len(y))
            picked = torch.from_numpy(choices).to(y.device)
        else:
            i = step % self.per_epoch * self.batch_size
            picked = order[i : i + self.batch_size]
        drawn = x[picked]
        if not self.whole and self.layout is not torch.contiguous_format:
            drawn = mapped(lambda images: images.contiguous(memory_format=self.layout), drawn)
        return drawn, y[picked]
