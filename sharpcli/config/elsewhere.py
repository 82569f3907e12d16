"""Where a setting is that a user wrote by another program's name, in another place, or with a slip.

The names of other programs stand beside the setting (`also` in settings.py); the places are read from conf/.
"""

from __future__ import annotations

import difflib
import functools
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from sharpcli.config.folders import options, own_folder, yaml_files
from sharpcli.config.settings import GROUPS, METHODS, NAMES, Plain

SHOWN = 3  # places that a message names at most


def suggest(came: str, possible: Sequence[str]) -> str:
    """`did you mean X?` where a possible word is close to `came`, and all that are possible, or those that
    fit on a line."""
    close = difflib.get_close_matches(came, possible, n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    listed = textwrap.shorten(", ".join(sorted(possible)) or "nothing", 200, placeholder=" ...")
    return f"{meant}possible: {listed}"


def choice(group: str, option: str) -> str:
    """How an option is chosen: `optimizer=sam`, `objective=[weight_decay]`."""
    return f"{group}=[{option}]" if group in GROUPS and GROUPS[group].several else f"{group}={option}"


def places() -> dict[str, list[str]]:
    """Of each setting of a part, by its dotted name, the choices under which it is there: {`optimizer.rho`:
    [`optimizer=sam`]}."""
    return _places(own_folder())


@functools.cache
def _places(_own: Path | None) -> dict[str, list[str]]:
    """The same, read once for each folder of a user's own."""
    out: dict[str, list[str]] = {}
    for group, kind in GROUPS.items():
        for option, file in yaml_files(group).items():
            text = file.read_text()
            values = yaml.safe_load(text) or {}
            values = values if "@package _global_" in text else {group: values}
            for name in (name[1:] for name in _dotted(values, "")):
                if name.startswith(f"{group}.") and (name != f"{group}.{option}" or not kind.several):
                    out.setdefault(name, []).append(choice(group, option))
    return out


def _dotted(values: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in values.items():
        if key in ("_target_", "defaults"):
            continue
        yield f"{prefix}.{key}"
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}.{key}")


def of_setting(key: str, value: str, chosen: Mapping[str, Any]) -> str:
    """What to do instead of `key=value`, a setting that the `chosen` parts do not have.

    In turn: the setting by another program's name; the same name in a part that is chosen; in a part that is
    not; an option of that name; the nearest name."""
    if renamed := _other_name(key, value):
        return renamed
    last = _last(key)
    here = [name[1:] for name in _dotted(chosen, "") if name.count(".") > 1]  # of parts: `optimizer.rho`
    same = [name for name in [*here, *NAMES] if _last(name) == last and name != key]
    if same:
        return f"did you mean {' or '.join(f'{name}={value}' for name in same[:SHOWN])}?"
    there = (
        {key: places()[key]} if key in places() else {n: c for n, c in places().items() if _last(n) == last}
    )
    if there:
        near = [name for name in here if name.rpartition(".")[0] == key.rpartition(".")[0]]
        close = difflib.get_close_matches(key, near, n=1, cutoff=0.9)
        return (f"did you mean {close[0]}? or, " if close else "") + ", ".join(
            f"{' or '.join(choices[:SHOWN])} has {'it' if name == key else name}"
            for name, choices in list(there.items())[:SHOWN]
        )
    return _of_option(last, value) or _nearest(key, here)


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _other_name(key: str, value: str) -> str:
    for f in fields(Plain):
        template = f.metadata.get("also", {}).get(key)
        if template is not None:
            return f"give {f.name}={template.format(value)}"
    for name, group in GROUPS.items():
        if key in group.also:
            return of_option(name, value) or f"give {choice(name, value.strip('[]'))}"
    return ""


def _of_option(name: str, value: str) -> str:
    """An option of that name: `momentum=0.9` means optimizer=momentum and optimizer.beta."""
    group = next((group for group in (*GROUPS, *METHODS) if name in options(group)), None)
    if group is None:
        return ""
    needs = choice(group, name)
    own = [place for place, choices in places().items() if needs in choices and _last(place) != "every"]
    return f"give {needs}" + (f" {own[0]}={value}" if own and value else "")


def of_option(group: str, came: str) -> str:
    """What to do instead of `group=came`, an option that the group does not have: `give group=option`; empty
    where nothing is known."""
    came = came.strip("[]")
    if came in options(group):
        return f"give {choice(group, came)}"
    if group in GROUPS and (meant := GROUPS[group].others.get(came.lower())):
        option, _, more = meant.partition(" ")
        return f"give {choice(group, option.rstrip(','))}{',' if option.endswith(',') else ''} {more}".strip()
    other = next((other for other in (*GROUPS, *METHODS) if came in options(other)), None)
    return f"{came} is chosen by {choice(other, came)}" if other else ""


def _nearest(key: str, here: Sequence[str]) -> str:
    beside = [name for name in here if name.startswith(key.rpartition(".")[0] + ".")] if "." in key else []
    last = {_last(name): name for name in [*here, *NAMES, "experiment"]}
    close = difflib.get_close_matches(key, [*here, *NAMES, "experiment"], n=1)
    close = close or [last[word] for word in difflib.get_close_matches(_last(key), last, n=1)]
    meant = f"did you mean {close[0]}?" if close else ""
    possible = f"possible: {', '.join(sorted(map(_last, beside)))}" if beside else ""
    return " ".join(part for part in (meant, possible) if part) or "sharp has no setting of a similar name"
