"""What ends a command from outside or from within: signals, other processes, a full output, failing code."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import TINY, only_run
from joblib.externals.loky import get_reusable_executor
from joblib.externals.loky.process_executor import TerminatedWorkerError

import sharpcli
from sharpcli.commands import report
from sharpcli.errors import Interrupted, OwnFault, Refusal, signals
from sharpcli.errors.faults import told
from sharpcli.run import Run, locked
from sharpcli.runs_dir import in_directory

SHORT = ("problem=quadratic", "lr=0.1", "steps=4", "measure_every=2", "measure=[scores]", "threads=1")
LONG = (*TINY, "steps=1000000", "measure_every=10", "measure=[scores]", "threads=1")


def until(true, seconds=90):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def children_of(pid):
    """The processes that descend from a process, by number."""
    tree: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
        tree.setdefault(parent, []).append(int(stat.parent.name))
    found, level = [], [pid]
    while level:
        level = [child for parent in level for child in tree.get(parent, [])]
        found += level
    return found


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


# --- signals ---


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_saves_a_checkpoint_and_ends_with_128_and_its_number(process, folder, name):
    running = process("train", *LONG, "checkpoint_every=1000000")
    until(lambda: any(f.read_bytes().count(b"\n") > 3 for f in (folder / "runs").glob("*/metrics.jsonl")))
    running.send_signal(getattr(signal, name))
    out, err = running.communicate(timeout=60)
    assert running.returncode == 128 + getattr(signal, name), err
    said = err.splitlines()[-1]
    assert said.startswith(
        "sharp: interrupted at" if name == "SIGINT" else f"sharp: ended by {name} at step "
    )
    assert "the same command resumes" in said and "Traceback" not in out + err
    run = Run(only_run(folder))
    assert run.checkpoints()[-1] > 20 and run.checkpoints()[-1] >= run.last()["step"]
    assert run.damage() == "" and run.holds(run.written)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("words", [("ls",), ("train", *SHORT)])
def test_a_signal_while_importing_is_one_line_at_most_and_never_a_traceback(folder, name, words):
    (folder / "runs").mkdir()  # a command that ends before the signal reaches it then ends with 0
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "sharpcli", *words], cwd=folder, capture_output=True)
    whole = time.monotonic() - started
    for part in (0.15, 0.4, 0.7):
        child = subprocess.Popen(
            [sys.executable, "-m", "sharpcli", *words, "seed=1" if words[0] == "train" else "runs"],
            cwd=folder,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        time.sleep(whole * part)
        child.send_signal(getattr(signal, name))
        _, err = child.communicate(timeout=60)
        number = getattr(signal, name)
        # the very first milliseconds belong to Python: it is ended by the signal itself, as a shell sees it
        assert child.returncode in (128 + number, -number, 0), (part, child.returncode, err)
        assert "Traceback" not in err and len([line for line in err.splitlines() if "sharp:" in line]) <= 1, (
            err
        )


@pytest.mark.parametrize("name", signals.NAMES)
def test_a_signal_is_raised_where_something_has_to_be_saved(name):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with pytest.raises(signals.Ended) as ended, signals.raised():
        os.kill(os.getpid(), number)
        time.sleep(0.01)
    assert signals.number_of(ended.value) == number and signal.getsignal(number) == before


def test_a_signal_that_is_ignored_or_that_somebody_else_handles_is_left_alone():
    heard = []
    before = [
        signal.signal(signal.SIGHUP, signal.SIG_IGN),
        signal.signal(signal.SIGUSR1, lambda *_: heard.append(1)),
    ]
    try:
        with signals.raised():
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.01)
        assert heard == [1]
    finally:
        for name, handler in zip((signal.SIGHUP, signal.SIGUSR1), before, strict=True):
            signal.signal(name, handler)


def test_a_second_signal_does_not_cut_short_what_the_first_one_saves():
    with pytest.raises(signals.Ended) as ended, signals.raised():
        with signals.shielded():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            saved = True
        signals.look()
    assert saved and ended.value.signum == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with signals.raised():
        signals.look()


@pytest.mark.parametrize("looks", [True, False])  # at its next step, or where no step is left
def test_an_interruption_lost_in_a_destructor_ends_the_run(looks):
    class Fragile:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    with pytest.raises(signals.Ended), signals.raised():
        hook, sys.unraisablehook = sys.unraisablehook, lambda lost: None
        try:
            Fragile()
            if looks:
                signals.look()
        finally:
            sys.unraisablehook = hook


def test_handlers_are_left_alone_in_another_thread():
    said = []

    def inside():
        with signals.raised():
            said.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert said == [signal.SIG_DFL]


LAUNCHED = """
import signal, sys
from sharpcli import cli
signal.signal(signal.SIGTERM, lambda signum, frame: print("left to the launcher", flush=True))
sys.argv = ["sharp", *sys.argv[1:]]
sys.exit(cli.main())
"""


def test_a_run_is_saved_at_once_on_a_signal_that_its_launcher_handles_and_goes_on(folder):
    (folder / "launched.py").write_text(LAUNCHED)
    words = [*LONG, "checkpoint_every=1000000"]
    running = subprocess.Popen(
        [sys.executable, "launched.py", "train", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until(lambda: [1 for f in (folder / "runs").glob("*/metrics.jsonl") if f.stat().st_size > 1000])
        (run,) = in_directory(folder / "runs")
        saved = run.checkpoints()
        running.send_signal(signal.SIGTERM)
        assert running.stdout.readline() == "left to the launcher\n"
        until(lambda: len(run.checkpoints()) > len(saved), 20)
        assert run.checkpoints()[-1] > 0 and running.poll() is None
    finally:
        running.kill()
        running.communicate()


WORKER = """
import sys, time
from sharpcli.errors.signals import follow_parent, raised, Ended
follow_parent(0.05, 0.5)
try:
    with raised():
        print("ready", flush=True)
        time.sleep(30)
except Ended as ended:
    open("saved", "w").write(str(ended.signum))
time.sleep(30)  # as in a pool that catches the exception and waits for its next job
"""


def test_a_worker_saves_and_ends_once_its_parent_is_killed(folder):
    (folder / "worker.py").write_text(WORKER)
    parent = subprocess.Popen(
        [sys.executable, "-c", "import subprocess, sys; subprocess.run([sys.executable, 'worker.py'])"],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(sharpcli.__file__).parents[1])},
    )
    assert parent.stdout.readline() == b"ready\n"
    workers = children_of(parent.pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until((folder / "saved").exists, 10)
    until(lambda: not any(map(is_alive, workers)), 10)
    assert (folder / "saved").read_text() == str(int(signal.SIGTERM))


def test_ctrl_c_in_a_sweep_of_several_processes_takes_its_workers_along_and_loses_nothing(process, folder):
    words = ("train", *LONG, "seed=0,1", "hydra/launcher=joblib", "-m", "checkpoint_every=1000000")
    running = process(*words, start_new_session=True)
    until(lambda: len([1 for f in (folder / "runs").glob("*/metrics.jsonl") if f.stat().st_size > 2000]) == 2)
    workers = children_of(running.pid)
    assert len(workers) >= 2
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: the workers hear it too
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130 and "Traceback" not in out + err, err
    until(lambda: not any(map(is_alive, workers)), 10)
    for file in (folder / "runs").glob("*/provenance.json"):
        assert Run(file.parent).checkpoints()[-1] > 20


def test_a_worker_of_joblib_that_does_not_end_is_killed(folder):
    def sleep_on():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        Path("asleep").touch()
        time.sleep(60)

    pool = get_reusable_executor(1)
    future = pool.submit(sleep_on)
    until(Path("asleep").exists)
    signals.end_workers(seconds=0.2)
    with pytest.raises(TerminatedWorkerError, match="SIGKILL"):
        future.result(timeout=20)


IN_POOL = """
import os, signal
from sharpcli.claims import evidence
from sharpcli.engine import launch
from sharpcli.errors import signals

def before_training(*_, **__):
    with signals.raised():
        os.kill(os.getpid(), signal.SIGTERM)

launch.launch = before_training
evidence._run(["problem=uv", "steps=1"], {})
print("the next run begins")
"""


def test_no_run_of_a_pool_begins_after_a_signal_that_comes_before_training(folder):
    done = subprocess.run([sys.executable, "-c", IN_POOL], capture_output=True, text=True, timeout=60)
    assert done.returncode == 143 and not done.stdout, done


@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_a_claim_s_workers_end_with_it(process, folder, name):
    checking = process("claim", "check", "sparse_recovery", "--dirty", "-j", "2")
    until(lambda: len(list((folder / "runs/claims").glob("*/provenance.json"))) >= 2)
    workers = children_of(checking.pid)
    checking.send_signal(getattr(signal, name))
    out, err = checking.communicate(timeout=60)
    assert checking.returncode == (143 if name == "SIGTERM" else -9) and "Traceback" not in out + err, err
    until(lambda: not any(map(is_alive, workers)), 20)


# --- other processes ---


def test_a_run_of_a_sweep_in_other_hands_is_passed_over(sharp, folder):
    assert sharp("train", *SHORT, "seed=0").code == 0
    held = only_run(folder)
    with locked(held):
        said = sharp("train", *SHORT, "seed=0,1,2", "-m")
        assert said.code == 0 and said.err.count("passed over") == 1 and said.out.count(": complete") == 2
        assert f"{held}"[-16:] in next(line for line in said.err.splitlines() if "passed over" in line)
        alone = sharp("train", *SHORT, "seed=0")
        assert "another process is training this run" in alone.refusal
    assert sharp("train", *SHORT, "seed=0,1,2", "-m").out.count("already complete") == 3


def test_a_claim_waits_for_a_run_in_other_hands(folder):
    from sharpcli.claims.evidence import _run

    made = _run([*SHORT, "runs_dir=runs", "device=cpu"], {})
    held = threading.Event()

    def hold():
        with locked(Path(made.path)):
            held.set()
            time.sleep(0.5)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    began = time.monotonic()
    assert _run([*SHORT, "runs_dir=runs", "device=cpu"], {}).path == made.path
    assert time.monotonic() - began > 0.3
    thread.join()


# --- output that takes no more ---


@pytest.fixture
def full_device():
    """Makes text files that every write fails on; closed at the end, where what is left is not written."""

    def make(write_through):
        raw.append(open("/dev/full", "wb", buffering=0))  # noqa: SIM115
        opened.append(io.TextIOWrapper(raw[-1], write_through=write_through))
        return opened[-1]

    raw, opened = [], []
    yield make
    for file, text in zip(raw, opened, strict=True):
        file.close()
        with contextlib.suppress(ValueError):
            text.close()


@pytest.mark.parametrize(
    "words",
    [("ls",), ("show", "optimizer"), ("claim", "list"), ("--help",), ("plot",), ("measure",), ("train",)],
)
def test_a_full_standard_output_is_one_line(sharp, folder, monkeypatch, full_device, words):
    assert sharp("train", *SHORT).code == 0
    name = only_run(folder).name
    more = {
        "plot": ("loss", name),
        "measure": (name, "--step", "4", "--json"),
        "train": SHORT,
    }.get(words[0], ())
    for through in (False, True):  # as with PYTHONUNBUFFERED
        monkeypatch.setattr(sys, "stdout", full_device(through))
        said = sharp(*words, *more)
        assert said.refusal == "sharp: standard output: cannot write (No space left on device); make room"


def test_a_full_standard_output_is_one_line_of_a_real_process_too(process, folder):
    (folder / "runs").mkdir()
    with open("/dev/full", "w") as full:
        child = subprocess.run(
            [sys.executable, "-m", "sharpcli", "ls"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
        )
    assert child.returncode == 2 and child.stderr.count("\n") == 1 and "No space left" in child.stderr


def test_a_full_standard_error_ends_no_run(sharp, folder, monkeypatch, full_device):
    monkeypatch.setattr(sys, "stderr", full_device(True))
    said = sharp("train", *SHORT)
    assert said.code == 0 and "complete" in said.out
    report.note("still there")


# --- failing code ---

USERS = """
import torch
from torch import nn
from sharpcli.measures import Estimates

class Init(nn.Module):
    def __init__(self):
        super().__init__()
        a, b = 1, 2, 3

class Forward(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        a, b = x.shape
        return self.layer(x)

class InTorch(Forward):
    def forward(self, x):
        return self.layer(x)

class InNumPy(Forward):
    def forward(self, x):
        import numpy
        numpy.zeros(3).reshape(7)

def entropy(at):
    from pathlib import Path
    return Estimates({"entropy": {}["missing\x1b[31m"] if Path("fails").exists() else 1.0})

def dots(frame, *, x: str, y: str | None = None, smooth: float = 0.0):
    raise AttributeError
"""
FAILING = {
    "Init": ("line 9, in __init__: ValueError: too many values to unpack (expected 2)"),
    "Forward": ("line 17, in forward: ValueError: too many values to unpack (expected 2)"),
    "InTorch": ("line 22, in forward: RuntimeError: mat1 and mat2"),
    "InNumPy": ("line 27, in forward: ValueError: cannot reshape array of size 3"),
}


@pytest.fixture
def mine(folder, monkeypatch):
    (folder / "mine_parts.py").write_text(USERS)
    monkeypatch.setattr(sys, "path", list(sys.path))  # the working directory is appended to it
    monkeypatch.delitem(sys.modules, "mine_parts", raising=False)
    yield "trust=[mine_parts]"
    sys.modules.pop("mine_parts", None)


@pytest.mark.parametrize("name", FAILING)
@pytest.mark.parametrize("more", [(), ("-m",), ("seed=0,1", "-m")])
def test_a_user_s_failing_module_is_one_line_with_its_file_and_line(sharp, mine, name, more):
    words = (
        "train",
        "data.train_examples=20",
        "steps=2",
        f"model._target_=mine_parts.{name}",
        "~model.widths",
    )
    said = sharp(*words, "~model.activation", mine, *more)
    assert f"mine_parts.py, {FAILING[name]}" in said.refusal, said.refusal
    assert "in code that is not sharp's" in said.refusal


def test_a_user_s_failing_measure_and_plot_are_shown_in_the_same_way(sharp, mine, folder):
    own = ("+measure.own._target_=mine_parts.entropy", mine)
    assert sharp("train", *SHORT, *own).code == 0
    name = only_run(folder).name
    (folder / "fails").touch()
    line = "mine_parts.py, line 31, in entropy: KeyError: 'missing\\x1b[31m'"
    assert line in sharp("train", *SHORT, *own, "seed=3").refusal
    assert line in sharp("train", *SHORT, *own, "seed=4,5", "-m").refusal
    assert line in sharp("measure", name, mine).err.splitlines()[-1]
    said = sharp("plot", "loss", name, "_target_=mine_parts.dots", mine)
    assert said.code == 2 and "mine_parts.py, line 34, in dots: AttributeError (in" in said.err, said


def test_a_user_s_module_that_is_no_python_is_shown_with_its_line(sharp, folder, mine):
    (folder / "mine_parts.py").write_text("x = 1\ndef f(:\n")
    said = sharp("train", "model._target_=mine_parts.f", mine)
    assert "mine_parts.py, line 2: SyntaxError" in said.refusal


@pytest.mark.parametrize("words", [SHORT, (*SHORT, "-m"), (*SHORT, "seed=0,1", "-m")])
def test_a_fault_of_sharp_s_own_is_a_traceback_that_says_so(sharp, monkeypatch, words):
    from sharpcli.optimizers.gd import GD

    def broken(*_):
        _, _ = 1, 2, 3

    broken.__code__ = broken.__code__.replace(
        co_filename=str(Path(sharpcli.__file__).parent / "optimizers/gd.py")
    )
    monkeypatch.setattr(GD, "step", broken)
    said = sharp("train", *words, "compile_toys=false")
    assert said.code == 1 and "Traceback" in said.err and "too many values to unpack" in said.err
    assert (
        said.err.rstrip().splitlines()[-1].startswith("sharp: this is a fault of sharp's own: please report")
    )
    assert "Error executing job" not in said.err


def test_a_fault_of_sharp_s_that_a_user_s_code_has_reached_names_its_line(folder, mine):
    sys.path.append(str(folder))
    (folder / "mine_parts.py").write_text(
        "from sharpcli.jsonl.files import sync\n\ndef call():\n    sync(3.5)\n"
    )
    try:
        import mine_parts

        mine_parts.call()
    except TypeError as problem:
        fault = told(problem)
    finally:
        sys.path.remove(str(folder))
    assert isinstance(fault, OwnFault) and "(it was called from mine_parts.py, line 4, in call)" in str(fault)


def test_an_interruption_keeps_its_code_on_its_way_from_another_process():
    import pickle

    again = pickle.loads(pickle.dumps(Interrupted("ended", signal.SIGTERM)))
    assert again.code == 143 and isinstance(again, Refusal) and str(again) == "ended"
