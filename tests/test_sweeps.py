"""The jobs of a sweep: those that fail leave the others alone, and launchers spread them."""

import time

import numpy as np
import pytest
from conftest import TINY

from sharpcli.commands import launchers, sweeps, train
from sharpcli.commands.launchers import as_hydra
from sharpcli.engine import experiment, launch
from sharpcli.errors import Refusal
from sharpcli.runs_dir import in_directory

SHORT = (*TINY, "steps=4", "measure_every=2", "threads=1")
NET = """
import os, signal
from pathlib import Path
from torch import nn

class Net(nn.Module):
    def __init__(self, fails: bool = False, dies: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)
        self.fails, self.dies = fails, dies

    def forward(self, x):
        if Path("metrics").exists() and self.fails:
            raise ValueError("too warm")
        if Path("metrics").exists() and self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.linear(x.flatten(1))
"""


@pytest.fixture
def net(folder):
    """A model of one's own that fails, or whose process is killed, once a file is there: after every job was
    built."""
    (folder / "failing_net.py").write_text(NET)
    return "model=failing_net.Net", "trust=[failing_net]", "data.train_examples=60", *SHORT[2:]


def fail_from_now_on(monkeypatch, folder):
    """Lets the model fail as soon as the first job is launched."""
    true = launch.launch

    def launched(*arguments, **more):
        (folder / "metrics").touch()
        return true(*arguments, **more)

    monkeypatch.setattr(launch, "launch", launched)


def test_a_job_that_fails_leaves_the_others_alone_and_is_listed_at_the_end(sharp, net, folder, monkeypatch):
    words = ("train", *net, "model.fails=true,false", "lr=0.1,0.2", "-m")
    with monkeypatch.context() as patch:
        fail_from_now_on(patch, folder)
        said = sharp(*words)
    assert said.code == 2 and "Traceback" not in said.err
    assert [run.status for run in in_directory(folder / "runs") if run.status != "unfinished"] == [
        "complete"
    ] * 2
    *_, first, second, last = said.err.splitlines()
    assert (
        first.startswith("sharp: [job 0] ")
        and "failing_net.py, line 14, in forward" in first
        and "lr=0.1: " in first
    )
    assert second.startswith("sharp: [job 1] ") and "ValueError: too warm" in second
    assert last.startswith("sharp: 2 of 4 jobs failed; the same command tries them again")
    assert not (folder / "runs" / ".sweeps").exists()
    (folder / "metrics").unlink()
    again = sharp(*words)
    assert again.code == 0 and again.out.count("already complete") == 2 and again.out.count(": complete") == 2


def test_a_job_of_which_nothing_can_be_written_ends_the_sweep(sharp, net, folder, monkeypatch):
    (folder / "runs").mkdir()
    (folder / "runs" / ".sweeps").write_text("a file where a folder should be")
    fail_from_now_on(monkeypatch, folder)
    said = sharp("train", *net, "model.fails=true,false", "-m")
    assert (
        said.code == 2 and "ValueError: too warm" in said.err.splitlines()[-1] and "[job 1]" not in said.err
    )


def test_jobs_that_a_sweeper_has_chosen_as_it_went_are_listed_too(tmp_path, capfd):
    for number in (0, 3):
        sweeps.failed(tmp_path / "x" / "one", number, [f"lr={number}"], Refusal("too warm"))
    with pytest.raises(Refusal, match="jobs of the sweep failed; the same command"):
        sweeps.refuse_failed(tmp_path / "x" / "one", [(["lr=0"], None)])
    assert "sharp: [job 3] lr=3: too warm" in capfd.readouterr().err and not (tmp_path / "x").exists()


def test_the_only_job_of_a_sweep_that_fails_says_why_last(sharp, net, folder, monkeypatch):
    fail_from_now_on(monkeypatch, folder)
    said = sharp("train", *net, "model.fails=true", "-m")
    last = said.err.splitlines()[-1]
    assert said.code == 2 and "failing_net.py, line 14, in forward: ValueError" in last and "[job" not in last


def test_a_fault_of_ours_in_a_job_is_a_traceback_at_the_end_and_the_others_go_on(sharp, folder, monkeypatch):
    true = launch.launch

    def launched(checked, overrides, console):
        return true(checked, overrides, console if checked.config["lr"] != 0.1 else None)

    monkeypatch.setattr(launch, "launch", launched)
    said = sharp("train", *SHORT, "lr=0.1,0.2", "-m")
    assert said.code == 1 and "AttributeError: 'NoneType'" in said.err and said.out.count(": complete") == 1
    assert "sharp: 1 of 2 jobs failed" in said.err
    assert said.err.splitlines()[-1].startswith("sharp: this is a fault of sharp's own: please report")


def test_a_job_whose_process_is_killed_is_listed(process, net, folder):
    words = ("train", *net, "model.dies=true,false", "launcher=joblib", "launcher.n_jobs=2", "-m")
    running = process(*words, "measure_every=1", "steps=100000")
    until = time.time() + 60
    while not list((folder / "runs").glob("*/metrics.jsonl")) and time.time() < until:
        time.sleep(0.05)
    (folder / "metrics").touch()
    out, err = running.communicate(timeout=60)
    assert running.returncode == 2 and "Traceback" not in out + err, err
    assert "model.dies=True" in err and "its process was ended; unfinished at step" in err
    assert "2 of 2 jobs failed" in err.splitlines()[-1]  # the pool has ended with the process


def test_two_jobs_of_a_cluster_share_a_sweep_of_toys(process, folder):
    words = ("train", "problem=uv", "seed=range(0,8)", "steps=2000", "threads=1", "measure_every=even 3")
    words += ("launcher=joblib", "launcher.n_jobs=1", "-m")
    both = [process(*words) for _ in range(2)]
    ended = [running.communicate(timeout=120) for running in both]
    assert [running.returncode for running in both] == [0, 0], ended
    assert sum(out.count(": complete\n") for out, _ in ended) == 8  # each trained by one of the two
    assert len(list((folder / "runs").glob("*/metrics.jsonl"))) == 8


def test_what_is_over_is_not_built_again_before_a_sweep(sharp, folder, monkeypatch):
    words = ("train", *SHORT, "lr=0.1,0.2", "-m")
    assert sharp(*words).code == 0
    built = []
    true = experiment.build
    monkeypatch.setattr(experiment, "build", lambda checked: built.append(checked) or true(checked))
    assert sharp(*words, "--dry-run").code == 0 and not built
    assert sharp("train", *SHORT, "lr=0.1,0.3", "-m", "--dry-run").code == 0 and len(built) == 1


# --- launchers ---


@pytest.mark.parametrize(
    "word, hydras",
    [
        ("launcher=slurm", "hydra/launcher=slurm"),
        ("launcher.n_jobs=2", "hydra.launcher.n_jobs=2"),
        ("+launcher.ray.init.num_cpus=2", "+hydra.launcher.ray.init.num_cpus=2"),
        ("hydra/launcher=joblib", "hydra/launcher=joblib"),
        ("launchers=1", "launchers=1"),
        ("model.launcher=1", "model.launcher=1"),
    ],
)
def test_launcher_is_short_for_hydra_s(word, hydras):
    assert as_hydra(word) == hydras


@pytest.mark.parametrize(
    "words, said",
    [
        (["launcher=joblib"], "launcher=joblib: a launcher starts the jobs of a sweep; add -m"),
        (["launcher=slrum", "-m"], "launcher=slrum: no such launcher; did you mean slurm?"),
        (["launcher=joblib", "launcher.n_job=2", "-m"], "launcher=joblib; did you mean n_jobs?"),
        (["launcher.n_jobs=2", "-m"], "launcher.n_jobs=2: choose a launcher too"),
        (["launcher=joblib", "launcher.n_jobs=many", "-m"], "launcher.n_jobs=many: not a whole number"),
    ],
)
def test_a_wrong_word_about_a_launcher_is_one_line(sharp, words, said):
    assert said in sharp("train", *SHORT, "lr=0.1,0.2", *words).refusal


def test_a_launcher_that_is_not_installed_says_what_to_install(sharp, monkeypatch):
    monkeypatch.setattr(launchers, "find_spec", lambda module: None)
    for name in launchers.PLUGINS:
        refusal = sharp("train", *SHORT, "lr=0.1,0.2", f"launcher={name}", "-m").refusal
        assert f"launcher={name}: not installed; pip install 'sharpcli[{name}]'" in refusal


def test_a_sweep_that_is_over_is_said_to_be_without_hydra_but_not_on_changed_data(sharp, folder, monkeypatch):
    numbers = np.random.default_rng(0)
    x, y = numbers.normal(size=(20, 3)), np.arange(20) % 2
    np.savez("mine.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    words = ("train", "data=arrays", "data.file=mine.npz", "model.widths=[3]", "steps=2", "threads=1")
    first = sharp(*words, "lr=0.1,0.2", "-m")
    assert first.code == 0, first.err
    with monkeypatch.context() as patch:
        patch.setattr(train, "job", None)  # Hydra's part of it
        again = sharp(*words, "lr=0.1,0.2", "-m")
    assert again.code == 0 and again.out.count("already complete") == 2 and "[job 1]" in again.err
    np.savez("mine.npz", x_train=2 * x, y_train=y, x_test=x, y_test=y)
    assert sharp(*words, "lr=0.1,0.2", "-m").code == 0
    assert len(in_directory(folder / "runs")) == 4
