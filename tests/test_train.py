"""The loop through the command line: closed forms, identical bits, kills, divergence, resuming."""

import io
import json
import os
import resource
import signal
import time
import zlib

import numpy as np
import pytest
import torch
from conftest import TINY, needs_cifar, only_run, rows_of

from sharpcli.engine.measuring import SECOND, measure, measure_for_step
from sharpcli.engine.steps import advance
from sharpcli.engine.train import begin
from sharpcli.landscape.second_derivatives import agreement
from sharpcli.landscape.surface import LossSurface
from sharpcli.linalg.sampled import STEPS_WARM
from sharpcli.optimizers.gd import GD
from sharpcli.rng import generator
from sharpcli.run import Run

SHORT = (*TINY, "steps=12", "measure_every=3", "checkpoint_every=5")


def quadratic(sharp, folder, lr, *words):
    assert sharp("train", "problem=quadratic", f"lr={lr}", *words).code == 0
    return only_run(folder)


@pytest.mark.parametrize("lr, converges", [(0.99, True), (1.01, False)])
def test_gd_on_a_quadratic_converges_exactly_when_lr_is_below_two_over_lambda_1(sharp, folder, lr, converges):
    rows = rows_of(quadratic(sharp, folder, lr, "steps=300", "measure_every=100") / "metrics.jsonl")
    by_hand = 0.5 * sum(lam * (1 - lr * lam) ** 600 for lam in (2.0, 1.0, 0.3))
    assert rows[-1]["train_loss"] == pytest.approx(by_hand, rel=1e-9)
    assert (rows[-1]["train_loss"] < rows[0]["train_loss"]) is converges
    assert rows[0]["lambda_1"] == pytest.approx(2.0) and rows[0]["edge"] == pytest.approx(2 / lr)


def test_sam_settles_at_its_radius_on_a_quadratic(sharp, folder):
    run = quadratic(sharp, folder, 0.4, "method=sam", "optimizer.rho=0.1", "steps=2000", "measure_every=2000")
    assert rows_of(run / "metrics.jsonl")[-1]["distance"] == pytest.approx(
        0.4 * 0.1 * 2 / (2 - 0.4 * 2), rel=1e-6
    )


def test_divergence_is_a_result_with_exit_code_0_and_standard_json(sharp, folder):
    said = sharp("train", "problem=quadratic", "lr=5", "steps=10000", "measure_every=10")
    assert said.code == 0 and "diverged" in said.out
    run = Run(only_run(folder))
    last = run.last()
    assert last["diverged"] is True and run.status == "diverged" and last["step"] < 10000
    for line in (run.path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda c: pytest.fail(c))
    assert (
        "already diverged"
        in sharp("train", "problem=quadratic", "lr=5", "steps=10000", "measure_every=10").out
    )


@pytest.mark.parametrize("method", ["gd", "sgd", "momentum", "sam", "label_noise"])
def test_measuring_leaves_the_trajectory_bit_identical(sharp, folder, method):
    weights = []
    for every in (0, 1):
        out = f"runs_dir=runs_{every}"
        assert (
            sharp(
                "train",
                *TINY,
                f"method={method}",
                "batch_size=16",
                "steps=9",
                f"measure_every={every}",
                "measure=[scores,sharpness,trace]",
                out,
            ).code
            == 0
        )
        (run,) = (folder / f"runs_{every}").glob("*/")
        weights.append(Run(run).load(9)["w"])
    assert torch.equal(*weights)


RULES = [
    "adamw",
    "lion",
    "sign_descent",
    "clipping",
    "muon",
    "schedule_free",
    "sam optimizer@optimizer.base=muon",
    "pytorch_optimizer optimizer.name=soap optimizer.options={precondition_frequency:3}",
    "pytorch_optimizer optimizer.name=prodigy",
]


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_goes_on_from_a_checkpoint_as_if_it_had_never_stopped(sharp, folder, rule):
    words = [
        *TINY,
        "steps=8",
        "measure_every=2",
        "checkpoint_every=4",
        "batch_size=16",
        "lr=0.01",
        "threads=1",
    ]
    words += [f"optimizer={rule}".split()[0], *rule.split()[1:], "schedule=warmup"]
    assert sharp("train", *words).code == 0
    run = Run(only_run(folder))
    whole, rows = run.load(8), rows_of(run.path / "metrics.jsonl")
    (run.path / "checkpoints" / "step_00000008.pt").unlink()
    facts = json.loads((run.path / "provenance.json").read_text())
    (run.path / "provenance.json").write_text(json.dumps({k: v for k, v in facts.items() if k != "rows"}))
    text = (run.path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run.path / "metrics.jsonl").write_text("".join(text[:3]))
    said = sharp("train", *words)
    assert said.code == 0 and "resuming" in said.err
    again = Run(run.path).load(8)
    assert torch.equal(again["w"], whole["w"]) and len(again["state"]) == len(whole["state"])
    assert all(torch.equal(a, b) for a, b in zip(again["state"], whole["state"], strict=True))
    assert rows_of(run.path / "metrics.jsonl") == rows


def test_training_agrees_with_torch_step_by_step(experiment):
    e = experiment(*TINY, "method=momentum", "batch_size=16", "lr=0.1")
    from sharpcli.models.mlp import mlp

    torch.manual_seed(0)
    module = mlp((1, 8, 8), 10, widths=[6], activation="tanh")
    rule = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    here = begin(e)
    for step in range(10):
        x, y = e.minibatches(step, e.minibatches.order(step // e.minibatches.per_epoch))
        rule.zero_grad()
        (0.5 * (module(x) - y).square().sum(1).mean()).backward()
        rule.step()
        here.w, here.state = e.optimizer.step(here.w, here.state, e.problem.surface.on([(x, y)]).grad, 0.1)
    assert torch.allclose(here.w, torch.nn.utils.parameters_to_vector(module.parameters()), atol=1e-6)


def test_lambda_1_logged_in_training_is_that_of_a_dense_hessian(experiment):
    e = experiment(
        "data.train_examples=60",
        "model.widths=[3]",
        "problem.dtype=float64",
        "measure.sharpness.k=3",
        "measure.sharpness.tol=1e-8",
    )
    row, _ = measure(e, e.problem.w0, 0, {}, ["sharpness"])
    H = e.problem.surface.hvp(e.problem.w0, torch.eye(len(e.problem.w0)).double())
    truth = torch.linalg.eigvalsh(H).flip(0)
    assert [row[f"lambda_{i}"] for i in (1, 2, 3)] == pytest.approx(truth[:3].tolist(), rel=1e-6)
    assert (
        row["sharpness_converged"] is True
        and row["sharpness_products"] > 3
        and row["sharpness_examples"] == 60
    )


def test_the_same_command_again_does_nothing_and_another_label_finds_the_same_run(sharp, folder):
    assert sharp("train", *SHORT).code == 0
    before = {file: file.stat().st_mtime_ns for file in only_run(folder).rglob("*") if file.name != ".lock"}
    said = sharp("train", *SHORT, "threads=1")
    assert said.code == 0 and "already complete" in said.out
    assert "already complete" in sharp("train", *SHORT, "optimizer=gd", "method=sgd", "batch_size=full").out
    assert {
        file: file.stat().st_mtime_ns for file in only_run(folder).rglob("*") if file.name != ".lock"
    } == before


def test_a_number_measured_later_equals_the_one_logged_bit_for_bit(sharp, folder):
    assert sharp("train", *SHORT, "measure=[scores,sharpness,trace]", "checkpoint_every=3").code == 0
    run = Run(only_run(folder))
    assert sharp("measure", run.name).code == 0
    logged, later = rows_of(run.path / "metrics.jsonl"), rows_of(run.path / "measured.jsonl")
    assert [row["step"] for row in logged] == [0, 3, 6, 9, 12] and len(
        later
    ) == 3 * 5  # a row for each measure
    for a in logged:
        found = {}
        for b in (row for row in later if row["step"] == a["step"]):
            provenance = b.pop("provenance")
            assert provenance["measure"]["sharpness"]["k"] == 1 and "sharp measure" in provenance["command"]
            found |= b
        assert len(found) >= 12 and found == {key: a[key] for key in found}


def test_measuring_something_else_adds_columns_and_keeps_the_logged_ones(sharp, folder):
    assert sharp("train", *SHORT).code == 0
    run = Run(only_run(folder))
    said = sharp(
        "measure",
        run.path,
        "--step",
        "5,12",
        "measure=[trace]",
        "measure.trace.max_products=8",
        "measure_examples=7",
    )
    assert said.code == 0 and "step 5\n" in said.out and "trace" in said.out and "±" in said.out
    rows = {row["step"]: row for row in run.rows()}
    assert rows[12]["trace_examples"] == 7 and "lambda_1" in rows[12] and "trace" not in rows[0]


def test_a_run_killed_at_any_moment_resumes_to_the_rows_of_a_whole_one(process, folder):
    words = (
        *TINY,
        "method=sgd",
        "batch_size=16",
        "steps=400",
        "measure_every=7",
        "measure=[scores,sharpness,trace]",
        "checkpoint_every=20",
    )
    whole = process("train", *words, "runs_dir=whole")
    assert whole.wait(120) == 0, whole.stderr.read()
    kills = 0
    for enough in (1, 12, 30):
        running = process("train", *words)
        deadline = time.monotonic() + 60
        while running.poll() is None and time.monotonic() < deadline:
            metrics = list((folder / "runs").glob("*/metrics.jsonl"))
            if metrics and metrics[0].read_bytes().count(b"\n") >= enough:
                running.send_signal(signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.002)
        running.wait()
    assert kills >= 2
    with open(next((folder / "runs").glob("*/metrics.jsonl")), "ab") as file:
        file.write(b'{"step": 999, "tr')
    last = process("train", *words)
    assert last.wait(120) == 0 and "resuming" in last.stderr.read()
    a, b = (next((folder / d).glob("*/metrics.jsonl")) for d in ("whole", "runs"))
    assert rows_of(a) == rows_of(b) and len(rows_of(a)) == 59
    run = Run(b.parent)
    assert len(run.provenance["resumed"]) == kills and torch.equal(
        run.load(400)["w"], Run(a.parent).load(400)["w"]
    )


def test_a_second_process_is_refused_while_the_first_lives_and_ctrl_c_keeps_what_there_is(process, folder):
    words = (*TINY, "steps=1000000", "measure_every=1000")
    first = process("train", *words)
    deadline = time.monotonic() + 60
    while not list((folder / "runs").glob("*/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.01)
    second = process("train", *words)
    out, err = second.communicate(timeout=60)
    assert (
        second.returncode == 2
        and "another process is training this run" in err
        and len(err.splitlines()) == 1
    )
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=60)
    assert first.returncode == 130 and "the same command resumes" in err and "Traceback" not in err
    run = Run(only_run(folder))
    assert run.checkpoints()[-1] > run.last()["step"] - 1


@pytest.mark.parametrize("at", [6, 7])
def test_a_run_interrupted_after_its_row_was_logged_resumes_to_the_rows_of_a_whole_one(
    sharp, folder, monkeypatch, at
):
    assert sharp("train", *SHORT, "runs_dir=whole").code == 0
    log, w = Run.log, []

    def interrupted(run, row):
        log(run, row)
        if row["step"] == 6 and at == 6 and not w:
            w.append(row)
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "log", interrupted)
    if at == 7:
        step = GD.step

        def cut(rule, *given):
            w.append(given)
            if len(w) == 8:
                raise KeyboardInterrupt
            return step(rule, *given)

        monkeypatch.setattr(GD, "step", cut)
    assert "the same command resumes" in sharp("train", *SHORT).err
    assert sharp("train", *SHORT).code == 0
    assert rows_of(only_run(folder) / "metrics.jsonl") == rows_of(
        next((folder / "whole").glob("*/metrics.jsonl"))
    )


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(sharp, folder):
    assert sharp("train", *SHORT, "runs_dir=whole").code == 0
    assert sharp("train", *SHORT).code == 0
    run = Run(only_run(folder))
    run.cut(run.path.joinpath("metrics.jsonl").read_bytes().index(b'"step": 12') - 1)
    newest, before = run.path / "checkpoints/step_00000012.pt", run.path / "checkpoints/step_00000010.pt"
    newest.write_bytes(newest.read_bytes()[:50])
    before.write_bytes(before.read_bytes()[:-30] + b"0" * 30)
    said = sharp("train", *SHORT)
    assert said.code == 0 and said.err.count("is damaged; going back to the checkpoint before") == 2
    assert "at step 5" in said.err
    assert rows_of(run.path / "metrics.jsonl") == rows_of(next((folder / "whole").glob("*/metrics.jsonl")))
    (run.path / "checkpoints/step_00000005.pt").write_bytes(b"")
    assert "checkpoint 5 left out" in sharp("measure", run.name).err


def test_a_disk_that_fills_up_is_one_line_and_what_was_logged_stays(process, folder):
    words = (*TINY, "steps=3000", "measure_every=1", "measure=[scores]", "checkpoint_every=10000")

    def little_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    full = process("train", *words, preexec_fn=little_room)
    out, err = full.communicate(timeout=120)
    said = [line for line in err.splitlines() if line.startswith("sharp:")]
    assert full.returncode == 2 and len(said) == 1 and "cannot write" in said[0] and "Traceback" not in err
    rows = Run(only_run(folder)).logged()
    assert len(rows) > 100 and rows[-1]["step"] == len(rows) - 1
    again = process("train", *words)
    assert again.wait(120) == 0
    assert [row["step"] for row in Run(only_run(folder)).logged()] == list(range(3001))


def test_a_run_may_start_from_another_s_weights_and_says_whose(sharp, folder):
    assert sharp("train", *SHORT).code == 0
    first = Run(only_run(folder))
    assert sharp("train", *SHORT, f"init_from={first.name}@10", "method=sam").code == 0
    (second,) = [Run(p.parent) for p in (folder / "runs").glob("sam*/provenance.json")]
    assert second.config["init_from"] == f"{first.hash}@10"
    assert torch.equal(second.load(0)["w"], first.load(10)["w"])
    said = sharp("train", *SHORT, f"init_from={first.path}", "method=sgd")
    assert said.code == 0
    refusals = {
        f"init_from={first.name}@11": "has checkpoints at steps 0, 5, 10, 12",
        "init_from=nothing": "nothing: no such run",
    }
    for word, words in refusals.items():
        assert words in sharp("train", *SHORT, word).refusal
    assert (
        "parameters and this model"
        in sharp("train", *SHORT, f"init_from={first.name}", "model.widths=[7]").refusal
    )
    assert len(list((folder / "runs").glob("*"))) == 3


def test_resuming_under_other_threads_is_allowed_warned_of_and_recorded(sharp, folder):
    assert sharp("train", *SHORT).code == 0
    run = Run(only_run(folder))
    run.cut(run.path.joinpath("metrics.jsonl").read_bytes().index(b'"step": 12') - 1)
    run.drop(12)
    provenance = json.loads((run.path / "provenance.json").read_text()) | {"threads": 64}
    (run.path / "provenance.json").write_text(json.dumps(provenance))
    said = sharp("train", *SHORT)
    assert said.code == 0 and "changed since it began: threads;" in said.err
    assert Run(run.path).provenance["resumed"][0]["step"] == 10


def test_epochs_and_arrays_and_cross_entropy_with_batch_norm(sharp, folder):
    g = np.random.default_rng(0)
    x = g.normal(size=(20, 1, 8, 8))
    np.savez("mine.npz", x_train=x[:13], y_train=np.arange(13) % 3, x_test=x[13:], y_test=np.arange(7) % 3)
    words = [
        "data=arrays",
        "data.file=mine.npz",
        "model=resnet",
        "model.depth=8",
        "model.width=1",
        "model.groups=1",
        "model.norm=batch",
    ]
    words += ["loss=cross_entropy", "problem.batchnorm=population", "method=sgd", "batch_size=5", "chunk=4"]
    said = sharp("train", *words, "steps=2 epochs", "measure_every=1 epoch", "schedule=cosine", "lr=0.05")
    assert said.code == 0, said.err
    run = Run(only_run(folder))
    assert (
        [row["epoch"] for row in run.logged()] == [0, 1, 2]
        and run.steps == 6
        and run.config["data"]["file"] == str(folder / "mine.npz")
    )
    assert run.logged()[0]["lr_now"] > run.logged()[-1]["lr_now"]


def test_label_noise_recovers_on_uv_where_plain_sgd_does_not(sharp, folder):
    toy = [
        "problem=uv",
        "problem.d=20",
        "problem.n=12",
        "problem.k=2",
        "seed=3",
        "lr=0.02",
        "batch_size=1",
        "measure_every=0",
        "measure=[scores]",
    ]
    assert (
        sharp("train", *toy, "method=label_noise", "objective.label_noise.delta=1", "steps=12000").code == 0
    )
    assert sharp("train", *toy, "method=sgd", "steps=3000").code == 0
    errors = {}
    for name in ("label_noise", "sgd"):
        (run,) = (folder / "runs").glob(f"{name}*")
        assert sharp("measure", run, "--step", Run(run).checkpoints()[-1], "measure=[scores]").code == 0
        errors[name] = Run(run).rows()[-1]["recovery_error"]
    assert errors["label_noise"] < 0.15 < 0.3 < errors["sgd"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file system that is full")
def test_an_unwritable_folder_is_one_line(sharp, folder):
    (folder / "file").write_text("")
    assert "cannot write" in sharp("train", *TINY, "runs_dir=file/below").refusal


# --- rows that are lost, doubled or damaged; configs that are taken for another ---

ROWS = (
    *("problem=quadratic", "steps=12", "measure_every=2", "measure=[scores]", "checkpoint_every=4"),
    *("lr=0.1", "threads=1"),
)


@pytest.fixture
def whole(sharp, folder):
    """A complete run of ROWS."""
    assert sharp("train", *ROWS).code == 0
    return Run(only_run(folder))


def as_earlier(run):
    """The run as an earlier version would have written it: without checksums of its rows and its config."""
    for step in run.checkpoints():
        run.save(step, {key: value for key, value in run.load(step).items() if key != "crc32"})
    facts = {k: v for k, v in run.provenance.items() if k not in ("rows", "hash", "contents", "config_crc32")}
    (run.path / "provenance.json").write_text(json.dumps(facts))


def lines_kept(*kept):
    return lambda data: b"".join(line for i, line in enumerate(data.splitlines(True)) if i in kept)


DAMAGES = {
    "one line": lines_kept(0),
    "three lines": lines_kept(0, 1, 2),
    "none": lambda data: b"",
    "the middle is missing": lines_kept(0, 1, 2, 6),
    "a row is missing": lines_kept(0, 1, 3, 4, 5, 6),
    "doubled": lambda data: data + data,
    "a row is doubled": lines_kept(0) and (lambda data: data.replace(b'{"step": 4', b'{"step": 2', 1)),
    "zeros in the middle": lambda data: data[:300] + b"\0" * 80 + data[380:],
    "a torn line in the middle": lambda data: data[:330] + b"\n" + data[400:],
    "no JSON in the middle": lambda data: data.replace(b'{"step": 6,', b'"step": 6,'),
}


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_rows_are_said_and_made_again_from_the_last_checkpoint_that_fits(
    sharp, whole, damage, earlier
):
    if earlier:
        as_earlier(whole)
    file = whole.path / "metrics.jsonl"
    rows = rows_of(file)
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    said = sharp("train", *ROWS)
    assert said.code == 0 and "already" not in said.out and said.err.count("sharp: ") >= 1, said
    assert rows_of(file) == rows and Run(whole.path).damage() == ""
    assert "already complete" in sharp("train", *ROWS).out


def test_a_digit_changed_in_a_complete_run_is_noticed_by_every_command(sharp, whole):
    file = whole.path / "metrics.jsonl"
    rows = rows_of(file)
    file.write_bytes(file.read_bytes().replace(b'"train_loss": 1', b'"train_loss": 2', 1))
    listed = sharp("ls")
    assert "damaged" in listed.out and "changed after the run had ended" in listed.err
    assert "changed after the run had ended" in sharp("plot", "loss", whole.name).refusal
    assert "trained again" in sharp("train", *ROWS).err and rows_of(file) == rows


def test_a_digit_is_noticed_by_the_newest_checkpoint_too(sharp, whole):
    file = whole.path / "metrics.jsonl"
    rows = rows_of(file)
    facts = {key: value for key, value in whole.provenance.items() if key != "rows"}
    (whole.path / "provenance.json").write_text(json.dumps(facts))
    file.write_bytes(file.read_bytes().replace(b'"train_loss": 1', b'"train_loss": 2', 1))
    assert "does not hold the rows" in sharp("train", *ROWS).err and rows_of(file) == rows
    assert "already complete" in sharp("train", *ROWS).out


def test_a_run_of_replicas_without_a_row_is_listed(sharp, folder):
    assert sharp("train", *ROWS, "replicas=2").code == 0
    (only_run(folder) / "metrics.jsonl").write_text("")
    assert "damaged" in sharp("ls").out and "changed after the run had ended" in sharp("ls").err


def test_a_row_lost_before_an_interruption_is_made_again(sharp, whole):
    file = whole.path / "metrics.jsonl"
    rows = rows_of(file)
    file.write_bytes(lines_kept(0, 1, 3, 4, 5)(file.read_bytes()))  # unfinished, and step 4 is missing
    said = sharp("train", *ROWS)
    assert "does not hold the rows" in said.err + "holds" and "at step 4" in said.err, said.err
    assert rows_of(file) == rows


def test_checkpoints_that_are_another_run_s_or_no_mapping_are_passed_over(sharp, whole, folder):
    file = whole.path / "metrics.jsonl"
    rows = rows_of(file)
    whole.cut(file.read_bytes().index(b'{"step": 12'))
    good = whole.load(12)
    for step, payload in {12: [1, 2], 8: good | {"step": 8, "w": torch.zeros(7)}}.items():
        buffer = io.BytesIO()
        torch.save(payload, buffer)
        data = buffer.getvalue()
        (whole.path / f"checkpoints/step_{step:08d}.pt").write_bytes(
            data + zlib.crc32(data).to_bytes(4, "little")
        )
    said = sharp("train", *ROWS)
    assert said.code == 0 and "at step 4" in said.err and said.err.count("going back") == 2, said.err
    assert rows_of(file) == rows


def test_what_is_seen_before_the_lock_does_not_count(folder, monkeypatch):
    from contextlib import contextmanager

    from sharpcli.config.check import check
    from sharpcli.config.words import compose
    from sharpcli.engine import launch

    checked = check(compose(list(ROWS)), list(ROWS))
    locked, others = launch.locked, []

    @contextmanager
    def after_another_process(path, wait):
        if not others:  # it looked, saw no run, and before it has the lock another process makes all of it
            others.append(path)
            launch.launch(checked)
        with locked(path, wait):
            yield

    monkeypatch.setattr(launch, "locked", after_another_process)
    said = []
    run = launch.launch(checked, console=launch.Console(announce=lambda run, how: said.append(how)))
    assert said == ["already complete, nothing to do"] and len(others) == 1
    assert [row["step"] for row in run.logged()] == [0, 2, 4, 6, 8, 10, 12]


def test_two_configs_with_one_short_hash_are_two_runs(sharp, folder, monkeypatch):
    from sharpcli.config import former

    real = former.digest
    monkeypatch.setattr(former, "digest", lambda values: "0" * 8 + real(values)[8:])
    assert sharp("train", *ROWS, "seed=15572").code == 0
    first = Run(only_run(folder))
    as_earlier(first)
    short = first.path.rename(first.path.with_name(first.name[:-8]))
    assert short.name.endswith("-00000000")
    assert "already complete" in sharp("train", *ROWS, "seed=15572").out
    other = sharp("train", *ROWS, "seed=15572", "lr=0.2")
    assert other.code == 0 and "already" not in other.out
    assert len(list((folder / "runs").iterdir())) == 2


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("edit", [("lr: 0.1", "lr: 0.3"), ("seed: 0", "seed: 1"), ("steps: 12", "steps: 14")])
def test_a_config_edited_after_the_run_is_refused_by_whoever_reads_its_numbers(sharp, whole, earlier, edit):
    if earlier:
        as_earlier(whole)
    file = whole.path / "config.yaml"
    assert edit[0] in file.read_text()
    file.write_text(file.read_text().replace(*edit))
    assert "changed after the run was made" in sharp("measure", whole.name).refusal
    refused = sharp("train", *ROWS).refusal
    key, value = edit[0].split(": ")
    assert (
        f"config.yaml was changed after the run was made ({key} is" in refused and f"was {value}" in refused
    )
    assert "changed after the run was made" in sharp("train", *ROWS, f"init_from={whole.name}").refusal
    listed = sharp("ls")
    assert listed.code == 0 and "changed" in listed.out and "changed after the run was made" in listed.err
    assert sharp("train", *ROWS, "lr=0.2").code == 0
    drawn = sharp("plot", "loss", "runs")
    assert drawn.code == 0 and "left out" in drawn.err and "changed after the run was made" in drawn.err
    assert "changed after" in sharp("plot", "loss", whole.name).refusal


def test_a_method_s_label_that_is_not_the_name_s_is_a_changed_config(sharp, whole):
    file = whole.path / "config.yaml"
    assert "method: gd" in file.read_text()
    file.write_text(file.read_text().replace("method: gd", "method: sam"))
    assert "config.yaml says method=sam" in sharp("measure", whole.name).refusal
    listed = sharp("ls")
    assert listed.code == 0 and "changed" in listed.out and "says method=sam" in listed.err
    renamed = whole.path.rename(whole.path.with_name("sam-figure"))  # a name without a hash says nothing
    assert sharp("measure", renamed, "--step", "4").code == 0
    file = renamed / "config.yaml"
    file.write_text(file.read_text().replace("method: sam", "method: gd"))
    before = renamed.rename(renamed.with_name(f"figure-3-{whole.name}"))  # nor does a word before it
    assert sharp("measure", before, "--step", "4").code == 0


def test_a_comment_in_a_config_and_another_name_of_the_directory_change_no_number(sharp, whole):
    file = whole.path / "config.yaml"
    file.write_text("# the run of figure 3\n" + file.read_text())
    assert "already complete" in sharp("train", *ROWS).out
    renamed = whole.path.rename(whole.path.with_name("figure-3"))
    assert sharp("measure", renamed, "--step", "4").code == 0
    assert sharp("ls").err == ""
    file = renamed / "config.yaml"
    file.write_text(file.read_text().replace("lr: 0.1", "lr: 0.3"))
    assert "changed after the run was made" in sharp("measure", renamed).refusal


def test_a_number_of_steps_changed_in_the_provenance_is_refused(sharp, whole):
    file = whole.path / "provenance.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"steps": 10}))
    assert "steps is 10 and was 12" in sharp("train", *ROWS).refusal


def test_a_run_without_its_provenance_is_set_aside_and_made_anew(sharp, whole):
    rows = rows_of(whole.path / "metrics.jsonl")
    (whole.path / "provenance.json").unlink()
    said = sharp("train", *ROWS)
    assert said.code == 0 and "they are in lost-1 now" in said.err
    assert rows_of(whole.path / "metrics.jsonl") == rows == rows_of(whole.path / "lost-1/metrics.jsonl")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_complete_run_in_a_folder_that_cannot_be_written_is_complete(sharp, whole):
    whole.path.chmod(0o500)
    (whole.path / ".lock").unlink()
    assert "already complete" in sharp("train", *ROWS).out
    whole.path.chmod(0o700)


def test_a_bad_run_stops_no_command_over_all(sharp, whole, folder):
    assert sharp("train", *ROWS, "lr=0.2").code == 0
    for name, content in {"list": "[1]", "steps": '{"version": 2, "steps": "x"}'}.items():
        (folder / "runs" / f"bad-{name}").mkdir()
        (folder / "runs" / f"bad-{name}" / "provenance.json").write_text(content)
    os.mkfifo(folder / "runs" / "bad-list" / "metrics.jsonl")
    (folder / "runs" / "bad-\x1b[31mred\nline").mkdir()
    os.mkfifo(folder / "runs" / "bad-\x1b[31mred\nline" / "provenance.json")
    named = folder / "runs" / "odd-\x1b[31m-lr1-seed0"
    Run.create(named, {"problem": {"_target_": "x.y"}}, {"steps": 1, "scores": {}})
    os.mkfifo(folder / "runs" / "odd-\x1b[31m-lr1-seed0" / "metrics.jsonl")
    listed = sharp("ls")
    assert listed.code == 0 and listed.out.count("complete") == 2
    assert listed.err.count("left out") == 4 == len(listed.err.splitlines())
    assert "bad-\\x1b[31mred\\nline" in listed.err and "\x1b" not in listed.out + listed.err
    drawn = sharp("plot", "loss", "runs")
    assert drawn.code == 0 and drawn.err.count("left out") == 4, drawn.err
    pair = sharp("plot", "loss", whole.name, folder / "runs" / "bad-list")
    assert pair.code == 0 and "bad-list" in pair.err
    assert sharp("plot", "loss", folder / "runs" / "bad-list").code == 2


@pytest.mark.parametrize("content", ["[1]", "{", '{"verdict": "holds"}', None])
def test_a_damaged_verdict_is_named_and_the_other_claims_listed(sharp, folder, content):
    file = folder / "runs/claims/sam_radius/verdict.json"
    file.parent.mkdir(parents=True)
    os.mkfifo(file) if content is None else file.write_text(content)
    for words in (("claim", "list"), ("claim", "list", "--markdown")):
        said = sharp(*words)
        assert said.code == 0 and said.err.count("sam_radius/verdict.json") == 1, said.err
    assert "sharp claim check sam_radius writes it again" in sharp("claim", "show", "sam_radius").refusal


def test_every_measure_is_taken_at_the_average_of_the_weights_too(sharp, folder, experiment):
    words = (
        "train",
        *TINY,
        "method=sgd",
        "lr=0.1",
        "steps=12",
        "measure_every=4",
        "measure=[scores,sharpness]",
    )
    averaging = ("optimizer=averaging", "optimizer@optimizer.base=gd", "optimizer.start=4")
    assert sharp(*words, *averaging).code == 0
    with_average = rows_of(only_run(folder) / "metrics.jsonl")
    assert sharp(*words, "runs_dir=plain").code == 0
    plain = rows_of(next((folder / "plain").iterdir()) / "metrics.jsonl")
    assert [row["test_loss"] for row in plain] == [row["test_loss"] for row in with_average]
    for row in with_average:
        same = row["average_train_loss"] == row["train_loss"] and row["average_lambda_1"] == row["lambda_1"]
        assert same == (row["step"] <= 4) and row["average_sharpness_converged"]
    run = Run(only_run(folder))
    saved = run.load(12)
    w = saved["state"][1]
    e = experiment(*words[1:], *averaging)
    assert with_average[-1]["average_train_loss"] == float(e.problem.surface.value(w.to(e.problem.w0)))


def test_an_average_goes_on_where_a_killed_run_left_it(sharp, folder):
    words = ("train", *TINY, "method=sgd", "lr=0.1", "steps=12", "measure_every=4", "checkpoint_every=4")
    averaging = ("optimizer=averaging", "optimizer@optimizer.base=sam", "optimizer.decay=0.7")
    assert sharp(*words, *averaging).code == 0
    run = only_run(folder)
    whole = rows_of(run / "metrics.jsonl")
    for checkpoint in (run / "checkpoints").glob("*12*"):
        checkpoint.unlink()
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:-1]))
    assert sharp(*words, *averaging).code == 0
    again = rows_of(run / "metrics.jsonl")
    assert [{k: v for k, v in row.items() if "seconds" not in k} for row in again] == [
        {k: v for k, v in row.items() if "seconds" not in k} for row in whole
    ]


BROAD = ("data.train_examples=60", "model.widths=[12]")  # more parameters than block Lanczos is kept for


def test_a_tracked_lambda_1_goes_on_where_a_killed_run_left_it(sharp, folder):
    words = ("train", *BROAD, "lr=0.1", "steps=40", "measure_every=4", "checkpoint_every=8", "threads=1")
    words = (*words, "measure=[sharpness]")
    assert sharp(*words).code == 0
    run = only_run(folder)
    whole = rows_of(run / "metrics.jsonl")
    # tracked, and searched for others with all of the few examples
    assert min(row["sharpness_products"] for row in whole) <= 2 + STEPS_WARM
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    for step in (32, 40):
        for checkpoint in (run / "checkpoints").glob(f"*{step}*"):
            checkpoint.unlink()
    (run / "metrics.jsonl").write_text("".join(lines[:8]))
    assert sharp(*words).code == 0
    assert [
        {k: v for k, v in row.items() if "seconds" not in k} for row in rows_of(run / "metrics.jsonl")
    ] == [{k: v for k, v in row.items() if "seconds" not in k} for row in whole]


def test_the_gradient_of_a_measured_step_is_computed_once_and_no_bit_changes(experiment, monkeypatch):
    words = (*BROAD, "lr=0.1", "measure=[sharpness]", "problem.dtype=float64")
    paths, calls = [], []
    plain = LossSurface.grad

    def counted(self, w):
        if self.known is None or self.known[0] is not w:
            calls.append(len(w))
        return plain(self, w)

    monkeypatch.setattr(LossSurface, "grad", counted)
    for measured in (True, False):
        e = experiment(*words)
        lane, move, warm = begin(e), advance(e), {}
        calls.clear()
        for step in range(6):
            gradient = None
            if measured:
                _, warm, gradient = measure_for_step(e, lane.w, step, warm, ["sharpness"])
                assert gradient is not None and torch.equal(gradient, e.problem.surface.grad(lane.w))
                calls.pop()
            lane.w, lane.state, _ = move(lane.w, lane.state, step, step + 1, gradient)
            # at the first measurement the second derivatives are tried and the gradient is compared, once;
            # their symmetry is tried again at the second and the fourth
            assert len(calls) == (0 if measured else 1) or step in (0, 1, 3)
            calls.clear()
        paths.append(lane.w)
    assert torch.equal(*paths)


def test_a_gradient_of_another_loss_is_not_the_step_s(experiment):
    for words in (("method=sgd", "batch_size=20"), ("objective=[weight_decay]",), ("measure_examples=20",)):
        e = experiment(*BROAD, "lr=0.1", "measure=[sharpness]", *words)
        assert measure_for_step(e, e.problem.w0, 0, {}, ["sharpness"])[2] is None


@needs_cifar
def test_the_kinks_of_a_resnet_with_batch_norm_are_not_taken_for_a_wrong_derivative(experiment):
    # its gradient jumps within 1e-7 |w|: only a shorter difference agrees with the products
    words = ("data=cifar10", "data.train_examples=16", "data.test_examples=2", "loss=cross_entropy")
    words = (*words, "model=resnet", "model.norm=batch", "problem.batchnorm=batch", "measure=[sharpness]")
    e = experiment(*words)
    found = agreement(e.problem.surface, e.problem.w0, generator(0, SECOND, 0))
    assert found.symmetric and found.derivative
