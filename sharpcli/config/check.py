"""From a config to plain checked values: each of its type and in its range, every part's keys exactly its
target's."""

from __future__ import annotations

import hashlib
import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from functools import cached_property
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sharpcli.config import former
from sharpcli.config.folders import options
from sharpcli.config.identity import DIGITS, hash_of
from sharpcli.config.methods import method_label
from sharpcli.config.paths import expanded, path_given, text_of
from sharpcli.config.settings import GROUPS, LOCAL, NAMES, Plain, Settings
from sharpcli.config.targets import hyperparameters, is_of_part, is_path, is_text, parts, resolve
from sharpcli.config.words import explain, of_setting, places, refusing, suggest
from sharpcli.due import is_count, length, spelled
from sharpcli.errors import Refusal

LARGEST = 2**63 - 1  # whole number that PyTorch takes
HALVES = ("bf16", "fp16")  # precisions of training steps, as landscape.half_precision has them
MOST_REPLICAS = 10**4  # each takes memory of its own, and 2.5 ms before the first step
SEEDS = (
    "give a number of seeds from 1, or a mapping from settings to lists, as in replicas={lr:[0.1,0.2],seed:8}"
)


@dataclass(frozen=True)
class Checked:
    """`config`, plain values that decide the numbers; `local`, those that do not; `contents`, the SHA-256 of
    the files that the config names, by setting (`data.file`). `follows`, the interpolations that settings of
    `config` were composed as, by setting (`measure.batch_sharpness.batch_size`): they follow another
    setting."""

    config: dict[str, Any]
    local: dict[str, Any]
    contents: dict[str, str] = field(default_factory=dict)
    follows: dict[str, str] = field(default_factory=dict)

    @cached_property
    def hash(self) -> str:
        """16 hex digits of what decides the numbers: a part by its name, a file by its content; not the
        method's label."""
        return hash_of(self.config, self.contents)

    def name_with(self, *contents: str) -> str:
        """The name with a hash of the data's `contents`: for a run where `name` is taken by a run on other
        data."""
        return f"{self.name}-{former.digest({'contents': list(contents)})[:DIGITS]}"

    @property
    def contents_key(self) -> str:
        """The contents in one string: what was loaded is loaded again only where a file has not changed."""
        return former.digest(self.contents)

    @cached_property
    def former_hash(self) -> str:
        """The hash that the same run had in a directory of format 1."""
        return former.hash_1(self.config, self.contents)

    @property
    def name(self) -> str:
        """<method>-<problem>-lr<lr>-seed<seed>-<hash>, the run's directory; with replicas of several lr
        lr<least>to<largest>."""
        problem = self.config["problem"]["_target_"].rsplit(".", 1)[-1]
        replicas, lr = self.config["replicas"], f"{self.config['lr']:g}"
        if isinstance(replicas, Mapping) and (listed := replicas.get("lr")):
            numbers = sorted({float(value) for value in listed if _is_number(value)})
            lr = (
                "to".join(f"{value:g}" for value in dict.fromkeys((numbers[0], numbers[-1])))
                if numbers
                else lr
            )
        return f"{self.config['method']}-{problem}-lr{lr}-seed{self.config['seed']}-{self.hash}"


def check(cfg: DictConfig | Mapping[str, Any], overrides: Sequence[str] = ()) -> Checked:
    """Every value resolved, of its type and in its range, or a refusal; nothing is built. `overrides` are the
    arguments that `cfg` was composed of, for the refusal's wording."""
    values = _plain(cfg, overrides)
    _check_ranges(values)
    for key, parse in PARSE.items():
        if values[key] is not None or key in NEVER_NULL:
            values[key] = parse(values[key], key)
    contents = _check_parts(values, overrides)
    values["method"] = method_label(values)
    local = {key: values.pop(key) for key in LOCAL}
    config = {key: value for key, value in values.items() if value is not None}
    follows = _interpolations(OmegaConf.create(dict(cfg)))
    follows = {setting: text for setting, text in follows.items() if setting.split(".")[0] in config}
    return Checked(config, local, contents, follows)


def stored(config: Mapping[str, Any]) -> DictConfig:
    """The config that a run's directory holds, as the literal values that it is.

    A run may come from somebody else: of what changes no number (trust, folders, device, threads) nothing is
    read from its config, and `${oc.env:HOME}` in it is a text. Refuses values that no run of sharp has.
    """
    try:
        return OmegaConf.create({key: literal(v) for key, v in config.items() if key not in LOCAL})
    except OmegaConfBaseException as problem:
        first_line = str(problem).split("\n", maxsplit=1)[0]
        raise Refusal(f"config.yaml: {first_line}; restore the file") from None


def literal(value: Any) -> Any:
    """A value in which OmegaConf reads each text as it stands: `${` is escaped, and the backslashes before
    it."""
    if isinstance(value, Mapping):
        return {key: literal(v) for key, v in value.items()}
    if isinstance(value, list):
        return [literal(v) for v in value]
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return value


def _interpolations(part: Any, prefix: str = "") -> dict[str, str]:
    """The settings of a config, or of a part of it, that are interpolations, by their dotted names."""
    out: dict[str, str] = {}
    for key in part:
        if OmegaConf.is_interpolation(part, key):
            raw: Any = OmegaConf.to_container(part, resolve=False)
            out[f"{prefix}{key}"] = raw[key]
        elif not OmegaConf.is_missing(part, key) and OmegaConf.is_dict(part[key]):
            out |= _interpolations(part[key], f"{prefix}{key}.")
    return out


def _plain(cfg: DictConfig | Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The settings in their own types, interpolations resolved."""
    if unknown := [str(key) for key in cfg if key not in (*NAMES, "hydra")]:
        root = (o for o in overrides if re.match(rf"\+*{re.escape(unknown[0])}\b", o))
        came = next(root, unknown[0])
        raise Refusal(f"{came}: no such setting; {of_setting(unknown[0], '...', {})}")
    with refusing(overrides):
        merged = OmegaConf.merge(OmegaConf.structured(Settings), cfg)
        values: Any = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    return values


def _check_ranges(values: Mapping[str, Any]) -> None:
    for f in fields(Plain):
        value, above, least = values[f.name], f.metadata.get("above"), f.metadata.get("least")
        if (most := f.metadata.get("most")) is not None and value is not None and value > most:
            raise Refusal(f"{f.name}={value}: give at most {most:.10g}")
        if above is not None and value is not None and not (math.isfinite(value) and value > above):
            raise Refusal(f"{f.name}={value}: give a finite number above {above}")
        if least is not None and value is not None and value < least:
            raise Refusal(f"{f.name}={value}: give a whole number of at least {least}")


def _batch_size(value: Any, key: str) -> int | str:
    if value != "full" and not (is_count(value) and value > 0):
        raise Refusal(f"{key}={value}: give a whole number of at least 1, or full")
    return value


def _device(value: str, key: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,4})?", value):
        meant = "did you mean cuda? " if "gpu" in value.lower() else ""
        raise Refusal(f"{key}={value}: {meant}possible: auto, cpu, cuda, cuda:N, mps")
    return value


def _path(value: str, key: str) -> str:
    """A path, or the name of a run, with `~` as the user's home."""
    if re.fullmatch(
        r"\d(\.\d+)?e\+\d+", value
    ):  # of a yaml without quotation marks, which is read as a number
        raise Refusal(f"{key}={value}: a number; in yaml, put the name in quotation marks")
    return str(path_given(value, key))


def _label(value: str, key: str) -> str:
    """A word that can be part of a directory's name."""
    if not re.fullmatch(r"[\w.=+@-]{1,80}", value):
        raise Refusal(f"{key}={value}: give at most 80 letters, digits and -_.=+@, for the name of the run")
    return value


def _auto_or(value: str, key: str) -> str:
    if value.lower() not in ("auto", "true", "false"):
        raise Refusal(f"{key}={value}: possible: auto, true, false")
    return value.lower()


def _half(value: str, key: str) -> str:
    if value not in HALVES:
        raise Refusal(f"{key}={value}: possible: {', '.join(HALVES)}, or null, which trains in problem.dtype")
    return value


def _replicas(value: Any, key: str) -> Any:
    """A number of seeds, or a mapping from settings to the lists of their values; `seed` may be a number
    there too."""
    if not (isinstance(value, Mapping) and value) and not (is_count(value) and value > 0):
        raise Refusal(f"{key}={value}: {SEEDS}")
    for setting, listed in value.items() if isinstance(value, Mapping) else ():
        if setting == "seed" and is_count(listed) and listed > 0:
            continue
        if not isinstance(listed, list) or not listed or len(listed) != len(set(map(str, listed))):
            raise Refusal(f"{key}.{setting}={listed}: {SEEDS}")
        if setting == "seed" and not all(isinstance(v, int) and not isinstance(v, bool) for v in listed):
            raise Refusal(f"{key}.seed={listed}: seeds are whole numbers; {SEEDS}")
    counts = value.values() if isinstance(value, Mapping) else [value]
    total = math.prod(len(count) if isinstance(count, list) else count for count in counts)
    if total > MOST_REPLICAS:
        raise Refusal(f"{key}={value}: {total} replicas; give at most {MOST_REPLICAS}")
    return value


def _is_number(value: Any) -> bool:
    """Whether a value of a list is a number, also as a text such as 1e-3, which yaml takes for a word."""
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _packages(value: list[Any], key: str) -> list[str]:
    if wrong := [name for name in value if not re.fullmatch(r"[^\W\d]\w*(\.\w+)*", str(name))]:
        raise Refusal(
            f"{key}={value}: {wrong[0]} is the name of no package; give names, as in trust=[my_nets]"
        )
    return value


PARSE: dict[str, Callable[[Any, str], Any]] = {
    "measure_every": spelled,
    "steps": length,
    "checkpoint_every": length,
    "batch_size": _batch_size,
    "device": _device,
    "compile_products": _auto_or,
    "split_state": _auto_or,
    "compile_step": _auto_or,
    "precision": _half,
    "replicas": _replicas,
    "trust": _packages,
    "method": _label,
    "runs_dir": _path,
    "data_dir": _path,
    "init_from": _path,
}
NEVER_NULL = [f.name for f in fields(Plain) if f.name in PARSE and f.default is not None]


def _check_parts(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, str]:
    """Replaces each part by its checked values; returns the contents of the files that they name."""
    trust, contents = values["trust"], dict[str, str]()
    came = {o.lstrip("+").partition("=")[0]: text_of(o.partition("=")[2]) for o in overrides}
    for name, group in GROUPS.items():
        values[name] = _with_texts(values[name], name, trust, came)
        if group.several:
            chosen = values[name] or {}
            if not isinstance(chosen, Mapping):
                raise Refusal(f"{name}={chosen}: give names in brackets, as in {name}=[{options(name)[0]}]")
            kept = {
                key: part
                for key, part in chosen.items()
                if not _is_leftover(part, f"{name}.{key}", overrides)
            }
            values[name] = {key: typed(part, f"{name}.{key}", trust, name) for key, part in kept.items()}
            for key, part in values[name].items():
                contents |= _contents(part, f"{name}.{key}", trust)
        elif values[name]:
            values[name] = typed(values[name], name, trust, name)
            contents |= _contents(values[name], name, trust)
        elif not group.of_problem:
            raise Refusal(f"{name} is missing: give {name}=..., possible: {', '.join(options(name))}")
    return contents


def _with_texts(values: Any, where: str, trust: Sequence[str], came: Mapping[str, str]) -> Any:
    """A part's values with each text as it came on the command line, `where` it is for a parameter that is a
    text or a path: Hydra reads 45303e66 as a number and {a} as a mapping."""
    if not isinstance(values, Mapping) or not any(key.startswith(f"{where}.") for key in came):
        return values
    out = {str(key): _with_texts(value, f"{where}.{key}", trust, came) for key, value in values.items()}
    if "_target_" in values:
        hints, _, _ = hyperparameters(resolve(values["_target_"], where, trust))
        for key, value in values.items():
            text, hint = came.get(f"{where}.{key}"), hints.get(key)
            is_null = value is None and type(None) in get_args(hint)
            if text is not None and is_text(hint) and not isinstance(value, str) and not is_null:
                out[key] = text
    return out


def typed(part: Any, where: str, trust: Sequence[str], group: str = "") -> dict[str, Any]:
    """A part's values in the types that its target's annotations state, its keys being exactly the target's.

    With a `group`, a part of this package must be one that the group's folder in conf/ names, or a preset for
    it: a data set in the place of a measure would be called as a measure.
    """
    if not isinstance(part, Mapping) or not isinstance(part.get("_target_"), str):
        raise Refusal(f"{where}={part}: a part is chosen by its name, or given as a mapping with a _target_")
    target = resolve(part["_target_"], where, trust)
    if group and not parts().get(part["_target_"], frozenset({group})) & {group, "method"}:
        raise Refusal(
            f"{where}._target_={part['_target_']}: no {group}; possible: {', '.join(options(group))}"
        )
    hints, needed, taken = hyperparameters(target)
    given = {key: value for key, value in part.items() if key != "_target_"}
    every = {"every": spelled(given.pop("every"), f"{where}.every")} if "every" in given else {}
    if extra := [key for key in given if key not in taken]:
        setting = f"{where}.{extra[0]}"
        possible = f"possible: {', '.join(taken)}" if taken else "it has no settings"
        there = f", and {' or '.join(places()[setting][:3])} does" if setting in places() else ""
        raise Refusal(f"{setting}={given[extra[0]]}: {target.__name__} does not take it{there}; {possible}")
    if missing := [key for key in needed if key not in given]:
        setting = f"{where}.{missing[0]}"
        raise Refusal(f"{setting} is missing: {target.__name__} needs it; give {setting}=...")
    out: dict[str, Any] = {"_target_": part["_target_"], **every}
    defaults = inspect.signature(target).parameters
    for key in (
        taken
    ):  # a default of a user's own part is written down too: the config is the whole truth about a run
        value, setting = given.get(key, defaults[key].default), f"{where}.{key}"
        if key not in given and not isinstance(value, int | float | str | list | tuple | dict | None):
            continue  # an object that yaml cannot hold
        if isinstance(value, Mapping) and "_target_" in value:
            out[key] = typed(value, setting, trust, group)
        else:
            out[key] = _coerced(value, hints.get(key, Any), setting)
    return out


def _coerced(value: Any, hint: Any, setting: str) -> Any:
    """A value in the type that an annotation states: plain, finite, and one of a `Literal`'s words."""
    inside = [kind for kind in get_args(hint) if kind is not type(None)]
    if type(None) in get_args(hint) and len(inside) == 1 and get_origin(inside[0]) is Literal:
        return None if value is None else _coerced(value, inside[0], setting)
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise Refusal(
                f"{setting}={value}: " + suggest(str(value), [str(word) for word in get_args(hint)])
            )
        return value
    if is_text(hint) and isinstance(value, bool | int | float | list | dict):
        raise Refusal(f"{setting}={value}: not a text; put it in quotation marks")
    if is_path(hint):
        return None if value is None else str(expanded(value).absolute())
    if is_of_part(hint) and not isinstance(value, Mapping):
        inner = f"{setting.partition('.')[0]}@{setting}"
        raise Refusal(
            f"{setting}={value}: this is a part; choose it by name, {inner}=..., or give {setting}._target_="
        )
    out = value if _has_type(value, hint) else _converted(value, hint, setting)
    is_flat = get_origin(hint) is list and not get_origin(get_args(hint)[0]) and get_args(hint)[0] is not Any
    if is_flat and any(isinstance(inner, list | dict) for inner in out or ()):
        raise Refusal(f"{setting}={value}: give a list of values, and no list or mapping in it")
    for number in _numbers_in(out):
        if not math.isfinite(number):
            raise Refusal(f"{setting}={number}: give a finite number")
        if isinstance(number, int) and not -LARGEST <= number <= LARGEST:
            raise Refusal(f"{setting}={number}: give a whole number of at most {LARGEST}, as 64 bits hold")
    return out


def _has_type(value: Any, hint: Any) -> bool:
    """Whether a value is of a plain type that the annotation names, and needs no conversion: OmegaConf takes
    4 ms to say so."""
    is_union = get_origin(hint) in (Union, UnionType)
    kinds = set(get_args(hint)) if is_union else {hint}
    return type(value) in kinds and kinds <= {bool, int, float, str, type(None)}


def _converted(value: Any, hint: Any, setting: str) -> Any:
    """A value as OmegaConf converts it to the type of an annotation. Refuses what it does not."""
    try:
        schema = OmegaConf.structured(make_dataclass("Part", [("value", hint)]))
    except OmegaConfBaseException:
        schema = OmegaConf.create(
            {"value": None}
        )  # an annotation that OmegaConf does not know: a part of its own
    try:
        OmegaConf.merge(schema, {"value": _unmarked(value)})  # a text with the mark would pass for any type
        merged: Any = OmegaConf.to_container(OmegaConf.merge(schema, {"value": literal(value)}), resolve=True)
    except OmegaConfBaseException as problem:
        raise _not_of_type(value, hint, setting, problem) from None
    return merged["value"]


def _not_of_type(value: Any, hint: Any, setting: str, problem: OmegaConfBaseException) -> Refusal:
    """The line for a value that is not of an annotation's type."""
    if get_origin(hint) is list and not isinstance(value, list):
        if value is None:
            return Refusal(f"{setting}=null: give a list, [] for an empty one")
        return Refusal(f"{setting}={value}: give a list, as in {setting}=[{value}]")
    if any(get_origin(kind) is dict for kind in (hint, *get_args(hint))) and not isinstance(value, Mapping):
        return Refusal(f"{setting}={value}: give a mapping, as in {setting}={{name:1}}")
    reason = re.sub(r"^value(?=[=\[])", setting, explain(problem, ()))
    if not reason.startswith(setting):  # OmegaConf does not name the field of every fault
        reason = f"{setting}={'null' if value is None else value}: {reason}"
    return Refusal(reason)


def _numbers_in(value: Any) -> Iterator[int | float]:
    """The numbers in nested lists and mappings."""
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, list | Mapping):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _numbers_in(inner)


def _unmarked(value: Any) -> Any:
    """Nested values whose texts have no mark of an interpolation, which OmegaConf takes for every type."""
    if isinstance(value, Mapping):
        return {key: _unmarked(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_unmarked(inner) for inner in value]
    return value.replace("${", "$ {") if isinstance(value, str) else value


def _is_leftover(part: Any, where: str, overrides: Sequence[str]) -> bool:
    """Whether a part is a leftover: values without a `_target_`, which an experiment sets for a part that
    another argument, such as method=sgd, has removed."""
    mentioned = any(override.lstrip("+~").startswith(where) for override in overrides)
    return isinstance(part, Mapping) and "_target_" not in part and not mentioned


def _content(file: Path, setting: str) -> str:
    """The SHA-256 of a file; of a folder, that of the names and contents of all files in it. Refuses what is
    neither: a pipe or a device may never end."""
    try:
        if file.is_dir():
            inside = sorted(f for f in file.rglob("*") if f.is_file())
            named = "".join(f"{f.relative_to(file)}\0{_content(f, setting)}\n" for f in inside)
            return hashlib.sha256(named.encode()).hexdigest()
        if file.exists() and not file.is_file():
            raise Refusal(f"{setting}={file}: a pipe or a device; name a file")
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise Refusal(f"{setting}={file}: cannot be read ({reason}); name an existing file") from None


def _contents(part: Mapping[str, Any], where: str, trust: Sequence[str]) -> dict[str, str]:
    """The SHA-256 of each file that a part names: its parameters annotated as `Path` count by content, not by
    place."""
    hints, _, taken = hyperparameters(resolve(part["_target_"], where, trust))
    out: dict[str, str] = {}
    for key in taken:
        value = part.get(key)
        if isinstance(value, Mapping) and "_target_" in value:
            out |= _contents(value, f"{where}.{key}", trust)
        elif is_path(hints.get(key)) and isinstance(value, str):
            out[f"{where}.{key}"] = _content(Path(value), f"{where}.{key}")
    return out
