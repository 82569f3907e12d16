"""`sharp show GROUP OPTION`: every option explains itself, and each of its settings has a meaning."""

import inspect
import re

import pytest
import yaml

from sharpcli import CONF
from sharpcli.commands.show import settings
from sharpcli.measures.sharpness import sharpness

PARTS = ("optimizer", "objective", "schedule", "problem", "data", "model", "loss", "measure", "plot")
PRESETS = ("method", "experiment")
ALL = [(file.parent.name, file.stem) for file in sorted(CONF.glob("*/*.yaml"))]
EXPLAINED = [(group, option) for group, option in ALL if group in (*PARTS, *PRESETS)]


def text_of(group, option):
    return (CONF / group / f"{option}.yaml").read_text()


def leaves(values, path=()):
    """The dotted name of each value of a yaml, without its defaults list and without the target of the part
    itself."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        elif key != "defaults":
            yield ".".join((*path, key))


@pytest.mark.parametrize("group, option", EXPLAINED)
def test_every_setting_has_a_comment(group, option):
    silent = [setting.name for setting in settings(text_of(group, option), group) if not setting.comment]
    assert silent == []


@pytest.mark.parametrize("group, option", EXPLAINED)
def test_the_settings_are_the_values_of_the_yaml_in_its_order(group, option):
    text = text_of(group, option)
    path = () if "@package _global_" in text else (group,)
    own = f"{group}.{option}._target_" if group in ("measure", "objective") else f"{group}._target_"
    expected = [name for name in leaves(yaml.safe_load(text), path) if name != own]
    choices = re.findall(r"- /(\w+)@(\w+):", text)  # of inner parts, as SAM's base
    expected = [f"{kind}@{group}.{key}" for kind, key in choices] + expected
    assert [setting.name for setting in settings(text, group)] == expected


@pytest.mark.parametrize("group, option", ALL)
def test_show_prints_an_option_with_all_its_settings(sharp, group, option):
    said = sharp("show", group, option)
    assert (said.code, said.err) == (0, "") and option in said.out.splitlines()[0]
    if group in PARTS:
        names = [setting.name for setting in settings(text_of(group, option), group)]
        shown = [line.split()[0] for line in said.out.splitlines() if line]
        typed = [name.removeprefix("plot.") for name in names]  # sharp plot takes those of its plot alone
        assert [name for name in typed if name not in shown] == []
        assert names or "it has no settings" in said.out


def test_show_prints_default_and_meaning_of_the_settings_of_sharpness_and_its_docstring(sharp):
    said = sharp("show", "measure", "sharpness")
    lines = {line.split()[0]: line.split(maxsplit=2)[1:] for line in said.out.splitlines() if line}
    assert lines["measure.sharpness.k"] == ["1", "number of eigenvalues, at least 1"]
    tol = "wanted error of the eigenvalues relative to lambda_1, above 0"
    assert lines["measure.sharpness.tol"] == ["0.001", tol]
    products = "largest number of Hessian products of a measurement, at least k"
    assert lines["measure.sharpness.max_products"] == ["200", products]
    least = "whether the smallest eigenvalue, lambda_min, is measured too"
    assert lines["measure.sharpness.least"] == ["false", least]
    assert inspect.getdoc(sharpness) in said.out


def test_toys_that_share_a_function_are_told_apart_in_the_list_of_problems(sharp):
    lines = sharp("show", "problem").out.splitlines()
    toys = ("deep_factorization", "matrix_factorization", "matrix_sensing")
    sentences = {line.split(maxsplit=1)[1] for line in lines if line.startswith(toys)}
    assert len(sentences) == len(toys)


@pytest.mark.parametrize(
    "words, meant",
    [
        (["measure", "sharpnes"], "measure=sharpnes: no such measure; did you mean sharpness? possible: "),
        (["optimizer", "adma"], "optimizer=adma: no such optimizer; did you mean adam? possible: "),
        (["claim", "sam_radios"], "claim=sam_radios: no such claim; did you mean sam_radius? possible: "),
        (["optimzer", "gd"], "optimzer: no such group; did you mean optimizer? possible: "),
    ],
)
def test_a_wrong_option_or_group_is_one_line_with_a_suggestion(sharp, words, meant):
    assert meant in sharp("show", *words).refusal
