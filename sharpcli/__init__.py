"""The laboratory for sharpness, implicit bias and generalization of neural networks."""

from pathlib import Path

__version__ = "0.1.0"

_HERE = Path(__file__).resolve().parent
# The yaml files: beside the package once installed, at the top of the repository in a checkout.
CONF = _HERE / "conf" if (_HERE / "conf").is_dir() else _HERE.parent / "conf"
