"""What a user keeps of runs, throws away, makes once more and hands on; and the index of a folder."""

import json
import math
import os
import shutil
import signal
import time
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import pytest
from conftest import TINY

from sharpcli.commands import export, index
from sharpcli.commands.page import content
from sharpcli.commands.processes import in_processes
from sharpcli.errors import Refusal
from sharpcli.frames import frame_of
from sharpcli.run import Run
from sharpcli.runs_dir import in_directory

SHORT = (*TINY, "steps=4", "measure_every=2", "threads=1")


@pytest.fixture
def runs(sharp, folder):
    """Three runs, and their names."""
    assert sharp("train", *SHORT, "lr=0.05,0.1,0.2", "-m").code == 0
    return [run.name for run in in_directory(folder / "runs")]


# --- tags and notes ---


def test_runs_are_chosen_by_their_tags(sharp, folder, runs):
    said = sharp("tag", "paper", runs[0], runs[2])
    assert said.code == 0 and said.out.splitlines() == [f"{runs[0]}: paper", f"{runs[2]}: paper"]
    assert sharp("tag", "figure_2", runs[0]).out.strip() == f"{runs[0]}: paper figure_2"
    listed = sharp("ls", "where", "tags.str.contains('paper')", "columns=[tags]")
    assert [line.split()[0] for line in listed.out.splitlines()[1:]] == [runs[0], runs[2]]
    assert sharp("tag", "paper", runs[0], "--remove").out.strip() == f"{runs[0]}: figure_2"
    assert "not tagged paper" in sharp("tag", "paper", runs[0], "--remove").refusal
    assert "without spaces" in sharp("tag", "two words", runs[0]).refusal
    assert "sharp tag TAG RUN" in sharp("tag", "paper").refusal
    # to say something of a run changes nothing of the run
    assert "already complete" in sharp("train", *SHORT, "lr=0.05").out
    frame = frame_of(in_directory(folder / "runs"))
    assert set(frame["tags"]) == {"figure_2", "", "paper"}
    assert sharp("plot", "compare", "runs", "y=train_loss", "by=[lr]", "-o", "x.png").code == 0


def test_a_note_is_kept_and_shown(sharp, runs):
    assert sharp("note", runs[0], "the one with the spike, x=3").code == 0
    assert sharp("note", runs[0]).out.strip() == f"{runs[0]}: the one with the spike, x=3"
    assert "the spike" in sharp("show", runs[0]).out
    assert sharp("note", runs[0], "").out.strip() == f"{runs[0]}: no note"
    assert "sharp note RUN" in sharp("note", runs[0], "two", "texts").refusal
    assert "no such run" in sharp("note", "nothing", "text").refusal


def test_damaged_labels_are_none(sharp, folder, runs):
    for text in ("nonsense", "[1]", '{"tags": 3, "note": ""}', '{"tags": [3], "note": ""}'):
        (folder / "runs" / runs[0] / "labels.json").write_text(text)
        assert sharp("note", runs[0]).out.strip() == f"{runs[0]}: no note"


# --- the trash ---


def test_a_removed_run_is_in_the_trash_and_comes_back(sharp, folder, runs):
    assert "--yes agrees" in sharp("rm", runs[0]).refusal  # nobody to ask
    said = sharp("rm", runs[0], "--yes")
    assert said.code == 0 and "moved to runs/.trash/" in said.out
    assert [run.name for run in in_directory(folder / "runs")] == runs[1:]
    assert runs[0] not in sharp("ls").out
    (folder / "runs" / ".trash" / runs[0]).rename(folder / "runs" / runs[0])
    assert runs[0] in sharp("ls").out
    # twice the same name
    assert sharp("rm", runs[0], "--yes").code == 0
    assert sharp("train", *SHORT, "lr=0.05").code == 0
    assert f"{runs[0]}.2" in sharp("rm", runs[0], "--yes").out
    assert "2 runs deleted" in sharp("rm", "--purge", "--yes").out
    assert not (folder / "runs" / ".trash").exists()
    assert "empty" in sharp("rm", "--purge", "--yes").out


def test_purge_deletes_and_nothing_else(sharp, folder, runs):
    assert sharp("rm", runs[1], "--purge", "--yes").out.strip() == f"{runs[1]}: deleted"
    assert sorted(path.name for path in (folder / "runs").iterdir() if path.name[0] != ".") == [
        runs[0],
        runs[2],
    ]
    assert "no run given" in sharp("rm").refusal and "no such run" in sharp("rm", "nothing", "--yes").refusal


def test_a_run_in_other_hands_is_not_removed(sharp, process, folder):
    child = process("train", *TINY, "steps=100000", "measure_every=100", "threads=1", "lr=0.01")
    try:
        for _ in range(400):
            if any((folder / "runs").glob("*/metrics.jsonl")):
                break
            time.sleep(0.05)
        (run,) = in_directory(folder / "runs")
        assert "another process" in sharp("rm", run.name, "--purge", "--yes").refusal
        assert run.path.exists()
    finally:
        child.terminate()
        child.communicate(timeout=60)


def test_a_link_is_not_followed(sharp, folder, runs):
    elsewhere = folder / "elsewhere"
    shutil.move(folder / "runs" / runs[0], elsewhere)
    (folder / "runs" / runs[0]).symlink_to(elsewhere)
    assert "symbolic link" in sharp("rm", runs[0], "--purge", "--yes").refusal
    assert (elsewhere / "metrics.jsonl").exists()


# --- once more ---


def test_a_run_is_made_once_more_to_the_same_rows(sharp, folder, runs):
    said = sharp("rerun", runs[1], "runs_dir=again")
    assert said.code == 0 and f"sharp train {' '.join(SHORT[:1])}" in said.err, said.err
    (before,) = [run for run in in_directory(folder / "runs") if run.name == runs[1]]
    (after,) = in_directory(folder / "again")
    assert after.name == before.name

    def numbers(run):
        return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in run.logged()]

    assert numbers(after) == numbers(before)
    assert sharp("rerun", runs[1], "lr=0.3", "runs_dir=again").code == 0
    assert sorted(run.config["lr"] for run in in_directory(folder / "again")) == [0.1, 0.3]
    assert "takes one run" in sharp("rerun", runs[0], runs[1]).refusal
    assert "no such run" in sharp("rerun", "nothing").refusal


# --- tables of all rows ---


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_all_rows_in_one_table(sharp, folder, runs, ending, monkeypatch):
    monkeypatch.setattr("sharpcli.commands.export.AT_ONCE", 2)
    assert sharp("train", "problem=uv", "steps=4", "measure=[density]", "measure_every=2").code == 0
    said = sharp("export", "runs", "-o", f"all.{ending}")
    assert said.code == 0 and said.out.strip() == f"all.{ending}: 12 rows of 4 runs", said.err
    # numbers of a .csv are read by Python's float, which is exact in every version
    table = pd.read_csv("all.csv", dtype=object) if ending == "csv" else pd.read_parquet("all.parquet")
    table = table.astype({"step": int, "lr": float, "train_loss": float})
    frame = frame_of(in_directory(folder / "runs"))
    assert set(table) == set(frame)
    both = frame[["run", "step", "lr", "train_loss"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(table[list(both)], both, check_dtype=False, check_exact=True)
    nodes = table.loc[table["run"].str.contains("uv"), "density_nodes"]
    assert [json.loads(text) for text in nodes] == list(frame["density_nodes"].dropna())
    assert sharp("export", *runs, "-o", f"alike.{ending}").code == 0  # pieces of the same columns
    alike = pd.read_csv("alike.csv") if ending == "csv" else pd.read_parquet("alike.parquet")
    assert len(alike) == 9 and list(alike["step"]) == [0, 2, 4] * 3
    chosen = sharp("export", "runs", "where", "lr > 0.15", "-o", f"some.{ending}")
    assert "6 rows of 2 runs" in chosen.out and chosen.code == 0
    assert sharp("train", *SHORT, "method=sgd", "batch_size=7").code == 0  # in the others it is "full"
    assert sharp("export", "runs", "-o", f"mixed.{ending}").code == 0
    mixed = pd.read_csv("mixed.csv", dtype=object) if ending == "csv" else pd.read_parquet("mixed.parquet")
    assert {"full", "7"} <= set(mixed["batch_size"].dropna())


def test_wrong_words_of_an_export_are_one_line(sharp, folder, runs):
    assert ".parquet or .csv" in sharp("export", "runs", "-o", "all.xlsx").refusal
    assert ".parquet or .csv" in sharp("export", "runs").refusal
    assert "no run meets it" in sharp("export", "runs", "where", "lr > 9", "-o", "x.csv").refusal
    assert not list(folder.glob("*.csv")) and not list(folder.glob(".*part"))
    assert "nearest" in sharp("export", "runs", "where", "lrr > 9", "-o", "x.csv").refusal


@pytest.mark.parametrize("in_between", [False, True])
def test_a_csv_is_written_as_pandas_writes_it(tmp_path, in_between):
    frame = pd.DataFrame(
        {
            "model.widths": ["[1, 2]", "[1, 2]", None, None, None],
            "lr": [0.1, 0.2 if in_between else 0.1, float("nan"), float("nan"), float("nan")],
            "note": ['a "b",\nc', 'a "b",\nc', "", "", ""],
            "run": ["a", "a", "b", "b", "b"],
            "scores": ["x y", "x y", "", "", ""],
            "text": ['a "b"', "c,d", "e\nf", "", None],
            "number": [1.5, float("nan"), float("inf"), 1e-7, -0.0],
            "whole": [1, 2, 3, 4, 5],
            "truth": [True, False, True, True, False],
            "some": pd.Series([True, None, False, None, True], dtype=object),
            "mixed": pd.Series([1, "x", None, 2.5, "[1, 2]"], dtype=object),
        }
    )
    export._write_csv(frame, tmp_path / "ours.csv")
    frame.to_csv(tmp_path / "theirs.csv", index=False)
    assert (tmp_path / "ours.csv").read_bytes() == (tmp_path / "theirs.csv").read_bytes()


def test_processes_give_what_one_gives(sharp, folder, runs, monkeypatch):
    assert sharp("train", "problem=uv", "steps=4").code == 0
    (folder / "runs" / runs[2] / "metrics.jsonl").write_text("{}\n")
    old(folder)
    whole = sharp("export", "runs", "-o", "whole.csv"), sharp("export", "runs", "-o", "whole.parquet")
    listed = sharp("ls", "--json")
    (folder / "runs" / index.FILE).unlink()
    monkeypatch.setattr("sharpcli.commands.export.AT_ONCE", 1)
    monkeypatch.setattr("sharpcli.commands.index.AT_ONCE", 1)
    monkeypatch.setattr("sharpcli.commands.processes._cores", lambda: 2)
    parts = sharp("export", "runs", "-o", "parts.csv"), sharp("export", "runs", "-o", "parts.parquet")
    assert [said.code for said in (*whole, *parts)] == [0] * 4
    assert all(said.err.count("is no row") == 1 for said in (*whole, *parts))  # each process tells of its own
    # the columns of the pieces differ, and come in the order in which they first do
    first, second = pd.read_csv("whole.csv"), pd.read_csv("parts.csv")
    assert list(first) != list(frame_of(in_directory(folder / "runs")[:1]))
    pd.testing.assert_frame_equal(first, second[list(first)])
    first, second = pd.read_parquet("whole.parquet"), pd.read_parquet("parts.parquet")
    first, second = (table.dropna(axis=1, how="all") for table in (first, second[list(first)]))
    pd.testing.assert_frame_equal(first, second, check_dtype=False)
    again = sharp("ls", "--json")
    assert again.out == listed.out and again.err == listed.err and "damaged" in again.out


def test_a_process_that_is_ended_from_outside_is_one_line(monkeypatch):
    monkeypatch.setattr("sharpcli.commands.processes._cores", lambda: 2)
    assert list(in_processes(abs, [-3, 2, -1, 0, 5])) == [3, 2, 1, 0, 5]
    with pytest.raises(Refusal, match="ended from outside"):
        list(in_processes(os._exit, [9, 9, 9, 9]))
    with pytest.raises(ValueError, match="math domain error"):  # ours, and shown as ours
        list(in_processes(math.sqrt, [1, 1, -1, 1, 1]))


def test_who_needs_no_further_result_ends_no_other_process(monkeypatch):
    monkeypatch.setattr("sharpcli.commands.processes._cores", lambda: 2)
    other = get_context("spawn").Process(target=time.sleep, args=(60,))
    other.start()
    try:
        results = in_processes(abs, [-3, 2, -1, 0, 5])
        assert next(results) == 3
        results.close()
        assert other.is_alive()
    finally:
        other.kill()
        other.join()


def test_without_locks_between_processes_one_does_all(monkeypatch):
    def without_locks(*_, **__):
        raise OSError(38, "Function not implemented")  # as in a container without /dev/shm

    monkeypatch.setattr("sharpcli.commands.processes._cores", lambda: 2)
    monkeypatch.setattr("sharpcli.commands.processes.ProcessPoolExecutor", without_locks)
    assert list(in_processes(abs, [-3, 2, -1, 0, 5])) == [3, 2, 1, 0, 5]


def test_an_export_that_is_interrupted_leaves_nothing(folder, runs, process):
    (folder / "out").mkdir()
    (folder / "out" / "all.csv").write_text("as before")
    row = (folder / "runs" / runs[0] / "metrics.jsonl").read_text().splitlines()[-1]
    for number in range(800):
        shutil.copytree(folder / "runs" / runs[0], copy := folder / "many" / f"copy{number}")
        facts = json.loads((copy / "provenance.json").read_text())
        (copy / "provenance.json").write_text(json.dumps({k: v for k, v in facts.items() if k != "rows"}))
        lines = (json.dumps(json.loads(row) | {"step": step}) for step in range(200))
        (copy / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    child = process("export", "many", "-o", "out/all.csv")
    until = time.time() + 60
    while not list((folder / "out").glob(".all.csv.*/0.csv")) and time.time() < until:
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130 and "out/all.csv is as it was before" in err
    assert [file.name for file in (folder / "out").iterdir()] == ["all.csv"]
    assert (folder / "out" / "all.csv").read_text() == "as before"


# --- the index ---


def old(folder, seconds=60):
    """Makes every file of the runs older than what an index waits for, or with other `seconds` newer."""
    past = time.time() - seconds
    for path in (folder / "runs").rglob("*"):
        os.utime(path, (past, past), follow_symlinks=False)


def test_the_index_is_never_stale_and_may_be_deleted(sharp, folder, runs):
    old(folder)
    first = sharp("ls").out
    file = folder / "runs" / index.FILE
    assert file.exists() and sharp("ls").out == first
    as_json = sharp("ls", "--json").out
    file.unlink()
    assert sharp("ls", "--json").out == as_json and file.exists()
    # it is read: a number that only it has is shown
    text = file.read_text()
    loss = next(row["train_loss"] for _, row in index._read(file).values())
    file.write_text(text.replace(repr(loss), "77.5"))
    assert "77.5" in sharp("ls").out
    file.write_text(text)
    # a tag, a row, a changed config, a run less: each is seen at once
    assert sharp("tag", "paper", runs[0]).code == 0
    assert "paper" in sharp("ls", "columns=[tags]").out
    rows = folder / "runs" / runs[1] / "metrics.jsonl"
    rows.write_text(rows.read_text()[:-20])
    assert "damaged" in sharp("ls").out
    shutil.rmtree(folder / "runs" / runs[1])
    assert runs[1] not in sharp("ls").out
    shown = sharp("ls").out
    for text in ("", "nonsense", "[]", '{"version": "0", "common": {}, "runs": {}}', "[" * 100_000):
        file.write_text(text)
        assert sharp("ls").out == shown
    file.unlink()
    assert sharp("ls").out == shown


def test_what_is_not_over_or_too_new_is_not_believed(sharp, folder, runs):
    old(folder, -60)  # as if written a moment ago, however slow this machine is
    assert sharp("ls").code == 0
    assert not index._read(folder / "runs" / index.FILE)
    path = folder / "runs" / runs[0]
    facts = json.loads((path / "provenance.json").read_text())
    facts.pop("rows")
    (path / "provenance.json").write_text(json.dumps(facts))
    rows = (path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (path / "metrics.jsonl").write_text("".join(rows[:-1]))
    old(folder)
    assert sharp("ls").code == 0
    assert set(index._read(folder / "runs" / index.FILE)) == set(runs[1:])


def test_a_folder_that_is_read_only_is_listed(sharp, folder, runs):
    old(folder)
    (folder / "runs" / f"{index.FILE}.part").mkdir()  # what makes writing fail, for root too
    assert sharp("ls").code == 0 and not (folder / "runs" / index.FILE).exists()


def test_the_list_shows_what_differs(sharp, runs):
    head = sharp("ls").out.splitlines()[0].split()
    assert head == ["run", "status", "step", "lr", "train_loss", "test_accuracy", "lambda_1"]
    assert sharp("train", *SHORT, "method=sam", "lr=0.1").code == 0
    head = sharp("ls").out.splitlines()[0].split()
    assert head[3:5] == ["method", "lr"] and "optimizer.rho" in head
    for batch in (7, 9):  # alike in all that a run is known by
        assert sharp("train", *SHORT, "method=sgd", f"batch_size={batch}", "lr=0.1").code == 0
    assert "batch_size" in sharp("ls").out.splitlines()[0].split()
    path = str(next(Path("runs").iterdir()))
    assert "is a run, and sharp ls takes a folder of runs" in sharp("ls", path).refusal


def test_a_run_is_made_again_as_a_sweep(sharp, runs):
    said = sharp("rerun", runs[0], "seed=1,2", "-m")
    assert said.code == 0 and said.out.count(": complete") == 2, said.err
    assert "2 jobs: 2 complete" in sharp("rerun", runs[0], "seed=1,2", "-m", "--dry-run").err
    assert "possible: -m" in sharp("rerun", runs[0], "--twice").refusal


def test_of_replicas_the_mean_is_the_score_that_is_best_and_reported(sharp, folder):
    words = (
        *TINY,
        "steps=4",
        "measure_every=4",
        "threads=1",
        "measure=[scores]",
        "method=sgd",
        "batch_size=10",
    )
    assert sharp("train", *words, "replicas=3").code == 0
    (run,) = in_directory(folder / "runs")
    ends = [row["train_loss"] for row in run.rows() if row["step"] == 4]
    mean, last = sum(ends) / 3, ends[-1]
    row = content(in_directory(folder / "runs")).table[0]
    assert row["last"]["train_loss"] == pytest.approx(mean) and "mean of 3 replicas" in row["status"]
    better = (mean + last) / 2  # of another run, between the mean and the last replica
    other = Run.create(
        folder / "runs" / "other",
        {"seed": 0, "problem": {"_target_": "x"}},
        {"steps": 4, "scores": {"train_loss": "lower"}},
    )
    other.log({"step": 4, "train_loss": better})
    best = sharp("show", "best:train_loss").out
    assert ("other" in best) == (better < mean)
    assert "give it, as in best:test_accuracy" in sharp("show", "best:").refusal
