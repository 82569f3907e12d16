"""Sums over examples split among several processes (`torch.distributed`): the share of each process, and the
sum of the shares."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

from sharpcli.landscape.batches import Batch


@dataclass(frozen=True)
class Processes:
    """The processes of a run, of which this one has the number `rank` out of `size`, as `torchrun` assigns
    them.

    Every process computes the same numbers: sums over examples are split and added up, everything else is
    computed by each. Only the process of rank 0 writes files and prints.
    """

    rank: int = 0
    size: int = 1

    def share(self, batches: tuple[Batch, ...], joint: bool) -> tuple[Batch, ...]:
        """The examples (x, y) that this process evaluates: its part of each batch. If the outputs of a batch
        are `joint`, as under batch norm, a batch cannot be split, and the process gets every `size`-th batch
        whole."""
        if self.size == 1:
            return batches
        if joint:
            return batches[self.rank :: self.size]
        parts = (
            (x.tensor_split(self.size)[self.rank], y.tensor_split(self.size)[self.rank]) for x, y in batches
        )
        return tuple((x, y) for x, y in parts if len(y))

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return self.rank == 0

    def wait(self) -> None:
        """Returns once every process has called it."""
        if self.size > 1:
            dist.barrier()

    def all(self, is_true: bool, like: Tensor) -> bool:
        """Whether it is true in every process; `like` is a tensor of the device of the processes."""
        if self.size == 1:
            return is_true
        return float(self.sum(torch.tensor(0.0 if is_true else 1.0, device=like.device))) == 0

    def largest(self, number: float, like: Tensor) -> float:
        """The largest of the numbers that the processes have; `like` is a tensor of their device."""
        if self.size == 1:
            return number
        out = torch.tensor(number, dtype=torch.float64, device=like.device)
        dist.all_reduce(out, dist.ReduceOp.MAX)
        return float(out)

    def sum(self, part: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        """The sum of `part` over all processes, bitwise the same in each. `part` itself is not changed."""
        if self.size == 1:
            return part
        total = part.clone(memory_format=torch.contiguous_format)  # all_reduce writes into its argument
        dist.all_reduce(total)
        return total


ALONE = Processes()  # a run of a single process


@contextmanager
def processes() -> Iterator[Processes]:
    """The processes that `torchrun` started, connected by NCCL if each has a GPU and by gloo otherwise; a
    single process without torchrun. Standard output of all but the first is discarded until the context
    ends."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    if dist.is_initialized():
        yield Processes(dist.get_rank(), dist.get_world_size())
        return
    rank, local_rank = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    has_gpu = torch.cuda.device_count() > local_rank
    if has_gpu:
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if has_gpu else "gloo")
    output = nullcontext() if rank == 0 else redirect_stdout(io.StringIO())
    try:
        with output:
            yield Processes(rank, size)
    finally:
        dist.destroy_process_group()
