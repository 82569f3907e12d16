"""`sharp show`: a run, the options of a group, or an option with its settings; read from files, without
importing torch."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from sharpcli import CONF
from sharpcli.commands.report import aligned, complain
from sharpcli.config.folders import yaml_files
from sharpcli.config.plain_yaml import dumped
from sharpcli.errors import Refusal, printable
from sharpcli.jsonl import is_number
from sharpcli.run import Run, labels, last_of
from sharpcli.runs_dir import find

PACKAGE = Path(__file__).parents[1]
SETTING = re.compile(r"^(?P<indent> *)(?P<key>[\w.@/-]+):(?: +(?P<value>.*?))?(?:\s+# (?P<comment>.*))?$")
CHOICE = re.compile(r"^ *- /(?P<group>\w+)@(?P<key>\w+): (?P<option>\w+)(?:\s+# (?P<comment>.*))?$")
SEVERAL = (
    "measure",
    "objective",
)  # groups whose parts stand under their own key, as in measure=[sharpness,trace]
LONGEST_LIST = 12  # numbers of a row's list that are shown
PARTS = ("optimizer", "objective", "schedule", "problem", "data", "model", "loss", "measure", "plot")
POINTERS = {"claim": "sharp claim show {}", "study": "sharp study {} runs it"}


@dataclass(frozen=True)
class Setting:
    """A value of an option's yaml: its dotted name on the command line, its default, and the comment beside
    it."""

    name: str
    default: str
    comment: str


def show(word: str, option: str | None, runs_dir: Path) -> str:
    """What `sharp show WORD [OPTION]` prints. Refuses what is neither a group nor a run, and an option that a
    group has not."""
    groups = [folder.name for folder in sorted(CONF.iterdir()) if folder.is_dir()]
    if option is None and word.partition("=")[0] in groups and "=" in word:  # as it is chosen: optimizer=sam
        word, _, option = word.partition("=")
        option = option.strip("[]")
    if word in groups and not Path(word, "provenance.json").exists():
        return about_group(word) if option is None else about_option(word, option)
    close = get_close_matches(word, groups, n=1)
    if close or option is not None:
        meant = f"did you mean {close[0]}? " if close else ""
        raise Refusal(f"{word}: no such group; {meant}possible: {', '.join(groups)}, or the name of a run")
    return about_run(find(word, runs_dir))


def about_group(group: str) -> str:
    """The options of a config group, each with a sentence: the comment at the head of its yaml, or the first
    sentence of its module, or of its function where several options share a module."""
    texts = {option: file.read_text() for option, file in yaml_files(group).items()}
    modules = [target(text, group).rpartition(".")[0] for text in texts.values()]
    rows = []
    for option, text in texts.items():
        path = target(text, group)
        module = path.rpartition(".")[0]
        alone = modules.count(module) == 1
        rows.append(
            (option, head(text) or first_sentence(docstring(path, of_module=alone)) or statement(text))
        )
    if not rows:
        return f"{group}: no options"
    return "\n".join(
        [*aligned(rows), "", f"sharp show {group} {rows[0][0]} explains an option and its settings"]
    )


def about_option(group: str, option: str) -> str:
    """An option of a group: what it is, then each setting with its default and meaning."""
    possible = yaml_files(group)
    if option not in possible:
        close = get_close_matches(option, possible, n=1)
        meant = f"did you mean {close[0]}? " if close else ""
        raise Refusal(f"{group}={option}: no such {group}; {meant}possible: {', '.join(possible)}")
    text = possible[option].read_text()
    if pointer := POINTERS.get(group):
        return f"{group} {option}\n{statement(text)}\n\n{pointer.format(option)}"
    path = target(text, group)
    title = f"{group}=[{option}]" if group in SEVERAL else f"{group}={option}"
    out = [title, *textwrap.wrap(head(text) or first_sentence(docstring(path, of_module=True)), 100), ""]
    if explanation := docstring(path):
        out += [explanation, ""]
    if path:
        out += [f"source: {path}", ""]
    rows = [
        ("setting", "default", "meaning"),
        *((_typed(s.name, group), s.default, s.comment) for s in settings(text, group)),
    ]
    return "\n".join(out + (aligned(rows, 3) if len(rows) > 1 else ["it has no settings"])).rstrip()


def _typed(name: str, group: str) -> str:
    """A setting's name as a command takes it: sharp plot takes those of its plot alone."""
    return name.removeprefix("plot.") if group == "plot" else name


def settings(text: str, group: str) -> Iterator[Setting]:
    """The settings of an option's yaml, in its order."""
    path: list[tuple[int, str]] = [] if "@package _global_" in text else [(-1, group)]
    own_depth = 2 + (group in SEVERAL)  # of the option's own _target_, which is no setting
    in_defaults = -1  # the indentation of a defaults list, whose entries are no settings
    for line in text.splitlines():
        if match := CHOICE.match(line):  # such as `- /optimizer@base: gd`, the choice of an inner part
            yield Setting(f"{match['group']}@{group}.{match['key']}", match["option"], match["comment"] or "")
            continue
        match = SETTING.match(line)
        if match is None:
            continue
        indent, key, value = len(match["indent"]), match["key"], (match["value"] or "").strip()
        path = [(i, k) for i, k in path if i < indent]
        if 0 <= in_defaults < indent:
            continue
        in_defaults = indent if key == "defaults" else -1
        path.append((indent, key))
        is_own_target = key == "_target_" and len(path) <= own_depth
        if value and key != "defaults" and not is_own_target:
            yield Setting(".".join(k for _, k in path), value, match["comment"] or "")


def head(text: str) -> str:
    """The comment at the head of a yaml, as a sentence."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            lines.append(line.removeprefix("#").strip())
    return " ".join(lines)


def target(text: str, group: str) -> str:
    """The path of the part that a yaml of a group describes; empty for presets, claims and studies, which are
    none."""
    if group not in PARTS:
        return ""
    match = re.search(r"^ *_target_: (sharpcli\.[\w.]+)", text, re.M)
    return match[1] if match else ""


def statement(text: str) -> str:
    """The statement of a claim, or the question of a study."""
    values = yaml.safe_load(text)
    return " ".join(str(values.get("statement") or values.get("question") or "").split())


def docstring(path: str, of_module: bool = False) -> str:
    """The docstring of a function or class of this package, or of its module, read and not imported; empty
    for none."""
    if not path:
        return ""
    module, _, name = path.partition(".")[2].rpartition(".")
    tree = ast.parse(PACKAGE.joinpath(*module.split(".")).with_suffix(".py").read_text())
    if of_module:
        return ast.get_docstring(tree) or ""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return ast.get_docstring(node) or ""
    return ""


def first_sentence(text: str) -> str:
    """The first sentence of a text, on one line. A stop within a formula, as in `sum_i v_i . H(w) v_i`, is
    none."""
    paragraph = " ".join(text.partition("\n\n")[0].split())
    return re.split(r"(?<=[\w)\]`][.]) (?=[A-Z`])", paragraph)[0]


def in_short(value: Any) -> Any:
    """A value of a row; a long list, such as a density's nodes, by its length and range."""
    numbers = list(_numbers(value)) if isinstance(value, list) else []
    if len(numbers) <= LONGEST_LIST:
        return value
    return f"{len(numbers):,} numbers from {min(numbers):.4g} to {max(numbers):.4g}"


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, list):
        for inner in value:
            yield from _numbers(inner)
    elif is_number(value):
        yield value


def about_run(run: Run) -> str:
    """Everything about a run, as yaml."""
    if wrong := run.altered() or run.damage():
        complain(f"{run.path}: {wrong}")
    rows = run.rows(complain)
    of = f", the mean of {run.replicas} replicas" if run.replicas > 1 else ""
    said = {key: value for key, value in labels(run.path).items() if value}
    about = {
        "run": str(run.path),
        "status": run.status,
        **said,
        "config": run.config,
        "provenance": run.provenance,
        f"last row{of}": {name: in_short(value) for name, value in (last_of(rows) or {}).items()} or None,
        "checkpoints": ", ".join(map(str, run.checkpoints())),
    }
    return "\n".join(printable(line) for line in dumped(about, allow_unicode=True).rstrip().split("\n"))
