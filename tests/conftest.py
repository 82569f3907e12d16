"""What every test may use: the real command line, in this process or in another."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
import typer.main
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from sharpcli import cli
from sharpcli.config.check import check
from sharpcli.config.words import compose
from sharpcli.engine.experiment import Experiment, build
from sharpcli.optimizers.sam import SAM

torch.set_num_threads(1)
typer.main.get_command = cache(typer.main.get_command)  # 35 ms for the same commands, in thousands of calls
ROOT = Path(__file__).resolve().parents[1]
CIFAR = Path(os.environ.get("SHARP_DATA", ROOT / "data"))
TINY = ("data.train_examples=60", "model.widths=[6]")  # a network whose run takes a fraction of a second

SAM_FORMS = ("m", "ascent_steps", "adaptive", "layerwise", "surrogate_gap", "friendly", "friendly_decay")


def sam(rho, normalized, base, **forms):
    """SAM in Foret's form, but for the `forms` named."""
    return SAM(rho, normalized, base, **dict.fromkeys(SAM_FORMS) | forms)


@dataclass
class Said:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def refusal(self) -> str:
        """The one line of a refusal; fails where it is not exactly that."""
        assert self.code == 2, (self.code, self.out, self.err)
        lines = [line for line in self.err.splitlines() if line]
        assert len(lines) == 1 and lines[0].startswith("sharp: "), self.err
        assert "Traceback" not in self.out + self.err
        return lines[0]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory, where `runs/` will appear."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHARP_DATA", str(CIFAR.absolute()))
    monkeypatch.delenv("SHARP_RUNS", raising=False)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    return tmp_path


@pytest.fixture
def sharp(folder, monkeypatch, capfd):
    """The command line in this process: `sharp("train", "lr=0.1")`."""

    def command(*words: str) -> Said:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["sharp", *map(str, words)])
        try:
            code = cli.main()
        except SystemExit as stop:  # Hydra's own --help and --cfg
            code = stop.code or 0
        finally:
            GlobalHydra.instance().clear()
            HydraConfig.instance().cfg = None
        said = capfd.readouterr()
        return Said(code, said.out, said.err)

    return command


@pytest.fixture
def process(folder):
    """The command line in a process of its own."""

    def start(*words: str, **more) -> subprocess.Popen:
        env = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"} | more.pop("env", {})
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        words = [sys.executable, "-m", "sharpcli", *map(str, words)]
        # a shell's background job starts with SIGINT ignored, and would hand that on
        more.setdefault("preexec_fn", lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        started.append(subprocess.Popen(words, env=env, cwd=folder, **pipes, **more))
        return started[-1]

    started: list[subprocess.Popen] = []
    yield start
    for child in started:
        child.kill()
        child.communicate()


@pytest.fixture
def experiment(folder):
    """Override words built into objects: `experiment("problem=uv", "lr=0.01")`."""

    def make(*words: str) -> Experiment:
        return build(check(compose(list(words)), list(words)))

    return make


def pytest_collection_finish() -> None:
    """What imports and collecting have made stays for ever: the collector of garbage need not look at it in
    each of its rounds."""
    gc.collect()
    gc.freeze()


def rows_of(path: Path) -> list[dict]:
    """The rows of a metrics file without what differs between two equal runs."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.endswith("seconds")} for row in rows]


def only_run(folder: Path) -> Path:
    """The one run directory."""
    (run,) = [file.parent for file in (folder / "runs").glob("*/provenance.json")]
    return run


needs_cifar = pytest.mark.skipif(
    not (CIFAR / "cifar-10-batches-py").is_dir() and not os.environ.get("CI"),
    reason=f"no CIFAR-10 in {CIFAR}; sharp train data=cifar10 downloads it",
)
