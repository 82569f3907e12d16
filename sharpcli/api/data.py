"""A user's data as batches: read once, and kept."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset, IterableDataset

from sharpcli.api.arguments import whole
from sharpcli.errors import Refusal
from sharpcli.landscape.batches import Batch, Examples, Rows, can_be_cut, head, mapped, tree_of

KEPT_SHARE = 0.25  # of the machine's memory, which the data that are kept may take
STRUCTURES = "a tensor, or a tuple, list or dict of tensors with the examples along the first dimension"


def read(data: Any, chunk: int, most: int | None) -> tuple[tuple[Batch, ...], int | None]:
    """The batches of `data`, of at most the first `most` examples, as (inputs, targets); the targets of a
    batch that is no pair are the batch itself. And of how many examples they are a part, where that is known.

    A pair of tensors (or structures) and a dict of tensors are cut into `chunk` examples at a time; the
    batches of a `DataLoader` or another iterable stay as they are; a `Dataset` is loaded in its order. Each
    is read once and kept, so that every pass sees the same batches, shuffled or not.

    Refuses data without examples, batches of no known structure, NaN, and data that take more than a quarter
    of the machine's memory.
    """
    chunk, most = whole("chunk", chunk), None if most is None else whole("examples", most)
    batches: list[Batch] = []
    kept, examples, budget = 0, 0, int(KEPT_SHARE * _memory())
    for number, given in enumerate(_kept_generators(data, _given(data, chunk))):
        # what makes batches may refill the tensors that it gave
        is_made = not isinstance(data, list | tuple | Mapping | Dataset | DataLoader)
        batch = _batch(mapped(torch.clone, given) if is_made else given, number)
        if most is not None and examples + len(batch[1]) > most:
            if not can_be_cut(batch) and examples:
                break
            batch = named_like(batch, *head(batch, most - examples))
        _check_numbers(batch, number)
        batches.append(batch)
        examples += len(batch[1])
        kept += sum(rows.nbytes for rows in batch)
        if kept > budget:
            raise Refusal(
                f"data: {examples} examples take {kept / 1e9:.1f} GB, more than a quarter of the memory, and "
                f"there are more; measure fewer of them, as in examples={max(1, examples // 2)}"
            )
        if most is not None and examples >= most:
            break
    if not batches or not examples:
        raise Refusal(
            "data: holds no example; give a pair of tensors, a DataLoader, or an iterable of batches"
        )
    return tuple(batches), _examples_of(data)


def _given(data: Any, chunk: int) -> Iterator[Any]:
    """The batches as they come."""
    if isinstance(data, Tensor | str | bytes) or not isinstance(data, Iterable | Dataset):
        raise Refusal(
            f"data: a {type(data).__name__}; give a pair (inputs, targets), a DataLoader, or an iterable of "
            f"batches"
        )
    if _is_pair(data) or isinstance(data, Mapping):
        whole = _batch(data, 0)
        if not can_be_cut(whole):
            yield data
            return
        for i in range(0, len(whole[1]), chunk):
            x, y = (rows[i : i + chunk] for rows in whole)
            yield named_like(data, tree_of(x), tree_of(y)) if _is_pair(data) else tree_of(x)
    elif isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        yield from DataLoader(data, batch_size=chunk)
    else:
        yield from data


def _kept_generators(data: Any, given: Iterator[Any]) -> Iterator[Any]:
    """The batches; after them the generators that a loader or its sampler draws orders from are as before, so
    that a training loop on the same loader is not changed."""
    holders = [data, *(getattr(data, name, None) for name in ("sampler", "batch_sampler"))]
    holders += [getattr(holder, "sampler", None) for holder in holders]
    held = {id(g): g for g in (getattr(holder, "generator", None) for holder in holders)}
    generators = [(g, g.get_state()) for g in held.values() if isinstance(g, torch.Generator)]
    try:
        yield from given
    finally:
        for generator, state in generators:
            generator.set_state(state)


def _examples_of(data: Any) -> int | None:
    """The number of all examples, where the data say it."""
    if _is_pair(data) or isinstance(data, Mapping):
        return len(_batch(data, 0)[1])
    whole = getattr(data, "dataset", data)  # a DataLoader's
    is_sized = isinstance(whole, Dataset) and not isinstance(whole, IterableDataset)
    return len(whole) if is_sized and hasattr(whole, "__len__") else None


def _is_pair(data: Any) -> bool:
    """Whether `data` are the inputs and targets of all examples: a tuple, where a list holds batches."""
    is_two = isinstance(data, tuple) and len(data) == 2
    return is_two and (isinstance(data[1], Tensor) or isinstance(data[0], Tensor))


def named_like(pair: Any, x: Any, y: Any) -> tuple[Any, Any]:
    """(x, y), with the names of `pair` where that is a namedtuple."""
    return pair._make((x, y)) if hasattr(pair, "_make") else (x, y)


def _batch(given: Any, number: int) -> Batch:
    """A batch as (inputs, targets)."""
    if isinstance(given, Mapping) and not isinstance(given, dict):
        given = dict(given)
    if isinstance(given, tuple | list) and len(given) == 2:
        y = _rows(given[1], number)
        return named_like(given, _rows(given[0], number, len(y)), y)
    rows = _rows(given, number)
    return rows, rows


def _rows(tree: Any, number: int, n: int | None = None) -> Rows:
    """A tensor as it is, a structure with its number of examples: the length of its first tensor."""
    if hasattr(tree, "data") and isinstance(tree.data, dict):  # transformers.BatchEncoding, a UserDict
        tree = dict(tree)
    found = tree_leaves(tree)
    if any(isinstance(leaf, np.ndarray) for leaf in found):
        raise Refusal(f"data: batch {number} holds NumPy arrays; give tensors, by torch.from_numpy")
    leaves = [leaf for leaf in found if isinstance(leaf, Tensor) and leaf.ndim]
    if not leaves:
        raise Refusal(
            f"data: batch {number} holds a {type(tree).__name__} without a tensor of examples; give "
            f"{STRUCTURES}"
        )
    lengths = {len(leaf) for leaf in leaves}
    if isinstance(tree, Tensor):
        if n is not None and len(tree) != n:
            raise Refusal(
                f"data: batch {number} has {len(tree)} inputs and {n} targets; give as many of both"
            )
        return tree
    return Examples(tree, n if n in lengths else len(leaves[0]))


def _check_numbers(batch: Batch, number: int) -> None:
    """Refuses NaN. Infinity may be meant: masks of attention hold it."""
    for what, rows in zip(("inputs", "targets"), batch, strict=True):
        for leaf in tree_leaves(tree_of(rows)):
            if isinstance(leaf, Tensor) and leaf.is_meta:
                raise Refusal(f"data: the {what} of batch {number} are on the meta device, without values")
            is_real = isinstance(leaf, Tensor) and leaf.is_floating_point()
            if is_real and bool(torch.isnan(leaf).any()):
                raise Refusal(f"data: the {what} of batch {number} hold NaN; remove those examples")


def _memory() -> int:
    """Bytes of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
