"""Where a number comes from: command, commit, versions, machine, flags."""

from __future__ import annotations

import hashlib
import platform
import shlex
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharpcli import __version__
from sharpcli.checkout import commit

PACKAGES = ("torch", "torchvision", "hydra-core", "omegaconf", "numpy", "scipy", "numba")


def provenance(device: torch.device, command: Sequence[str]) -> dict[str, Any]:
    """The `command`'s words, and what would have to be equal for the same bits."""
    return {
        "sharp": __version__,
        "commit": commit(),
        "command": shlex.join(command),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def device_name(device: torch.device) -> str:
    """The accelerator's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu" and Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return f"{device.type} {platform.processor() or platform.machine()}"


def content_hash(tensors: Iterable[Tensor]) -> str:
    """16 hex digits of what the tensors hold, shapes included."""
    digest = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        digest.update(str((tuple(tensor.shape), tensor.dtype)).encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
