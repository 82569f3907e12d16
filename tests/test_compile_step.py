"""compile_step: training steps by torch.compile, with the numbers of uncompiled ones."""

import pytest
import torch
from conftest import TINY, only_run, rows_of

from sharpcli.errors import Refusal
from sharpcli.landscape.compiled_steps import BREAK_EVEN_STEPS, CompiledSteps, pays
from sharpcli.landscape.half_precision import HalfPrecision
from sharpcli.landscape.surface import LossSurface
from sharpcli.losses.half_squared import half_squared

PLAIN = ("threads=1", "measure=[scores]", "steps=4", "measure_every=2", "checkpoint_every=2")


def linear(w, x):
    """x W, W [3, 2] from w [6]."""
    return x @ w.view(3, 2)


def surface():
    x, y = torch.linspace(-1, 1, 15).view(5, 3), torch.ones(5, 2)
    return LossSurface(linear, half_squared, ((x, y),))


def by(compiler):
    """What stands in for torch.compile: a compiler of a function, given the settings of ours."""

    def compile(function, dynamic, options):
        assert options == {"fallback_random": True} and dynamic is False
        return compiler(function)

    return compile


def test_when_steps_are_compiled():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert pays("true", cpu, 1) and not pays("false", cuda, 10**6)
    assert not pays("auto", cpu, 10**6)
    assert pays("auto", cuda, BREAK_EVEN_STEPS) and not pays("auto", cuda, BREAK_EVEN_STEPS - 1)


def test_steps_are_compiled_once_and_give_the_same_numbers(sharp, folder, monkeypatch):
    compile, calls = torch.compile, []

    def counted(function, **settings):
        calls.append(function)
        return compile(function, **settings)

    monkeypatch.setattr(torch, "compile", counted)
    words = ("train", *TINY, *PLAIN, "method=sam", "batch_size=20")
    assert sharp(*words, "runs_dir=plain").code == 0 and not calls
    assert sharp(*words, "compile_step=true").code == 0 and len(calls) == 1
    plain = rows_of(next((folder / "plain").iterdir()) / "metrics.jsonl")
    rows = rows_of(only_run(folder) / "metrics.jsonl")
    assert only_run(folder).name == next((folder / "plain").iterdir()).name  # the same run, in other words
    for row, same in zip(rows, plain, strict=True):
        assert row["train_loss"] == pytest.approx(same["train_loss"], rel=1e-5)


@pytest.mark.parametrize("half", [None, "bf16"])
def test_a_gradient_that_is_not_the_loss_s_own_is_refused(monkeypatch, half):
    monkeypatch.setattr(torch, "compile", by(lambda f: lambda w, x: 2 * f(w, x)))
    for when in ("true", "auto"):
        steps, w = CompiledSteps.of(surface(), when), torch.arange(6.0)
        steps = steps if half is None else HalfPrecision.of(steps, half)
        if when == "true":
            with pytest.raises(Refusal, match=r"wrong gradient in torch \S+; take compile_step=false"):
                steps.grad(w)
        else:
            exact = surface() if half is None else HalfPrecision.of(surface(), half)
            assert torch.equal(steps.grad(w), exact.grad(w))


def test_a_machine_that_cannot_compile_is_one_line_and_auto_goes_on(monkeypatch):
    def broken(function):
        def call(w, x):
            raise RuntimeError("no compiler\nand a long report")

        return call

    monkeypatch.setattr(torch, "compile", by(broken))
    w = torch.arange(6.0)
    with pytest.raises(
        Refusal, match="fails here .no compiler.; install a C.. compiler, or take compile_step"
    ):
        CompiledSteps.of(surface(), "true").grad(w)
    assert torch.equal(CompiledSteps.of(surface(), "auto").grad(w), surface().grad(w))


def test_the_first_call_leaves_the_random_numbers_as_they_were(monkeypatch):
    monkeypatch.setattr(torch, "compile", by(lambda f: f))
    steps = CompiledSteps.of(
        LossSurface(lambda w, x: linear(w, x) + torch.rand(1), half_squared, surface().batches), "true"
    )
    torch.manual_seed(3)
    first = steps.grad(torch.ones(6))
    torch.manual_seed(3)
    assert torch.equal(first, steps.grad(torch.ones(6)))


def test_what_is_more_than_a_gradient_is_the_uncompiled_loss_s(monkeypatch):
    monkeypatch.setattr(torch, "compile", by(lambda f: lambda w, x: f(w, x).detach() + 0 * w.sum()))
    steps, w = CompiledSteps.of(surface(), "true"), torch.arange(6.0)
    assert torch.equal(steps.hvp(w, w), surface().hvp(w, w))
    assert HalfPrecision.of(steps, "bf16").exact.predict is linear


@pytest.mark.parametrize(
    "words, said",
    [
        ("compile_step=perhaps", "compile_step=perhaps: possible: auto, true, false"),
        ("torch_compile=true", "compile_step=true"),
        ("compile_step=true replicas=2", "leave compile_step out"),
    ],
)
def test_a_wrong_word_is_one_line(sharp, folder, words, said):
    refused = sharp("train", *TINY, *words.split())
    assert refused.code == 2 and said in refused.err and refused.err.count("\n") == 1
