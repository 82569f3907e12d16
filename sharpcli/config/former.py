"""Configs as earlier versions of sharp wrote them: read as today's, and found by the hash that they had.

Format 1 (sharp 0.1) hashed the module path of every part and the content of a file under `data.sha256`;
format 2 hashes the part's name (`targets.identity`), so that moving a module renames no run. Imports nothing
but the standard library.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

RENAMED = {
    "compiled": "compile_toys",
    "compile": "compile_products",
}  # settings: the name in format 1, and now
MOVED = {  # targets: the path in format 1, and now
    "sharpcli.objectives.label_noise.label_noise": "sharpcli.objectives.label_noise.LabelNoise",
    "sharpcli.optimizers.limiting_flow.trace_of": "sharpcli.landscape.interpolators.trace",
    "sharpcli.optimizers.limiting_flow.lambda_1_of": "sharpcli.landscape.interpolators.lambda_1",
}
SCORES = (  # of the problems of format 1, whose runs do not say which they are
    "train_loss",
    "test_loss",
    "train_accuracy",
    "test_accuracy",
    "recovery_error",
    "test_error",
    "interpolator_error",
    "distance",
)
DIGITS = 8  # of the hash in the name of a run, of format 1 and of the earlier runs of format 2
DROPPED = ("sha256",)  # of a data part: the content's hash is the identity of a parameter that is a Path

# settings that a part took on later: null means what it did before, and names no other run
ADDED = {
    "sharpcli.data.arrays.arrays": ("wrong",),
    "sharpcli.data.cifar10.cifar10": ("wrong",),
    "sharpcli.data.cifar100.cifar100": ("wrong",),
    "sharpcli.data.fashion_mnist.fashion_mnist": ("wrong",),
    "sharpcli.data.image_folder.image_folder": ("wrong",),
    "sharpcli.data.mnist.mnist": ("wrong",),
    "sharpcli.data.svhn.svhn": ("wrong",),
    "sharpcli.problems.relu.teacher": ("teacher_depth",),
    "sharpcli.models.timm.timm": ("img_size",),
    "sharpcli.optimizers.sam.SAM": (
        "m",
        "ascent_steps",
        "adaptive",
        "layerwise",
        "surrogate_gap",
        "friendly",
        "friendly_decay",
    ),
}


def updated(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config of any format as one of today's."""
    out = {RENAMED.get(key, key): _moved(value, MOVED) for key, value in config.items()}
    if isinstance(out.get("data"), Mapping) and _is_ours(out["data"]):
        out["data"] = {key: value for key, value in out["data"].items() if key not in DROPPED}
    return {key: _with_added(value) for key, value in out.items()}


def row(logged: dict[str, Any]) -> dict[str, Any]:
    """A row of any version as one of today's: the step size of a row was called lr, as the setting is."""
    if "lr" not in logged or "lr_now" in logged:
        return logged
    now = {("lr_now" if key == "lr" else key): value for key, value in logged.items()}
    return now | {"lr": logged["lr"]} if "replica" in logged else now  # of which lr may be the setting


def hash_1(config: Mapping[str, Any], contents: Mapping[str, str]) -> str:
    """The 8 hex digits that format 1 gave today's `config`, whose files have the `contents` (SHA-256 by
    `data.file`)."""
    return digest(as_format_1(config, contents))[:DIGITS]


def as_format_1(config: Mapping[str, Any], contents: Mapping[str, str]) -> dict[str, Any]:
    """What format 1 hashed of today's `config`."""
    names = {now: before for before, now in RENAMED.items()}
    paths = {now: before for before, now in MOVED.items()}
    before = {
        names.get(key, key): _moved(without_added(value), paths)
        for key, value in config.items()
        if key != "method"
    }
    if contents and before.get("data"):
        data = {key: value for key, value in before["data"].items() if f"data.{key}" not in contents}
        before["data"] = data | {"sha256": next(iter(contents.values()))}
    return before


def of_format_1(stored: Mapping[str, Any]) -> dict[str, Any]:
    """What format 1 hashed of a config.yaml that it wrote: a data file by its content, not by its place."""
    out = {key: value for key, value in stored.items() if key != "method"}
    if isinstance(out.get("data"), Mapping) and "sha256" in out["data"]:
        out["data"] = {key: value for key, value in out["data"].items() if key != "file"}
    return out


def digest(values: Mapping[str, Any]) -> str:
    """The SHA-256 of plain values, in hex digits."""
    import yaml

    return hashlib.sha256(yaml.safe_dump(dict(values), sort_keys=True).encode()).hexdigest()


def _with_added(part: Any) -> Any:
    """A part's values, and those of the parts in it, with the settings of `ADDED`, null where an earlier
    version wrote none."""
    if not isinstance(part, Mapping):
        return part
    added = dict.fromkeys(ADDED.get(str(part.get("_target_")), ()))
    return added | {key: _with_added(value) for key, value in part.items()}


def without_added(part: Any) -> Any:
    """A part's values, and those of the parts in it, as before it took on the settings of `ADDED`, where they
    are null."""
    if not isinstance(part, Mapping):
        return part
    added = ADDED.get(str(part.get("_target_")), ())
    kept = ((key, value) for key, value in part.items() if key not in added or value is not None)
    return {key: without_added(value) for key, value in kept}


def _is_ours(part: Mapping[str, Any]) -> bool:
    return str(part.get("_target_", "")).startswith("sharpcli.")


def _moved(value: Any, paths: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _moved(v, paths) for key, v in value.items()}
    return paths.get(value, value) if isinstance(value, str) else value
