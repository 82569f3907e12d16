"""The settings of a run that are not a part, with their types and ranges; and the groups that parts are
chosen from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any

from hydra.core.config_store import ConfigStore


@dataclass(frozen=True)
class Group:
    """A folder of conf/ that parts are chosen from.

    `several`: a run may have any number of its parts, each under its own key. `of_problem`: the part is
    handed to the problem, and a problem that does not take it (a toy takes no model) refuses it. `also` are
    names that other programs have for the group, and `others` those that they have for its options, each with
    what to give here.
    """

    several: bool = False
    of_problem: bool = False
    also: tuple[str, ...] = ()
    others: Mapping[str, str] = field(default_factory=dict)


HALF_SQUARED = "half_squared, which is C/2 times the mean squared error of C outputs"
# rules that another program has by name, and we by a library
IN_LIBRARY = {
    name: f"pytorch_optimizer optimizer.name={name}"
    for name in ("soap", "shampoo", "lamb", "prodigy", "adafactor", "adagrad", "radam")
}
GROUPS = {
    "optimizer": Group(also=("optim", "opt", "optimiser"), others={"nag": "momentum"} | IN_LIBRARY),
    "objective": Group(several=True, also=("regularizer", "regularization", "noise", "augmentation")),
    "schedule": Group(also=("scheduler", "lr_schedule", "lr_scheduler"), others={"none": "constant"}),
    "problem": Group(also=("task", "toy")),
    "data": Group(of_problem=True, also=("dataset", "datasets"), others={"npz": "arrays", "csv": "table"}),
    "model": Group(
        of_problem=True,
        also=("net", "network", "arch", "architecture"),
        others=dict.fromkeys(("fc", "fcn", "dense", "linear"), "mlp")
        | {"resnet20": "resnet model.depth=20", "resnet18": "torchvision model.name=resnet18"},
    ),
    "loss": Group(
        of_problem=True,
        also=("criterion", "loss_fn", "loss_function"),
        others=dict.fromkeys(("mse", "mse_loss", "l2", "squared", "square", "quadratic"), HALF_SQUARED)
        | dict.fromkeys(("ce", "crossentropy", "nll", "xent", "softmax"), "cross_entropy"),
    ),
    "measure": Group(
        several=True,
        also=("measures", "metric", "metrics"),
        others={"hessian": "sharpness", "lambda_1": "sharpness", "loss": "scores", "accuracy": "scores"},
    ),
}
OF_PROBLEM = tuple(name for name, group in GROUPS.items() if group.of_problem)
MOST_SEED = 2**62  # seeds count up from here in replicas, and NumPy and PyTorch take 64 bits
MOST_GB = 1e6  # more than any machine has; larger numbers are no number of bytes that a program can count
MOST_THREADS = 16 * (os.cpu_count() or 1)  # OpenMP ends the process where it cannot start that many
METHODS = ("method", "experiment")  # groups of presets: each chooses parts and settings, and is none itself


def setting(
    default: Any,
    *,
    above: float | None = None,
    least: int | None = None,
    most: float | None = None,
    local: bool = False,
    also: Mapping[str, str] | None = None,
) -> Any:
    """A field of `Settings`: its value is finite and greater than `above`, or at least `least`, and at most
    `most`, or null where that is its type; `local` says that it changes no number, so that it is not in the
    run's config and does not name the run; `also` are names that other programs have for it, each with its
    value as it is written here."""
    metadata = {"above": above, "least": least, "most": most, "local": local, "also": also or {}}
    return field(default=default, metadata=metadata)


def called(*names: str, value: str = "{}") -> dict[str, str]:
    """Other names of a setting, whose value is written as `value` here."""
    return dict.fromkeys(names, value)


@dataclass
class Plain:
    """The settings that are not a part."""

    # the seed of all randomness: start, batches, noise
    seed: int = setting(0, least=-MOST_SEED, most=MOST_SEED, also=called("random_seed", "rng", "manual_seed"))
    # the learning rate, the length of a step: w <- w - lr grad L
    lr: float = setting(0.2, above=0, also=called("learning_rate", "learningrate", "eta", "step_size"))
    # a number of steps, or "30 epochs"
    steps: Any = setting(
        1000,
        also=called("epochs", "epoch", "n_epochs", "num_epochs", "max_epochs", value="'{} epochs'")
        | called("iterations", "iters", "max_steps", "num_steps", "n_steps", "T"),
    )
    # end at the first measured step with at most this training loss; null: at the last step
    stop_loss: float | None = setting(
        None, above=0, also=called("target_loss", "loss_threshold", "stop_at_loss", "train_to_loss")
    )
    # a number of examples, or "full"
    batch_size: Any = setting(128, also=called("bs", "batchsize", "batch", "minibatch", "B"))
    # draw each batch anew, rather than through an order of each epoch
    replacement: bool = setting(False)
    # side by side in one run: a number of seeds, or {lr: [0.1, 0.2], seed: 8}
    replicas: Any = setting(1, also=called("seeds", "n_seeds", "num_seeds"))
    # run the steps of a toy by compiled code where the toy, the rule and the noise have it
    compile_toys: bool = setting(True)
    # a number of steps, "1 epoch", "log 50", "even 50", or a list of steps; 0 measures nothing
    measure_every: Any = setting(10, also=called("log_every", "eval_every", "every", "eval_interval"))
    # curvature on the first so many examples; null is all
    measure_examples: int | None = setting(None, least=1)
    # examples evaluated at once
    chunk: int = setting(5000, least=1, also=called("chunk_size", "eval_batch_size"))
    # keep a gradient graph of at most this size for many Hessian products
    graph_gb: float = setting(2.0, above=0, most=MOST_GB)
    # hold a Krylov basis of at most this size; beyond it Lanczos restarts
    basis_gb: float = setting(2.0, above=0, most=MOST_GB)
    # RUN or RUN@STEP: start from that run's weights
    init_from: str | None = setting(None, also=called("init", "resume", "resume_from", "pretrained"))
    # the preset's name, a label
    method: str = setting("custom", also=called("algorithm", "algo"))
    # training steps in half precision, bf16 or fp16; null: in problem.dtype, as all is that is measured
    precision: str | None = setting(
        None, also=called("amp", "mixed_precision", "autocast", "half", "train_dtype")
    )
    # auto, cpu, cuda, cuda:1, mps
    device: str = setting("auto", local=True, also=called("gpu", value="cuda"))
    # Hessian products by torch.compile: auto (where it pays), true, false
    compile_products: str = setting("auto", local=True)
    # training steps by torch.compile: auto (long runs on CUDA), true, false
    compile_step: str = setting("false", local=True, also=called("torch_compile", "compile_model"))
    # the optimizer's state in parts, one a process of torchrun: auto (from 10 million weights), true, false
    split_state: str = setting("auto", local=True, also=called("zero", "zero_stage", "shard_optimizer"))
    # null is PyTorch's own choice
    threads: int | None = setting(
        None,
        least=1,
        most=MOST_THREADS,
        local=True,
        also=called("num_threads", "n_threads", "workers", "cores"),
    )
    # null is a tenth of the run
    checkpoint_every: Any = setting(None, local=True, also=called("save_every", "ckpt_every"))
    # the folder of downloaded data; SHARP_DATA in the environment, or data
    data_dir: str = setting("${oc.env:SHARP_DATA,data}", local=True, also=called("data_path", "data_root"))
    # the folder that runs are written to and looked for in; SHARP_RUNS in the environment, or runs
    runs_dir: str = setting(
        "${oc.env:SHARP_RUNS,runs}", local=True, also=called("out_dir", "output_dir", "logdir")
    )
    # packages outside sharp whose code may be built
    trust: list[str] = field(default_factory=list, metadata={"local": True})


Settings = make_dataclass(
    "Settings",
    [
        (
            name,
            dict[str, Any] | None,
            field(default=None) if group.of_problem else field(default_factory=dict),
        )
        for name, group in GROUPS.items()
    ],
    bases=(Plain,),
)
Settings.__module__ = __name__  # a job of a parallel sweep is pickled, and finds the class by this name
NAMES = tuple(f.name for f in fields(Settings))
LOCAL = tuple(f.name for f in fields(Plain) if f.metadata.get("local"))


def register() -> None:
    """Tells Hydra the schema that config.yaml begins with."""
    ConfigStore.instance().store("settings", Settings)


register()
