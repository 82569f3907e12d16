"""Many runs as one: each replica is the run that it would be alone."""

import json
import re
import signal
import time

import pytest
from conftest import only_run, rows_of

from sharpcli.run import Run

TOY = (
    "problem=uv",
    "method=label_noise",
    "batch_size=1",
    "steps=600",
    "measure=[scores]",
    "measure_every=200",
    "lr=0.02",
)


def last_rows(path, count):
    return [
        {k: v for k, v in row.items() if k not in ("replica", "seed")}
        for row in rows_of(path / "metrics.jsonl")[-count:]
    ]


@pytest.mark.parametrize("is_compiled", ["true", "false"])
def test_each_replica_is_the_run_of_its_seed_bit_for_bit(sharp, folder, is_compiled):
    words = (*TOY, f"compile_toys={is_compiled}", "seed=5")
    said = sharp("train", *words, "replicas=3", "threads=2")
    assert (
        said.code == 0
        and "complete, 3 replicas" in said.out
        and "recovery_error" in said.out
        and "±" in said.out
    )
    run = only_run(folder)
    rows = rows_of(run / "metrics.jsonl")
    assert [(r["step"], r["replica"], r["seed"]) for r in rows] == [
        (s, i, 5 + i) for s in (0, 200, 400, 600) for i in range(3)
    ]
    for i, together in enumerate(last_rows(run, 3)):
        assert sharp("train", *words, f"seed={5 + i}", f"runs_dir=alone{i}").code == 0
        (alone,) = (folder / f"alone{i}").iterdir()
        assert last_rows(alone, 1) == [together]
    again = sharp("train", *words, "replicas=3", "threads=2")
    assert again.code == 0 and "already complete" in again.out and rows_of(run / "metrics.jsonl") == rows


def test_a_grid_over_settings_and_seeds_in_which_some_diverge(sharp, folder):
    grid = "replicas={lr:[0.01,5.0],objective.label_noise.delta:[0.1,0.3],seed:2}"
    said = sharp("train", *TOY, grid)
    assert said.code == 0 and "lr=5.0 objective.label_noise.delta=0.3, 2 replicas (2 diverged)" in said.out
    rows = rows_of(only_run(folder) / "metrics.jsonl")
    last = rows[-8:]
    assert [(r["lr"], r["objective.label_noise.delta"], r["seed"]) for r in last] == [
        (lr, delta, seed) for lr in (0.01, 5.0) for delta in (0.1, 0.3) for seed in (0, 1)
    ]
    assert [bool(r.get("diverged")) for r in last] == [False] * 4 + [True] * 4
    first = [r["diverged_at"] for r in rows if "diverged_at" in r]
    assert len(first) == 4 and all(1 < step < 200 for step in first)
    assert Run(only_run(folder)).status == "complete"
    compare = ("plot", "compare", "runs", "y=recovery_error", "-o", "grid.png")
    assert "differ in objective.label_noise.delta too" in sharp(*compare, "by=[lr]").refusal
    assert sharp(*compare, "by=[lr,objective.label_noise.delta]").code == 0
    assert "8 replicas" in sharp("measure", only_run(folder), "measure=[scores]").refusal


@pytest.mark.parametrize(
    "words, grid",
    [
        (["method=sam", "measure=[sam_sharpness]"], {"optimizer.rho": [0.05, 0.5]}),
        (["method=sgd", "measure=[batch_sharpness]"], {"batch_size": [2, 4]}),
        (["method=sde", "measure=[scores]"], {"lr": [0.01, 0.02]}),
        (["method=label_noise", "measure=[uv_flow]"], {"objective.label_noise.delta": [0.1, 0.4]}),
    ],
)
def test_what_follows_a_setting_follows_it_in_each_replica(sharp, folder, words, grid):
    """measure.sam_sharpness.rho is by default optimizer.rho, objective.sde_noise.dt is lr: each replica's."""
    ((setting, values),) = grid.items()
    toy = ["problem=uv", "steps=4", "measure_every=4", "lr=0.01", *words]
    assert sharp("train", *toy, f"replicas={{{setting}:{values}}}".replace(" ", "")).code == 0
    together = last_rows(only_run(folder), 2)
    for value, row in zip(values, together, strict=True):
        assert sharp("train", *toy, f"{setting}={value}", f"runs_dir=alone{value}").code == 0
        (alone,) = last_rows(next((folder / f"alone{value}").iterdir()), 1)
        timeless = {k: v for k, v in row.items() if "seconds" not in k and k != setting}
        assert {k: v for k, v in alone.items() if "seconds" not in k and k != setting} == timeless


def test_the_end_of_a_grid_has_a_line_for_each_setting_and_no_mean_over_them(sharp, folder):
    toy = ["problem=uv", "method=sam", "steps=0", "measure=[sam_sharpness]"]
    said = sharp("train", *toy, "replicas={optimizer.rho:[0.05,0.5],seed:2}")
    rows = last_rows(only_run(folder), 4)
    lines = [line for line in said.out.splitlines() if line.startswith("at step")]
    assert len(lines) == 2 and "optimizer.rho=0.05, 2 replicas" in lines[0]
    for line, (a, b) in zip(lines, (rows[:2], rows[2:]), strict=True):
        assert f"sam_sharpness {(a['sam_sharpness'] + b['sam_sharpness']) / 2:.4g} ± " in line
    assert "(replica 0)" in said.err
    many = sharp(
        "train", *toy, "steps=1", f"replicas={{lr:{[i / 100 for i in range(1, 11)]}}}".replace(" ", "")
    )
    assert sum("lr=" in line for line in many.out.splitlines()) == 8 and "and 2 more settings" in many.out


def test_a_measure_with_a_setting_of_its_own_keeps_it_in_each_replica(sharp, folder):
    toy = ["problem=uv", "method=sam", "steps=0", "measure=[sam_sharpness]", "measure.sam_sharpness.rho=0.1"]
    assert sharp("train", *toy, "replicas={optimizer.rho:[0.05,0.5]}").code == 0
    first, second = last_rows(only_run(folder), 2)
    assert first["sam_sharpness"] == second["sam_sharpness"]


def test_a_grid_over_lr_names_its_run_by_the_least_and_the_largest(sharp, folder):
    words = (*TOY, "steps=10", "measure_every=10", "replicas={lr:[0.02,1e-3,0.01]}")
    assert sharp("train", *words).code == 0
    (made,) = (folder / "runs").iterdir()
    assert made.name.startswith("label_noise-uv-lr0.001to0.02-seed0-")
    made.rename(made.with_name(made.name.replace("lr0.001to0.02", "lr0.02")))  # as earlier versions named it
    assert "already complete" in sharp("train", *words).out
    assert len(list((folder / "runs").iterdir())) == 1


def test_interrupted_replicas_resume_to_the_same_rows(process, folder):
    words = (
        *TOY[:3],
        "steps=6000",
        "measure=[scores]",
        "measure_every=100",
        "lr=0.02",
        "compile_toys=false",
        "replicas=2",
    )
    whole = process("train", *words, "runs_dir=whole")
    assert whole.wait() == 0
    part = process("train", *words, "runs_dir=part")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        files = list((folder / "part").glob("*/metrics.jsonl"))
        if files and files[0].read_text().count("\n") > 8:
            break
        time.sleep(0.05)
    part.send_signal(signal.SIGINT)
    _, err = part.communicate(timeout=60)
    assert part.returncode == 130 and "the same command resumes" in err
    again = process("train", *words, "runs_dir=part")
    assert again.wait() == 0
    (one,), (other,) = (folder / "whole").iterdir(), (folder / "part").iterdir()
    assert rows_of(one / "metrics.jsonl") == rows_of(other / "metrics.jsonl")
    assert json.loads((other / "provenance.json").read_text())["replicas"] == 2


@pytest.mark.parametrize(
    "word, said",
    [
        ("replicas=0", "replicas=0: give a number of seeds from 1, or a mapping"),
        ("replicas=many", "replicas=many: give a number of seeds"),
        ("replicas={lr:0.1}", "replicas.lr=0.1: give a number of seeds from 1, or a mapping"),
        ("replicas={lr:[0.1,0.1]}", "replicas.lr=[0.1, 0.1]"),
        ("replicas={schedule:[linear,cosine]}", "a sweep makes a run of each: -m schedule=A,B"),
        ("replicas={rho:[0.1,0.2]}", "replicas.rho: no setting of this run that replicas may differ in"),
        ("replicas={problem.d:[10,20]}", "parameters, not 20"),
        ("replicas={lr:[0.1,-1]}", "lr=-1"),
        ("replicas={seed:[a,b]}", "seeds are whole numbers"),
        ("replicas={batch_size:[1,2]} steps=2 epochs", "count in steps, not in epochs"),
    ],
)
def test_wrong_words_about_replicas_are_one_line(sharp, word, said):
    assert said in sharp("train", *TOY, *re.split(" (?=steps)", word)).refusal
