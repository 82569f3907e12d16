"""The model of self-stabilization: its derivatives, its steps, and where its noise leaves the sharpness."""

import pytest
import torch
from conftest import rows_of

from sharpcli.problems.self_stabilization import self_stabilization


def model(**settings):
    return self_stabilization(**{"start": [3.0, 0.5], "push": 0.2, "rise": 2.0, "noise": 0.7} | settings)


def test_its_examples_differ_by_the_noise_alone_and_their_mean_has_none():
    w, problem = torch.tensor([3.0, 0.5], dtype=torch.float64), model()
    x, y = problem.examples
    one, other = (problem.surface.on([(x[i : i + 1], y[i : i + 1])]) for i in (0, 1))
    assert float(one.value(w) - other.value(w)) == pytest.approx(2 * 0.7 * 0.5)
    mean = torch.tensor([0.5 * 2.0 * 0.25 - 0.2, 2.0 * 3.0 * 0.5], dtype=torch.float64)
    assert torch.allclose(problem.surface.grad(w), mean)
    assert torch.allclose(one.grad(w) - mean, torch.tensor([0.0, 0.7], dtype=torch.float64))


def test_along_v_the_hessian_is_the_sharpness_that_is_scored():
    w = torch.tensor([3.0, 0.0], dtype=torch.float64)
    H = model().surface.linearize(w).hvp(torch.eye(2, dtype=torch.float64))
    assert float(H[1, 1]) == model().scores(w)["sharpness_along_v"] == 6.0


def test_noise_holds_the_sharpness_below_the_edge(sharp, folder):
    words = ("problem=self_stabilization", "method=sgd", "batch_size=1", "replacement=true", "lr=0.1")
    start = (
        "problem.noise=2",
        "problem.start=[18,0.1]",
        "steps=1500",
        "measure_every=[0,1000,1100,1200,1300,1400,1500]",
    )
    said = sharp("train", *words, *start, "replicas=8", "measure=[scores]")
    assert said.code == 0
    (run,) = (folder / "runs").glob("sgd-*")
    late = [row["sharpness_along_v"] for row in rows_of(run / "metrics.jsonl") if row["step"] >= 1000]
    # g (2/lr - g) = beta sigma^2 / (2 alpha) = 40 has the root 2.25; lr beta sigma^2 / (4 alpha) is 2
    assert 20 - sum(late) / len(late) == pytest.approx(2.25, abs=0.25)


@pytest.mark.parametrize("word", ["problem.start=[1]", "problem.rise=0", "problem.push=-1"])
def test_what_it_cannot_be_is_refused(sharp, word):
    said = sharp("train", "problem=self_stabilization", word)
    assert said.code == 2 and word.split("=")[0] in said.err
