"""Where a number comes from: command, commit, versions, machine, flags, and the content of the data.

torch is imported where it is needed: claims and studies ask for the commit alone.
"""

from __future__ import annotations

import functools
import hashlib
import platform
import shlex
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharpcli import CONF, __version__

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PACKAGES = ("torch", "torchvision", "hydra-core", "omegaconf", "numpy", "scipy", "numba")


def provenance(device: torch.device, command: Sequence[str]) -> dict[str, Any]:
    """The `command` with its arguments, and all that would have to be equal for the same bits."""
    import torch

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
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu" and Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return f"{device.type} {platform.processor() or platform.machine()}"


def content_hash(tensors: Iterable[Tensor]) -> str:
    """16 hex digits of the numbers that tensors hold, with their shapes and types."""
    import torch

    digest = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        digest.update(str((tuple(tensor.shape), tensor.dtype)).encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@functools.cache  # two processes of git, and as many runs as a sweep has
def commit() -> str | None:
    """The commit of this package's checkout, with `+dirty` where files that decide numbers, of the package or
    of conf/, differ from it; None once installed."""
    package = str(Path(__file__).resolve().parent)
    git = ["git", "-C", package]
    try:
        if subprocess.run(
            [*git, "ls-files", "--error-unmatch", __file__], capture_output=True, check=False
        ).returncode:
            return None
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        decide = [*git, "diff", "--quiet", "HEAD", "--", package, str(CONF)]
        differ = subprocess.run(decide, capture_output=True, check=False).returncode != 0
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+dirty" if differ else "")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
