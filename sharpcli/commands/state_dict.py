"""Reading a file of weights that another program wrote: its state dict, also where other objects wrap it."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharpcli.errors import Refusal

# keys under which training programs put the state dict into a larger dict
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "module", "weights")
# that DataParallel, torch.compile and Lightning put before a parameter's name
PREFIXES = ("module.", "_orig_mod.", "model.")


def read(file: Path) -> dict[str, Tensor]:
    """The tensors by name in a `.safetensors` file or in a file that `torch.save` wrote; code in the file is
    never run.

    A state dict is taken out of a dict that holds it under one of `WRAPPERS`, and one of `PREFIXES` that all
    names share is removed from them. Refuses a file that cannot be read, and one that holds no tensors or
    other objects than tensors.
    """
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            loaded: Any = load_file(file)
        else:
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        pickle.UnpicklingError,
        KeyError,
        _safetensors_error(),
    ) as problem:
        reason = str(problem).split("\n", maxsplit=1)[0]
        raise Refusal(
            f"{file}: not readable as weights alone ({reason}); save a state dict: "
            f"torch.save(model.state_dict(), ...)"
        ) from None
    for name in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
    is_mapping = isinstance(loaded, Mapping)
    if not is_mapping or not loaded or not all(isinstance(value, Tensor) for value in loaded.values()):
        held = ", ".join(list(map(str, loaded))[:5]) if is_mapping else type(loaded).__name__
        raise Refusal(
            f"{file}: holds no state dict (it has {held or 'nothing'}); save one: "
            f"torch.save(model.state_dict(), ...)"
        )
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in loaded):
            loaded = {key.removeprefix(prefix): value for key, value in loaded.items()}
    return dict(loaded)


def content(file: Path) -> str:
    """The SHA-256 of a file's content, in hex digits."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _safetensors_error() -> type[Exception]:
    """The exception of safetensors, imported only where it may be needed."""
    from safetensors import SafetensorError

    return SafetensorError
