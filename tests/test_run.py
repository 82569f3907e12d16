"""The run directory: joined rows, cut lines, damaged files."""

import json
import os
import resource

import pytest
import torch

from sharpcli.errors import Refusal
from sharpcli.run import Run, append, find, find_all, in_directory


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "runs" / "gd-toy-lr1-seed0-0a1b2c3d", {"seed": 0}, {"steps": 10})


def test_rows_are_joined_by_step_and_the_newest_number_wins(run):
    run.log({"step": 0, "a": 1.0})
    run.log({"step": 5, "a": 2.0})
    run.add_measured({"step": 5, "b": 3.0, "provenance": {}})
    run.add_measured({"step": 5, "b": 4.0, "a": 9.0})
    run.add_measured({"step": 7, "b": 1.0})
    assert run.rows() == [{"step": 0, "a": 1.0}, {"step": 5, "a": 9.0, "b": 4.0}, {"step": 7, "b": 1.0}]
    assert run.logged()[1] == {"step": 5, "a": 2.0}


def test_numbers_keep_every_digit_and_what_is_not_finite_becomes_null(run):
    run.log({"step": 0, "a": 0.1 + 0.2, "b": float("nan"), "c": float("inf")})
    assert run.logged() == [{"step": 0, "a": 0.30000000000000004, "b": None, "c": None}]
    json.loads(
        (run.path / "metrics.jsonl").read_text(), parse_constant=lambda c: pytest.fail(f"{c} is no JSON")
    )


def test_a_truncated_last_line_is_read_up_to_and_never_joined_onto(run):
    run.log({"step": 0})
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 1, "lo')
    assert [row["step"] for row in run.logged()] == [0] and run.last() == {"step": 0}
    run.log({"step": 2})
    assert [row["step"] for row in run.logged()] == [0, 2]


def test_status(run):
    assert run.status == "unfinished"
    run.log({"step": 9})
    assert run.status == "unfinished"
    run.log({"step": 10})
    assert run.status == "complete"
    run.log({"step": 10, "diverged": True})
    assert run.status == "diverged"


def test_a_checkpoint_comes_back_and_a_damaged_one_is_noticed(run):
    run.save(3, {"w": torch.arange(100.0), "step": 3})
    assert run.checkpoints() == [3] and torch.equal(run.load(3)["w"], torch.arange(100.0))
    (file,) = (run.path / "checkpoints").iterdir()
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        run.load(3)


def test_a_directory_that_is_no_run_or_of_another_version_is_refused(run, tmp_path):
    with pytest.raises(Refusal, match="not a run directory"):
        Run(tmp_path)
    (run.path / "provenance.json").write_text('{"version": 99}')
    with pytest.raises(Refusal, match="format 99"):
        Run(run.path)
    assert in_directory(tmp_path / "runs") == []


def test_a_run_is_found_by_path_name_beginning_or_hash(run, tmp_path):
    runs = tmp_path / "runs"
    for word in (str(run.path), run.name, "gd-toy", "0a1b2c3d"):
        assert find(word, runs).path == run.path
    with pytest.raises(Refusal, match="did you mean gd-toy-lr1-seed0-0a1b2c3d"):
        find("gd-toy-lr1-sed0-0a1b2c3d", runs)
    Run.create(runs / "gd-toy-lr2-seed0-00000000", {}, {"steps": 1})
    with pytest.raises(Refusal, match="2 runs in"):
        find("gd-toy", runs)
    assert [r.name[:10] for r in find_all([str(runs), "0a1b2c3d"], runs)] == ["gd-toy-lr1", "gd-toy-lr2"]


def test_a_second_holder_of_the_lock_is_refused(run):
    with run.lock(), pytest.raises(Refusal, match="another process"), Run(run.path).lock():
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(Refusal, match="cannot write"):
        Run.create(tmp_path / "x", {}, {"steps": 1})
    tmp_path.chmod(0o700)


def test_a_row_that_does_not_fit_on_the_disk_leaves_none_of_itself(tmp_path):
    file = tmp_path / "metrics.jsonl"
    append(file, {"step": 0})
    size, limits = file.stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, limits[1]))  # five bytes of the next row do fit
    try:
        with pytest.raises(Refusal, match="cannot write"):
            append(file, {"step": 1})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_text() == '{"step": 0}\n'
    append(file, {"step": 1})
    assert file.read_text() == '{"step": 0}\n{"step": 1}\n'
