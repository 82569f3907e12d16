"""The loop through the command line: closed forms, identical bits, kills, divergence, resuming."""

import json
import os
import resource
import signal
import time

import numpy as np
import pytest
import torch
from conftest import TINY, only_run, rows_of

from sharpcli.engine.measuring import measure
from sharpcli.engine.train import begin
from sharpcli.optimizers.gd import GD
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
    assert said.code == 0 and "resumed with another threads" in said.err
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
    assert run.logged()[0]["lr"] > run.logged()[-1]["lr"]


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
