"""Claims: every yaml is one, checks say yes and no, a verdict turns when a constant is broken, and the
commands work."""

import json
import os
import re
import signal
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import CIFAR, needs_cifar
from scipy.stats import t
from threadpoolctl import threadpool_info

from sharpcli import CONF
from sharpcli.claims import checks, evidence, findings, power, verdicts
from sharpcli.claims import claim as claims
from sharpcli.config.check import check as checked_config
from sharpcli.config.folders import options
from sharpcli.config.words import compose
from sharpcli.errors import Refusal

IDS = options("claim")
FRAME = pd.DataFrame(
    [
        {
            "run": f"r{i}",
            "part": "a" if i < 3 else "b",
            "step": s,
            "lr": 0.1 * (i + 1),
            "y": (i + 1) ** 2 * s / 4,
        }
        for i in range(6)
        for s in range(5)
    ]
)
WITHIN = {"of": "", "reduce": "last", "statistic": "each", "predicted": None}


def verdict(claim, folder):
    """The verdict on a claim whose runs are made in this process."""
    paths = [
        (name, evidence._run([*words, f"runs_dir={folder}"], claim.before)[0]) for name, words in claim.jobs()
    ]
    assert not any(path.startswith("refused") for _, path in paths), paths
    return claims.judge(claim, paths, folder, 0.0)


def seeds(claim):
    """All seeds of a claim's runs, replicas and tables."""
    found = set()
    for words in [[*claim.base, *words] for words in claim.runs.values()]:
        told = dict(word.partition("=")[::2] for word in words)
        found |= set(told.get("seed", "").split(",")) - {""}
        found |= {f"replica {i}" for i in range(int(told.get("replicas", 1)) - 1)}
        if several := re.fullmatch(r"range\((\d+),(\d+)\)", told.get("seed", "")):
            found |= set(range(int(several[1]), int(several[2])))
    for table in claim.tables.values():
        found |= {table.get("seed", 0), *table.get("seeds", [])}
    return found


@pytest.mark.parametrize("word", IDS)
def test_every_claim_is_complete_and_its_runs_compose(word):
    claim = claims.read(word)
    assert (
        claim.tier in claims.TIERS
        and claim.seconds > 0
        and claim.check
        and (claim.control or claim.expect != "holds")
    )
    assert claim.expect in ("holds", "does_not_hold")
    assert all(len(text) > 3 for text in (claim.statement, claim.source, claim.convention, claim.published))
    assert len(seeds(claim)) >= 3 or word == "sam_radius", "at least three seeds, where anything is drawn"
    parts = set(claim.runs) | set(claim.tables)
    frame = pd.DataFrame({"part": sorted(parts), "run": sorted(parts)})
    assert power.broken_of(claim), "no wrong constant that must turn a check"
    fails = [one for one in claim.check if "instead" in one]
    assert bool(fails) == (claim.expect == "does_not_hold"), "what must fail is named, and by how much"
    for one in (*claim.premise, *claim.check, *claim.control):
        assert frame["part"].str.fullmatch(one["of"]).any() if one.get("of") else True, one
    for words in dict(claim.jobs()).values():
        checked_config(compose(words), words)
    assert {"device=cuda" in words for _, words in claim.jobs()} <= {claim.tier == "gpu"}


@needs_cifar
@pytest.mark.parametrize("word", [word for word in IDS if claims.read(word).tier == "gpu"])
def test_what_a_graphics_card_is_for_starts_on_a_few_images_without_one(sharp, folder, word):
    claim = claims.read(word)
    small = [
        f"data_dir={CIFAR}",
        "data.train_examples=20",
        "steps=2",
        "measure_every=2",
        "chunk=20",
        "device=cpu",
        "threads=1",
    ]
    small += [
        "measure_examples=8",
        "data.test_examples=10",
        f"model.depth={8 if 'ResNet' in claim.convention else 1}",
    ]
    small += [
        "model.width=12",
        "measure=[scores,sharpness,trace]",
        "measure.sharpness.tol=0.9",
        "measure.trace.rtol=99",
    ]
    before = {name: [*words, *small] for name, words in claim.before.items()}
    for name, words in dict(claim.jobs()).items():
        words = [word for word in words if word != "device=cuda"]
        made = evidence._run([*words, *small, f"runs_dir={folder}"], before)[0]
        assert (Path(made) / "metrics.jsonl").exists(), f"{name}: {made}"


def test_within_judges_each_run_or_every_part():
    assert checks.within(FRAME, value="y", between=[1, 36], **WITHIN).holds
    one = checks.within(FRAME, value="y", between=[1, 35], **WITHIN)
    assert not one.holds and one.runs == 6 and one.measured == pytest.approx((1 + 4 + 9 + 16 + 25 + 36) / 6)
    mean = WITHIN | {"statistic": "mean"}
    assert checks.within(FRAME, value="y", between=[4, 26], **mean).holds  # 14/3 of part a, 77/3 of part b
    assert not checks.within(FRAME, value="y", between=[5, 26], **mean).holds
    assert checks.within(
        FRAME, value="y > 10", between=[0.5, 1], **WITHIN | {"statistic": "share", "of": "b"}
    ).holds
    assert checks.within(FRAME, value="y", between=[0, 0], **WITHIN | {"reduce": "first"}).holds
    assert not checks.within(
        FRAME, value="y / 0", between=[None, None], **WITHIN
    ).holds  # not a number is no evidence


@pytest.mark.parametrize("reduce", ["last", "max", "late", "mean"])
def test_a_run_without_a_number_is_no_evidence_for_any_check(reduce):
    lost = FRAME.assign(y=FRAME.y.where(FRAME.run != "r4"))
    about = {"of": "", "reduce": reduce, "predicted": None}
    for statistic in ("each", "mean", "median"):
        asked = about | {"statistic": statistic, "between": [None, None], "value": "y"}
        assert checks.within(FRAME, **asked).holds and not checks.within(lost, **asked).holds, statistic
    free = [None, None]
    for frame, holds in ((FRAME, True), (lost, False)):
        late = frame[frame.step > 0]
        assert checks.slope(late, x="lr", y="y", between=free, **about).holds == holds
        assert checks.extrapolated(frame, value="y", along="lr", between=free, **about).holds == holds
        assert (
            checks.ratio(frame, value="y", of="b", to="a", reduce=reduce, between=free, predicted=None).holds
            == holds
        )


def test_slope_extrapolation_and_ratio_find_what_is_there():
    about = {"of": "", "reduce": "last", "predicted": None}
    found = checks.slope(FRAME, x="lr", y="y", between=[1.999, 2.001], **about)
    assert found.holds and found.measured == pytest.approx(2)
    assert not checks.slope(FRAME, x="lr", y="y ** 0.5", between=[1.9, 2.1], **about).holds
    line = checks.extrapolated(FRAME, value="3 + 2 * lr", along="lr", between=[2.99, 3.01], **about)
    assert line.holds and line.measured == pytest.approx(3)
    share = checks.ratio(FRAME, value="y", of="b", to="a", reduce="last", between=[5.4, 5.6], predicted=None)
    assert share.holds and share.measured == pytest.approx(77 / 14)
    assert not checks.slope(FRAME[FRAME.run == "r0"], x="lr", y="y", between=[None, None], **about).holds


def test_rank_correlation_is_kendall_s_tau_and_within_groups_that_differ_in_one_setting():
    about = {"of": "", "reduce": "last", "predicted": None, "between": [-1, 1]}
    # within one width a larger lr has the smaller gap at every seed; wider networks have larger lr and larger
    # gaps
    runs = [(lr, width, seed) for seed in (1, 2) for width in (1, 4) for lr in (0.1, 0.2, 0.3)]
    frame = pd.DataFrame(
        [
            {
                "run": f"r{i}",
                "part": "a",
                "step": 0,
                "lr": lr,
                "width": width,
                "seed": seed,
                "gap": 10 * width - lr - seed / 99,
            }
            for i, (lr, width, seed) in enumerate(runs)
        ]
    )
    x = "lr + width"
    pairs = [(i, j) for i in range(12) for j in range(12)]
    signs = [(sum(runs[i][:2]) - sum(runs[j][:2])) * (frame.gap[i] - frame.gap[j]) for i, j in pairs]
    order = sum(s > 0 for s in signs) - sum(s < 0 for s in signs)
    untied = sum(sum(runs[i][:2]) != sum(runs[j][:2]) for i, j in pairs)
    found = checks.rank_correlation(frame, x=x, y="gap", over=[], **about)
    assert found.measured == pytest.approx(order / (untied * 12 * 11) ** 0.5)
    assert found.measured > 0.1 and found.runs == 12
    each = [
        checks.rank_correlation(frame[frame.seed == s], x=x, y="gap", over=[], **about).measured
        for s in (1, 2)
    ]
    assert found.spread == pytest.approx(abs(each[0] - each[1]) / 2**0.5)
    settings = ["lr", "width"]
    granulated = checks.rank_correlation(frame, x=x, y="gap", over=settings, **about)
    assert (
        granulated.measured == pytest.approx((-1 + 1) / 2) and granulated.spread == 0
    )  # the means of two settings
    assert not checks.rank_correlation(
        frame, x=x, y="gap", over=settings, **about | {"between": [0.1, 1]}
    ).holds
    unset = frame.assign(
        width=frame.width.where(frame.width > 1)
    )  # as a method without the setting leaves it
    assert checks.rank_correlation(unset, x="lr", y="gap", over=settings, **about).measured == pytest.approx(
        (-1 + 0) / 2
    )
    low = unset.assign(
        gap=frame.gap.where(frame.width > 1, frame.lr)
    )  # where it is unset the order is the other one
    assert checks.rank_correlation(low, x="lr", y="gap", over=settings, **about).measured == 0
    constant = checks.rank_correlation(frame, x="step", y="gap", over=[], **about)
    assert constant.measured == 0 and constant.spread == 0
    lost = frame.assign(gap=frame.gap.where(frame.run != "r4"))
    assert not checks.rank_correlation(lost, x=x, y="gap", over=[], **about).holds
    by_seed = checks.rank_correlation(frame, x="seed", y="gap", over=["lr", "width", "seed"], **about)
    assert by_seed.measured == pytest.approx(-1 / 3)
    with pytest.raises(Refusal, match="over=depth: no such setting"):
        checks.rank_correlation(frame, x=x, y="gap", over=["depth"], **about)
    with pytest.raises(Refusal, match="differ in another setting"):
        checks.rank_correlation(frame, x=x, y="gap", over=["lr"], **about)
    with pytest.raises(Refusal, match="no numbers"):
        checks.rank_correlation(frame, x="part", y="gap", over=[], **about)


def test_a_run_that_two_claims_share_is_made_once(folder):
    words = [
        "problem=uv",
        "method=gd",
        "compile_toys=false",
        "steps=2000",
        "measure=[scores]",
        "measure_every=even 2",
    ]
    both = [
        evidence.Trial(id=name, base=words, runs={part: ["lr=0.01"]})
        for name, part in (("one", "a"), ("two", "b"))
    ]
    found = {number: paths for number, paths, _ in evidence.finish(both, folder, 2, lambda line: None)}
    (a, path), (b, same) = found[0][0], found[1][0]
    assert (a, b) == ("a", "b") and path == same and len(list(folder.glob("gd-uv-*"))) == 1


def test_checks_refuse_columns_and_parts_that_are_not_there():
    with pytest.raises(Refusal, match="possible columns: run, part"):
        checks.within(FRAME, value="nothing", between=[0, 1], **WITHIN)
    with pytest.raises(Refusal, match="of=c: no such part of this claim; possible: a, b"):
        checks.within(FRAME, value="y", between=[0, 1], **WITHIN | {"of": "c"})


SMALL = "measure_every=even 2", "seed=1,2,3"


def constant(**changed):
    """The claim about label noise's constant at one larger lr, for a second."""
    claim = claims.read("label_noise_constant")
    runs = {"signs": ["lr=0.004", "steps=250000", "seed=1,2,3"]}
    check = [{"kind": "within", "of": "signs", "value": "constant", "between": [0.24, 0.26]}]
    broken = {"1/2 for 1/4": {"bounds": {1: 2}}}
    small = {"runs": runs, "check": check, "control": [], "broken": broken, "plot": None}
    return replace(claim, **small | changed)


def test_the_verdict_on_the_constant_turns_when_the_noise_the_trace_or_the_constant_is_another(folder):
    claim = constant()
    assert verdict(claim, folder).verdict == claims.HOLDS
    half = claim.columns | {"constant": claim.columns["constant"].replace("8 *", "4 *")}
    assert verdict(replace(claim, columns=half), folder).verdict == claims.FAILS  # 1/2 for 1/4
    interval = {"signs": [*claim.runs["signs"], "objective.label_noise.distribution=uniform"]}
    assert verdict(replace(claim, runs=interval), folder).verdict == claims.FAILS
    twice = claim.columns | {"constant": claim.columns["constant"] + " / 2"}  # n -> 2n in the trace
    assert verdict(replace(claim, columns=twice), folder).verdict == claims.FAILS


def test_a_claim_that_is_expected_not_to_hold_fails_when_it_does_and_a_control_that_holds_fails_the_claim(
    folder,
):
    claim = constant()
    assert verdict(replace(claim, expect="does_not_hold"), folder).verdict == claims.UNEXPECTED
    wrong = [claim.check[0] | {"between": [0.4, 0.6]}]
    assert verdict(replace(claim, expect="does_not_hold", check=wrong), folder).verdict == claims.NOT_HERE
    assert verdict(replace(claim, control=claim.check), folder).verdict == claims.FAILS


def test_runs_without_a_number_make_no_control_fail_and_no_statement_false(folder):
    lost = [{"kind": "within", "of": "signs", "value": "constant / 0", "between": [0.4, 0.6]}]
    found = verdict(constant(control=lost), folder)
    assert found.verdict == claims.FAILS and "it shows nothing" in "\n".join(verdicts.line(constant(), found))
    assert verdict(constant(expect="does_not_hold", check=lost), folder).verdict == claims.FAILS
    one = "constant.where(seed != 2)"
    assert (
        verdict(constant(expect="does_not_hold", check=[lost[0] | {"value": one}]), folder).verdict
        == claims.FAILS
    )
    assert (
        verdict(constant(expect="does_not_hold", check=[lost[0] | {"value": "constant"}]), folder).verdict
        == claims.NOT_HERE
    )


def test_a_premise_that_is_not_met_fails_the_claim_whatever_was_expected(folder):
    not_met = [{"kind": "within", "of": "signs", "value": "constant", "between": [0.4, 0.6]}]
    met = [not_met[0] | {"between": [0.2, 0.3]}]
    assert verdict(constant(premise=met), folder).verdict == claims.HOLDS
    assert verdict(constant(premise=not_met), folder).verdict == claims.FAILS
    expected = constant(expect="does_not_hold", check=not_met)
    assert verdict(replace(expected, premise=met), folder).verdict == claims.NOT_HERE
    found = verdict(replace(expected, premise=not_met), folder)
    assert found.verdict == claims.FAILS and "premise: constant" in verdicts.line(expected, found)[1]


def test_the_verdict_on_sam_s_flows_turns_when_rho_is_not_squared(folder):
    claim = claims.read("sam_flows")
    at_the_end = [check | {"reduce": "last"} for check in claim.check]  # before it lr is too large
    claim = replace(
        claim,
        base=[*claim.base, "lr=0.02", "optimizer.rho=0.02", "steps=75000", *SMALL],
        check=at_the_end,
        broken={},
        plot=None,
    )
    assert verdict(claim, folder).verdict == claims.HOLDS
    wrong = replace(claim, base=[*claim.base, f"measure.sam_flow.rho={0.02**0.5}"])
    assert verdict(wrong, folder).verdict == claims.FAILS


def test_a_run_starts_from_the_run_that_comes_before_it_of_its_own_seed(folder):
    claim = replace(
        constant(),
        base=[
            "problem=uv",
            "method=gd",
            "seed=1,2,3",
            "steps=3",
            "init_from=first",
            "measure=[scores]",
            "measure_every=even 2",
        ],
        before={
            "first": [
                "problem=uv",
                "method=gd",
                "lr=0.01",
                "steps=40",
                "measure=[scores]",
                "measure_every=even 2",
            ]
        },
        runs={"signs": ["lr=0.001"]},
        columns={},
        check=[{"kind": "within", "of": "", "value": "train_loss", "between": [0, 1]}],
        broken={},
    )
    assert verdict(claim, folder).verdict == claims.HOLDS
    paths = [evidence._run([*words, f"runs_dir={folder}"], claim.before)[0] for _, words in claim.jobs()]
    frame = evidence.rows(claim, [("signs", path) for path in paths])
    first = evidence.gather([("first", str(path)) for path in folder.glob("gd-uv-lr0.01-*")])
    assert len(frame["run"].unique()) == 3 and set(frame["seed"]) == set(first["seed"]) == {1, 2, 3}
    begun, ended = (f.groupby("seed")["train_loss"] for f in (frame, first))
    assert begun.first().tolist() == ended.last().tolist()
    wrong = replace(claim, before={"first": ["problem=uv", "lr=none"]})
    said = [evidence._run([*words, f"runs_dir={folder}"], wrong.before).refusal for _, words in claim.jobs()]
    assert all(text.startswith("first: lr=none: not a number") for text in said)


FAILING = {"kind": "within", "value": "y", "of": "a", "statistic": "mean"}  # 1, 4, 9: 4.67 ± 4, 95 % to 14.7


@pytest.mark.parametrize(
    "between, instead, word",
    [
        ([20.0, None], [0.0, 10.0], claims.NOT_HERE),
        ([20.0, None], [5.0, 10.0], claims.FAILS),  # it fails, and not by as much
        ([8.0, None], [0.0, 10.0], claims.INCONCLUSIVE),
        ([1.0, None], [0.0, 10.0], claims.UNEXPECTED),
        ([20.0, None], None, claims.FAILS),
        ([8.0, None], None, claims.INCONCLUSIVE),
        ([1.0, None], None, claims.HOLDS),
    ],
)
def test_a_check_that_must_fail_does_so_decidedly_and_by_as_much_as_was_said(
    folder, monkeypatch, between, instead, word
):
    monkeypatch.setattr(claims, "measured", lambda claim, paths: FRAME)
    said = FAILING | {"between": between} | ({} if instead is None else {"instead": instead})
    also = {"kind": "within", "value": "y", "of": "b", "between": [10.0, 50.0]}
    expect = "holds" if instead is None else "does_not_hold"
    made = replace(
        claims.read("sam_radius"),
        **{"expect": expect, "check": [said, also], "control": [], "columns": {}, "plot": None},
        broken={"half of it": {"columns": {"y": "y / 2"}}},
    )
    found = claims.judge(made, [], folder, 0.0)
    assert found.verdict == word
    assert found.checks[0]["half_width"] == pytest.approx(4.302653 * 4.041452 / 3**0.5)
    if word in (claims.HOLDS, claims.NOT_HERE):
        assert found.broken == {"half of it": [found.checks[1]["asked"]]}  # 16 / 2 is below 10
        powerless = replace(made, broken={"as it is": {"columns": {"y": "1.0 * y"}}})
        word = claims.NO_POWER if instead is None else claims.INCONCLUSIVE
        assert claims.judge(powerless, [], folder, 0.0).verdict == word
    lost = replace(made, check=[said, also | {"between": [30.0, 50.0]}])
    assert claims.judge(lost, [], folder, 0.0).verdict in (claims.FAILS, claims.UNEXPECTED)


def test_a_wrong_constant_takes_other_bounds_columns_or_parts(folder):
    checks = [
        {"kind": "within", "value": "twice", "of": "a", "between": [1.0, 20.0]},
        {"kind": "ratio", "value": "y", "of": "b", "to": "a", "between": [5.0, 6.0]},
    ]
    claim = replace(claims.read("sam_radius"), columns={"twice": "2 * y"}, check=checks)
    right = [power.finding(one, evidence.with_columns(claim, FRAME), "-") for one in checks]
    found = [one["asked"] for one in right]
    for entry, turned in (
        (power.Broken(bounds={1: 2}), []),
        (power.Broken(bounds={1: 0.5}), found[:1]),
        (power.Broken(bounds={1: -1, 2: 1.2}), found),
        (power.Broken(columns={"twice": "3 * y"}), found[:1]),
        (power.Broken(parts={"b": "a"}), found[1:]),
        (power.Broken(parts={"a": "b"}), found),
    ):
        assert [one["asked"] for one in power.turned(claim, checks, right, FRAME, entry)] == turned
    even = [checks[0] | {"between": [-20.0, 20.0]}]  # another sign of such bounds is the same bounds
    assert power.turned(claim, even, right[:1], FRAME, power.Broken(bounds={1: -1})) == []
    parts = {"runs": {"a": [], "b": []}}
    for wrong, said in (
        ({}, "nothing; possible: bounds, columns, parts"),
        ({"times": 2}, "times; possible: bounds, columns, parts"),
        ({"bounds": 2}, "give mappings"),
        ({"bounds": {3: 2}}, "bounds: 3: the claim has checks 1 to 2"),
        ({"parts": {"a": "c"}}, "parts: c: the claim has a, b"),
    ):
        with pytest.raises(Refusal, match=said):
            power.broken_of(replace(claim, **parts, broken={"wrong": wrong}))


def test_a_claim_with_other_seeds_is_judged_and_not_recorded(sharp, folder, monkeypatch):
    claim = constant(runs={"signs": ["lr=0.01", "steps=40000", "seed=1,2"]})
    monkeypatch.setattr(claims, "read", lambda word: claim)
    said = sharp("claim", "check", "label_noise_constant", "--shift-seeds", "100", "-j", "1")
    assert "label_noise_constant: " in said.out and said.code in (0, 1), said.err
    inside = folder / "runs/claims"
    seeds = {
        json.loads(f.read_text())["command"].split("seed=")[1][:3] for f in inside.glob("*/provenance.json")
    }
    assert seeds == {"101", "102"} and not (inside / "label_noise_constant").exists()
    table = replace(
        claims.read("linear_stability"), id="t", tables={"a": {"seed": 3}, "b": {"seeds": [1, 2]}}
    )
    assert replace(table, shift=10).tables_of_seeds() == {"a": {"seed": 13}, "b": {"seeds": [11, 12]}}
    assert (
        "greater than or equal to 0" in sharp("claim", "check", "sam_radius", "--shift-seeds", "-1").refusal
    )


def test_a_claim_s_column_that_cannot_be_computed_is_one_line():
    claim = replace(claims.read("sam_radius"), columns={"z": "y / nothing"})
    with pytest.raises(
        Refusal, match=r"sam_radius: columns: z: name 'nothing' is not defined; possible columns: run"
    ):
        evidence.with_columns(claim, FRAME)


def test_the_power_of_a_check_is_the_factors_that_it_bears():
    claim = claims.read("sam_radius")
    last = FRAME.groupby("run")["y"].last()  # 1, 4, 9, 16, 25, 36
    made = [
        {"kind": "within", "value": "y", "of": "a", "between": [0.5, 10.0]},
        {"kind": "within", "value": "y", "of": "b", "between": [10.0, None]},
        {"kind": "within", "value": "y", "of": "b", "between": [None, 50.0]},
        {"kind": "within", "value": "y", "of": "b", "between": [None, None]},
        {"kind": "within", "value": "y", "of": "b", "between": [0.0, 1.0]},
        {"kind": "ratio", "value": "y", "of": "b", "to": "a", "between": [5.0, 6.0]},
    ]
    two, least, most, none, fails, ratio = power.of_claim(claim, made, FRAME)
    # every run within: the largest lies below 10 f, the smallest above f / 2
    assert (two.low, two.high) == (pytest.approx(0.9), pytest.approx(2.0))
    assert (least.low, least.high) == (None, pytest.approx(1.6))
    assert (most.low, most.high) == (pytest.approx(36 / 50), None)
    assert (none.low, none.high, none.holds) == (None, None, True) and not fails.holds
    quotient = last[3:].mean() / last[:3].mean()
    assert (ratio.low, ratio.high) == (pytest.approx(quotient / 6), pytest.approx(quotient / 5))
    assert two.turned_by(0.5) and not two.turned_by(1.2) and two.turned_by(2.1)
    assert not fails.turned_by(2.0) and not none.turned_by(0.5) and most.turned_by(0.5)
    sure = power.Again(0.9, "y: 1 to 2", 0.95, 1)
    lines = verdicts.power_lines(claim, {}, [two, least, most, none, fails], sure)
    said = "the same verdict with probability 0.90; least sure, 0.95: y: 1 to 2; without 1 of unknown spread"
    assert lines.pop() == f"  under other seeds: {said}"
    assert lines[0] == "sam_radius: turned by x 1/2, 1/1.2, 2; it names no wrong constant"
    ends = ("factors from 0.9 to 2", "at most 1.6", "at least 0.72", "holds for any factor", "does not hold")
    assert all(line.endswith(end) for line, end in zip(lines[1:], ends, strict=True))
    unknown = power.Again(1.0, "", 1.0, 3)
    said = verdicts.power_lines(claim, {"x 2": ["y: 1 to 2"], "x 3": []}, [none], unknown)
    assert said.pop() == "  under other seeds: no spread over runs is known"
    assert said[0].startswith(
        "sam_radius: NO POWER: a wrong constant turns no check; no factor from 1/2 to 2"
    )
    assert said[1:3] == ["  broken: x 2: turns y: 1 to 2", "  broken: x 3: turns NO check"]


@pytest.mark.parametrize(
    "setting",
    [
        {"kind": "within", "value": "y", "of": "a", "statistic": "mean", "between": [-0.5, 0.7]},
        {"kind": "within", "value": "y", "of": "a", "between": [-0.5, None]},
        {"kind": "ratio", "value": "10 + y", "of": "a", "to": "b", "between": [0.95, 1.6]},
        {"kind": "slope", "x": "x", "y": "exp(y)", "of": "a", "between": [-9.0, 0.5]},
    ],
)
def test_how_often_other_seeds_hold_again_is_as_often_as_they_do(setting):
    """Of many claims whose number lies anywhere about the bounds: what the first runs say of the second."""
    rng = np.random.default_rng(0)
    check, said, held = findings.built(setting, "of noise"), [], []
    for _ in range(200):
        shift = rng.uniform(-4, 4)
        first, second = (check(drawn(rng, shift)) for _ in range(2))
        said.append(first.again)
        held.append(second.holds)
    assert np.mean(said) == pytest.approx(np.mean(held), abs=0.08)
    where_held, where_not = (np.mean(np.array(said)[np.array(held) == value]) for value in (True, False))
    assert where_held > where_not + 0.1


def drawn(rng, shift):
    """Rows of five runs in each of two parts, a number y of each by the normal law about `shift` x / 3 in the
    first part and 0 in the second."""
    runs = pd.DataFrame({"part": ["a"] * 5 + ["b"] * 5, "seed": [*range(5), *range(10, 15)], "step": 0})
    x = np.array([1, 2, 3, 4, 5] * 2)
    mean = np.where(runs["part"] == "a", shift * (1 + np.log(x / 3) / 3), 0.0)
    return runs.assign(run=[f"r{i}" for i in range(10)], x=x, y=mean + rng.normal(size=10))


def test_other_seeds_are_as_far_away_as_two_means_or_two_runs_are():
    """Of five runs: Student's t with 4 degrees of freedom, in units of sqrt(2/5) s and of sqrt(1 + 1/5) s."""
    frame = drawn(np.random.default_rng(1), 0.0)
    y = frame["y"][:5]
    t_90 = 1.5332  # 90 % of Student's law lie below
    bound = float(y.mean() + t_90 * y.std() * (2 / 5) ** 0.5)
    setting = {"kind": "within", "value": "y", "of": "a", "between": [None, bound]}
    assert findings.finding({**setting, "statistic": "mean"}, frame, "")["again"] == pytest.approx(0.9, 1e-4)
    setting["between"] = [float(y.mean() - t_90 * y.std() * (6 / 5) ** 0.5), None]
    assert findings.finding(setting, frame, "")["again"] == pytest.approx(0.9**5, 1e-3)
    assert findings.finding({**setting, "statistic": "median"}, frame, "")["again"] is None
    instead = {**setting, "statistic": "mean", "between": [9, None], "instead": [None, bound]}
    assert findings.finding(instead, frame, "")["again"] == pytest.approx(0.9, 1e-4)


def test_runs_of_another_setting_say_nothing_of_how_far_seeds_are_apart():
    """Two learning rates, at 0 and at 100, and three seeds of each, at most 1 apart: from the mean of each
    learning rate, 4 degrees of freedom."""
    y = pd.Series([-1.0, 0.0, 1.0, 99.0, 100.0, 101.0])
    frame = pd.DataFrame({"run": [*"abcdef"], "part": "gd", "step": 0, "seed": [1, 2, 3] * 2, "y": y})
    frame = frame.assign(lr=[0.1] * 3 + [0.2] * 3, init_from=[*"uvwxyz"])
    setting = {"kind": "within", "value": "y", "between": [None, 104.0]}
    apart = findings.finding(setting, frame, "")["again"]
    frame.attrs = {"settings": ("lr", "seed", "init_from")}
    assert apart < 0.5
    one_more = t.cdf(4 / (1 + 1 / 3) ** 0.5, 4)
    assert findings.finding(setting, frame, "")["again"] == pytest.approx(one_more**3, 1e-6)
    setting = {**setting, "statistic": "mean", "between": [None, 51.0]}
    assert findings.finding(setting, frame, "")["again"] == pytest.approx(t.cdf(1 / (2 / 6) ** 0.5, 4), 1e-6)


def test_runs_that_a_training_loss_ends_are_judged_by_the_steps_that_they_need():
    """All losses lie within a hundredth of the bound, on one side of it: another run is beyond the bound only
    if its steps do not suffice."""
    share = 10 ** (-np.array([1.0, 1.1, 1.2, 0.9, 0.8]))
    frame = pd.DataFrame(
        {
            "run": [*"abcde"],
            "part": "gd",
            "step": share * 1000,
            "steps": 1000,
            "train_loss": [0.0099, 0.00991, 0.00995, 0.0098, 0.00999],
            "stop_loss": 0.01,
            "stopped": True,
        }
    )
    setting = {"kind": "within", "value": "train_loss", "between": [None, 0.01]}

    def again(rows):
        return findings.finding(setting, rows, "")["again"]

    one_more = t.cdf(1.0 / (0.025**0.5 * (6 / 5) ** 0.5), 4)  # 1.0 is the mean of -log10 share
    assert again(frame) == pytest.approx(one_more**5, 1e-3)
    assert again(frame.assign(stopped=[None, *[True] * 4])) < 0.8, "one run took all its steps"
    assert again(frame.assign(stop_loss=0.02)) < 0.8, "the loss that ended them is no evidence"
    assert again(frame.assign(steps="50 epochs")) is None


def test_a_verdict_is_as_sure_as_all_its_outcomes():
    def found(asked, again):
        return {"asked": asked, "again": again}

    sure = power.again([found("a", 0.9), found("b", None)], [found("c", 0.2)])
    assert sure == power.Again(pytest.approx(0.72), "not c", pytest.approx(0.8), 1)
    assert verdicts.would_change([sure, power.Again(1.0, "", 1.0, 0)]) == (
        "under other seeds 0.3 of 2 verdicts are expected to change"
    )


def test_the_power_of_a_claim_by_the_command_line(sharp, folder):
    said = sharp("claim", "power", "sam_radius", "-j", "1")
    assert said.code == 0, said.err
    assert said.out.startswith("sam_radius: turned by x 1/2, 1/1.2, 1.2, 2")
    assert re.search(r"distance: .* holds for factors from 0\.9999\d* to 1\.0000\d*$", said.out, re.M)
    assert "did you mean sam_radius" in sharp("claim", "power", "sam_radios").refusal


def test_claims_by_the_command_line(sharp, folder):
    listed = sharp("claim", "list")
    assert listed.code == 0 and all(word in listed.out for word in IDS) and "quick" in listed.out
    said = sharp("claim", "check", "sam_radius", "--dirty", "-j", "1")
    assert (
        said.code == 0
        and "sam_radius: HOLDS" in said.out
        and "fails, as it must" in said.out
        and "1 holds" in said.out
    )
    kept = json.loads((folder / "runs/claims/sam_radius/verdict.json").read_text())
    assert (
        kept["verdict"] == "holds"
        and kept["checks"][0]["measured"] == pytest.approx(1 / 15)
        and kept["about"]["runs"]
    )
    assert (folder / "runs/claims/sam_radius/figure.png").stat().st_size > 5000
    shown = sharp("claim", "show", "sam_radius")
    assert "theorem 4.8" in shown.out and "control, must fail" in shown.out and "last verdict" in shown.out
    assert (
        "before, at each seed, bad: sharp train data.train_examples=300"
        in sharp("claim", "show", "trace_penalty_digits").out
    )
    table = sharp("claim", "list", "--markdown")
    assert "| `sam_radius` |" in table.out and "| holds |" in table.out
    other = kept | {"about": kept["about"] | {"commit": "0" * 40}, "verdict": "does not hold here"}
    (folder / "runs/claims/least_squares").mkdir()
    (folder / "runs/claims/least_squares/verdict.json").write_text(json.dumps(other))
    table = sharp("claim", "list", "--markdown").out
    assert "| does not hold here | 0000000 |" in table and re.search(
        r"^[\d-]{10}, .* cores, .+\.$", table, re.M
    )


@pytest.mark.parametrize(
    "words, said",
    [
        (["check", "sam_radios"], "sam_radios: no such claim; did you mean sam_radius?"),
        (["show", "nothing"], "nothing: no such claim"),
        (["check"], "no claim given"),
        (["check", "--tier", "quik"], "did you mean quick?"),
        (["list", "sam_radius"], "sam_radius: only runs_dir=DIR can follow here; sharp train takes settings"),
        (["check", "sam_radius", "lr=1"], "lr=1: only runs_dir=DIR can follow"),
        (["show", "sam_radius", "lr=1"], "lr=1: only runs_dir=DIR can follow"),
    ],
)
def test_a_wrong_word_about_claims_is_one_line(sharp, words, said):
    assert said in sharp("claim", *words).refusal


def test_a_tier_without_claims_and_a_claim_without_its_device_are_one_line(sharp, monkeypatch):
    if not torch.cuda.is_available():
        assert (
            "skip_full, skip: device=cuda: not on this machine"
            in sharp("claim", "check", "skip_full", "--dirty", "-j", "1").refusal
        )
    monkeypatch.setattr(claims, "TIERS", (*claims.TIERS, "cluster"))
    assert (
        "--tier cluster: no claim has this tier yet" in sharp("claim", "check", "--tier", "cluster").refusal
    )


def test_a_failing_claim_ends_with_code_1(sharp, folder, monkeypatch, tmp_path):
    claim = yaml.safe_load((CONF / "claim" / "sam_radius.yaml").read_text())
    broken = claims.Claim(
        id="sam_radius", **claim | {"check": [claim["check"][0] | {"between": [1, 2]}], "plot": None}
    )
    monkeypatch.setattr(claims, "read", lambda word: broken)
    said = sharp("claim", "check", "sam_radius", "--dirty", "-j", "1")
    assert said.code == 1 and "sam_radius: FAILS" in said.out and "1 fails" in said.out


@pytest.mark.parametrize("after", ["label_noise done", "gd done"])
def test_ctrl_c_is_one_line_and_the_same_command_carries_on(process, folder, after):
    claim = ("claim", "check", "sparse_recovery", "--dirty", "-j", "1")
    checking = process(*claim)
    for line in checking.stderr:
        if after in line:
            break
    checking.send_signal(signal.SIGINT)
    out, err = checking.communicate(timeout=60)
    assert checking.returncode == 130 and err.strip().splitlines()[-1].startswith("sharp: interrupted"), err
    assert "Traceback" not in out + err
    again = process(*claim)
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0 and "sparse_recovery: HOLDS" in out


def test_a_ratio_s_error_knows_which_runs_share_a_seed():
    seeds, base = range(5), [1.0, 4.0, 2.0, 8.0, 5.0]
    rows = [
        {"run": f"{part}{s}", "part": part, "step": 0, "seed": s, "y": base[s] * scale}
        for part, scale in (("a", 1), ("b", 3))
        for s in seeds
    ]
    about = {"value": "y", "of": "b", "to": "a", "reduce": "last", "between": [None, None], "predicted": None}
    paired = checks.ratio(pd.DataFrame(rows), **about)
    assert paired.measured == pytest.approx(3) and paired.spread == pytest.approx(0, abs=1e-12)
    apart = pd.DataFrame([row | {"seed": row["seed"] + 10 * (row["part"] == "b")} for row in rows])
    relative = pd.Series(base).std() / 4 / 5**0.5
    assert checks.ratio(apart, **about).spread == pytest.approx(3 * 2**0.5 * relative)
    noisy = pd.DataFrame([row | {"y": row["y"] * (1.1 if row["run"] == "b3" else 1)} for row in rows])
    assert 0.01 < checks.ratio(noisy, **about).spread < 0.3 * 3 * relative
    over_one = pd.DataFrame([row | {"y": 1.0 if row["part"] == "a" else row["y"]} for row in rows])
    assert checks.ratio(over_one, **about).spread == pytest.approx(
        3 * pd.Series(base).std() / 5**0.5
    )  # that of a mean


TWO_NETWORKS = ["data.train_examples=50", "model.widths=[8]", "steps=5", "measure=[scores]", "seed=1,2"]
LINE = {
    "_target_": "sharpcli.claims.tables.connected.connected",
    **{
        "of": "nets",
        "curve": "line",
        "points": 3,
        "fit_steps": 1,
        "lr": 0.1,
        "batch_size": 50,
        "match": False,
    },
}


@pytest.mark.parametrize("former", [None, "2"])
def test_a_process_of_a_claim_computes_with_a_single_thread(monkeypatch, former):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if former is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", former)
    with (
        evidence.single_threads(),
        ProcessPoolExecutor(1, get_context("spawn"), np.zeros, (1,)) as pool,
    ):
        threads = [library["num_threads"] for library in pool.submit(threadpool_info).result()]
    assert set(threads) == {1}
    assert os.environ.get("OMP_NUM_THREADS") == former


def test_a_table_is_computed_from_the_runs_of_a_part_and_again_from_others(folder):
    def rows(words):
        trial = evidence.Trial(id="t", runs={"nets": [*TWO_NETWORKS, *words]}, tables={"line": LINE})
        ((_, paths, _),) = evidence.finish([trial], folder, 1, lambda text: None)
        return evidence.measured(trial, paths).query("part == 'line'"), [
            p for name, p in paths if name == "line"
        ]

    table, (file,) = rows([])
    assert len(table) == 1 and table["highest_loss"].item() >= table["end_loss"].item() > 0
    again, (same,) = rows([])
    other, (another,) = rows(["lr=0.3"])
    assert same == file != another and again["barrier"].item() == table["barrier"].item()
    assert other["end_loss"].item() != table["end_loss"].item()
    for words, wrong in ((["seed=1"], "two seeds"), (["problem=nothing"], "nothing")):
        with pytest.raises(Refusal, match=wrong):
            rows(words)
    lost = evidence.Trial(id="t", runs={"nets": TWO_NETWORKS}, tables={"line": {**LINE, "of": "net"}})
    with pytest.raises(Refusal, match="line: of: net: no part of runs"):
        list(evidence.finish([lost], folder, 1, lambda text: None))
