"""Sums over processes: real processes, by gloo."""

import os
import socket
import subprocess
import sys

SUM = """
import torch
from sharpcli.landscape.distributed import processes

with processes() as group:
    part = torch.arange(4.0) + 10 * group.rank
    before = part.clone()
    total = group.sum(part)
    assert torch.equal(part, before), "sum changed its argument"
    assert torch.equal(total, 2 * torch.arange(4.0) + 10), total
    columns = torch.arange(6.0).view(2, 3).T  # not contiguous
    assert torch.equal(group.sum(columns), 2 * torch.arange(6.0).view(2, 3).T)
    group.wait()
"""


def test_a_sum_over_two_processes_leaves_what_it_is_given():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", SUM], env={**os.environ, **shared, "RANK": str(rank)}, stderr=-1
        )
        for rank in range(2)
    ]
    errors = [child.communicate(timeout=120)[1].decode() for child in children]
    assert [child.returncode for child in children] == [0, 0], errors
