"""The run directory: joined rows, cut lines, damaged files, files that hang or lead elsewhere."""

import json
import os
import resource
import socket
import time

import pytest
import torch
import yaml

from sharpcli.errors import InOtherHands, Refusal, printable
from sharpcli.frames import frame_of
from sharpcli.jsonl import files, read_rows, replace, rows_written
from sharpcli.run import Run, append
from sharpcli.runs_dir import find, find_all, in_directory


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
    with pytest.raises(Refusal, match="no run in it"):
        Run(tmp_path)
    (run.path / "provenance.json").write_text('{"version": 99}')
    with pytest.raises(Refusal, match="format 99"):
        Run(run.path)
    assert in_directory(tmp_path / "runs") == []


def test_a_run_is_found_by_path_name_beginning_or_hash(run, tmp_path):
    runs = tmp_path / "runs"
    for word in (str(run.path), run.name, "gd-toy", "0a1b2c3d"):
        assert find(word, runs).path == run.path
    for word in (f"{runs}/gd-toy", f"{runs}/0a1b2c3d"):
        assert find(word, tmp_path / "elsewhere").path == run.path
    with pytest.raises(Refusal, match=f"no such run in {runs}"):
        find(f"{runs}/sgd", tmp_path)
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


# --- rows ---


@pytest.mark.parametrize(
    "line, why",
    [
        (b'{"step": 1, "a"', "not JSON"),
        (b"\0" * 40, "not JSON"),
        (b'{"step": 1, "a": "\xff"}', "not UTF-8"),
        (b"[1, 2]", "no object"),
        (b'{"step": null}', "without a step"),
        (b'{"step": "1"}', "without a step"),
        (b'{"step": true}', "without a step"),
        (b'{"step": -1}', "without a step"),
        (b'{"step": 1e3}', "without a step"),
        (b'{"step": 1, "replica": "x"}', "without a step"),
        (b'{"step": 1, "a": NaN}', "not JSON"),
        (b'{"step": 1, "a": {"b": 1}}', "a is an object"),
        (b'{"step": 1, "a": 1' + b"0" * 400 + b"}", "a is no number of any size"),
        (b'{"step": 1, "a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b"", "not JSON"),
    ],
)
def test_a_line_that_is_no_row_is_named_with_its_file_and_number(run, line, why):
    run.log({"step": 0, "a": 1.0})
    with open(run.path / "metrics.jsonl", "ab") as file:
        file.write(line + b"\n")
    run = Run(run.path)
    run.log({"step": 2, "a": 3.0})
    assert [row["step"] for row in run.logged()] == [0, 2]
    assert f"metrics.jsonl: line 2 is no row ({why}" in run.damage()


def test_rows_that_are_out_of_order_are_named(run):
    for step in (0, 1, 2, 0, 1, 2):
        run.log({"step": step})
    assert run.damage().endswith("row 4 is of step 0, after 2")


@pytest.mark.parametrize("size", [100, 8191, 8192, 8193, 70_000, 9_000_000])
@pytest.mark.parametrize("torn", [b"", b'{"step": 11, "a": [1, 2'])
def test_a_last_row_of_any_length_is_seen(run, size, torn):
    run.log({"step": 3})
    run.log({"step": 10, "a": "x" * size})
    with open(run.path / "metrics.jsonl", "ab") as file:
        file.write(torn)
    assert run.last()["step"] == 10 and run.status == "complete" and run.damage() == ""


def test_a_row_that_has_lost_only_its_newline_is_kept(run):
    run.log({"step": 0}, {"step": 1})
    run.cut(run.offset - 1)
    run.log({"step": 2})
    assert [row["step"] for row in run.logged()] == [0, 1, 2] and run.damage() == ""
    assert run.written == run._read_written()


def test_a_torn_line_of_any_length_is_dropped_before_a_row_is_added(run):
    run.log({"step": 0})
    with open(run.path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 1, "a": "' + b"x" * 100_000)
    run.log({"step": 2})
    assert (run.path / "metrics.jsonl").read_bytes() == b'{"step": 0}\n{"step": 2}\n'


def test_a_finished_run_knows_every_byte_of_its_rows(run):
    run.log({"step": 0, "a": 1.0}, {"step": 10, "a": 2.0})
    run.finish()
    assert Run(run.path).damage() == ""
    file = run.path / "metrics.jsonl"
    for damaged in (
        file.read_bytes().replace(b"1.0", b"1.5"),
        b'{"step": 10, "a": 2.0}\n',
        file.read_bytes() + b'{"step": 10, "a": 2.0}\n',
    ):
        kept = file.read_bytes()
        file.write_bytes(damaged)
        assert Run(run.path).status == "complete" and Run(run.path).damage(), damaged
        file.write_bytes(kept)


def test_what_was_measured_later_is_known_to_the_byte(run):
    run.add_measured({"step": 0, "a": 1.0})
    run.add_measured({"step": 5, "a": 2.0})
    file, said = run.path / "measured.jsonl", []
    kept = file.read_bytes()
    assert len(run.rows(said.append)) == 2 and said == []
    for damaged in (kept.replace(b"1.0", b"1.5"), kept[:-5], kept[20:], b"", b"x\n" + kept):
        file.write_bytes(damaged)
        run.rows(said.append)
        assert len(said) == 1 and "measured.jsonl" in said.pop(), damaged
    file.unlink()
    run.rows(said.append)
    assert len(said) == 1
    run.add_measured({"step": 5, "a": 3.0})
    run.rows(said.append)  # a row more does not make the loss good
    assert len(said) == 2 and "remove measured.crc32 to take them as they are" in said[-1]
    (run.path / "measured.crc32").unlink()
    run.add_measured({"step": 6, "a": 3.0})
    assert [row["step"] for row in run.rows(said.append)] == [5, 6] and len(said) == 2


def test_a_row_measured_before_a_kill_is_no_damage(run):
    run.add_measured({"step": 0, "a": 1.0})
    append(run.path / "measured.jsonl", {"step": 5, "a": 2.0})  # and the process ends here
    said = []
    assert len(run.rows(said.append)) == 2 and said == []
    run.add_measured({"step": 6, "a": 2.0})
    assert len(run.rows(said.append)) == 3 and said == []


def test_rows_cut_off_a_finished_run_are_missed(run):
    run.log({"step": 0, "a": 1.0}, {"step": 10, "a": 2.0})
    run.finish()
    with open(run.path / "metrics.jsonl", "ab") as file:
        file.truncate(run.offset - 3)
    assert (
        Run(run.path).status == "unfinished" and "changed after the run had ended" in Run(run.path).damage()
    )


def test_no_cut_makes_a_file_longer(run):
    run.log({"step": 0})
    with pytest.raises(ValueError, match="holds 12 bytes and not 900"):
        run.cut(900)
    assert run.offset == 12


def test_a_line_without_an_end_ends_the_reading(run, monkeypatch):
    run.log({"step": 0})
    with open(run.path / "metrics.jsonl", "ab") as file:
        file.truncate(2**40)  # a terabyte of zeros, of which the disk holds nothing
    began = time.monotonic()
    assert run.last() is None and "a line of more than 67 MB" in run.damage()
    assert time.monotonic() - began < 5


# --- directories that are damaged, or somebody's trap ---


def deep(n):
    return "[" * n + "]" * n


def facts(**more):
    return json.dumps({"version": 2, "steps": 10} | more)


def pipe(file):
    os.mkfifo(file)


def server(file):
    here = os.getcwd()
    os.chdir(file.parent)  # a socket's path may have 107 characters
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(file.name)
    os.chdir(here)


BAD_FACTS = {
    "a list": lambda file: file.write_text("[1, 2]"),
    "a number": lambda file: file.write_text("3"),
    "empty": lambda file: file.write_text(""),
    "cut short": lambda file: file.write_text(facts()[:9]),
    "not UTF-8": lambda file: file.write_bytes(b'{"version": 2, "steps": 10, "x": "\xff\xfe"}'),
    "nested until Python stops": lambda file: file.write_text(deep(100_000)),
    "nested below that": lambda file: file.write_text(facts(x=json.loads(deep(300)))),
    "a huge number": lambda file: file.write_text(facts(steps=0)[:-2] + "9" * 5000 + "}"),
    "step null": lambda file: file.write_text(facts(steps=None)),
    "steps a word": lambda file: file.write_text(facts(steps="x")),
    "steps true": lambda file: file.write_text(facts(steps=True)),
    "steps below 0": lambda file: file.write_text(facts(steps=-1)),
    "replicas a list": lambda file: file.write_text(facts(replicas=[1])),
    "scores a number": lambda file: file.write_text(facts(scores=3)),
    "packages a word": lambda file: file.write_text(facts(packages="x")),
    "version a list": lambda file: file.write_text(facts(version=[2])),
    "version true": lambda file: file.write_text(facts(version=True)),
    "rows a word": lambda file: file.write_text(facts(rows="x")),
    "a pipe": pipe,
    "a socket": server,
    "a directory": lambda file: file.mkdir(),
    "a link to itself": lambda file: file.symlink_to(file.name),
    "a link to nothing": lambda file: file.symlink_to("nothing"),
    "a device": lambda file: file.symlink_to("/dev/zero"),
    "a terabyte": lambda file: os.truncate(file, 2**40) if file.write_text("") == 0 else None,
    "missing": lambda file: None,
}


@pytest.mark.parametrize("kind", BAD_FACTS)
def test_a_run_that_cannot_be_read_is_named_and_left_out_and_hangs_nothing(run, kind):
    bad = run.path.with_name("a-bad-run")
    (bad / "checkpoints").mkdir(parents=True)
    BAD_FACTS[kind](bad / "provenance.json")
    said = []
    began = time.monotonic()
    assert [found.name for found in in_directory(run.path.parent, said.append)] == [run.name]
    assert len(said) == 1 and "a-bad-run" in said[0] and said[0].endswith("left out"), said
    assert time.monotonic() - began < 2
    with pytest.raises(Refusal, match="a-bad-run"):
        Run(bad)


def test_what_is_no_run_is_passed_over_and_a_link_that_leads_nowhere_named(run):
    runs = run.path.parent
    (runs / "claims" / "x").mkdir(parents=True)
    (runs / "notes.txt").write_text("")
    (runs / "loop").symlink_to("loop")
    said = []
    assert len(in_directory(runs, said.append)) == 1
    assert len(said) == 1 and "loop" in said[0]


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
BAD_CONFIGS = {
    "a bomb": lambda file: file.write_text(BOMB),
    "nested": lambda file: file.write_text("a: " + deep(100_000)),
    "nested in blocks": lambda file: file.write_text("".join(" " * i + "a:\n" for i in range(2000))),
    "a loop": lambda file: file.write_text("a: &a [*a]"),
    "a list": lambda file: file.write_text("- 1"),
    "a key that is a list": lambda file: file.write_text("? [a]\n: 1"),
    "an object of Python": lambda file: file.write_text("a: !!python/object/apply:os.getcwd []"),
    "no yaml": lambda file: file.write_text("a: [1"),
    "not UTF-8": lambda file: file.write_bytes(b"a: \xff\xfe"),
    "zeros": lambda file: file.write_bytes(b"\0" * 100),
    "a problem that is a word": lambda file: file.write_text("problem: x"),
    "a pipe": lambda file: file.unlink() or pipe(file),
    "a directory": lambda file: file.unlink() or file.mkdir(),
    "missing": lambda file: file.unlink(),
    "a terabyte": lambda file: os.truncate(file, 2**40),
}


@pytest.mark.parametrize("kind", BAD_CONFIGS)
def test_a_config_that_is_none_is_one_line_at_once(run, kind):
    BAD_CONFIGS[kind](run.path / "config.yaml")
    began = time.monotonic()
    with pytest.raises(Refusal, match=r"config\.yaml"):
        print(run.config)
    said = []
    assert frame_of([Run(run.path)], said.append).empty and "left out" in said[0]
    assert time.monotonic() - began < 2


def test_an_alias_in_a_config_is_no_bomb(run):
    shared = [1, 2]
    (run.path / "config.yaml").write_text(yaml.safe_dump({"a": shared, "b": shared}))
    assert "&" in (run.path / "config.yaml").read_text() and run.config == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize("file", ["metrics.jsonl", "measured.jsonl"])
@pytest.mark.parametrize("kind", ["pipe", "directory", "loop", "device"])
def test_rows_that_are_no_file_hang_nothing_and_are_one_line(run, file, kind):
    path = run.path / file
    {
        "pipe": lambda: os.mkfifo(path),
        "directory": lambda: path.mkdir(),
        "loop": lambda: path.symlink_to(file),
        "device": lambda: path.symlink_to("/dev/zero"),
    }[kind]()
    rows, wrong = read_rows(path)
    assert rows == [] and file in wrong and len(wrong.splitlines()) == 1
    with pytest.raises(Refusal, match="cannot (write|be read)"):
        run.log({"step": 0}) if file == "metrics.jsonl" else run.add_measured({"step": 0})


PLACES = (
    *("metrics.jsonl", "measured.jsonl", "provenance.json.part", "provenance.json"),
    *("checkpoints/step_00000003.pt", "checkpoints", ".lock"),
)


@pytest.mark.parametrize("place", PLACES)
def test_a_link_inside_a_run_leads_no_writing_elsewhere(run, tmp_path, place):
    victim = tmp_path / "victim"
    if place == "checkpoints":
        (run.path / place).rmdir()
        victim.mkdir()
    else:
        victim.write_text(
            "precious\n"
            if "provenance" not in place
            else (run.path / place.removesuffix(".part")).read_text()
        )
    before = None if victim.is_dir() else victim.read_bytes()
    (run.path / place).unlink(missing_ok=True)
    (run.path / place).symlink_to(victim)
    run = Run(run.path)
    for write in (
        lambda: run.log({"step": 0}),
        lambda: run.cut(0),
        lambda: run.add_measured({"step": 0}),
        lambda: run.resumed(step=1),
        lambda: run.save(3, {"w": torch.zeros(2), "step": 3}),
        lambda: run.drop(3),
        lambda: run.finish(),
        lambda: run.lock().__enter__(),
    ):
        try:
            write()
        except Refusal as problem:
            assert "symbolic link" in str(problem) or "cannot write" in str(problem)
    assert (list(victim.iterdir()) == []) if victim.is_dir() else victim.read_bytes() == before


def test_a_figure_or_another_whole_file_replaces_a_link_and_not_its_target(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "figure.png").symlink_to("victim")
    replace(tmp_path / "figure.png", b"new")
    assert (tmp_path / "victim").read_text() == "precious" and not (tmp_path / "figure.png").is_symlink()
    files.sync(tmp_path / "nothing")


def test_what_a_terminal_would_obey_is_written_as_its_escape():
    assert printable("a\x1b[31mb\nc\u202ed\udcffé") == "a\\x1b[31mb\\nc\\u202ed\\udcffé"
    assert str(Refusal("no\x1b[2J  such\nrun")) == "no\\x1b[2J such run"


def test_a_column_of_words_and_numbers_is_refused(tmp_path):
    run = Run.create(tmp_path / "a", {"problem": {"_target_": "a.b"}}, {"steps": 5})
    run.log({"step": 0, "lambda_1": 1.0}, {"step": 5, "lambda_1": "abc"})
    with pytest.raises(Refusal, match="lambda_1 is abc at step 5"):
        frame_of([run])
    words = Run.create(tmp_path / "b", {"problem": {"_target_": "a.b"}}, {"steps": 5})
    words.log({"step": 0, "lambda_1": "a word"})  # of one kind in this run, of another in that
    said = []
    assert list(frame_of([run, words], said.append)["run"]) == ["b"]
    assert len(said) == 1 and "lambda_1 is abc" in said[0] and said[0].endswith("left out")


def test_a_frame_by_columns_is_that_of_its_rows(tmp_path):
    """Runs whose settings and columns differ, with replicas that have an lr of their own."""
    said = {"problem": {"_target_": "a.b"}, "seed": 0}
    configs = ({**said, "lr": 0.1}, {**said, "lr": 0.2, "model": {"widths": [3, 2]}}, {**said, "lr": 0.3})
    first, second, third = (
        Run.create(tmp_path / name, config, {"steps": 2, "replicas": replicas})
        for name, config, replicas in zip("abc", configs, (1, 1, 2), strict=True)
    )
    first.log({"step": 0, "train_loss": 1.5}, {"step": 2, "lambda_1": None, "diverged": True})
    second.log({"step": 0, "train_loss": 2, "nodes": [1.0, 2.0]}, {"step": 1, "lambda_1": 7.25})
    third.log({"step": 0, "replica": 0, "lr": 0.5}, {"step": 0, "replica": 1, "seed": 9, "lr": 0.6})
    for run in (first, second, third):
        run.finish()
    frame = frame_of(in_directory(tmp_path))
    assert list(frame["run"]) == ["a", "a", "b", "b", "c#0", "c#1"]
    assert list(frame["lr"]) == [0.1, 0.1, 0.2, 0.2, 0.5, 0.6] and list(frame["seed"]) == [0, 0, 0, 0, 0, 9]
    assert frame["model.widths"].isna().tolist() == [True, True, False, False, True, True]
    assert frame["nodes"][2] == [1.0, 2.0] and frame["lambda_1"][3] == 7.25
    assert frame["train_loss"].dropna().tolist() == [1.5, 2.0] and bool(frame["diverged"][1])
    assert {"lr", "seed", "model.widths", "problem"} <= set(frame.attrs["settings"])


def test_of_two_rows_of_a_step_the_newest_counts(tmp_path):
    config = {"seed": 0, "lr": 0.1}
    run = Run.create(tmp_path / "gd-uv-00000000", config, {"steps": 2, "replicas": 1})
    run.log({"step": 0, "x": 1.0})
    run.log({"step": 1, "x": 2.0})
    run.log({"step": 1, "x": 3.0})
    assert [row["x"] for row in run.rows()] == [1.0, 3.0]


TEXTS = {
    "rows": b'{"step": 0, "x": 1e-7}\n{"step": 1, "x": null, "y": [1, "a"], "b": true}\n',
    "with numbers of any size": b'{"step": 0, "x": 123456789012345678901}\n{"step": 3, "x": -0.0}\n',
    "with provenance": b'{"step": 0, "provenance": {"command": "sharp"}}\n',
    "joined over a line's end": b'{"step": 0, "a": [1\n2]}, {"step": 1}\n',
    "two in a line": b'{"step": 0}, {"step": 1}\n{"step": 2}\n',
    "without a step": b'{"step": 0}\n{"x": 1}\n',
    "a step below 0": b'{"step": 0}\n{"step": -1}\n',
    "a step that is true": b'{"step": 0}\n{"step": true}\n',
    "a replica that is none": b'{"step": 0, "replica": "a"}\n',
    "no object": b'{"step": 0}\n[{"step": 1}]\n',
    "an object inside": b'{"step": 0, "x": {"y": 1}}\n',
    "not finite": b'{"step": 0, "x": NaN}\n',
    "half a surrogate pair": b'{"step": 0, "x": "\\ud800"}\n',
    "no text": b"\xff\xfe\n",
    "nothing": b"",
    "cut short": b'{"step": 0}\n{"step": 1, "x"',
}


@pytest.mark.parametrize("kind", TEXTS)
def test_rows_read_at_once_are_those_read_line_by_line(tmp_path, kind):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(TEXTS[kind])
    rows, wrong = read_rows(file)
    at_once = rows_written(TEXTS[kind])
    assert at_once is None or (at_once == rows and not wrong)
    assert (at_once is not None) == (kind in ("rows", "with numbers of any size"))


# --- identity ---


def test_a_run_is_found_by_its_hash_of_16_digits_or_the_beginning_of_it(tmp_path):
    names = [
        "gd-uv-lr1-seed0-0a1b2c3d",
        "gd-uv-lr1-seed1-0a1b2c3e00000001",
        "gd-uv-lr1-seed1-0a1b2c3e00000001-ffffffffffffffff",
    ]
    for name in names[:2]:
        Run.create(tmp_path / name, {}, {"steps": 1})
    assert find("0a1b2c3d", tmp_path).name == names[0]
    assert find("0a1b2c3e", tmp_path).name == find("0a1b2c3e00000001", tmp_path).name == names[1]
    assert Run.create(tmp_path / names[2], {}, {"steps": 1}).hash == "0a1b2c3e00000001-ffffffffffffffff"
    assert find("ffffffffffffffff", tmp_path).name == names[2]


def test_an_ending_in_other_hands_is_a_refusal_of_its_own_kind(run):
    with run.lock(), pytest.raises(InOtherHands), Run(run.path).lock():
        pass
    with Run(run.path).lock():
        pass
