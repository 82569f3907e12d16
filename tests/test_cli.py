"""The real commands with their output and their refusals."""

import json
import os
import subprocess
import sys
import time

import matplotlib.image
import numpy as np
import pytest
import yaml
from conftest import TINY, needs_cifar, only_run

from sharpcli import CONF, cli
from sharpcli.run import Run, locked
from sharpcli.runs_dir import in_directory

SHORT = (*TINY, "steps=6", "measure_every=3")


def test_help_shows_every_command_with_an_example(sharp):
    assert all(name in sharp("--help").out for name in ("train", "measure", "plot", "ls", "show"))
    for name in ("measure", "plot", "ls", "show"):
        said = sharp(name, "--help")
        assert said.code == 0 and f"Example: sharp {name}" in " ".join(said.out.split())
    said = sharp("train", "--help")
    assert (
        said.code == 0
        and "method: adam, adamw, central_flow, gd, gradient_flow, label_noise, limiting_flow, lion"
        in said.out
        and "experiment=eos_cifar10_5k" in said.out
    )
    assert sharp("--version").out.startswith("sharp 0.")


COMMANDS = [
    *((name,) for name in ("measure", "plot", "ls", "show", "study")),
    *(("claim", name) for name in ("list", "check", "show")),
]


@pytest.mark.parametrize("columns", ["40", "100"])
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_help_text_shows_its_examples_as_they_are_written(sharp, monkeypatch, words, columns):
    monkeypatch.setenv("COLUMNS", columns)
    function = getattr(cli, "_".join(words) if words[0] == "claim" else words[0])
    examples = [
        line.strip() for line in function.__doc__.splitlines() if line.strip().startswith("Example: ")
    ]
    lines = [line.strip() for line in sharp(*words, "--help").out.splitlines()]
    assert examples and all(example in lines for example in examples)


def test_a_former_name_of_a_setting_is_refused_with_the_name_it_has_now(sharp, folder):
    for word, said in [
        (
            "compiled=false",
            "compiled=false: this setting is now called compile_toys; give compile_toys=false",
        ),
        ("compile=true", "give compile_products=true"),
    ]:
        assert said in sharp("train", word).refusal
        assert said in sharp("train", word, "seed=0,1", "-m").refusal
    assert list(folder.iterdir()) == []


def test_cfg_job_shows_the_config_and_writes_nothing(sharp, folder):
    said = sharp("train", "--cfg", "job", "method=sam")
    assert said.code == 0 and "_target_: sharpcli.optimizers.sam.SAM" in said.out
    assert sharp("train", "method=sam", "--cfg", "job").out == said.out  # flags in any place
    assert list(folder.iterdir()) == []


def test_train_says_where_things_are_and_what_was_seen(sharp, folder):
    said = sharp("train", *SHORT)
    run = only_run(folder)
    assert said.code == 0
    assert said.out.splitlines()[0] == f"runs/{run.name}: complete"
    assert "lambda_1 ended at" in said.out and "2/lr = 10" in said.out
    assert "step 6/6" in said.err and "\x1b" not in said.err
    assert {file.name for file in folder.iterdir()} == {"runs"}
    first = Run(run).logged()[0]
    assert (
        list(first)[:5] == ["step", "epoch", "lr_now", "edge", "train_loss"] and list(first)[-1] == "seconds"
    )
    facts = Run(run).provenance
    assert (
        facts["command"].startswith("sharp train data.train_examples=60")
        and facts["dtype"] == "torch.float32"
    )
    assert (
        facts["packages"]["torch"] and facts["threads"] >= 1 and facts["parameters"] == 64 * 6 + 6 + 60 + 10
    )


def test_a_sweep_runs_every_combination_and_again_none(sharp, folder):
    words = ("train", *SHORT, "method=gd,sgd,sam,label_noise", "lr=0.005,0.05", "-m")
    assert sharp(*words).code == 0
    assert len(in_directory(folder / "runs")) == 8 and {
        run.status for run in in_directory(folder / "runs")
    } == {"complete"}
    again = sharp(*words)
    assert again.code == 0 and again.out.count("already complete") == 8
    assert not (folder / "multirun").exists() and not (folder / "outputs").exists()
    compare = ("plot", "compare", "runs", "y=train_loss", "log=true", "-o", "c.svg")
    assert "differ in lr too" in sharp(*compare, "by=[method]").refusal
    assert sharp(*compare, "by=[method,lr]").code == 0
    assert "sam, lr 0.05" in (folder / "c.svg").read_text()


@pytest.mark.parametrize(
    "words, said",
    [
        (["lr=0.1,-1"], "job 2 of 2"),
        (["model.widths=[3],[0]"], "every hidden layer needs at least 1 unit"),
        (["measure.sharpness.k=1,100000"], "take 1 to"),
        (["method=gd,sma"], "no such method"),
        (["data.train_examples=50,0"], "digits has 1797 images"),
    ],
)
def test_one_bad_job_stops_a_sweep_before_the_first_has_started(sharp, folder, words, said):
    refusal = sharp("train", *SHORT, *words, "-m").refusal
    assert said in refusal and "nothing was started" in refusal
    assert not (folder / "runs").exists()


def test_a_sweep_can_run_in_parallel_processes(process, folder):
    done = process("train", *SHORT, "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "-m")
    _, err = done.communicate(timeout=120)
    assert done.returncode == 0, err
    assert [run.status for run in in_directory(folder / "runs")] == ["complete"] * 2


def test_a_user_s_own_yaml_folder_is_found(sharp, folder):
    (folder / "mine/experiment").mkdir(parents=True)
    (folder / "mine/experiment/short.yaml").write_text(
        "# @package _global_\nsteps: 4\nmodel:\n  widths: [5]\n"
    )
    assert sharp("train", "--config-dir", "mine", "experiment=short", *SHORT[:1]).code == 0
    assert Run(only_run(folder)).steps == 4


DEEP = """# Three eigenvalues.
sharpness:
  _target_: sharpcli.measures.sharpness.sharpness
  every: ${measure_every}
  k: 3  # as the quadratic has
  tol: 1e-3
  max_products: 200
  least: false
"""
DRAWN = """# Loss, once more.
_target_: sharpcli.plots.loss.loss
x: step
"""


def test_every_command_knows_a_folder_of_yaml_files(sharp, folder, monkeypatch):
    for name, text in {"measure/deep": DEEP, "plot/drawn": DRAWN}.items():
        (folder / f"mine/{name}.yaml").parent.mkdir(parents=True, exist_ok=True)
        (folder / f"mine/{name}.yaml").write_text(text)
    claim = yaml.safe_load((CONF / "claim" / "sparse_recovery.yaml").read_text())
    (folder / "mine/claim").mkdir()
    (folder / "mine/claim/ours.yaml").write_text(yaml.safe_dump(claim | {"statement": "Ours."}))
    mine = ("--config-dir", "mine")
    assert sharp("train", "problem=quadratic", "steps=5", "measure=[scores,deep]", *mine).code == 0
    run = only_run(folder)
    assert "lambda_3" in Run(run).last()
    assert "lambda_3" in sharp("measure", str(run), "measure=[deep]", *mine).out
    assert "Three eigenvalues" in sharp("show", "measure", "deep", *mine).out
    assert sharp("plot", "drawn", str(run), *mine).code == 0
    assert (
        "ours" in sharp("claim", "list", *mine).out and "Ours." in sharp("claim", "show", "ours", *mine).out
    )
    for words in (("ls",), ("study",), ("export", str(run), "--to", "tensorboard")):
        assert sharp(*words, *mine).code == 0
    # what one command was given is no option of the next, but the environment's is
    assert "no such measure" in sharp("measure", str(run), "measure=[deep]").refusal
    monkeypatch.setenv("SHARP_CONFIG_DIR", str(folder / "mine"))
    assert "lambda_3" in sharp("measure", str(run), "measure=[deep]").out
    assert sharp("train", "problem=quadratic", "steps=5", "seed=1", "measure=[deep]").code == 0
    for words in (("train",), ("measure", str(run)), ("plot", "loss", str(run)), ("show", "measure")):
        refusal = sharp(*words, "--config-dir", "nowhere").refusal
        assert "--config-dir nowhere: no such directory" in refusal


def test_a_user_s_own_measure_and_model_work_once_trusted(sharp, folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))
    (folder / "own_parts.py").write_text(
        "from torch import nn\nfrom sharpcli.measures import Estimates\n\n\n"
        "class Net(nn.Module):\n    def __init__(self, width: int):\n        super().__init__()\n"
        "        self.stack = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Tanh(), "
        "nn.Linear(width, 10))\n\n"
        "    def forward(self, x):\n        return self.stack(x)\n\n\n"
        "def size(at, *, power: float):\n    return Estimates({'size': float(at.w.norm() ** power)})\n"
    )
    words = ["~model.widths", "~model.activation", "model._target_=own_parts.Net", "+model.width=3"]
    words += ["+measure.size._target_=own_parts.size", "+measure.size.power=2", SHORT[0], *SHORT[2:]]
    assert "if you trust it, say so: trust=[own_parts]" in sharp("train", *words).refusal
    assert not (folder / "runs").exists()
    assert sharp("train", *words, "trust=[own_parts]").code == 0
    run = Run(only_run(folder))
    assert run.logged()[0]["size"] > 0 and "trust" not in run.config
    assert "if you trust it" in sharp("measure", run.name).refusal
    assert sharp("measure", run.name, "trust=[own_parts]", "--step", "6").code == 0


REFUSALS = [
    (["train", "lr=fast"], "lr=fast: not a number"),
    (["train", "lr="], "lr=: not a number"),
    (["train", "method=sma"], "did you mean sam?"),
    (["train", "--multi-run"], "sharp train --help"),
    (["train", "lr"], "missing EQUAL"),
    (["train", "lr=0.1,0.2"], "-m"),
    (["train", "problem=uv", "model=resnet"], "problem=uv takes no model"),
    (["train", "problem=uv", "problem.k=30"], "k at most d"),
    (["train", "problem=uv", "problem.start=0"], "no coordinate ever moves"),
    (["train", "problem=quadratic", "problem.start=[1]"], "give both the same"),
    (["train", "problem=valley", "problem.start=[1]"], "give [u, v]"),
    (["train", "problem=quadratic", "measure.sharpness.k=4"], "the model has 3 parameters; take 1 to 3"),
    (["train", "measure.sharpness.tol=0"], "tol above 0"),
    (["train", "measure=[trace]", "measure.trace.max_products=4"], "max_products at least 8"),
    (["train", "model.widths=[0]"], "at least 1 unit"),
    (["train", "model=cnn", "model.widths=[2,2,2,2]"], "give fewer"),
    (["train", "model=cnn", "model.widths=[0]"], "at least 1 channel"),
    (["train", "model=vit", "model.patch=3"], "model.patch=3: patches must tile the 8x8 image"),
    (["train", "model=vit", "model.heads=5"], "heads must divide the width"),
    (["train", "model=mixer", "model.depth=0"], "model.width=192, depth=0: at least 2 and 1"),
    (["train", "model=resnet", "model.depth=21"], "6 m + 2 layers"),
    (["train", "model=resnet", "model.groups=5"], "groups must divide width"),
    (["train", "method=sam", "optimizer.rho=-1"], "at least 0"),
    (["train", "method=momentum", "optimizer.beta=1"], "below 1"),
    (["train", "method=label_noise", "objective.label_noise.delta=-1"], "at least 0"),
    (["train", "objective=[crop_flip]", "objective.crop_flip.pad=-1"], "pad >= 0"),
    (["train", "schedule=cosine", "schedule.warmup=2"], "warmup below 1"),
    (["train", "data.train_examples=1797"], "take 1 to 1796"),
    (["train", "device=cuda"], "device=cuda: not on this machine; possible: cpu"),
    (["train", "data=arrays", "data.file=none.npz"], "cannot be read"),
    (["train", "objective=[cutout]"], "hides all of images of 8 x 8 pixels; give less, as 4"),
    (["train", "objective=[svag]", "batch_size=7"], "with 7 examples a step"),
    (["train", "objective=[svag]", "batch_size=40", "data.train_examples=101"], "with 21 examples a step"),
    (
        [
            "train",
            "optimizer=clipping",
            "optimizer@optimizer.base=sam",
            "optimizer.base.m=8",
            "batch_size=32",
        ],
        "optimizer=sam with optimizer.m=8 needs the training loss itself",
    ),
    (["train", "optimizer=sam", "optimizer@optimizer.base=averaging"], "averaging is inside of another rule"),
    (["train", "objective=[label_noise,label_noise]"], "label_noise twice; name each objective once"),
    (["train", "measure=[scores, trace,scores]"], "scores twice"),
    (["train", "model.widths=[8]", "=3"], "=3: no name of a setting"),
    (["train", "data=arrays"], "data.file is missing"),
    (["train", "model._target_=os.system"], "code outside sharpcli"),
    (["train", "--config-dir", "none"], "no such directory"),
    (["train", "problem.batchnorm=stored"], "running statistics come with a file of weights"),
    (
        ["train", "model=torchvision", "model.name=resnet81"],
        "torchvision has no such network; close: resnet18",
    ),
    (["measure", "weights=none.pt", "model=mlp"], "none.pt: no such file of weights"),
    (["measure", "none.pt", "model=mlp"], "none.pt: no such file of weights"),
    (["measure", "gd", "-o", "x.jsonl"], "no such run"),
    (["measure"], "Missing argument"),
    (["measure", "nothing"], "no such run"),
    (["measure", "measure=[trace]"], "no run given"),
    (["plot", "sharpnes", "x"], "did you mean sharpness?"),
    (["plot", "loss", "nothing"], "no such run"),
    (["ls", "nowhere"], "no such directory"),
    (["show", "nothing"], "no such run"),
    (["show", "optimizer", "model"], "optimizer=model: no such optimizer; possible: adam"),
    (["show", "optimzer"], "did you mean optimizer?"),
    (["trian"], "No such command"),
    (["ls", "--al"], "No such option"),
]


@pytest.mark.parametrize(
    "words, said", REFUSALS, ids=lambda v: " ".join(v)[:50] if isinstance(v, list) else ""
)
def test_a_mistake_is_one_line_with_exit_code_2_and_writes_nothing(sharp, folder, words, said):
    if "device=cuda" in words and __import__("torch").cuda.is_available():
        pytest.skip("this machine has CUDA")
    assert said.lower() in sharp(*words).refusal.lower()
    assert list(folder.iterdir()) == []


def test_mistakes_about_a_run_that_is_there(sharp, folder):
    assert sharp("train", *SHORT, "measure=[scores]").code == 0
    run = only_run(folder)
    for words, said in [
        (["measure", run, "lr=1"], "measuring cannot change that"),
        (["measure", run, "--step", "1"], "has checkpoints at 0, 3, 6"),
        (["measure", run, "--step", "x"], "give whole numbers"),
        (["measure", run, "measure=[hessian]"], "no such measure"),
        (["measure", run, "measure=[sharpness]", "measure.sharpness.k=9999"], "take 1 to"),
        (
            ["measure", run, "measure=[trace]", "measure.trace.prob=9"],
            "trace does not take it; possible: method, rtol",
        ),
        (["plot", "sharpness", run], "has no lambda_1; sharp measure"),
        (["plot", "density", run], "has no density_nodes; sharp measure"),
        (["measure", run, "--by", "row"], "--by row: possible: layer"),
        (["measure", run, "-o", "nowhere/x.jsonl"], "cannot write"),
        (
            ["measure", run, "--params", "conv*", "measure=[sharpness]"],
            "no parameter is called so; there are 1.weight",
        ),
        (
            ["measure", run, "measure=[relative_flatness]", "measure.relative_flatness.layer=9"],
            "name one of 1.weight",
        ),
        (["plot", "loss", run, "-o", "x.gif"], "possible endings"),
        (["plot", "loss", run, "z=1"], "z=1: loss does not take it; possible: x"),
        (["plot", "loss", run, "x=time"], "possible: epoch, seconds, step"),
        (["plot", "compare", run, "y=accuracy"], "no such column in these runs"),
        (["plot", "loss", run, "-o", f"{run}/config.yaml/x.png"], "cannot write"),
    ]:
        assert said in sharp(*words).refusal, words
    assert sharp("measure", run, "measure=[sharpness]").code == 0
    assert sharp("plot", "sharpness", run).code == 0


@needs_cifar
def test_cifar_that_is_missing_or_cut_short_is_one_line(process, folder):
    (folder / "c/cifar-10-batches-py").mkdir(parents=True)
    (folder / "c/cifar-10-batches-py/data_batch_1").write_bytes(b"cut short")
    nowhere = {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    for place in ("c", "empty"):
        done = process("train", "data=cifar10", f"data_dir={place}", env=nowhere)
        out, err = done.communicate(timeout=120)
        lines = [line for line in err.splitlines() if line.startswith("sharp:")]
        assert (
            done.returncode == 2
            and len(lines) == 1
            and "data_dir= or SHARP_DATA" in lines[0]
            and "Traceback" not in err
        )
    assert not (folder / "runs").exists()


@needs_cifar
@pytest.mark.parametrize("name", ["eos_cifar10_5k", "resnet20_cifar10", "resnet20_ten_epochs"])
def test_the_cifar_presets_train_and_measure(sharp, folder, name):
    words = [
        "steps=2",
        "measure=[scores,sharpness]",
        "measure_every=1",
        "measure_examples=8",
        "data.train_examples=64",
        "chunk=16",
        "batch_size=32",
    ]
    extra = ["data.test_examples=32", "measure.sharpness.max_products=4"]
    assert sharp("train", f"experiment={name}", *words, *extra).code == 0
    assert Run(only_run(folder)).logged()[-1]["lambda_1"] != 0


@pytest.mark.parametrize("plot", ["sharpness", "loss", "compare", "density"])
@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_plots_are_files_of_their_kind_with_something_on_them(sharp, folder, plot, ending):
    few = ["measure.density.probes=2", "measure.density.steps=5"]
    assert (
        sharp("train", *SHORT, "measure=[scores,sharpness,density]", "measure.sharpness.k=2", *few).code == 0
    )
    said = sharp("plot", plot, only_run(folder), "-o", f"a/b.{ending}")
    assert said.out.strip() == f"a/b.{ending}"
    head = (folder / f"a/b.{ending}").read_bytes()[:8]
    assert {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[ending] in head
    if ending == "png":
        picture = matplotlib.image.imread(folder / "a/b.png")
        assert np.unique(picture.reshape(-1, picture.shape[-1]), axis=0).shape[0] > 50


def test_a_diverged_run_and_a_sam_run_can_be_drawn(sharp, folder):
    assert sharp("train", "problem=quadratic", "lr=5", "steps=9999").code == 0
    assert sharp("train", "problem=quadratic", "lr=0.1", "steps=30", "method=sam").code == 0
    assert sharp("plot", "sharpness", "runs", "-o", "x.svg").code == 0


def test_show_and_ls(sharp, folder):
    assert "no runs yet" in sharp("ls", ".").out
    assert sharp("train", *SHORT).code == 0
    run = only_run(folder)
    said = sharp("ls")
    assert said.out.splitlines()[0].split() == [
        "run",
        "status",
        "step",
        "train_loss",
        "test_accuracy",
        "lambda_1",
    ]
    assert run.name in said.out and "6/6" in said.out and sharp("ls", "runs_dir=runs").out == said.out
    about = sharp("show", run.name[:6])
    assert "checkpoints: 0, 3, 6" in about.out and "packages:" in about.out
    assert (
        "sam" in sharp("show", "optimizer").out
        and "Sharpness-aware minimization" in sharp("show", "optimizer").out
    )


def test_ls_of_a_thousand_runs_and_help_are_quick(sharp, folder, process):
    for i in range(1000):
        run = Run.create(
            folder / "runs" / f"gd-network-lr{i}-seed0-{i:08x}",
            {"seed": 0, "optimizer": {"_target_": "x"}},
            {"steps": 9},
        )
        run.log({"step": 9, "train_loss": 0.1, "lambda_1": 1.0})
    for words in (["ls"], ["--help"]):
        seconds = []
        for _ in range(3):
            started = time.perf_counter()
            done = process(*words)
            out, _ = done.communicate(timeout=60)
            seconds.append(time.perf_counter() - started)
        assert done.returncode == 0 and len(out.splitlines()) > 10
        assert (
            min(seconds) < 3
        )  # an import of torch or pandas on a loaded machine; benchmarks/commands.py has the figure


@pytest.mark.parametrize(
    "words, index, expected",
    [
        ("sharp train optimizer=g", 2, "optimizer=gd"),
        ("sharp train optimizer = g", 4, "gd"),  # as bash splits it
        ("sharp train opti", 2, "optimizer="),
        ("sharp train method=sam optimizer.r", 3, "optimizer.rho="),
        ("sharp plot sha", 2, "sharpness"),
    ],
)
def test_tab_completes_groups_options_and_settings(folder, words, index, expected):
    env = os.environ | {"_SHARP_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(index)}
    done = subprocess.run(
        [str(sys.executable).replace("python3", "python").rsplit("/", 1)[0] + "/sharp"],
        env=env,
        capture_output=True,
        text=True,
    )
    assert expected in done.stdout.split(), (done.stdout, done.stderr)


def test_json_of_provenance_holds_no_path_of_the_package(sharp, folder):
    assert sharp("train", *SHORT).code == 0
    assert "site-packages" not in json.dumps(Run(only_run(folder)).provenance)


def test_a_dry_run_lists_the_jobs_with_their_state_and_trains_nothing(sharp, folder):
    words = ("train", *TINY, "lr=0.1,0.2,30", "steps=4", "measure_every=2", "-m")
    said = sharp(*words, "--dry-run")
    assert said.code == 0 and said.out.count("not begun") == 3 and not (folder / "runs").exists()
    assert "[job 1] " in said.out and "lr=0.2" in said.out.splitlines()[1] and "3 not begun" in said.err
    assert sharp("train", *TINY, "lr=0.1", "steps=4", "measure_every=2").code == 0
    run = only_run(folder)
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.name != ".lock"}
    lines = sharp(*words, "--dry-run").out.splitlines()
    assert ": complete (" in lines[0] and run.name in lines[0] and ": not begun" in lines[1]
    (run / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text().splitlines(keepends=True)[0])
    assert "unfinished at step 0 of 4" in sharp(*words, "--dry-run").out
    with locked(run):
        assert ": being trained (" in sharp(*words, "--dry-run").out
    assert set(before) == {file for file in run.rglob("*") if file.name != ".lock"}
    one = sharp("train", *TINY, "lr=0.2", "steps=4", "--dry-run")
    assert one.out.count("[job") == 1 and ": not begun" in one.out
    assert "lr=-1" in sharp("train", "lr=-1,0.1", "-m", "--dry-run").refusal


def test_a_run_that_cannot_be_measured_keeps_no_other_from_it(sharp, folder):
    short = (*TINY, "steps=2", "threads=1", f"runs_dir={folder / 'mixed'}")
    assert sharp("train", *short, "lr=0.3").code == 0
    assert sharp("train", *short, "lr=0.2", "replicas=2").code == 0
    assert sharp("train", *short, "lr=0.1").code == 0
    said = sharp("measure", str(folder / "mixed"), "measure=[trace]", "--step", "0")
    assert said.code == 2 and said.out.count("trace_converged") == 2
    assert (
        "holds 2 replicas: measure them in training" in said.err
        and "1 of 3 runs are not measured" in said.err
    )
    of_all = sharp("measure", str(folder / "mixed"), "measure=[tracee]")
    assert of_all.code == 2 and of_all.err.startswith("sharp: measure=tracee: no such measure"), of_all.err


@pytest.mark.parametrize(
    "words, said",
    [
        ("method=[sam,sgd]", "a single method is possible; method=sam,sgd with -m makes a run of each"),
        ("optimizer=[sam,gd]", "a single optimizer is possible"),
        ("method=sam,sgd", "several values; add -m for a run of each\n"),
        ("lr=0.1,0.2", "several values; add -m for a run of each\n"),
        ("model.widths=3,4", "or model.widths=[3,4] for a list"),
        ("objective=label_noise,svag", "or objective=[label_noise,svag] for a list"),
    ],
)
def test_a_list_is_suggested_where_a_setting_takes_it_and_refused_elsewhere(sharp, words, said):
    came = sharp("train", words)
    assert came.code == 2 and said in came.err, came.err
