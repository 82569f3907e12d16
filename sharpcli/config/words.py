"""From the arguments of the command line to a config, by Hydra; and one line for each thing that Hydra cannot
read."""

from __future__ import annotations

import difflib
import re
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from sharpcli import CONF
from sharpcli.config.former import RENAMED
from sharpcli.config.settings import GROUPS, METHODS, NAMES, OF_PROBLEM
from sharpcli.errors import Refusal

NO_VALUE = re.compile(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", re.S)
NOT_OF_TYPE = re.compile(r"Value '(.*)' (?:\(\w+\) )?is (?:not a valid|incompatible with type hint) (\S+)")
TYPES = {  # OmegaConf's names of types, and Python's
    "Float": "a number",
    "float": "a number",
    "Integer": "a whole number",
    "int": "a whole number",
    "Boolean": "true or false",
    "bool": "true or false",
    "str": "a word",
}


def compose(
    overrides: Sequence[str], config_dir: str | None = None, name: str = "config", hydra: bool = False
) -> DictConfig:
    """The config that Hydra makes of overrides such as `lr=0.1`. Refuses an override that Hydra does not
    understand, and a setting by a name that it had in an earlier version."""
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        refuse_renamed(key, override, value)
    search = [f"hydra.searchpath=[file://{Path(config_dir).absolute()}]"] if config_dir else []
    with refusing(overrides), initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra_compose(name, overrides=[*overrides, *search], return_hydra_config=hydra)


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
    except (ValueError, AssertionError) as problem:  # what Hydra asks of its own input, such as data=null
        if not re.search(
            r"/(hydra|omegaconf|antlr4)/", traceback.extract_tb(problem.__traceback__)[-1].filename
        ):
            raise  # a mistake of ours is a traceback
        raise Refusal(_of_no_group(overrides) or f"{' '.join(overrides)}: {problem}") from None


def explain(problem: Exception, overrides: Sequence[str]) -> str:
    """One line for an exception of Hydra or OmegaConf: what came, what is possible, what to do."""
    text = f"{problem}\n{problem.__cause__ or ''}"
    if match := re.search(r"Could not (?:find|load) '([\w/]+)/([^'/]*)'", text):
        group, came = match.groups()
        possible = options(group) or re.findall(r"^\t(\S+)", text, re.M)
        return f"{group}={came}: no such {group}; " + suggest(came, possible)
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match[1]
        came = next((override for override in overrides if override.lstrip("+~").split("=")[0] == key), key)
        near = suggest(key, _settings_near(overrides, key))
        return f"{came}: no such setting; {near} (sharp train --help lists all)"
    if match := re.search(r"Key '(\w+)' not in 'Settings'", text):
        refuse_renamed(match[1], match[1])
        return f"{match[1]}: no such setting; {suggest(match[1], NAMES)}"
    if isinstance(problem, MissingMandatoryValue):
        return f"{problem.full_key} is missing: give {problem.full_key}=..."
    if match := NO_VALUE.search(text) or NOT_OF_TYPE.search(text):
        key_match = re.search(r"full_key: (\S+)", text)
        setting = f"{key_match[1]}=" if key_match else ""
        kind = match[2].strip("'\"")
        return f"{setting}{match[1]}: not {TYPES.get(kind, f'a value of type {kind}')}"
    return re.sub(r"See https://hydra\S+ for details|full_key:.*", "", " ".join(text.split())).strip()


def suggest(came: str, possible: Sequence[str]) -> str:
    """`did you mean X?` where a possible word is close to `came`, and all that are possible."""
    close = difflib.get_close_matches(came, possible, n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    return f"{meant}possible: {', '.join(sorted(possible)) or 'nothing'}"


def options(group: str) -> list[str]:
    """The names of the options in conf/<group>/."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def _of_no_group(overrides: Sequence[str]) -> str | None:
    """One line for a setting of the data, model or loss that a toy does not have: OmegaConf reports it as a
    wrong type of the config's root. None for other overrides."""
    if not any(override.startswith("problem=") for override in overrides):
        return None
    of_group = re.compile(rf"({'|'.join(OF_PROBLEM)})\.\w+(\.\w+)*=")
    override = next((override for override in overrides if of_group.match(override)), None)
    if override is None:
        return None
    group = override.partition(".")[0]
    advice = "for your own file add data=table" if group == "data" else "leave it out"
    return f"{override}: this problem has no {group}; {advice}, or use problem=network"


def _settings_near(overrides: Sequence[str], key: str) -> list[str]:
    """The settings beside `key`: those of the root, or those of the part that `key` is in."""
    if "." not in key:
        return [*NAMES, "experiment"]
    choices = [o for o in overrides if o.split("=")[0].split("@")[0] in (*GROUPS, *METHODS)]
    prefix = key.rsplit(".", 1)[0]
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            node = OmegaConf.select(hydra_compose("config", overrides=choices), prefix)
    except (HydraException, OmegaConfBaseException):
        return []
    return [f"{prefix}.{k!s}" for k in node if k != "_target_"] if isinstance(node, DictConfig) else []
