"""Several processes over one sum (torch.distributed): who evaluates which examples, and the sum over all
processes."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Processes:
    """This process is number `rank` of `size`, as `torchrun` says. Every process computes the same numbers:
    sums over examples are split and added up, all else is repeated; only the first writes and prints."""

    rank: int = 0
    size: int = 1

    def share(
        self, batches: tuple[tuple[Tensor, Tensor], ...], joint: bool
    ) -> tuple[tuple[Tensor, Tensor], ...]:
        """This process's part of each batch; where a batch's outputs are `joint` (batch norm), every
        `size`-th batch."""
        if self.size == 1:
            return batches
        if joint:
            return batches[self.rank :: self.size]
        pieces = (
            (x.tensor_split(self.size)[self.rank], y.tensor_split(self.size)[self.rank]) for x, y in batches
        )
        return tuple((x, y) for x, y in pieces if len(y))

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def wait(self) -> None:
        """Returns once every process has called it."""
        if self.size > 1:
            dist.barrier()

    def sum(self, part: Tensor) -> Tensor:
        """The sum of `part` over processes, the same bits in each; `part` itself is left as it is."""
        if self.size == 1:
            return part
        total = part.clone(memory_format=torch.contiguous_format)  # all_reduce writes into what it is given
        dist.all_reduce(total)
        return total


ALONE = Processes()


@contextmanager
def processes() -> Iterator[Processes]:
    """The processes that `torchrun` started (NCCL with a GPU each, else gloo); without torchrun this one
    alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or dist.is_initialized():
        yield Processes(dist.get_rank(), dist.get_world_size()) if size > 1 else ALONE
        return
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    gpu = torch.cuda.device_count() > local
    if gpu:
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if gpu else "gloo")
    quiet = nullcontext() if rank == 0 else redirect_stdout(io.StringIO())
    try:
        with quiet:
            yield Processes(rank, size)
    finally:
        dist.destroy_process_group()
