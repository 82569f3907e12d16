"""Import directions: which room may know which. The table is the one in CONTRIBUTING.md."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import sharpcli

TOP = Path(sharpcli.__file__).parent
# what each room may import of this package, itself aside
MAY = {
    "errors": set(),
    "rng": set(),
    "provenance": set(),
    "due": {"errors"},
    "jsonl": {"errors"},
    "config": {"due", "errors"},
    "run": {"config", "jsonl", "errors"},
    "runs_dir": {"run", "jsonl", "errors"},
    "frames": {"run", "config", "jsonl", "errors"},
    "linalg": set(),
    "theory": {"errors"},
    "data": {"errors"},
    "models": {"errors"},
    "losses": {"errors"},
    "schedules": {"errors"},
    "plots": {"errors"},
    "landscape": {"linalg", "rng", "errors"},
    "optimizers": {"landscape", "linalg", "errors"},
    "objectives": {"landscape", "rng", "errors"},
    "problems": {"landscape", "optimizers", "objectives", "data", "losses", "theory", "rng", "errors"},
    "measures": {"problems", "optimizers", "landscape", "linalg", "errors"},
    "engine": {
        *("measures", "problems", "objectives", "optimizers", "schedules", "data", "landscape"),
        *("config", "run", "runs_dir", "provenance", "due", "jsonl", "rng", "errors"),
    },
    "claims": {"engine", "landscape", "theory", "config", "frames", "run", "provenance", "jsonl", "errors"},
    "trackers": {"errors"},
    "commands": {
        "engine",
        "plots",
        "landscape",
        "config",
        "frames",
        "run",
        "runs_dir",
        "provenance",
        "jsonl",
        "trackers",
        "errors",
    },
    "api": {
        *("commands", "engine", "measures", "problems", "optimizers", "schedules", "landscape", "linalg"),
        *("config", "frames", "run", "runs_dir", "provenance", "jsonl", "trackers", "rng", "errors"),
    },
    "cli": {"claims", "commands", "run", "runs_dir", "config", "errors"},
    "__main__": {"cli"},
    "__init__": {"api"},
}
PARTS = ("data", "models", "losses", "optimizers", "objectives", "schedules", "measures", "plots", "problems")
SHARED = {  # modules of a room of parts that are no part, but what several parts share
    "optimizers": {"moments"},
    "models": {"blocks"},
    "problems": {
        "problem",
        "minibatches",
        "regression",
        "relu_net",
        "compiled",
        "compiled_loop",
        "convolution",
    }
    | {"network_norms", "user_parts", "weights"},
    "data": {"npz", "images", "convert"},
    "plots": {"diverging", "looks", "panels"},
}


def imports(file: Path) -> set[str]:
    """The modules of this package that a file imports, in dotted form without the package's name."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "sharpcli":
            below = node.module.partition(".")[2]
            folder = TOP.joinpath(*below.split(".")) if below else TOP
            for alias in node.names:
                is_module = (folder / f"{alias.name}.py").exists() or (folder / alias.name).is_dir()
                names.add(f"{below}.{alias.name}".strip(".") if is_module else below)
    return names - {""}


FILES = sorted(TOP.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(TOP)))
def test_a_file_imports_only_from_the_rooms_that_its_own_may_know(file):
    parts = file.relative_to(TOP).with_suffix("").parts
    room = parts[0]
    for name in imports(file):
        other, _, module = name.partition(".")
        if other != room:
            assert other in MAY[room], f"{room} imports {name}"
        elif room in PARTS and module and parts[-1] != "__init__":
            assert module.split(".")[0] in SHARED.get(room, set()), (
                f"a part imports another of its kind: {name}"
            )


def test_the_rooms_have_floors_and_no_circle():
    floor: dict[str, int] = {}
    left = {room: set(others) for room, others in MAY.items()}
    while left:
        free = [room for room, others in left.items() if others <= floor.keys()]
        assert free, f"a circle among {sorted(left)}"
        for room in free:
            floor[room] = 1 + max([floor[other] for other in left[room]], default=-1)
            del left[room]
    assert max(floor.values()) < 9


def test_every_room_is_in_the_table_and_the_table_is_that_of_contributing():
    rooms = {p.stem for p in TOP.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert rooms == MAY.keys()
    assert len([p for p in TOP.iterdir() if p.suffix == ".py"]) <= 10
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| .*? \| ([^|]*) \|$", text, re.M))
    for room, others in MAY.items():
        if not room.startswith("__"):
            assert {
                word.strip("`") for word in rows[room].replace("-", "").split(", ") if word.strip()
            } == others, room


@pytest.mark.parametrize(
    "module, without",
    [
        ("cli", ["torch", "hydra", "pandas"]),
        ("commands.plot", ["torch"]),
        ("commands.report", ["torch", "pandas"]),
        ("commands.show", ["torch", "hydra", "pandas"]),
        ("run", ["torch", "hydra", "pandas"]),
        ("claims.verdicts", ["torch"]),
    ],
)
def test_a_quick_command_does_not_import_torch(module, without):
    code = f"import sys, sharpcli.{module}; print([m for m in {without} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("words", [["problem=uv"], ["data.train_examples=100"]], ids=["toy", "network"])
def test_the_start_of_a_run_imports_no_package_that_it_does_not_need(words, tmp_path):
    heavy = [
        "sympy",
        "torch._dynamo",
        "scipy.integrate",
        "scipy.optimize",
        "scipy.special",
        "pandas",
        "sklearn",
    ]
    code = f"""
import sys
sys.argv = ["sharp", "train", *{words}, "steps=2", "measure_every=1"]
from sharpcli.__main__ import main
try:
    main()
finally:
    print("imported", [m for m in {heavy} if m in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert "complete" in result.stdout, result.stderr
    assert result.stdout.strip().endswith("imported []"), result.stdout
