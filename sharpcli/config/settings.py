"""The settings of a run that are not a part, with their types and ranges; and the groups that parts are
chosen from."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, make_dataclass
from typing import Any

from hydra.core.config_store import ConfigStore


@dataclass(frozen=True)
class Group:
    """A folder of conf/ that parts are chosen from.

    `several`: a run may have any number of its parts, each under its own key. `of_problem`: the part is
    handed to the problem, and a problem that does not take it (a toy takes no model) refuses it.
    """

    several: bool = False
    of_problem: bool = False


GROUPS = {
    "optimizer": Group(),
    "objective": Group(several=True),
    "schedule": Group(),
    "problem": Group(),
    "data": Group(of_problem=True),
    "model": Group(of_problem=True),
    "loss": Group(of_problem=True),
    "measure": Group(several=True),
}
OF_PROBLEM = tuple(name for name, group in GROUPS.items() if group.of_problem)
METHODS = ("method", "experiment")  # groups of presets: each chooses parts and settings, and is none itself


def setting(
    default: Any, *, above: float | None = None, least: int | None = None, local: bool = False
) -> Any:
    """A field of `Settings`: its value is finite and greater than `above`, or at least `least`, or null where
    that is its type; `local` says that it changes no number, so that it is not in the run's config and does
    not name the run."""
    return field(default=default, metadata={"above": above, "least": least, "local": local})


@dataclass
class Plain:
    """The settings that are not a part."""

    seed: int = setting(0)
    lr: float = setting(0.2, above=0)
    # a number of steps, or "30 epochs"
    steps: Any = setting(1000)
    # a number of examples, or "full"
    batch_size: Any = setting(128)
    # draw each batch anew, rather than through an order of each epoch
    replacement: bool = setting(False)
    # side by side in one run: a number of seeds, or {lr: [0.1, 0.2], seed: 8}
    replicas: Any = setting(1)
    # run the steps of a toy by compiled code where the toy, the rule and the noise have it
    compile_toys: bool = setting(True)
    # a number of steps, "1 epoch", "log 50", "even 50", or a list of steps; 0 measures nothing
    measure_every: Any = setting(10)
    # curvature on the first so many examples; null is all
    measure_examples: int | None = setting(None, least=1)
    # examples evaluated at once
    chunk: int = setting(5000, least=1)
    # keep a gradient graph of at most this size for many Hessian products
    graph_gb: float = setting(2.0, above=0)
    # hold a Krylov basis of at most this size; beyond it Lanczos restarts
    basis_gb: float = setting(2.0, above=0)
    # RUN or RUN@STEP: start from that run's weights
    init_from: str | None = setting(None)
    # the preset's name, a label
    method: str = setting("custom")
    # auto, cpu, cuda, cuda:1, mps
    device: str = setting("auto", local=True)
    # Hessian products by torch.compile: auto (where it pays), true, false
    compile_products: str = setting("auto", local=True)
    # null is PyTorch's own choice
    threads: int | None = setting(None, least=1, local=True)
    # null is a tenth of the run
    checkpoint_every: Any = setting(None, local=True)
    data_dir: str = setting("${oc.env:SHARP_DATA,data}", local=True)
    runs_dir: str = setting("${oc.env:SHARP_RUNS,runs}", local=True)
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
