"""Which commit this is."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path


@functools.cache  # three processes of git, and as many runs as a sweep has
def commit() -> str | None:
    """The commit of this package's checkout, `+dirty` where files differ from it; None once installed."""
    here = Path(__file__).resolve().parent
    git = ["git", "-C", str(here)]
    try:
        if subprocess.run([*git, "ls-files", "--error-unmatch", __file__], capture_output=True, check=False).returncode:
            return None
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+dirty" if dirty.strip() else "")
