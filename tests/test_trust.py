"""A config that somebody else wrote decides no code, no folder and no machine setting of this command."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from sharpcli.config.check import check, literal, stored
from sharpcli.config.targets import parts, resolve
from sharpcli.config.words import compose
from sharpcli.errors import Refusal

EVIL = "open('touched', 'w').write('x')"
TOUCH = {"args": ["touch", "touched"]}
SHARPNESS = {
    "_target_": "sharpcli.measures.sharpness.sharpness",
    "k": 1,
    "tol": 1e-3,
    "max_products": 9,
    "least": False,
}


def config(**changes):
    """A config as the directory of a toy's run holds it, with changes."""
    return {**check(compose(["problem=quadratic", "steps=2"])).config, **changes}


def measuring(target, /, **values):
    return config(measure={"x": {"_target_": target, **values}})


NETWORK = check(compose([])).config

HOSTILE = {
    "a trusted package named in the config": config(
        trust=["subprocess"], measure={"x": {"_target_": "subprocess.Popen", **TOUCH}}
    ),
    "a package in the working directory": config(trust=["evil"], measure={"x": {"_target_": "evil.f"}}),
    "os.system": measuring("os.system", command="touch touched"),
    "a builtin": measuring("builtins.exec", source=EVIL),
    "a relative target": measuring(".os.system"),
    "an empty target": measuring(""),
    "a target that is a list": measuring(["os", "system"]),
    "a target that is a mapping": measuring({"_target_": "os.system"}),
    "a target that is a number": measuring(7),
    "a module's module": measuring("sharpcli.run.json.loads"),
    "a module's os": measuring("sharpcli.cli.os.system", command="touch touched"),
    "a module's subprocess": measuring("sharpcli.provenance.subprocess.run", **TOUCH),
    "a function that writes": measuring("sharpcli.jsonl.replace", file="touched", data=b"x"),
    "a class that opens": measuring("sharpcli.run.Run", path=".", writes=True),
    "the door itself": measuring("sharpcli.config.build.Part", target="os.system", keywords={}, takes=[]),
    "the command line": measuring("sharpcli.cli.main"),
    "a private function": measuring("sharpcli.data.cifar10._download", folder=".", train=True),
    "a class of a part": measuring("sharpcli.measures.sharpness.sharpness.__class__"),
    "globals of a part": measuring("sharpcli.measures.sharpness.sharpness.__globals__"),
    "builtins of a part": measuring("sharpcli.measures.sharpness.__builtins__"),
    "an import of a part": measuring("sharpcli.measures.sharpness.Refusal", message="x"),
    "functools.partial": measuring("functools.partial", func="os.system"),
    "hydra's own caller": measuring("hydra.utils.instantiate", config={"_target_": "os.system"}),
    "hydra's get_method": measuring("hydra.utils.get_method", path="os.system"),
    "torch's loader": measuring("torch.load", f="evil.pt", weights_only=False),
    "numpy's loader": measuring("numpy.load", file="evil.npy", allow_pickle=True),
    "the package's name as a prefix": measuring("sharpcli_evil.f"),
    "the package's name in other letters": measuring("SharpCLI.measures.sharpness.sharpness"),
    "a nested target": config(
        optimizer={"_target_": "sharpcli.optimizers.sam.SAM", "rho": 0.1, "base": {"_target_": "os.abort"}}
    ),
    "a target in a list": measuring("sharpcli.measures.sharpness.sharpness", k=[{"_target_": "os.abort"}]),
    "hydra's words for calls": measuring(
        "sharpcli.measures.sharpness.sharpness", _partial_=True, _args_=["x"], _recursive_=True
    ),
    "another problem": config(problem={"_target_": "os.abort"}),
    "another optimizer": config(optimizer={"_target_": "os.abort"}),
    "another objective": config(objective={"x": {"_target_": "os.abort"}}),
    "another schedule": config(schedule={"_target_": "os.abort"}),
    "another model": config(model={"_target_": "os.abort"}),
    "another data set": config(data={"_target_": "os.abort"}),
    "another loss": config(loss={"_target_": "os.abort"}),
    "data as a measure": measuring("sharpcli.data.digits.digits", train_examples=9, wrong=0),
    "a measure as a problem": config(problem=SHARPNESS),
    "a check of claims as a measure": measuring("sharpcli.claims.tables.min_trace.min_trace"),
    "a device that never ends": config(
        data={"_target_": "sharpcli.data.arrays.arrays", "file": "/dev/zero", "wrong": None}
    ),
    "hydra's own settings": config(hydra={"run": {"dir": "touched"}}),
    "a defaults list": config(defaults=[{"measure": "sharpness"}]),
    "an environment variable as a number": config(seed="${oc.env:HOME}"),
    "an environment variable as a hyperparameter": config(
        measure={"x": {**SHARPNESS, "k": "${oc.env:HOME}"}}
    ),
    "an environment variable as a list": config(
        data=NETWORK["data"],
        model={**NETWORK["model"], "widths": "${oc.env:HOME}"},
        loss=NETWORK["loss"],
        problem=NETWORK["problem"],
    ),
    "a resolver as a target": measuring("${oc.decode:'os.system'}"),
    "a resolver in a target": measuring("sharpcli.measures.${oc.env:HOME}.sharpness"),
    "a reference to another key": measuring("${method}"),
    "a missing mark": config(problem="???"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_config_is_refused_in_one_line_and_runs_no_code(folder, kind):
    for name in ("evil.py", "sharpcli_evil.py"):
        (folder / name).write_text(f"{EVIL}\ndef f(*_, **__):\n    {EVIL}\n")
    with pytest.raises(Refusal) as refusal:
        check(stored(HOSTILE[kind]), [])
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 700
    assert not Path("touched").exists()


def test_nothing_local_is_read_from_a_stored_config(monkeypatch):
    monkeypatch.setenv("SHARP_DATA", "mine")
    local = {
        "threads": 3,
        "device": "mps",
        "data_dir": "theirs",
        "runs_dir": "theirs",
        "trust": ["os"],
        "compile_products": "true",
    }
    checked = check(stored(config(**local)), [])
    plain = check(compose(["problem=quadratic", "steps=2"])).local
    assert checked.local == plain and checked.local["data_dir"] == "mine"


PIECES = ("\\", "${", "$", "{", "}", "a", ":", "oc.env:HOME", "'", '"', " ")


@given(st.lists(st.sampled_from(PIECES), max_size=8))
@settings(max_examples=300, deadline=None)
def test_a_stored_text_is_read_as_it_stands(pieces):
    text = "".join(pieces)
    nested = {"a": {"b": [text]}, "c": text}
    assert OmegaConf.to_container(OmegaConf.create(literal(nested)), resolve=True) == nested


def test_a_run_with_an_interpolation_in_a_path_is_measured_with_that_very_path(sharp, folder):
    import numpy as np

    rng = np.random.default_rng(0)
    place = folder / "${oc.env:HOME}"
    place.mkdir()
    np.savez(place / "a.npz", Z=rng.standard_normal((6, 3)), y=rng.standard_normal(6))
    written = config(data={"_target_": "sharpcli.data.table.table", "file": str(place / "a.npz")})
    checked = check(stored(yaml.safe_load(yaml.safe_dump(written))), [])
    assert checked.config["data"]["file"] == str(place / "a.npz")


def test_a_pipe_is_no_file(folder):
    os.mkfifo("pipe")
    data = {"_target_": "sharpcli.data.arrays.arrays", "file": str(folder / "pipe"), "wrong": None}
    with pytest.raises(Refusal, match="a pipe or a device"):
        check(stored(config(data=data)), [])


def test_the_working_directory_is_searched_for_trusted_packages_alone_and_last(folder, monkeypatch):
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(folder))])
    resolve("sharpcli.measures.sharpness.sharpness", "measure.x", [])
    assert str(folder) not in sys.path
    Path("mine_alone.py").write_text("def f(at):\n    return None\n")
    resolve("mine_alone.f", "measure.x", ["mine_alone"])
    assert sys.path[-1] == str(folder)


def test_a_module_in_the_working_directory_does_not_stand_in_for_an_installed_package(process, folder):
    for name in ("sklearn", "random", "yaml", "typer"):
        Path(f"{name}.py").write_text(EVIL)
    words = ["data=digits", "data.train_examples=60", "model.widths=[4]", "steps=1", "measure=[scores]"]
    child = process("train", *words)
    _, err = child.communicate()
    assert child.returncode == 0, err
    assert not Path("touched").exists()


def test_every_part_that_the_menu_names_is_a_part_of_its_group():
    for path, groups in parts().items():
        assert resolve(path, "x", []), (path, groups)
