"""Batches of examples: tensors whose first dimension counts the examples, alone or in nested structures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from sharpcli.errors import Refusal


@dataclass(frozen=True)
class Examples:
    """n examples in a structure of tuples, lists and dicts, with the interface that a tensor [n, ...] has:
    length, rows, bytes. Tensors of another length than n, and what is no tensor, belong to all examples.
    `whole`: the examples belong together, as the nodes of a graph."""

    tree: Any
    n: int
    whole: bool = False

    @property
    def can_be_cut(self) -> bool:
        """Whether tensors of n rows, and what has no rows at all, are all that there is: only then are the
        rows of a slice known to belong together."""
        leaves = tree_leaves(self.tree)
        return not self.whole and all(_has_rows(leaf, self.n) or _has_no_rows(leaf) for leaf in leaves)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(leaf.nbytes for leaf in tree_leaves(self.tree) if isinstance(leaf, Tensor))

    @property
    def device(self) -> torch.device:
        """The device of the first tensor."""
        return next(leaf.device for leaf in tree_leaves(self.tree) if isinstance(leaf, Tensor))

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, rows: slice | Tensor) -> Examples:
        """The examples of a slice, or of a tensor of their numbers. Refuses where they cannot be cut."""
        if not self.can_be_cut:
            raise Refusal("these examples belong together, and this measure takes them apart; leave it out")
        kept = len(range(*rows.indices(self.n))) if isinstance(rows, slice) else len(rows)
        return Examples(
            tree_map(lambda leaf: leaf[rows] if _has_rows(leaf, self.n) else leaf, self.tree), kept
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> Examples:
        """The same structure with every tensor changed."""
        return replace(self, tree=mapped(change, self.tree))


Rows: TypeAlias = Tensor | Examples
Batch: TypeAlias = tuple[Any, Any]  # inputs and targets of the same examples: Rows


def mapped(change: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """A tensor, `Examples`, or a nested structure with every tensor changed."""
    if isinstance(tree, Examples):
        return tree.map(change)
    return tree_map(lambda leaf: change(leaf) if isinstance(leaf, Tensor) else leaf, tree)


def tree_of(rows: Any) -> Any:
    """What a model or a loss is given: the structure inside `Examples`, a tensor as it is."""
    return rows.tree if isinstance(rows, Examples) else rows


def can_be_cut(batch: Batch) -> bool:
    """Whether slices of the inputs and of the targets are the same examples."""
    return all(rows.can_be_cut for rows in batch if isinstance(rows, Examples))


def head(batch: Batch, m: int) -> Batch:
    """The first m examples of a batch; all where they cannot be cut."""
    return (batch[0][:m], batch[1][:m]) if can_be_cut(batch) else batch


def _has_rows(leaf: Any, n: int) -> bool:
    return isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == n


def _has_no_rows(leaf: Any) -> bool:
    return (
        leaf is None
        or isinstance(leaf, bool | int | float | str)
        or (isinstance(leaf, Tensor) and leaf.ndim == 0)
    )


def joined(parts: Sequence[Any]) -> Rows:
    """Tensors, or structures of the same form, one after the other."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    n = sum(len(part) for part in parts)
    trees = [part.tree for part in parts if isinstance(part, Examples)]
    return Examples(
        tree_map(
            lambda *leaves: torch.cat(leaves) if _has_rows(leaves[0], len(first)) else leaves[0], *trees
        ),
        n,
    )
