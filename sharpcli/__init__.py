"""The laboratory for sharpness, implicit bias and generalization of neural networks.

From Python, `import sharpcli as sharp` offers `measure`, and what `__all__` names beside it.
"""

from __future__ import annotations

# Nothing is imported here: a signal that comes before __main__ has taken over would end in a traceback.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    CONF: Path
    from sharpcli.api.measure import Measured, measure
    from sharpcli.api.memory import Memory, memory
    from sharpcli.api.operators import gauss_newton, hessian
    from sharpcli.api.refused import Refused
    from sharpcli.api.runs import runs
    from sharpcli.api.watch import Watch

__version__ = "0.1.0"

# The modules of the Python interface's names, each imported when it is asked for: importing the package must
# not import torch, for which `sharp --help` would wait.
_OFFERED = {
    "Measured": "measure",
    "Memory": "memory",
    "Refused": "refused",
    "Watch": "watch",
    "gauss_newton": "operators",
    "hessian": "operators",
    "measure": "measure",
    "memory": "memory",
    "runs": "runs",
}
__all__ = ["Measured", "Memory", "Refused", "Watch", "gauss_newton", "hessian", "measure", "memory", "runs"]


def __getattr__(name: str) -> Any:
    if name == "CONF":
        return _conf()
    if name not in _OFFERED:
        raise AttributeError(f"module 'sharpcli' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"sharpcli.api.{_OFFERED[name]}"), name)


def _conf() -> Path:
    """The folder of the yaml files: beside the package once installed, at the top of the repository in a
    checkout."""
    from pathlib import Path

    here = Path(__file__).resolve().parent
    return here / "conf" if (here / "conf").is_dir() else here.parent / "conf"


def __dir__() -> list[str]:
    return sorted([*globals(), *_OFFERED])
