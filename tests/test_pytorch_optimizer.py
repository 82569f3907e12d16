"""Rules of the library pytorch_optimizer against the library itself, and what cannot be served."""

import pytest
import torch
from conftest import TINY, only_run

from sharpcli.optimizers.pytorch_optimizer import PytorchOptimizer
from sharpcli.run import Run

library = pytest.importorskip("pytorch_optimizer")
SHAPES = [torch.Size(s) for s in ([6, 4], [6], [3, 2, 3, 3])]
LAYOUT = [(f"p{i}", shape) for i, shape in enumerate(SHAPES)]
W0 = torch.randn(84, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
A = torch.linspace(0.5, 3, 84, dtype=torch.float64)


def slope(w):
    """The gradient of sum_i a_i (w_i^2 / 2 + w_i^4 / 4)."""
    return A * (w + w**3)


def by_the_library(name, options, steps):
    tensors = [
        torch.nn.Parameter(p.view(s).clone()) for p, s in zip(W0.split([24, 6, 54]), SHAPES, strict=True)
    ]
    rule, out = library.load_optimizer(name)(tensors, lr=0.02, **options), []
    for _ in range(steps):
        g = slope(torch.cat([p.detach().flatten() for p in tensors]))
        for p, piece in zip(tensors, g.split([24, 6, 54]), strict=True):
            p.grad = piece.view(p.shape).clone()
        rule.step()
        out.append(torch.cat([p.detach().flatten() for p in tensors]))
    return out


@pytest.mark.parametrize(
    "name, options",
    [
        ("soap", {"precondition_frequency": 3}),
        ("shampoo", {"momentum": 0.9, "preconditioning_compute_steps": 2}),
        ("adan", {"weight_decay": 0.1}),
        ("lamb", {}),
        ("prodigy", {"d0": 0.1}),  # keeps numbers of a group
        ("adafactor", {}),
        ("sgd", {"momentum": 0.9}),
    ],
)
def test_a_rule_steps_as_the_library_does_and_from_any_state(name, options):
    rule, theirs = PytorchOptimizer(name, options).shaped(LAYOUT), by_the_library(name, options, 12)
    w, state = W0, rule.init(W0)
    shapes = [part.shape for part in state]
    for step in range(12):
        if step == 5:  # as a resumed process has it: an object that has taken no step
            rule = PytorchOptimizer(name, options).shaped(LAYOUT)
            assert [part.shape for part in rule.init(W0)] == shapes
        before = [part.clone() for part in (w, *state)]
        after, state_after = rule.step(w, state, slope, 0.02)
        assert all(torch.equal(a, b) for a, b in zip(before, (w, *state), strict=True))  # nothing in place
        w, state = after, state_after
        assert [part.shape for part in state] == shapes
        assert torch.allclose(w, theirs[step], rtol=1e-12, atol=1e-14), step
    assert not torch.allclose(w, W0, atol=0.05)


def test_adamw_of_the_library_is_torch_s():
    rule = PytorchOptimizer("adamw", {"weight_decay": 0.1}).shaped(LAYOUT)
    p = torch.nn.Parameter(W0.clone())
    theirs = torch.optim.AdamW([p], lr=0.02, weight_decay=0.1)
    w, state = W0, rule.init(W0)
    for _ in range(5):
        w, state = rule.step(w, state, slope, 0.02)
        p.grad = slope(p.detach())
        theirs.step()
    assert torch.allclose(w, p.detach(), rtol=1e-6)


def test_the_learning_rate_is_the_schedule_s_and_every_lane_has_its_own_state(sharp, folder):
    words = [*TINY, "optimizer=pytorch_optimizer", "optimizer.name=soap", "steps=6", "measure_every=3"]
    assert sharp("train", *words, "schedule=linear", "lr=0.02", "batch_size=16").code == 0
    last = Run(only_run(folder)).last()
    assert last["lr_now"] < 0.02 and "edge" not in last
    rule = PytorchOptimizer("sgd", {"momentum": 0.9}).shaped(LAYOUT)
    w, state = rule.step(W0, rule.init(W0), slope, 0.02)
    assert not torch.equal(w, W0) and torch.equal(rule.step(w, state, slope, 0.0)[0], w)
    said = sharp("train", *words, "replicas={lr:[0.01,0.02],seed:2}", "batch_size=16", "runs_dir=lanes")
    assert said.code == 0, said.err


@pytest.mark.parametrize(
    "words, said",
    [
        (["optimizer=soap"], "give optimizer=pytorch_optimizer optimizer.name=soap"),
        (["optimizer.name=sop"], "has no such rule; close: soap"),
        (["optimizer.name=lbfgs"], "closure"),
        (["optimizer.name=adahessian"], "fails on this problem (RuntimeError"),
        (["optimizer.name=scalableshampoo"], "keeps a PreConditioner, which no checkpoint can hold"),
        (["optimizer.options={lr:1}"], "soap has no lr; possible: betas, "),
        (["optimizer.options={wd:1}"], "soap has no wd; possible: betas, "),
        (["optimizer.options={betas:3}"], "fails on this problem (TypeError"),
        (["optimizer.options=3"], "optimizer.options=3: give a mapping, as in optimizer.options={name:1}"),
        (["optimizer.options={betas:[nan,1]}"], "nan"),
    ],
)
def test_a_rule_that_cannot_be_served_is_refused(sharp, words, said):
    assert said in sharp("train", *TINY, "optimizer=pytorch_optimizer", "steps=2", *words).refusal


def test_without_the_library_one_line_says_how_to_get_it(sharp, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pytorch_optimizer", None)
    said = sharp("train", *TINY, "optimizer=pytorch_optimizer", "steps=2").refusal
    assert "pip install pytorch-optimizer" in said
