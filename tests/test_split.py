"""Vectors split by coordinates among processes: the same numbers from half of the memory."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from threads import in_two_threads

from sharpcli.landscape.curvature import Curvature
from sharpcli.landscape.surface import LossSurface
from sharpcli.linalg.split import Split, added, dimension, own
from sharpcli.losses.half_squared import half_squared
from sharpcli.rng import generator

D = 701  # odd, and enough for the solves that begin from remembered pairs


def network(w, x):
    """Two layers, 10 inputs, 50 hidden units and 3 outputs."""
    return (x @ w[:500].view(10, 50)).tanh() @ w[500:650].view(50, 3) + w[650:653] + 0.1 * w[653:701].sum()


@pytest.fixture
def surface():
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 10, generator=rng).double(), torch.randn(40, 3, generator=rng).double()
    return LossSurface(network, half_squared, ((x[:25], y[:25]), (x[25:], y[25:])))


@pytest.fixture
def w():
    return torch.randn(D, generator=torch.Generator().manual_seed(1)).double() / 3


def split(rank):
    return Split(7, rank, 2, lambda t: t)


def test_parts_are_of_nearly_equal_size_and_together_the_whole():
    x = torch.arange(14.0).view(2, 7)
    first, second = (split(rank).own(x) for rank in range(2))
    assert torch.equal(torch.cat([first, second], 1), x) and abs(first.shape[1] - second.shape[1]) == 1
    assert torch.equal(split(0).whole(first) + split(1).whole(second), x)


def test_without_a_split_vectors_are_whole():
    x = torch.arange(3.0)
    assert added(x) is x and own(x) is x and dimension(x) == 3
    with split(1).active():
        assert dimension(x) == 7 and len(own(torch.zeros(7))) == 4
    assert dimension(x) == 3


def solved(curvature, work):
    """What each of two threads gets, which must agree to the last bit."""
    one, other = in_two_threads(lambda processes: work(curvature(processes)))
    assert json.dumps(one) == json.dumps(other)
    return one


@pytest.fixture
def curvature(surface, w):
    def make(processes=surface.processes, at=w, basis_bytes=2**24):
        return Curvature(replace(surface, processes=processes), at, 0, 0, basis_bytes)

    return make


def pairs(curvature, warm=None, k=3):
    ritz = curvature.eigenpairs("hessian", k, 1e-10, 400, warm)
    assert ritz.converged and ritz.vectors.shape[1] == D
    residuals = curvature.linearization.hvp(ritz.vectors[:k]) - ritz.values[:, None] * ritz.vectors[:k]
    assert float(residuals.norm(dim=1).max()) < 1e-4, "the vectors are whole again, and eigenvectors"
    return ritz


@pytest.mark.parametrize("method", ["hutchinson", "hutchpp", "xtrace"])
@pytest.mark.parametrize("most", [60, 800])
def test_a_trace_of_parts_is_that_of_whole_vectors(curvature, method, most):
    def trace(at):
        found = at.trace("hessian", method, generator(0, "trace", 0), 0.05, most)
        return [found.value, found.stderr, found.products]

    assert solved(curvature, trace) == pytest.approx(trace(curvature()), rel=1e-9, abs=1e-9)


def test_eigenpairs_of_parts_are_those_of_whole_vectors(curvature, w):
    alone = pairs(curvature())
    assert solved(curvature, lambda at: pairs(at).values.tolist()) == pytest.approx(alone.values.tolist())
    warm, near = alone.remembered.saved(), w + 1e-3 * torch.randn(D, generator=generator(0, "turn", 0))

    def tracked(at):
        ritz = pairs(at, warm, k=2)
        return [*ritz.values.tolist(), *ritz.errors.tolist(), ritz.products]

    both = solved(lambda processes: curvature(processes, near), tracked)
    assert both == pytest.approx(tracked(curvature(at=near)), rel=1e-6)


def test_a_restarted_basis_of_parts_finds_the_same(curvature):
    room = 20  # vectors
    small = solved(
        lambda processes: curvature(processes, basis_bytes=room * D * 8),
        lambda at: [at.room, *pairs(at, k=1).values.tolist()],
    )
    assert small[0] == room and small[1:] == pytest.approx(pairs(curvature(), k=1).values.tolist())


def test_the_density_of_parts_is_that_of_whole_vectors(curvature):
    def rules(at):
        found, products = at.quadrature("gauss_newton", 2, 12)
        return [*found.nodes.flatten().tolist(), *found.weights.flatten().tolist(), products]

    assert solved(curvature, rules) == pytest.approx(rules(curvature()), rel=1e-6, abs=1e-9)


def test_processes_whose_graphs_differ_in_size_multiply_alike(surface, w):
    def bytes_of(processes):
        return replace(surface, processes=processes).graph_bytes(w)

    small, large = sorted(in_two_threads(bytes_of))
    assert small < large
    between = replace(surface, graph_budget=(small + large) // 2)

    def trace(processes):
        at = Curvature(replace(between, processes=processes), w, 0, 0, 2**24)
        return at.trace(
            "hessian", "hutchinson", generator(0, "trace", 0), 0.05, 16
        ).value, at.linearization.kept

    (one, kept), (other, also_kept) = in_two_threads(trace)
    assert one == other and not kept and not also_kept


MEMORY = """
import json, re
import torch
from sharpcli.landscape.curvature import Curvature
from sharpcli.landscape.distributed import processes
from sharpcli.landscape.surface import LossSurface

D, VECTORS = 1_000_000, 60
torch.set_num_threads(1)

def predict(w, x):
    return ((w * scale).square() * x).sum(1, keepdim=True)

scale = torch.linspace(0.1, 1.0, D)
def most():  # getrusage's number is the parent's at first
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024

with processes() as group:
    x = torch.ones(2, 1)
    surface = LossSurface(predict, lambda f, y: f.mean(), ((x, torch.zeros(2, 1)),), processes=group)
    curvature = Curvature(surface, torch.ones(D), 0, 0, 10**10)
    curvature.linearization.hvp(torch.ones(D))
    before = most()
    rule, products = curvature.quadrature("hessian", 1, VECTORS)
    held = most() - before
    if group.first:
        print(json.dumps([held / D / 4, products, float(rule.nodes.max())]))
"""


def memory(processes, file):
    """In vectors: what a run of 60 steps of Lanczos takes in the process that prints."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [*command, str(file)] if processes > 1 else [sys.executable, str(file)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the memory is read from /proc")
def test_two_processes_need_half_of_the_memory_for_a_basis(tmp_path):
    (tmp_path / "basis.py").write_text(MEMORY)
    (alone, products, largest), (both, *same) = (memory(n, tmp_path / "basis.py") for n in (1, 2))
    assert same[0] == products == 60 and same[1] == pytest.approx(largest, rel=1e-5)
    assert 60 < alone < 80 and both < 0.68 * alone, (alone, both)
