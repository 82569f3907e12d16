"""Somebody else's file of weights: a state dict, whatever it is wrapped in."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharpcli.errors import Refusal

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module", "weights")
PREFIXES = ("module.", "_orig_mod.", "model.")  # DataParallel, torch.compile, Lightning


def read(file: Path) -> dict[str, Tensor]:
    """The tensors by name in a `.safetensors` file, or in what `torch.save` wrote: never runs code from the
    file.

    A dict that holds the state dict under a usual name is opened, and a usual prefix that all names share is
    taken off. Refuses files that cannot be read, that hold other objects than tensors, or no tensors.
    """
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            found: Any = load_file(file)
        else:
            found = torch.load(file, map_location="cpu", weights_only=True)
    except (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        pickle.UnpicklingError,
        KeyError,
        _safetensors_error(),
    ) as problem:
        why = str(problem).split("\n", maxsplit=1)[0]
        raise Refusal(
            f"{file}: not readable as weights alone ({why}); save a state dict: "
            f"torch.save(model.state_dict(), ...)"
        ) from None
    for name in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if (
        not isinstance(found, Mapping)
        or not found
        or not all(isinstance(value, Tensor) for value in found.values())
    ):
        held = ", ".join(list(map(str, found))[:5]) if isinstance(found, Mapping) else type(found).__name__
        raise Refusal(
            f"{file}: holds no state dict (it has {held or 'nothing'}); save one: "
            f"torch.save(model.state_dict(), ...)"
        )
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in found):
            found = {key.removeprefix(prefix): value for key, value in found.items()}
    return dict(found)


def content(file: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _safetensors_error() -> type[Exception]:
    from safetensors import SafetensorError

    return SafetensorError
