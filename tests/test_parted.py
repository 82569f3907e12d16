"""The state of an optimizer in parts, one for each process: the same steps from half of the memory."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import TINY, rows_of
from threads import in_two_threads

from sharpcli.config.build import part
from sharpcli.config.check import check
from sharpcli.config.words import compose
from sharpcli.optimizers import is_coordinatewise, preconditioner, started
from sharpcli.optimizers.momentum import Momentum
from sharpcli.optimizers.parted import has_parts, in_parts, own, whole

D = 101  # odd
COORDINATEWISE = ("momentum", "adam", "adamw", "rmsprop", "lion", "sign_descent", "schedule_free")
AROUND = (
    ("sam", "optimizer@optimizer.base=adam"),
    ("sam", "optimizer@optimizer.base=momentum", "optimizer.friendly=1", "optimizer.friendly_decay=0.6"),
    ("clipping", "optimizer@optimizer.base=momentum", "optimizer.max_norm=0.1"),
    ("averaging", "optimizer@optimizer.base=adam"),
    (
        *("switch", "optimizer@optimizer.before=sam", "optimizer@optimizer.before.base=rmsprop"),
        *("optimizer@optimizer.after=momentum", "optimizer.at=3"),
    ),
)


def rule_of(name, *words):
    config = check(compose(["problem=uv", f"optimizer={name}", *words])).config
    return part(config["optimizer"], (), "optimizer")


def gradient(w):
    """Of a quartic, whose gradient at a weight depends on the others."""
    return w**3 + 0.1 * torch.linspace(1, 2, len(w)).to(w) * w.sum()


def trained(rule, steps=6):
    w = torch.linspace(-1, 1, D, dtype=torch.float64)
    state = started(rule, w)
    for _ in range(steps):
        w, state = rule.step(w, state, gradient, 0.01)
    return w, state


@pytest.mark.parametrize("words", [*((name,) for name in COORDINATEWISE), *AROUND])
def test_a_state_in_parts_gives_the_same_weights_and_the_same_state(words):
    rule = rule_of(*words)
    w, state = trained(rule)
    metric = preconditioner(rule, state, 0.01)

    def in_process(processes):
        split = in_parts(rule, D, processes)
        assert has_parts(split)
        at, parts = trained(split)
        again = own(split, whole(split, parts))
        assert len(again) == len(parts) and all(map(torch.equal, again, parts))
        own_metric = preconditioner(split, parts, 0.01)
        return at, whole(split, parts), sum(t.numel() for t in parts), own_metric

    both = in_two_threads(in_process)
    for at, of_all, _, own_metric in both:
        assert torch.allclose(at, w, rtol=1e-13)
        assert all(torch.allclose(a, b, rtol=1e-13) for a, b in zip(of_all, state, strict=True))
        assert (own_metric is None) == (metric is None)
        assert metric is None or torch.allclose(own_metric[0], metric[0]), "P is of all weights"
    held = max(numbers for _, _, numbers, _ in both)
    whole_vectors = sum(t.numel() == D for t in state)
    assert held < sum(t.numel() for t in state) - 0.45 * D * (1 + (whole_vectors > 1 and not words[1:]))


@pytest.mark.parametrize("name", COORDINATEWISE)
def test_a_coordinatewise_rule_moves_a_weight_by_its_own_numbers_alone(name):
    rule = rule_of(name)

    def after(changed):
        w = torch.linspace(-1, 1, 5, dtype=torch.float64)
        w[0] += changed
        state = started(rule, w)
        for _ in range(3):
            w, state = rule.step(w, state, lambda u: u**3, 0.1)
        return w

    assert not torch.equal(after(0.0)[0], after(0.5)[0]) and torch.equal(after(0.0)[1:], after(0.5)[1:])


def test_a_rule_that_inherits_from_a_coordinatewise_one_and_steps_otherwise_is_not_split():
    class Normed(Momentum):
        def step(self, w, state, grad, lr):
            return super().step(w, state, lambda u: grad(u) / grad(u).norm(), lr)

    assert is_coordinatewise(Momentum(0.9, False)) and not is_coordinatewise(Normed(0.9, False))
    rule = Normed(0.9, False)
    assert not any(in_two_threads(lambda processes: has_parts(in_parts(rule, D, processes))))


@pytest.mark.parametrize("name", ["gd", "muon"])
def test_a_rule_without_state_and_one_of_whole_matrices_stay_as_they_are(name):
    rule = rule_of(name)
    assert not any(in_two_threads(lambda processes: has_parts(in_parts(rule, D, processes))))


def test_processes_with_parts_of_a_state_end_together_and_one_resumes(sharp, folder):
    """Each process has a part of what is saved: they end at the same step, whichever has the signal first."""
    words = [*TINY[1:], "data.train_examples=40", "optimizer=adam", "lr=0.003", "batch_size=16", "steps=3000"]
    words += ["measure_every=100", "measure=[scores]", "problem.dtype=float64", "checkpoint_every=10000"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    child = subprocess.Popen(
        [*torchrun, "-m", "sharpcli", "train", *words, "split_state=true", "runs_dir=two"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(600):
        if any(len(file.read_text().splitlines()) > 2 for file in folder.glob("two/*/metrics.jsonl")):
            break
        time.sleep(0.1)
    child.send_signal(signal.SIGTERM)
    _, err = child.communicate(timeout=60)
    assert "ended by SIGTERM at step" in err, err
    assert sharp("train", *words).code == 0
    resumed = sharp("train", *words, "runs_dir=two")
    assert resumed.code == 0 and "resuming" in resumed.err and "step 0" not in resumed.err.split("\n")[0]
    alone, both = (rows_of(next(folder.glob(f"{where}/*/metrics.jsonl"))) for where in ("runs", "two"))
    assert [row["step"] for row in both] == [row["step"] for row in alone]
    assert both[-1]["train_loss"] == pytest.approx(alone[-1]["train_loss"], rel=1e-6)
