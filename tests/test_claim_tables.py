"""The tables of claims against what knows nothing of their formulas: automatic differentiation, sums over
grids, and the command that draws the same."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sharpcli.claims import evidence
from sharpcli.claims.tables import gibbs_share as gibbs
from sharpcli.claims.tables import label_genericity as labels
from sharpcli.commands.landscapes import Asked, path
from sharpcli.problems.plane import two_well
from sharpcli.run import Run

TILT, DECAY, TEMPERATURE = 0.9, 0.1, 0.1


def test_the_particles_descend_the_loss_of_two_well():
    problem = two_well(0, 5000, start=[0.0, 0.0], box=0.0, tilt=TILT)
    for u, v in np.random.default_rng(0).normal(size=(5, 2)):
        w = torch.tensor([u, v], dtype=torch.float64)
        of_problem = problem.surface.grad(w) + DECAY * w
        ours = gibbs._gradient(np.array(u), np.array(v), TILT, DECAY)
        assert np.allclose(ours, of_problem.numpy(), rtol=1e-12, atol=1e-12)


def test_the_predictions_are_sums_over_the_plane():
    u, v = np.meshgrid(np.linspace(-6, 6, 3001), np.linspace(-4, 4, 2001), indexing="ij")
    h = 2 + (u**2 - 1) ** 2 + TILT * u
    law = np.exp(-(0.5 * v**2 * h + 0.5 * DECAY * (u**2 + v**2)) / TEMPERATURE)
    said = gibbs._predicted(TILT, DECAY, TEMPERATURE)
    share = (law[u[:, 0] < 0].sum() + law[u[:, 0] == 0].sum() / 2) / law.sum()
    assert said["volume"] == pytest.approx(share, abs=1e-6)
    assert said["volume_square"] == pytest.approx((law * u**2).sum() / law.sum(), abs=1e-6)
    s, ds = u[:, 0], u[1, 0] - u[0, 0]  # the drift of curved noise, summed to a potential
    of_u = 2 + (s**2 - 1) ** 2 + TILT * s
    drift = DECAY * s + 0.5 * TEMPERATURE * of_u / (of_u + DECAY) * (4 * s * (s**2 - 1) + TILT)
    potential = np.concatenate([[0.0], np.cumsum((drift[1:] + drift[:-1]) / 2) * ds])
    law_of_u = np.exp(-(potential - potential.min()) / TEMPERATURE)
    share = (law_of_u[s < 0].sum() + law_of_u[s == 0].sum() / 2) / law_of_u.sum()
    assert said["trace"] == pytest.approx(share, abs=1e-4)


def test_both_noises_are_near_their_own_law_and_not_the_other_s():
    settings = {"tilt": TILT, "decay": DECAY, "temperature": TEMPERATURE, "lr": 0.02, "steps": 3000}
    for noise, own, other in (("isotropic", "volume", "trace"), ("curved", "trace", "volume")):
        (row,) = gibbs.gibbs_share(noise=noise, particles=8000, seeds=[1], **settings)
        assert abs(row["left"] - row[own]) < 0.03 < abs(row["left"] - row[other]), noise
        assert row["square"] == pytest.approx(row[f"{own}_square"], rel=0.05), noise


@pytest.mark.parametrize("make", [labels._uv, labels._tanh])
def test_the_jacobians_are_those_of_the_outputs(make):
    model, x, y = make(np.random.default_rng(3), 5, 8, False)
    assert np.abs(model.outputs(x) - y).max() < 1e-9
    by_differences = [
        (model.outputs(x + step) - model.outputs(x - step)) / 2e-6 for step in 1e-6 * np.eye(len(x))
    ]
    assert np.allclose(model.jacobian(x), np.array(by_differences).T, atol=1e-7)


@pytest.mark.parametrize(
    "model, n, width, random, singular",
    [("uv", 8, 20, (8, 32), (2, 38)), ("tanh", 5, 8, (5, 27), (0, 32))],
)
def test_the_set_of_interpolators_has_its_dimension_at_random_labels_alone(model, n, width, random, singular):
    for kind, expected in (("random", random), ("singular", singular)):
        rows = labels.label_genericity(model=model, labels=kind, n=n, width=width, draws=3, seeds=[1])
        assert [(row["rank"], row["dimension"]) for row in rows] == [expected] * 3, kind


def test_the_barrier_of_the_table_is_that_of_the_command(folder):
    line = {"curve": "line", "points": 5, "fit_steps": 1, "lr": 0.1, "batch_size": 50, "match": False}
    line |= {"_target_": "sharpcli.claims.tables.connected.connected", "of": "nets"}
    words = ["data.train_examples=50", "model.widths=[8]", "steps=20", "measure=[scores]", "seed=1,2"]
    trial = evidence.Trial(id="t", runs={"nets": words}, tables={"line": line})
    ((_, paths, seconds),) = evidence.finish([trial], folder, 1, lambda text: None)
    (row,) = evidence.measured(trial, paths).query("part == 'line'").to_dict("records")
    runs = sorted((Run(Path(p)) for name, p in paths if name == "nets"), key=lambda run: run.config["seed"])
    settings = {key: line[key] for key in ("points", "fit_steps", "lr", "batch_size", "match")}
    frame = path(Asked(runs, [], ["threads=1"]), curves=["line"], between=None, seed=0, **settings)
    assert row["barrier"] == pytest.approx(frame.attrs["barriers"]["line"]["height"], rel=1e-9)
    assert row["highest_loss"] == pytest.approx(frame["loss"].max(), rel=1e-9) and seconds > 0
