"""From the arguments of the command line to a config, by Hydra; and one line for each thing that Hydra cannot
read."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from sharpcli import CONF
from sharpcli.config.elsewhere import choice, of_option, of_setting, places, suggest
from sharpcli.config.folders import options, own_folder
from sharpcli.config.former import RENAMED
from sharpcli.config.own_parts import store_own_parts
from sharpcli.config.quoting import quoted
from sharpcli.config.settings import GROUPS, METHODS, OF_PROBLEM
from sharpcli.config.stated import stated
from sharpcli.errors import Refusal

__all__ = ["compose", "explain", "of_setting", "places", "suggest"]
OmegaConf.register_new_resolver("stated", stated, replace=True)
NO_VALUE = re.compile(r"Value '(.*)' of type '[\w.]+' could not be converted to (\w+)", re.S)
NOT_OF_TYPE = re.compile(
    r"Value '(.*)' (?:\(\w+\) )?is (?:not a valid|incompatible with type hint) (\S+)", re.S
)
TYPES = {  # OmegaConf's names of types, and Python's
    "Float": "a number",
    "float": "a number",
    "Integer": "a whole number",
    "int": "a whole number",
    "Boolean": "true or false",
    "bool": "true or false",
    "str": "a word",
}
CHOSEN = {*GROUPS, *METHODS}  # the groups of conf/
LAUNCHER = "hydra/launcher"  # Hydra's group, of which `launcher=` is short
LIBRARIES = re.compile(r"[/\\](hydra|omegaconf|antlr4|yaml)[/\\]")


def compose(overrides: Sequence[str], name: str = "config", hydra: bool = False) -> DictConfig:
    """The config that Hydra makes of overrides such as `lr=0.1`, whose texts need no quotation marks
    (`quoting.py`). Refuses an override that Hydra does not understand, and a setting by a name that it had in
    an earlier version."""
    refuse_at_once(overrides)
    if not hydra and (config := _with_values(overrides, name)) is not None:
        return config
    with refusing(overrides), loading():
        return hydra_compose(name, overrides=quoted(overrides), return_hydra_config=hydra)


def _with_values(overrides: Sequence[str], name: str) -> DictConfig | None:
    """What Hydra composes of `overrides`, from a config of their choices of parts that was composed before:
    the jobs of a sweep differ in values, and a composition takes a quarter of a second. None where only Hydra
    can say: a user's folder or own part, Hydra's own settings, a change of the config's keys, a mistake."""
    if own_folder():
        return None
    try:
        parsed = OverridesParser.create().parse_overrides(quoted(overrides))
        values = [override for override in parsed if _sets_a_value(override)]
        choices = [override for override in parsed if not _sets_a_value(override)]
        if not all(map(_chooses_ours, choices)):
            return None
        config = _choices_composed(name, tuple(str(override.input_line) for override in choices)).copy()
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
    except Exception:  # Hydra meets the mistake again, and `refusing` says it in one line
        return None
    return config


@lru_cache(maxsize=64)
def _choices_composed(name: str, choices: tuple[str, ...]) -> DictConfig:
    """The config of these choices of parts with the values of conf/; not to be changed."""
    with loading():
        return hydra_compose(name, overrides=list(choices))


def _sets_a_value(override: Override) -> bool:
    """Whether it is key=value with the key of a value: neither a group, nor Hydra's, nor a sweep."""
    plain = override.type is OverrideType.CHANGE and override.package is None
    key = override.key_or_group
    special = override.is_sweep_override() or override.is_hydra_override() or "/" in key
    return plain and not special and not (CONF / key).is_dir()


def _chooses_ours(override: Override) -> bool:
    """Whether it is group=option, or group@place=option, with options of conf/ alone."""
    group, chosen = override.key_or_group, override.value()
    if override.type is not OverrideType.CHANGE or override.is_sweep_override() or group not in CHOSEN:
        return False
    return all(option in options(group) for option in (chosen if isinstance(chosen, list) else [chosen]))


def refuse_at_once(overrides: Sequence[str]) -> None:
    """Refuses former names of settings, and values that Hydra would pass over; and makes a user's own parts
    known to Hydra."""
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        refuse_renamed(key, override, value)
        if value.strip() == "???":  # Hydra's mark of a missing value, which would leave the default as it is
            raise Refusal(f"{override}: no value; give one, or leave {key}= out")
        listed = re.fullmatch(r"\[([^\[\]]*)\]", value.strip())
        if listed and "," in listed[1] and (key == "method" or (key in GROUPS and not GROUPS[key].several)):
            raise Refusal(  # Hydra would take the last of them
                f"{override}: a single {key} is possible; {key}={listed[1]} with -m makes a run of each"
            )
        if key in ("measure", "objective") and listed:
            names = [name.strip() for name in listed[1].split(",")]
            if twice := [
                name for name in names if name and names.count(name) > 1
            ]:  # of which Hydra takes one
                raise Refusal(f"{override}: {twice[0]} twice; name each {key} once")
    store_own_parts(overrides)


@contextmanager
def loading() -> Iterator[ConfigLoaderImpl]:
    """Hydra's loader of conf/ and of a user's own folder of groups, as `--config-dir` adds it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        assert isinstance(loader, ConfigLoaderImpl)
        if own := own_folder():
            search = loader.get_search_path()
            search.prepend("command-line", f"file://{own}", SearchPathQuery(provider="schema"))
            loader.repository.initialize_sources(search)
        yield loader


def with_overrides(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """A config changed by overrides in Hydra's grammar, as they would change it on the command line of `sharp
    train`. A setting that it does not have is added: a part refuses what it does not take."""
    with refusing(overrides):
        parsed = OverridesParser.create().parse_overrides(quoted(overrides))
        ConfigLoaderImpl.validate_sweep_overrides_legal(parsed, RunMode.RUN, from_shell=True)
        changed = config.copy()
        OmegaConf.set_struct(changed, False)
        ConfigLoaderImpl._apply_overrides_to_config(parsed, changed)
    return changed


def refuse_renamed(key: str, came: str, value: str = "") -> None:
    """Refuses a setting by the name that it had in an earlier version, and gives its name now."""
    if key in RENAMED:
        advice = f"give {RENAMED[key]}={value}" if value else f"write {RENAMED[key]}"
        raise Refusal(f"{came}: this setting is now called {RENAMED[key]}; {advice}")


@contextmanager
def refusing(overrides: Sequence[str]) -> Iterator[None]:
    """Turns an exception of Hydra or OmegaConf about a user's overrides into one line."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as problem:
        raise Refusal(explain(problem, overrides)) from None
    except RecursionError:
        raise Refusal(
            f"{_shortened(overrides)}: refers to itself, or has too many brackets in brackets"
        ) from None
    except Exception as problem:  # what Hydra asks of its own input, such as data=null
        if HydraConfig.initialized() or not LIBRARIES.search(
            traceback.extract_tb(problem.__traceback__)[-1].filename
        ):
            raise  # a mistake of ours is a traceback
        of_toy = "Unexpected type for root" in str(
            problem
        )  # what OmegaConf says of data.x=1 where data is null
        came = _nameless(overrides) or _of_group(overrides) or (_of_no_group(overrides) if of_toy else None)
        said = problem if isinstance(problem, ValueError | AssertionError | yaml.YAMLError) else repr(problem)
        raise Refusal(came or f"{_shortened(overrides)}: cannot be read ({str(said)[:200]})") from None


def _nameless(overrides: Sequence[str]) -> str:
    """The message for an override that names no setting, `=3`; empty where all do."""
    came = next((o for o in overrides if not o.partition("=")[0].strip()), None)
    return (
        "" if came is None else f"{came or repr(came)}: no name of a setting; a setting is written key=value"
    )


def _takes_a_list(key: str, value: str) -> bool:
    """Whether a setting takes several values at once, as objective= and model.widths= do."""
    if re.match(r"\s*\w+\(", value):  # a sweep by a function, as range(3)
        return False
    if key in CHOSEN:
        return key in GROUPS and GROUPS[key].several
    with suppress(Exception):  # a setting of a part that is not chosen by default
        return not isinstance(OmegaConf.select(compose([]), key), str | int | float)
    return True


def explain(problem: Exception, overrides: Sequence[str]) -> str:
    """One line for an exception of Hydra or OmegaConf: what came, what is possible, what to do."""
    text = f"{problem}\n{problem.__cause__ or ''}"
    if isinstance(problem, OverrideParseException):
        return _unreadable(problem, overrides)
    if match := re.search(
        r"(?:Ambiguous value for argument|Sweep parameters) '(.*?)'(?:\n| requires)", text, re.S
    ):
        key, _, value = match[1].partition("=")
        listed = f", or {key}=[{value}] for a list" if _takes_a_list(key, value) else ""
        return f"{match[1]}: several values; add -m for a run of each{listed}"
    if match := re.search(r"Could not (?:find|load) '([\w/]+)/([^'/]*)'", text):
        group, came = match.groups()
        possible = options(group) or re.findall(r"^\t(\w+)$", text, re.M)
        if group == LAUNCHER:  # Hydra names the plugins' own
            group, possible = "launcher", sorted({*possible, *re.findall(r"^\t(\w+)$", text, re.M)})
        return f"{group}={came}: no such {group}; " + (of_option(group, came) or suggest(came, possible))
    if match := re.search(r"Could not override '([^']+)'", text):
        return _no_such(match[1], overrides)
    if match := re.search(r"Key '(.*?)' not in 'Settings'", text):
        refuse_renamed(match[1], match[1])
        return _no_such(match[1], overrides)
    if match := re.search(
        r"merging override (\S+?)=(.*?)\s+Invalid value assigned: \w+ is not a ListConfig", text, re.S
    ):
        return f"{match[1]}={match[2]}: give a list, as in {match[1].lstrip('+')}=[{match[2]}]"
    if isinstance(problem, MissingMandatoryValue):
        return f"{problem.full_key} is missing: give {problem.full_key}=..."
    if match := NO_VALUE.search(text) or NOT_OF_TYPE.search(text):
        key_match = re.search(r"full_key: (\S+)", text)
        setting = f"{key_match[1]}=" if key_match else ""
        kind = match[2].strip("'\"")
        return f"{setting}{match[1]}: not {TYPES.get(kind, f'a value of type {kind}')}"
    if match := re.search(
        r"merging override (\S+?)=null field '[^']*' is not Optional", " ".join(text.split())
    ):
        key = match[1].lstrip("+")
        return f"{key}=null: this setting always has a value; leave {key}= out for its default"
    if match := re.search(r"Incompatible value 'None' for field of type '(\w+)'", text):
        key = getattr(problem.__cause__, "full_key", None) or getattr(problem, "full_key", None) or ""
        return f"{key}=null: not {TYPES.get(match[1], f'a value of type {match[1]}')}"
    said = re.sub(r"See https://hydra\S+ for details|full_key:.*", "", " ".join(text.split())).strip()
    key = getattr(problem.__cause__, "full_key", None) or getattr(problem, "full_key", None)
    said = f"{key}: {said}" if key and str(key) not in said else said
    named = any(override.partition("=")[0].lstrip("+~") in said for override in overrides)
    if of_group := _of_group(overrides):
        return of_group
    said = said if len(said) < 250 else f"{said[:250]}..."
    return said if named or not overrides else f"{_shortened(overrides)}: {said}"


def _no_such(key: str, overrides: Sequence[str]) -> str:
    """One line for a setting that the chosen parts do not have."""
    came = next((o for o in overrides if _key(o) == key), key)
    if (of_group := _of_group(overrides)) and came == key:
        return of_group
    if came == key:  # the first part of a dotted name, as `foo` of foo.bar=1
        came = next((o for o in overrides if _key(o).startswith(f"{key}.")), key)
    full, value = _key(came), came.partition("=")[2]
    if full.startswith(f"{LAUNCHER.replace('/', '.')}."):
        return _of_launcher(full.partition(".")[2], value, overrides)
    swept = [_key(o) for o in overrides if _key(o) in (*GROUPS, *METHODS) and re.search(r"=[^\[]*[,(]", o)]
    if swept and full in places():
        return f"{came}: not every {swept[0]} of the sweep has this setting; write ++{full}={value} to add it"
    advice = of_setting(full, value, _chosen(overrides))
    return f"{came}: no such setting; {advice} (sharp train --help lists all)"


def _of_launcher(full: str, value: str, overrides: Sequence[str]) -> str:
    """One line for a setting that the chosen launcher does not have."""
    chosen = [override for override in overrides if _key(override) == LAUNCHER]
    with loading():
        known = hydra_compose("config", overrides=chosen, return_hydra_config=True).hydra.launcher
    names = [str(name) for name in known if not str(name).startswith("_")]
    if not names:
        return f"{full}={value}: choose a launcher too, as in launcher=slurm"
    came = full.partition(".")[2]
    if came.partition(".")[0] in names:
        return f"{full}={value}: to add it, write +{full}={value}"
    return f"{full}={value}: no such setting of {chosen[-1].partition('/')[2]}; {suggest(came, names)}"


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _unreadable(problem: OverrideParseException, overrides: Sequence[str]) -> str:
    """One line for an override that is not in Hydra's grammar."""
    came = next((o for o, q in zip(overrides, quoted(overrides), strict=True) if q == problem.override), None)
    came = came or problem.override
    if "=" not in came:
        came = came or "''"
        return f"{came}: missing EQUAL: a setting is written key=value, and an option --option"
    said = " ".join(str(problem).split("See https://hydra")[0].split())
    said = re.sub(r"^Error parsing override '.*?' (?=\w)|LexerNoViableAltException: ", "", said, flags=re.S)
    said = re.sub(r" expecting .*", "", said)  # the names of Hydra's grammar
    said = said.replace(problem.override, "").replace(came, "").strip(" ^")
    said = f"cannot be read: {said}" if said else "cannot be read"
    return f"{came}: {said}; put a text in quotation marks, as in key=\"'a(b)'\""


def _shortened(overrides: Sequence[str]) -> str:
    return " ".join(overrides[-3:]) or "sharp train"


def _of_group(overrides: Sequence[str]) -> str | None:
    """One line for a group that is given something else than a name or a list of names, such as
    data=[[1]]."""
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key in (*GROUPS, *METHODS) and not re.fullmatch(
            r"(?!\d|.*\.\.)[\w./-]+|\[[\w, -]*(?<!\d)\]", value
        ):
            example = options(key)[0]
            return f"{override}: {key} is chosen by name, as in {choice(key, example)}; " + suggest(
                value, options(key)
            )
    return None


def _of_no_group(overrides: Sequence[str]) -> str | None:
    """One line for a setting of the data, model or loss that a toy does not have: OmegaConf reports it as a
    wrong type of the config's root. None for other overrides."""
    of_group = re.compile(rf"({'|'.join(OF_PROBLEM)})\.\w+(\.\w+)*=")
    override = next((override for override in overrides if of_group.match(override.lstrip("+~"))), None)
    if override is None:
        return None
    group = override.lstrip("+~").partition(".")[0]
    advice = "for your own file add data=table" if group == "data" else "leave it out"
    return f"{override}: this problem has no {group}; {advice}, or use problem=network"


def _chosen(overrides: Sequence[str]) -> Mapping[str, Any]:
    """The config of the parts that overrides choose, without their settings; empty where they do not make
    one."""
    choices = [o for o in overrides if o.split("=")[0].split("@")[0] in (*GROUPS, *METHODS)]
    try:
        with loading():
            made: Any = OmegaConf.to_container(hydra_compose("config", overrides=choices))
    except (HydraException, OmegaConfBaseException):
        return {}
    return made
