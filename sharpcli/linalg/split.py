"""Vectors [D] that are split by coordinates among processes, each of which holds a part [d] of every one.

The solvers of this room add, scale and combine vectors coordinate by coordinate, which each process can do
with its parts. They meet the other coordinates only in inner products, in D, and where they draw at random:
`added`, `dimension` and `own` of this module are what they do there. Outside of `Split.active` a vector is
whole, and these three change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from jaxtyping import Float, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Vectors of `D` numbers in `size` parts, nearly equal, of which this process has the one of number
    `rank`; `sum` adds a tensor over the processes, bitwise the same in each."""

    D: int
    rank: int
    size: int
    sum: Callable[[Tensor], Tensor]

    @property
    def part(self) -> slice:
        """The coordinates that this process holds."""
        return slice(self.D * self.rank // self.size, self.D * (self.rank + 1) // self.size)

    def own(self, rows: Float[Tensor, "*m D"]) -> Float[Tensor, "*m d"]:
        """The part of whole vectors that this process holds, a copy."""
        return rows[..., self.part].clone()

    def whole(self, parts: Float[Tensor, "*m d"]) -> Float[Tensor, "*m D"]:
        """The vectors that the processes hold the parts of, whole and in every process."""
        out = parts.new_zeros(*parts.shape[:-1], self.D)
        out[..., self.part] = parts
        return self.sum(out)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within it the vectors that solvers are given are parts."""
        token = _active.set(self)
        try:
            yield
        finally:
            _active.reset(token)


_active: ContextVar[Split | None] = ContextVar("split", default=None)


def added(numbers: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
    """Sums over the coordinates of vectors: of all parts together."""
    split = _active.get()
    return numbers if split is None else split.sum(numbers)


def dimension(part: Float[Tensor, "*m d"]) -> int:
    """The number D of coordinates of the vectors that these are parts of."""
    split = _active.get()
    return part.shape[-1] if split is None else split.D


def own(rows: Float[Tensor, "*m D"]) -> Float[Tensor, "*m d"]:
    """The part of whole vectors that this process holds."""
    split = _active.get()
    return rows if split is None else split.own(rows)
