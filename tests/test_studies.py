"""Studies: every yaml is one, its table and figure are made from its runs, and wrong words are one line."""

import re

import pytest

from sharpcli.claims import study as studies
from sharpcli.config.check import check
from sharpcli.config.folders import options
from sharpcli.config.words import compose

IDS = options("study")


@pytest.mark.parametrize("word", IDS)
def test_every_study_is_complete_and_its_runs_compose(word):
    study = studies.read(word)
    assert (
        study.question.count("?")
        and len(study.source) > 10
        and len(study.convention) > 40
        and study.show
        and study.by
    )
    last = "[0-7]$"  # parts that differ in their numbers alone
    kinds = {re.sub(last, "", name): words for name, words in study.runs.items()}
    for words in kinds.values():
        one = ["seed=1" if word.startswith("seed=") else word for word in (*study.base, *words)]
        assert check(compose(one), one).config["steps"]


def test_a_study_prints_a_table_in_its_own_order_and_writes_a_figure(sharp, folder, monkeypatch):
    small = {
        "base": [
            "problem=uv",
            "problem.instance=0",
            "replacement=true",
            "measure=[uv_flow]",
            "measure_every=even 3",
            "seed=1,2",
        ],
        "runs": {
            "signs": ["method=label_noise", "batch_size=1", "lr=0.01", "steps=3000"],
            "gd": ["method=gd", "lr=0.01", "steps=300"],
        },
        "columns": {"over": "flow_trace / flow_trace_start"},
        "show": {"at end": {"value": "over"}, "first": {"value": "over", "reduce": "first"}},
        "by": ["part", "lr"],
        "plot": {
            "_target_": "sharpcli.plots.theory.theory",
            **{"x": "step", "y": "over", "line": "1", "parts": [], "log": [], "only_last": False},
        },
    }
    about = {"question": "Does it?", "source": "nobody", "convention": "small", "seconds": 1}
    monkeypatch.setattr(studies, "read", lambda word: studies.Study(id=word, **about, **small))
    said = sharp("study", "noise", "-j", "1")
    lines = said.out.splitlines()
    assert said.code == 0 and lines[0] == "| part | lr | at end | first | runs |"
    assert lines[2].startswith("| signs | 0.01 | 0.") and lines[2].endswith("| 1 | 2 |")
    assert lines[3].startswith("| gd | 0.01 | 0.998") and lines[3].endswith("| 1 | 2 |")
    place = folder / "runs/studies/noise"
    assert (place / "figure.png").stat().st_size > 5000 and (place / "table.md").read_text().splitlines()[
        0
    ] == lines[0]


@pytest.mark.parametrize(
    "words, said",
    [
        (["lr=3"], "lr=3: only runs_dir=DIR can follow here; sharp train takes settings"),
        (["nois"], "nois: no such study; did you mean noise?"),
        (["noise", "tracking_lr"], "sharp study takes one study"),
    ],
)
def test_a_wrong_word_about_studies_is_one_line(sharp, words, said):
    assert said in sharp("study", *words).refusal


def test_studies_are_listed_with_their_questions(sharp):
    said = sharp("study")
    assert said.code == 0 and all(word in said.out for word in IDS) and "question 2.1" in said.out
