"""Import directions: who may know whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sharpcli

TOP = Path(sharpcli.__file__).parent
KINDS = ("problems", "data", "models", "losses", "optimizers", "objectives", "schedules", "measures", "plots")
LEAVES = {"errors", "rng", "ranks"}
# what each module may import of this package, besides the leaves; a kind of part may also import its own
# package
MAY = {
    "compiler": set(),
    "surface": {"compiler"},
    "linalg": set(),
    "problem": {"surface", "kernel"},
    "kernel": set(),
    "toys": {"data", "theory", "kernel", "losses", "problem", "surface"},
    "data": set(),
    "models": set(),
    "losses": set(),
    "schedules": set(),
    "optimizers": {"surface", "flows", "interpolators", "linalg"},
    "objectives": {"surface"},
    "problems": {
        "surface",
        "problem",
        "compiler",
        "data",
        "losses",
        "structure",
        "convolution",
        "kernel",
        "toys",
        "theory",
    },
    "curvature": {"surface", "linalg"},
    "structure": set(),
    "weights": set(),
    "ranks": set(),
    "measures": {
        "surface",
        "problem",
        "linalg",
        "curvature",
        "optimizers",
        "interpolators",
        "flows",
        "theory",
    },
    "interpolators": {"surface"},
    "flows": {"interpolators", "kernel"},
    "theory": set(),
    "tables": {"theory"},
    "checks": set(),
    "checkout": set(),
    "trials": {"checkout", "config", "draw", "launch", "run"},
    "claims": {"config", "run", "trials"},
    "studies": {"checks", "config", "run", "trials"},
    "verdicts": {"claims", "config", "report"},
    "plots": set(),
    "run": set(),
    "report": {"run"},
    "provenance": {"checkout"},
    "config": {"times"},
    "advance": {"experiment", "kernel", "objectives", "optimizers", "problem", "schedules"},
    "completion": {"config"},
    "progress": {"run"},
    "memory": set(),
    "convolution": set(),
    "experiment": {"config", "data", "memory", "measures", "optimizers", "problem", "surface", "times"},
    "measure": {"curvature", "experiment", "measures", "optimizers", "run"},
    "train": {"advance", "experiment", "measure", "optimizers", "run", "times"},
    "draw": {"config", "run"},
    "times": set(),
    "replicas": {"advance", "config", "experiment", "measure", "optimizers", "run", "train"},
    "launch": {
        "config",
        "experiment",
        "measure",
        "progress",
        "provenance",
        "report",
        "replicas",
        "run",
        "times",
        "train",
    },
    "remeasure": {
        "config",
        "experiment",
        "launch",
        "measure",
        "progress",
        "provenance",
        "report",
        "run",
        "weights",
    },
    "cli": {"claims", "studies", "verdicts", "completion", "draw", "launch", "remeasure", "report", "run"},
    "__main__": {"cli"},
    "__init__": set(),
}


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "sharpcli":
            found |= (
                {node.module}
                if node.module != "sharpcli"
                else {f"sharpcli.{a.name}" for a in node.names if (TOP / f"{a.name}.py").exists()}
            )
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("file", sorted(TOP.rglob("*.py")), ids=lambda f: str(f.relative_to(TOP)))
def test_imports_go_one_way(file):
    room = file.relative_to(TOP).parts[0].removesuffix(".py")
    for name in imports(file):
        words = name.split(".")
        if words[0] != "sharpcli" or len(words) == 1:
            continue
        if words[1] == room and room in (*KINDS, "linalg", "theory"):
            assert len(words) == 2 or room in ("linalg", "theory"), (
                f"{room}: a part imports another of its kind: {name}"
            )
        else:
            assert words[1] in MAY[room] | LEAVES, f"{room} imports {name}"


@pytest.mark.parametrize(
    "module, without",
    [("cli", ["torch", "hydra", "pandas"]), ("draw", ["torch"]), ("report", ["torch", "pandas"])],
)
def test_what_is_quick_or_sees_no_weights_does_not_import_torch(module, without):
    code = f"import sys, sharpcli.{module}; print([m for m in {without} if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
