"""Two threads in the place of two processes: what `torch.distributed` does, in one process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sharpcli.landscape.distributed import Processes


@dataclass(frozen=True)
class Threads(Processes):
    """`Processes` whose sums are over threads, in the order of their ranks."""

    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(1))
    parts: dict[int, Tensor] = field(default_factory=dict)

    def sum(self, part: Tensor) -> Tensor:
        """The sum of `part` over all threads, the same in each."""
        self.parts[self.rank] = part.clone()
        self.barrier.wait(timeout=60)
        total = torch.stack([self.parts[rank] for rank in range(self.size)]).sum(0)
        self.barrier.wait(timeout=60)
        return total


def in_two_threads(work: Callable[[Processes], Any]) -> list[Any]:
    """What the work gives in each of two threads."""
    barrier, parts = threading.Barrier(2), dict[int, Tensor]()
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda rank: work(Threads(rank, 2, barrier, parts)), range(2)))
