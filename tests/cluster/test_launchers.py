"""Sweeps on real engines, which `make test-cluster` runs: a Slurm of one node and a cluster of Ray's."""

import os
import signal
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from conftest import TINY

from sharpcli.runs_dir import in_directory

pytestmark = pytest.mark.skipif("SHARP_CLUSTER" not in os.environ, reason="make test-cluster runs it")
HERE = Path(__file__).parent
LONG = (*TINY, "lr=0.01", "steps=30000", "measure_every=10000", "threads=1", "seed=0,1", "-m")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The environment in which Slurm's commands reach a Slurm of one node."""
    if os.geteuid() or subprocess.run(["which", "apt-get"], capture_output=True).returncode:
        pytest.skip("a Slurm of one node needs root and Debian's packages")
    folder = tmp_path_factory.mktemp("slurm")
    started = subprocess.run(
        [HERE / "slurm_one_node.sh", folder],
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
    )
    if started.returncode:
        pytest.skip(f"Slurm does not start: {started.stderr[-300:]}")
    yield {"SLURM_CONF": started.stdout.strip()}
    for file in folder.glob("*.pid"):
        os.kill(int(file.read_text()), signal.SIGTERM)


def until(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.2)


def same(first: Path, second: Path):
    """Whether two folders hold the same runs, bit for bit, but for the seconds spent."""
    ours, others = in_directory(first), in_directory(second)
    assert [run.name for run in ours] == [run.name for run in others]
    for one, other in zip(ours, others, strict=True):
        rows = [
            [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in run.rows()]
            for run in (one, other)
        ]
        assert rows[0] == rows[1]
        last = one.checkpoints()[-1]
        assert torch.equal(one.load(last)["w"], other.load(last)["w"])


def test_slurm_trains_a_sweep_and_lists_the_job_that_fails(process, slurm, folder):
    (folder / "failing_net.py").write_text(FAILS)
    words = (
        "train",
        "model=failing_net.Net",
        "trust=[failing_net]",
        "steps=4",
        "threads=1",
        "model.fails=true,false",
        "-m",
    )
    out, err = (running := process(*words, "launcher=slurm", "launcher.mem_gb=1", env=slurm)).communicate(
        timeout=120
    )
    assert running.returncode == 2, err
    last = [line for line in err.splitlines() if line.startswith("sharp: ")]
    assert (
        "model.fails=True" in last[0]
        and "ValueError: too warm" in last[0]
        and "1 of 2 jobs failed" in last[1]
    )
    assert [run.status for run in in_directory(folder / "runs")] == ["complete"]
    again = process(*words, "launcher=slurm", "launcher.mem_gb=1", "--dry-run", env=slurm)
    assert "1 not begun, 1 complete" in again.communicate(timeout=60)[1]


FAILS = """
import os
from torch import nn

class Net(nn.Module):
    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.linear, self.fails = nn.Linear(64, 10), fails

    def forward(self, x):
        if self.fails and "SLURM_JOB_ID" in os.environ:
            raise ValueError("too warm")
        return self.linear(x.flatten(1))
"""


def test_what_slurm_pre_empts_is_saved_queued_again_and_ends_the_same(process, slurm, folder):
    words = ("train", *LONG, "launcher=slurm", "launcher.mem_gb=1", "checkpoint_every=1000000")
    running = process(*words, env=slurm)
    until(lambda: [1 for f in folder.glob("runs/*/metrics.jsonl") if f.stat().st_size] == [1, 1])
    time.sleep(0.5)
    jobs = subprocess.check_output(["squeue", "-h", "-o", "%i"], env=os.environ | slurm, text=True).split()
    assert len(jobs) == 2
    for job in jobs:  # the signal of a pre-emption and of the end of a job's time
        subprocess.run(["scancel", "--signal=USR2", job], env=os.environ | slurm, check=True)
    until(lambda: _states(slurm) == {"PD"})
    saved = [run.checkpoints()[-1] for run in in_directory(folder / "runs")]
    assert len(saved) == 2 and all(0 < step < 30000 for step in saved)
    for job in jobs:  # Slurm would wait for two minutes
        subprocess.run(
            ["scontrol", "update", f"jobid={job}", "StartTime=now"], env=os.environ | slurm, check=True
        )
    _, err = running.communicate(timeout=240)
    assert running.returncode == 0, err
    logs = "".join(file.read_text() for file in folder.glob("runs/.slurm/*/*.err"))
    assert all(f"at step {step}" in logs for step in saved)
    alone = process("train", *LONG, "runs_dir=alone")
    assert alone.wait(120) == 0
    same(folder / "runs", folder / "alone")


def _states(slurm):
    said = subprocess.check_output(["squeue", "-h", "-o", "%t"], env=os.environ | slurm, text=True)
    return set(said.split())


@pytest.mark.skipif(find_spec("ray") is None, reason="pip install 'sharpcli[ray]'")
def test_ray_trains_a_sweep(process, folder):
    words = ("train", *TINY, "steps=20", "measure_every=10", "threads=1", "lr=0.05,0.1,1e9", "-m")
    running = process(*words, "launcher=ray", "+launcher.ray.init.num_cpus=2", "runs_dir=runs")
    _, err = running.communicate(timeout=300)
    assert running.returncode == 0, err
    runs = in_directory(folder / "runs")
    assert sorted(run.status for run in runs) == ["complete", "complete", "diverged"]
    assert process(*words, "runs_dir=alone").wait(120) == 0
    same(folder / "runs", folder / "alone")
