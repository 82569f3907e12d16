"""From words to checked settings to objects: the one door."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import math
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from sharpcli import CONF
from sharpcli.errors import Refusal
from sharpcli.times import length, spelled

GROUPS = ("optimizer", "objective", "schedule", "problem", "data", "model", "loss", "measure")
SEVERAL = ("objective", "measure")  # groups of which a run may have any number, each option under its own key
PACKAGE = "sharpcli"


@dataclass
class Settings:
    """The settings that are not a part, with their types. `LOCAL` ones change no number and do not name the run."""

    seed: int = 0
    lr: float = 0.2
    steps: Any = 1000  # or "30 epochs"
    batch_size: Any = 128  # or "full"
    replacement: bool = False  # draw each batch anew, rather than through an order of each epoch
    replicas: Any = 1  # side by side in one run: a number of seeds, or {lr: [0.1, 0.2], seed: 8}
    compiled: bool = True  # run toys by compiled steps where there are any
    measure_every: Any = 10  # or "1 epoch", "log 50", a list of steps; 0 measures nothing
    measure_examples: int | None = None  # curvature on the first so many training examples; null is all
    chunk: int = 5000  # examples evaluated at once
    graph_gb: float = 2.0  # keep a gradient graph of at most this size for many Hessian products
    basis_gb: float = 2.0  # hold a Krylov basis of at most this size; beyond it Lanczos restarts
    init_from: str | None = None  # RUN or RUN@STEP: start from that run's weights
    method: str = "custom"
    optimizer: dict[str, Any] = field(default_factory=dict)
    objective: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    problem: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] | None = None
    model: dict[str, Any] | None = None
    loss: dict[str, Any] | None = None
    measure: dict[str, Any] = field(default_factory=dict)
    device: str = "auto"  # auto, cpu, cuda, cuda:1, mps
    compile: str = "auto"  # Hessian products by torch.compile: auto (where it pays), true, false
    threads: int | None = None  # null is PyTorch's own choice
    checkpoint_every: Any = None  # null is a tenth of the run
    data_dir: str = "${oc.env:SHARP_DATA,data}"
    runs_dir: str = "${oc.env:SHARP_RUNS,runs}"
    trust: list[str] = field(default_factory=list)  # packages outside sharp whose code may be built


LOCAL = ("device", "compile", "threads", "checkpoint_every", "data_dir", "runs_dir", "trust")


def register() -> None:
    """Tells Hydra the schema that config.yaml begins with."""
    ConfigStore.instance().store("settings", Settings)


register()


# --- words -> config -------------------------------------------------------------------------------------------------


def compose(words: Sequence[str], config_dir: str | None = None, name: str = "config", hydra: bool = False) -> DictConfig:
    """The config that Hydra makes of override words, with refusals for what it does not understand."""
    search = [f"hydra.searchpath=[file://{Path(config_dir).absolute()}]"] if config_dir else []
    with refusing(words), initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra_compose(name, overrides=[*words, *search], return_hydra_config=hydra)


@contextmanager
def refusing(words: Sequence[str]) -> Iterator[None]:
    """Turns what Hydra and OmegaConf say of a user's words into one line."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as problem:
        raise Refusal(explain(problem, words)) from None
    except (ValueError, AssertionError) as problem:  # what Hydra asks of its own input, such as data=null
        if not re.search(r"/(hydra|omegaconf|antlr4)/", traceback.extract_tb(problem.__traceback__)[-1].filename):
            raise  # a mistake of ours is a traceback
        raise Refusal(_without_group(words) or f"{' '.join(words)}: {problem}") from None


def _without_group(words: Sequence[str]) -> str | None:
    """One line for a setting of the data, model or loss that a toy has not, which OmegaConf calls a wrong type of root."""
    if not any(word.startswith("problem=") for word in words):
        return None
    word = next((w for w in words if re.match(r"(data|model|loss)\.\w+(\.\w+)*=", w)), None)
    if word is None:
        return None
    group = word.partition(".")[0]
    advice = "for your own file add data=table" if group == "data" else "leave it out"
    return f"{word}: this problem has no {group}; {advice}, or use problem=network"


def explain(problem: Exception, words: Sequence[str]) -> str:
    """One line for an exception of Hydra or OmegaConf: what came, what is possible, what to do."""
    text = f"{problem}\n{problem.__cause__ or ''}"
    if found := re.search(r"Could not (?:find|load) '([\w/]+)/([^'/]*)'", text):
        group, came = found.groups()
        return f"{group}={came}: no such {group}; " + suggest(came, options(group) or re.findall(r"^\t(\S+)", text, re.M))
    if found := re.search(r"Could not override '([^']+)'", text):
        key = found[1]
        came = next((w for w in words if w.lstrip("+~").split("=")[0] == key), key)
        return f"{came}: no such setting; " + suggest(key, _known(words, key)) + " (sharp train --help lists all)"
    if isinstance(problem, MissingMandatoryValue):
        return f"{problem.full_key} is missing: give {problem.full_key}=..."
    if (found := re.search(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", text, re.S)) or (
        found := re.search(r"Value '(.*)' (?:\(\w+\) )?is (?:not a valid|incompatible with type hint) (\S+)", text)
    ):
        key = re.search(r"full_key: (\S+)", text)
        return f"{key[1] + '=' if key else ''}{found[1]}: not {_article(found[2])}"
    return re.sub(r"See https://hydra\S+ for details|full_key:.*", "", " ".join(text.split())).strip()


def suggest(came: str, possible: Sequence[str]) -> str:
    """`did you mean X?` where something is close, and what is possible."""
    close = difflib.get_close_matches(came, possible, n=1)
    return (f"did you mean {close[0]}? " if close else "") + "possible: " + (", ".join(sorted(possible)) or "nothing")


def options(group: str) -> list[str]:
    """The names in conf/<group>/."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def _known(words: Sequence[str], key: str) -> list[str]:
    choices = [w for w in words if w.split("=")[0].split("@")[0] in (*GROUPS, "method", "experiment")]
    if "." not in key:
        return [f.name for f in fields(Settings)] + ["experiment"]
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            node = OmegaConf.select(hydra_compose("config", overrides=choices), key.rsplit(".", 1)[0])
    except (HydraException, OmegaConfBaseException):
        return []
    prefix = key.rsplit(".", 1)[0]
    return [f"{prefix}.{k!s}" for k in node if k != "_target_"] if isinstance(node, DictConfig) else []


def _article(kind: str) -> str:
    kind = {"Float": "float", "Integer": "int", "Boolean": "bool"}.get(kind, kind)
    return {
        "float": "a number",
        "int": "a whole number",
        "bool": "true or false",
        "str": "a word",
    }.get(kind.strip("'\""), f"a value of type {kind}")


# --- config -> checked values ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checked:
    """`config`, plain values that decide the numbers, and `local`, those that do not."""

    config: dict[str, Any]
    local: dict[str, Any]

    @property
    def hash(self) -> str:
        """8 hex digits of what decides the numbers: not the method's label, and a data file by content, not by path."""
        config = {key: value for key, value in self.config.items() if key != "method"}
        if config.get("data"):
            config["data"] = {key: value for key, value in config["data"].items() if key != "file"}
        return hashlib.sha256(yaml.safe_dump(config, sort_keys=True).encode()).hexdigest()[:8]

    @property
    def name(self) -> str:
        """<method>-<problem>-lr<lr>-seed<seed>-<hash>, the run's directory."""
        problem = self.config["problem"]["_target_"].rsplit(".", 1)[-1]
        return f"{self.config['method']}-{problem}-lr{self.config['lr']:g}-seed{self.config['seed']}-{self.hash}"


def check(cfg: DictConfig | Mapping[str, Any], words: Sequence[str] = ()) -> Checked:
    """Every value resolved, of its type and in its range, or a refusal; nothing is built."""
    known = [f.name for f in fields(Settings)]
    if unknown := [str(key) for key in cfg if key not in (*known, "hydra")]:
        raise Refusal(f"{unknown[0]}: no such setting; " + suggest(unknown[0], known))
    with refusing(words):
        typed_root = OmegaConf.merge(OmegaConf.structured(Settings), cfg)
        values: dict[str, Any] = OmegaConf.to_container(typed_root, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    for key in ("lr", "graph_gb", "basis_gb"):
        if not (math.isfinite(values[key]) and values[key] > 0):
            raise Refusal(f"{key}={values[key]}: give a finite number above 0")
    for key in ("chunk", "measure_examples", "threads"):
        if values[key] is not None and values[key] < 1:
            raise Refusal(f"{key}={values[key]}: give a whole number of at least 1")
    values["measure_every"] = spelled(values["measure_every"], "measure_every")
    values |= {key: length(values[key], key) for key in ("steps", "checkpoint_every") if values[key] is not None}
    if values["batch_size"] != "full" and not (_whole(values["batch_size"]) and values["batch_size"] > 0):
        raise Refusal(f"batch_size={values['batch_size']}: give a whole number of at least 1, or full")
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", values["device"]):
        raise Refusal(f"device={values['device']}: possible: auto, cpu, cuda, cuda:N, mps")
    if (word := values["compile"].lower()) not in ("auto", "true", "false"):
        raise Refusal(f"compile={values['compile']}: possible: auto, true, false")
    values["compile"] = word
    _check_replicas(values["replicas"])
    values["method"] = _label(values, words)
    trust = values["trust"]
    for group in GROUPS:
        if group in SEVERAL:
            parts = {key: part for key, part in (values[group] or {}).items() if not _left_over(part, f"{group}.{key}", words)}
            values[group] = {key: typed(part, f"{group}.{key}", trust) for key, part in parts.items()}
        elif values[group]:
            values[group] = typed(values[group], group, trust)
        elif group not in ("data", "model", "loss"):
            raise Refusal(f"{group} is missing: give {group}=..., possible: {', '.join(options(group))}")
    _hash_file(values)
    local = {key: values.pop(key) for key in LOCAL}
    return Checked({key: value for key, value in values.items() if value is not None}, local)


def _check_replicas(wanted: Any) -> None:
    possible = "give a number of seeds from 1, or a mapping from settings to lists, as in replicas={lr:[0.1,0.2],seed:8}"
    if isinstance(wanted, Mapping):
        for key, values in wanted.items():
            count = key == "seed" and _whole(values) and values > 0
            if key == "seed" and isinstance(values, list) and not all(_whole(value) for value in values):
                raise Refusal(f"replicas.seed={values}: seeds are whole numbers; {possible}")
            if not count and not (isinstance(values, list) and values and len(values) == len(set(values))):
                raise Refusal(f"replicas.{key}={values}: {possible}")
    if not wanted or not (isinstance(wanted, Mapping) or (_whole(wanted) and wanted > 0)):
        raise Refusal(f"replicas={wanted}: {possible}")


def typed(part: Any, where: str, trust: Sequence[str]) -> dict[str, Any]:
    """A part's values in the types that its target's annotations state, its keys being exactly the target's."""
    if not isinstance(part, Mapping) or "_target_" not in part:
        raise Refusal(f"{where}={part}: a part is chosen by its name, or given as a mapping with a _target_")
    target = resolve(part["_target_"], where, trust)
    hints, wanted = hyperparameters(target)
    given = {key: value for key, value in part.items() if key != "_target_"}
    every = {"every": spelled(given.pop("every"), f"{where}.every")} if "every" in given else {}
    if extra := [key for key in given if key not in wanted]:
        raise Refusal(
            f"{where}.{extra[0]}={given[extra[0]]}: {target.__name__} does not take it; "
            f"possible: {', '.join(wanted) or 'nothing'}"
        )
    if missing := [key for key in wanted if key not in given]:
        raise Refusal(f"{where}.{missing[0]} is missing: {target.__name__} needs it; give {where}.{missing[0]}=...")
    out: dict[str, Any] = {"_target_": part["_target_"], **every}
    for key in wanted:
        value, name = given[key], f"{where}.{key}"
        if isinstance(value, Mapping) and "_target_" in value:
            out[key] = typed(value, name, trust)
        else:
            out[key] = _coerced(value, hints.get(key, Any), name)
    return out


def hyperparameters(target: Callable[..., Any]) -> tuple[dict[str, Any], list[str]]:
    """The annotations and the names of what yaml must say: keyword-only parameters, or a class's own."""
    signature = inspect.signature(target)
    if inspect.isclass(target):
        return get_type_hints(target), [name for name, p in signature.parameters.items() if p.kind is not p.VAR_KEYWORD]
    return get_type_hints(target), [name for name, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY]


def resolve(path: str, where: str, trust: Sequence[str]) -> Callable[..., Any]:
    """The function or class that a `_target_` names; only from this package or from one that the user trusts."""
    module, _, name = str(path).rpartition(".")
    roots = (PACKAGE, *trust)

    def refuse() -> Refusal:
        root = str(path).split(".")[0]
        return Refusal(f"{where}._target_={path}: code outside {PACKAGE}; if you trust it, say so: trust=[{root}]")

    if not any(module == root or module.startswith(root + ".") for root in roots):
        raise refuse()
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        target = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as problem:
        raise Refusal(f"{where}._target_={path}: not found ({problem})") from None
    home = getattr(target, "__module__", "") or ""
    if not any(home == root or home.startswith(root + ".") for root in roots):
        raise refuse()  # reached through a module of ours, but defined elsewhere
    if not callable(target):
        raise Refusal(f"{where}._target_={path}: neither a function nor a class")
    return target


def _coerced(value: Any, hint: Any, name: str) -> Any:
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise Refusal(f"{name}={value}: " + suggest(str(value), [str(word) for word in get_args(hint)]))
        return value
    try:
        schema = OmegaConf.structured(make_dataclass("Part", [("value", hint)]))
    except OmegaConfBaseException:
        schema = OmegaConf.create({"value": None})  # an annotation that OmegaConf does not know: a part of its own
    try:
        out = OmegaConf.to_container(OmegaConf.merge(schema, {"value": value}))["value"]  # type: ignore[index,call-overload]
    except OmegaConfBaseException as problem:
        if get_origin(hint) is list and not isinstance(value, list):
            raise Refusal(f"{name}={value}: give a list, as in {name}=[{value}]") from None
        raise Refusal(re.sub(r"^value(?=[=\[])", name, explain(problem, ()))) from None
    for number in out if isinstance(out, list) else [out]:
        if isinstance(number, float) and not math.isfinite(number):
            raise Refusal(f"{name}={number}: give a finite number")
    return out


def _left_over(part: Any, where: str, words: Sequence[str]) -> bool:
    """Whether these are an experiment's values for a part that another word, such as method=sgd, has switched off."""
    return isinstance(part, Mapping) and "_target_" not in part and not any(w.lstrip("+~").startswith(where) for w in words)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _hash_file(values: dict[str, Any]) -> None:
    data = values["data"] or {}
    if "file" not in data or "sha256" not in data:
        return
    try:
        found = hashlib.sha256(Path(data["file"]).read_bytes()).hexdigest()
    except OSError as problem:
        raise Refusal(f"data.file={data['file']}: cannot be read ({problem.strerror}); name an existing .npz") from None
    if data["sha256"] not in ("", found):
        raise Refusal(f"data.file={data['file']}: its content has changed since this run; restore the file, or start a new run")
    values["data"] = data | {"file": str(Path(data["file"]).absolute()), "sha256": found}


def _label(values: dict[str, Any], words: Sequence[str]) -> str:
    """The preset's name, or `custom` where the words on the command line contradict what the preset says it is."""
    file = CONF / "method" / f"{values['method']}.yaml"
    if not file.exists():
        return values["method"]
    preset = yaml.safe_load(file.read_text())
    chosen = {word.split("=", 1)[0]: word.split("=", 1)[1] for word in words if "=" in word}
    for line in preset["defaults"]:
        ((key, choice),) = line.items()
        group = key.removeprefix("override /")
        if group in chosen and yaml.safe_load(chosen[group]) not in (choice, [choice]):
            return "custom"
    full = values["batch_size"] == "full"
    return "custom" if "batch_size" in preset and (preset["batch_size"] == "full") != full else values["method"]


# --- checked values -> objects ---------------------------------------------------------------------------------------


def part(values: Mapping[str, Any], trust: Sequence[str], where: str) -> Any:
    """What a checked part builds: a class's object, or a function with its hyperparameters filled in.

    What the function takes by position is supplied by name when it is called; it is handed only what it names.
    """
    target = resolve(values["_target_"], where, trust)
    keywords = {
        key: part(value, trust, f"{where}.{key}") if isinstance(value, Mapping) and "_target_" in value else value
        for key, value in values.items()
        if key not in ("_target_", "every")
    }
    if inspect.isclass(target) and where.split(".", maxsplit=1)[0] != "model":
        return target(**keywords)
    if inspect.isclass(target):  # a user's own network class: built once the data's shape is known
        return lambda shape, outputs: target(**keywords)
    return Part(target, keywords, tuple(positional(target)))


@dataclass(frozen=True)
class Part:
    """A function with its hyperparameters filled in; what it `takes` by position is looked up once, since an objective is
    called at every step."""

    target: Callable[..., Any]
    keywords: dict[str, Any]
    takes: tuple[str, ...]

    def __call__(self, *given: Any, **supply: Any) -> Any:
        """The function's value, given by name what it takes."""
        return self.target(*given, **{key: supply[key] for key in self.takes if key in supply}, **self.keywords)


def optional(target: Callable[..., Any]) -> list[str]:
    """Those of the supplied parameters that a part can do without: they may be None."""
    hints = get_type_hints(target)
    return [name for name in positional(target) if type(None) in get_args(hints.get(name))]


def positional(target: Callable[..., Any]) -> list[str]:
    """The names of what the lab supplies to a part."""
    parameters = inspect.signature(target).parameters.values()
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
