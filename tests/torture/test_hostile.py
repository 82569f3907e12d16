"""Runs that somebody made to do harm: nothing of theirs is run, read from elsewhere, or waited for."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import only_run

from sharpcli.config.identity import hash_of
from sharpcli.run import Run
from torture import Hung, at_most_gigabytes, limit, share

SECONDS = 20.0
SECRET = "canary-in-a-cage"
WORDS = "problem=network data.train_examples=30 model.widths=[3] steps=6 measure_every=2 checkpoint_every=2"
STARTS = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "pty.spawn",
    "socket.connect",
)
started: list[str] = []


def _watch(event: str, arguments: tuple) -> None:
    """Notes every program that is started, and every connection; git tells the commit of this package."""
    if event in STARTS and not (event == "subprocess.Popen" and list(arguments[1])[:1] == ["git"]):
        started.append(f"{event} {arguments}")


sys.addaudithook(_watch)

EVIL = """
from pathlib import Path
Path({canary!r}).touch()
def evil(*a, **k): raise ValueError("evil")
class Evil:
    def __init__(self, *a, **k): raise ValueError("evil")
"""


def part(target: Any, /, **values: Any) -> dict[str, Any]:
    return {"_target_": target, **values}


def measure(target: Any, /, **values: Any):
    """A config whose only measure is this."""
    return lambda config, canary: {**config, "measure": {"evil": part(target, **in_place(values, canary))}}


def in_place(values: Any, canary: str) -> Any:
    """Values with CANARY in them replaced by its path."""
    if isinstance(values, dict):
        return {key: in_place(value, canary) for key, value in values.items()}
    if isinstance(values, list):
        return [in_place(value, canary) for value in values]
    return values.replace("CANARY", canary) if isinstance(values, str) else values


def also(**changes: Any):
    """A config with these settings changed; a dotted name is a nested setting."""

    def change(config: dict[str, Any], canary: str) -> dict[str, Any]:
        for name, value in changes.items():
            at, keys = config, name.split("__")
            for key in keys[:-1]:
                at = at.setdefault(key, {})
            at[keys[-1]] = in_place(value, canary)
        return config

    return change


def both(*changes):
    def change(config, canary):
        for one in changes:
            config = one(config, canary)
        return config

    return change


def text(*lines: str):
    """Lines of yaml put before those of the config."""
    return lambda config, canary: "\n".join([*lines, yaml.safe_dump(config, sort_keys=False)]).replace(
        "CANARY", canary
    )


TOUCH = {"args": ["touch", "CANARY"]}
POPEN, SYSTEM = measure("subprocess.Popen", **TOUCH), measure("os.system", command="touch CANARY")
EVIL_PART = part("evilmod.evil")
CONFIGS = {
    # code outside the package, trusted by the config itself or not at all
    "a program, trusted": both(also(trust=["subprocess"]), POPEN),
    "a shell, trusted": both(also(trust=["os", "posix"]), SYSTEM),
    "a program": POPEN,
    "builtins": both(also(trust=["builtins"]), measure("builtins.exec", source="open('CANARY','w')")),
    "eval": both(also(trust=["builtins"]), measure("builtins.eval", source="open('CANARY','w')")),
    "a module beside, trusted": both(also(trust=["evilmod"]), measure("evilmod.evil")),
    "a module beside": measure("evilmod.evil"),
    "a class beside": both(also(trust=["evilmod"]), measure("evilmod.Evil")),
    "everything trusted": both(also(trust=["", ".", "*"]), measure("evilmod.evil")),
    "trust as a word": both(also(trust="evilmod"), measure("evilmod.evil")),
    "trust as a mapping": both(also(trust={"evilmod": True}), measure("evilmod.evil")),
    "trust by interpolation": both(also(trust="${oc.decode:'[evilmod]'}"), measure("evilmod.evil")),
    "a model": both(also(trust=["evilmod"]), also(model=EVIL_PART)),
    "a loss": both(also(trust=["evilmod"]), also(loss=EVIL_PART)),
    "an optimizer": both(also(trust=["evilmod"]), also(optimizer=EVIL_PART)),
    "data": both(also(trust=["evilmod"]), also(data=EVIL_PART)),
    "a problem": both(also(trust=["evilmod"]), also(problem=EVIL_PART)),
    "a schedule": both(also(trust=["evilmod"]), also(schedule=EVIL_PART)),
    "an objective": both(also(trust=["evilmod"]), also(objective={"x": EVIL_PART})),
    "nested": both(also(trust=["evilmod"]), also(optimizer__base=EVIL_PART)),
    "nested deeply": both(also(trust=["evilmod"]), also(optimizer__base__base__base=EVIL_PART)),
    # what modules of the package have imported
    "json of run": measure("sharpcli.run.json.loads", s="[]"),
    "system of jsonl": measure("sharpcli.jsonl.os.system", command="touch CANARY"),
    "system of cli": measure("sharpcli.cli.os.system", command="touch CANARY"),
    "run of provenance": measure("sharpcli.provenance.subprocess.run", **TOUCH),
    "Popen of provenance": measure("sharpcli.provenance.subprocess.Popen", **TOUCH),
    "importlib of targets": measure("sharpcli.config.targets.importlib.import_module", name="evilmod"),
    "torch.load of network": measure("sharpcli.problems.network.torch.load", f="evil.pt", weights_only=False),
    "torch.hub of network": measure("sharpcli.problems.network.torch.hub.load", repo_or_dir=".", model="x"),
    "a path of run": measure("sharpcli.run.Path", args=["CANARY"]),
    # parts of the package that are no parts of a run
    "Part": measure(
        "sharpcli.config.build.Part", target="os.system", keywords={"command": "touch CANARY"}, takes=[]
    ),
    "Part in Part": measure(
        "sharpcli.config.build.Part", target=part("sharpcli.config.build.Part"), keywords={}, takes=[]
    ),
    "part": measure("sharpcli.config.build.part", values=part("os.system"), trust=["os"], where="x"),
    "resolve": measure("sharpcli.config.targets.resolve", path="os.system", where="x", trust=["os"]),
    "the command line": measure("sharpcli.cli.main"),
    "another run": measure("sharpcli.run.Run", path="CANARY"),
    "a new run": measure("sharpcli.run.Run.create", path="CANARY", config={}, provenance={}),
    "job": measure("sharpcli.commands.train.job"),
    "a figure": measure("sharpcli.commands.plot.draw", name="loss", names=["."], overrides=[], out="CANARY"),
    "the site's generator": measure("sharpcli.__main__.main"),
    # walks through attributes
    "class": measure("sharpcli.errors.Refusal.__class__"),
    "globals": measure("sharpcli.run.Run.__init__.__globals__"),
    "builtins of run": measure("sharpcli.run.__builtins__.eval", source="open('CANARY','w')"),
    "loader": measure("sharpcli.run.__loader__.load_module", fullname="evilmod"),
    "subclasses": measure("sharpcli.run.Run.__mro__.__class__"),
    "dots": measure("sharpcli..os.system", command="touch CANARY"),
    "a slash": measure("sharpcli/../evilmod.evil"),
    "a relative module": measure(".evilmod.evil"),
    "partial": measure("functools.partial", func="os.system", args=["touch CANARY"]),
    "partial of build": measure("sharpcli.config.build.partial"),
    "no word": measure(5),
    "a list for a target": measure(["os", "system"]),
    # Hydra's own keys
    "hydra's keys": measure(
        "os.system", _args_=["touch CANARY"], _partial_=True, _recursive_=True, _convert_="all"
    ),
    "args": also(optimizer___args_=["x"], measure__sharpness___args_=["x"]),
    "convert": also(measure__sharpness___partial_=True, model___recursive_=False),
    "callbacks": also(hydra={"callbacks": {"x": part("evilmod.Evil")}, "run": {"dir": "CANARY"}}),
    "launcher": also(hydra={"launcher": part("evilmod.Evil"), "searchpath": ["file://."]}),
    "defaults": also(defaults=["evil", {"optimizer": "evil"}]),
    # interpolations
    "environment": also(method="${oc.env:SECRET}"),
    "environment in a part": also(model__widths="${oc.env:SECRET}"),
    "environment in a number": also(lr="${oc.decode:${oc.env:SECRET}}"),
    "environment in a text": also(problem__dtype="${oc.env:SECRET}"),
    "create": also(measure="${oc.create:{evil:{_target_:os.system}}}"),
    "select": also(seed="${oc.select:lr,1}", lr="${oc.deprecated:seed}"),
    "hydra's resolvers": also(method="${hydra:runtime.cwd}", data_dir="${now:%Y}"),
    "a resolver of nobody": also(seed="${evil:1}", method="${evil}"),
    "an endless interpolation": also(lr="${lr}", seed="${seed}"),
    # what is this machine's alone
    "threads": also(threads=97),
    "very many threads": also(threads=10**9),
    "a folder": also(runs_dir="CANARY", data_dir="CANARY"),
    "a device": also(device="cuda:7", compile_products="true"),
    # files
    "a pipe": also(data=part("sharpcli.data.arrays.arrays", file="pipe", wrong=None)),
    "zeros without end": also(data=part("sharpcli.data.table.table", file="/dev/zero", test_fraction=0.1)),
    "a file of another's": also(data=part("sharpcli.data.arrays.arrays", file="/etc/passwd", wrong=None)),
    "a folder for a file": also(data=part("sharpcli.data.arrays.arrays", file="/", wrong=None)),
    "a method elsewhere": also(method="../../../../../../../../tmp/x"),
    "a start elsewhere": also(init_from="../../evil.pt@0"),
    "a start by a pipe": also(init_from="pipe"),
    "a net from a hub": also(model=part("sharpcli.models.timm.timm", name="hf-hub:x/y", pretrained=True)),
    # yaml
    "apply": text("x: !!python/object/apply:os.system ['touch CANARY']"),
    "new": text("x: !!python/object/new:os.system ['touch CANARY']"),
    "apply to a setting": text("seed: !!python/object/apply:pathlib.Path.touch [CANARY]"),
    "a module": text("x: !!python/module:evilmod", "y: !!python/name:evilmod.evil"),
    "documents": text("{}", "---", "x: !!python/object/apply:os.system ['touch CANARY']", "---"),
    "a long number": text(f"x: {'9' * 6000}"),
}


def command(sharp, words: list[str], faults: list[str]) -> str:
    """A command within its time; what it said."""
    began = len(started)
    try:
        with limit(SECONDS), at_most_gigabytes(4):
            said = sharp(*words)
    except Hung as problem:
        faults.append(f"sharp {' '.join(words)}: {problem}")
        return ""
    except (Exception, SystemExit) as problem:
        faults.append(f"sharp {' '.join(words)}: {type(problem).__name__}: {str(problem)[:300]}")
        return ""
    finally:
        faults += [f"sharp {' '.join(words)} started {one}" for one in started[began:]]
    if said.code not in (0, 2) or "Traceback" in said.err:
        faults.append(f"sharp {' '.join(words)}: exit code {said.code}: {said.err[-500:]}")
    return said.out + said.err


def commands(run: Path) -> list[list[str]]:
    """Everything that reads a run."""
    return [
        ["measure", str(run)],
        ["measure", str(run), "measure=[scores]"],
        ["show", str(run)],
        ["plot", "loss", str(run), "-o", "x.svg"],
        ["ls"],
        ["train", *WORDS.split()],
        ["train", *WORDS.split(), f"init_from={run}"],
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A place for a run that is made once."""
    return tmp_path_factory.mktemp("made")


@pytest.fixture
def unfinished(sharp, folder, made, monkeypatch):
    """A run that a kill has left at its second checkpoint, beside somebody's modules; the canary."""
    monkeypatch.setenv("SECRET", SECRET)
    if not (made / "runs").exists():
        assert sharp("train", *WORDS.split()).code == 0
        run = only_run(folder)
        for step in (4, 6):
            (run / "checkpoints" / f"step_{step:08d}.pt").unlink()
        size = torch.load(io.BytesIO((run / "checkpoints" / "step_00000002.pt").read_bytes()[:-4]))["offset"]
        os.truncate(run / "metrics.jsonl", size)
        shutil.move(folder / "runs", made / "runs")
    shutil.copytree(made / "runs", folder / "runs")
    canary = folder / "canary"
    for name in ("evilmod", "sharpcli_conf", "evil"):
        (folder / f"{name}.py").write_text(EVIL.format(canary=str(canary)))
    os.mkfifo(folder / "pipe")
    (folder / "evil.yaml").write_text("trust: [evilmod]\n")
    yield only_run(folder), canary
    for name in ("evilmod", "evil"):
        sys.modules.pop(name, None)


def judge(sharp, canary: Path, of: list[list[str]]) -> None:
    """Gives every command, and fails where one of them has run or read what it must not."""
    faults: list[str] = []
    threads, here = torch.get_num_threads(), set(os.listdir("."))
    for words in of:
        seen = command(sharp, words, faults)
        if SECRET in seen:
            faults.append(f"sharp {' '.join(words)}: shows the environment")
        if canary.exists():
            faults.append(f"sharp {' '.join(words)}: ran somebody's code, or wrote where the config says")
            shutil.rmtree(canary) if canary.is_dir() else canary.unlink()
        if torch.get_num_threads() != threads:
            faults.append(f"sharp {' '.join(words)}: {torch.get_num_threads()} threads, as the config says")
            torch.set_num_threads(threads)
        if "evilmod" in sys.modules:
            faults.append(f"sharp {' '.join(words)}: imported a module beside")
            del sys.modules["evilmod"]
    if new := set(os.listdir(".")) - here - {"x.svg", "__pycache__"}:
        faults.append(f"new in the folder: {sorted(new)}")
    assert not faults, "\n".join(faults)


def signed(run: Path, config: Any) -> Path:
    """The run under a name without a hash, with a provenance that agrees with its config, as a maker of such
    runs would have it."""
    facts = json.loads((run / "provenance.json").read_text())
    for key in ("hash", "config_crc32"):
        facts.pop(key, None)
    with contextlib.suppress(Exception):
        facts["hash"] = hash_of(yaml.safe_load(yaml.safe_dump(config)), {})
    (run / "provenance.json").write_text(json.dumps(facts))
    return run.rename(run.parent / "evil")


@pytest.mark.parametrize("name", share(CONFIGS))
def test_a_hostile_config_runs_nothing(sharp, unfinished, name):
    run, canary = unfinished
    config = CONFIGS[name](yaml.safe_load((run / "config.yaml").read_text()), str(canary))
    text = config if isinstance(config, str) else yaml.safe_dump(config, sort_keys=False)
    (run / "config.yaml").write_text(text)
    judge(sharp, canary, [*commands(run)[:1], ["ls"], ["train", *WORDS.split()]])
    judge(sharp, canary, commands(signed(run, config)))


# --- checkpoints ---


class Reduced:
    """Something that pickles as a call."""

    def __init__(self, function, *arguments) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class Own:
    """A class of somebody's."""


def archived(pickled: bytes, **files: bytes) -> bytes:
    """A file as torch.save writes it, with a pickle of one's own."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
        for name, data in files.items():
            archive.writestr(f"archive/data/{name}", data)
    return out.getvalue()


def saved(value: Any) -> bytes:
    out = io.BytesIO()
    torch.save(value, out)
    return out.getvalue()


def rebuilt(size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    """The pickle of a tensor of this size over a storage of four numbers."""

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", 4) if isinstance(value, Storage) else None

    out = io.BytesIO()
    arguments = (Storage(), offset, size, stride, False, OrderedDict())
    value = {"w": Reduced(torch._utils._rebuild_tensor_v2, *arguments), "step": 2, "offset": 0}
    Pickler(out, protocol=2).dump(value)
    return archived(out.getvalue(), **{"0": bytes(16)})


def laughs() -> bytes:
    """A short pickle of 10^12 references: each list holds the list before it ten times."""
    value: list[Any] = ["ha"] * 10
    for _ in range(11):
        value = [value] * 10
    return pickle.dumps({"w": value, "step": 2, "offset": 0, "state": value}, protocol=2)


def deep() -> bytes:
    return b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."


def checkpoints(canary: str, whole: dict[str, Any]) -> dict[str, bytes]:
    touch = f"touch {canary}"
    calls = {
        "system": Reduced(os.system, touch),
        "exec": Reduced(exec, f"open({canary!r}, 'w')"),
        "eval": Reduced(eval, f"open({canary!r}, 'w')"),
        "open": Reduced(open, canary, "w"),
        "mkdir": Reduced(os.mkdir, canary),
        "getattr": Reduced(getattr, Reduced(__import__, "os"), "system"),
        "import": Reduced(__import__, "evilmod"),
        "torch.load": Reduced(torch.load, "evil.pt", None),
        "a class": Own(),
    }
    out = {
        f"{name}, archived": archived(pickle.dumps({**whole_numbers(whole), "w": call}, protocol=2))
        for name, call in calls.items()
    }
    out |= {f"{name}, bare": pickle.dumps(call, protocol=2) for name, call in calls.items()}
    w = whole["w"]
    out |= {
        "a huge tensor over a small storage": rebuilt((10**12,), (1,)),
        "a negative size": rebuilt((-4,), (1,)),
        "an offset outside": rebuilt((4,), (1,), 10**9),
        "a stride outside": rebuilt((4,), (2**40,)),
        "a tensor of one number repeated": rebuilt((2**31,), (0,)),
        "laughs": archived(laughs()),
        "deep": archived(deep()),
        "a mapping of mappings": saved({**whole, "w": {"w": {"w": w}}}),
        "a sparse tensor": saved({**whole, "w": w.to_sparse()}),
        "a tensor on meta": saved({**whole, "w": w.to("meta")}),
        "a complex tensor": saved({**whole, "w": w.to(torch.complex64)}),
        "a tensor of eight bits": saved({**whole, "w": w.to(torch.float8_e5m2)}),
        "steps of another sign": saved({**whole, "step": -5, "offset": -5, "seconds": -1e300}),
        "an offset beyond the rows": saved({**whole, "offset": 2**62}),
        "an offset within a row": saved({**whole, "offset": 7}),
        "another step": saved({**whole, "step": 5}),
        "texts for numbers": saved({**whole, "step": "2", "offset": "0", "seconds": "x"}),
        "nan": saved({**whole, "w": w * float("nan")}),
        "no state": saved({**whole, "state": [torch.ones(3)] * 5}),
        "a script": scripted(),
    }
    return out


def whole_numbers(whole: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in whole.items() if isinstance(value, int | float | str)}


def scripted() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/constants.pkl", b"\x80\x02).")
        archive.writestr("archive/code/__torch__.py", "class M(Module):\n  pass\n")
        archive.writestr("archive/version", "3\n")
    return out.getvalue()


NAMES = list(checkpoints("canary", {"w": torch.zeros(4), "step": 2, "offset": 0}))


@pytest.mark.parametrize("name", share(NAMES))
def test_a_hostile_checkpoint_runs_nothing(sharp, unfinished, name):
    run, canary = unfinished
    file = run / "checkpoints" / "step_00000002.pt"
    whole = Run(run).load(2)
    data = checkpoints(str(canary), whole)[name]
    file.write_bytes(data + zlib.crc32(data).to_bytes(4, "little"))
    judge(sharp, canary, commands(run))


def test_a_module_beside_named_as_a_library_is_not_imported(folder):
    for name in ("sklearn", "torchvision", "scipy", "yaml", "numba", "evilmod"):
        (folder / f"{name}.py").write_text(EVIL.format(canary=str(folder / "canary")))
    # as the installed `sharp`, which, other than `python -m`, does not put the working directory first itself
    words = [sys.executable, "-P", "-m", "sharpcli", "train", *WORDS.split()]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120)
    assert not (folder / "canary").exists(), done.stderr[-500:]
    assert done.returncode == 0 and "complete" in done.stdout, done.stderr[-500:]
