"""Numbers that depend on two things at once, each right by itself: what the other one changes is asked for,
and where it cannot be told, refused."""

import json

import numpy as np
import pytest
import torch
from conftest import TINY, only_run, rows_of
from torch import nn

from sharpcli.config.check import check
from sharpcli.config.words import compose
from sharpcli.engine.experiment import build
from sharpcli.engine.measuring import measure
from sharpcli.errors import Refusal
from sharpcli.landscape.differences import uniform_curvature
from sharpcli.problems.network_norms import structural_norms
from sharpcli.rng import generator
from sharpcli.schedules import Schedule

NET = (*TINY, "problem.dtype=float64", "threads=1")
OWN = ("model=own_norms.Net", "trust=[own_norms]", "problem.dtype=float64", "threads=1")


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of one's own that can be named in a command."""

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))

    return write


BATCH_NORM = """
import torch
class Net(torch.nn.Module):
    def __init__(self, width: int = 6, own: bool = False):
        super().__init__()
        self.a, self.b = torch.nn.Linear(64, width), torch.nn.Linear(width, 10)
        self.norm = None if own else torch.nn.BatchNorm1d(width)
    def forward(self, x):
        h = self.a(x.flatten(1))
        h = (h - h.mean(0)) / (h.var(0, correction=0) + 1e-5) ** 0.5 if self.norm is None else self.norm(h)
        return self.b(torch.tanh(h))
"""


def last(folder, runs="runs"):
    (file,) = folder.glob(f"{runs}/*/metrics.jsonl")
    return rows_of(file)[-1]


def test_a_curve_between_networks_that_differ_in_what_is_not_trained_is_refused(sharp, folder):
    words = ("train", *TINY[1:], "steps=2", "measure_every=2", "measure=[scores]")
    for number, more in enumerate((["model.activation=tanh"], ["model.activation=relu"], ["seed=1"])):
        assert sharp(*words, *more, f"runs_dir=r{number}").code == 0
    tanh, relu, other = (str(next((folder / f"r{i}").iterdir())) for i in range(3))
    assert "the loss of" in sharp("plot", "connect", tanh, relu, "curves=[line]", "points=3").refusal
    assert sharp("plot", "connect", tanh, other, "curves=[line]", "points=3").code == 0


def arrays(folder, name, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(20, 1))
    np.savez(folder / name, x_train=x, y_train=y, x_test=x, y_test=y)


def losses(folder):
    """The loss at each point of the newest picture."""
    newest = max((folder / "landscapes").glob("*.jsonl"), key=lambda file: file.stat().st_mtime_ns)
    return [row["loss"] for row in rows_of(newest) if "loss" in row]


def test_replicas_and_pictures_over_a_file_of_data_notice_that_it_changed(sharp, folder):
    arrays(folder, "a.npz", 0)
    arrays(folder, "b.npz", 1)
    words = ["data=arrays", "data.file=a.npz", "model.widths=[4]", "steps=4", "measure_every=4"]
    words += ["measure=[scores]"]
    assert sharp("train", *words, "replicas={data.file:[a.npz,b.npz]}").code == 0
    module = nn.Sequential(nn.Flatten(), nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    torch.save(module.state_dict(), folder / "w.pt")
    picture = ["plot", "landscape", "w.pt", "dimensions=1", "points=3", "data=arrays", "model.widths=[4]"]
    assert sharp(*picture, "data.file=b.npz", "-o", "l.png").code == 0
    before = losses(folder)
    arrays(folder, "b.npz", 2)
    again = sharp("train", *words, "replicas={data.file:[a.npz,b.npz]}")
    assert "training data changed" in again.err and len(list((folder / "runs").iterdir())) == 2
    assert sharp(*picture, "data.file=b.npz", "-o", "l.png").code == 0
    assert losses(folder) != before


@pytest.mark.parametrize(
    "words",
    [
        ["lr=0.0005", "steps=300"],
        ["lr=0.02", "schedule=warmup_stable_decay", "schedule.decay=0.5", "schedule.final=0.0", "steps=60"],
    ],
)
def test_the_update_of_a_rule_that_is_not_linear_in_lr_is_that_of_this_lr(experiment, words):
    """schedule_free's last steps are of a share lr^2 / (the sum of lr^2) of the way."""
    found = []
    for dtype in ("float32", "float64"):
        e = experiment(*NET, "optimizer=schedule_free", *words, f"problem.dtype={dtype}")
        w, state, lr = e.problem.w0, e.optimizer.init(e.problem.w0), 0.0
        for step in range(e.steps):
            lr = e.schedule(step)
            w, state = e.optimizer.step(w, state, e.problem.surface.grad, lr)
        e = experiment(*NET, "optimizer=schedule_free", *words, f"problem.dtype={dtype}",
                       "measure=[critical_sharpness]", "measure.critical_sharpness.tol=0.01")  # fmt: skip
        found.append(measure(e, w, e.steps, {}, ["critical_sharpness"], state)[0]["critical_sharpness"])
    assert found[0] == pytest.approx(found[1], rel=0.05)


def test_a_flow_of_a_run_that_adam_began_has_no_time(experiment):
    words = ["optimizer=switch", "optimizer@optimizer.before=adam", "optimizer@optimizer.after=gd"]
    e = experiment(*NET, *words, "optimizer.at=1", "steps=4", "measure=[gradient_flow_distance]")
    state = e.optimizer.init(e.problem.w0)
    w = e.problem.w0
    for _ in range(2):
        w, state = e.optimizer.step(w, state, e.problem.surface.grad, 0.01)
    with pytest.raises(Refusal, match="states no gradient flow"):
        measure(e, w, 2, {}, ["gradient_flow_distance"], state)


def test_the_central_flows_loss_under_a_schedule_is_refused(experiment):
    with pytest.raises(Refusal, match="schedule=constant"):
        experiment(*NET, "method=central_flow", "schedule=cosine", "measure=[central_flow]")


def test_interpolators_of_a_network_with_batch_norm_are_those_of_one_batch(experiment, own):
    own("own_norms", BATCH_NORM)
    words = [*OWN, "data.train_examples=30", "measure=[projected]"]
    for more in ("chunk=10", "problem.batchnorm=population"):
        e = experiment(*words, more)
        with pytest.raises(Refusal, match="batch norm"):
            measure(e, e.problem.w0, 0, {}, ["projected"], ())
    e = experiment(*words, "chunk=30", "model.width=12", "measure.projected.steps=200")
    row, _ = measure(e, e.problem.w0, 0, {}, ["projected"], ())
    assert row["projected_train_loss"] <= 5 * row["projected_residual"] ** 2, (
        "half the mean squared norm of 10"
    )


def test_the_sharpness_of_batches_that_a_step_cuts_is_that_of_the_step(experiment, own):
    own("own_norms", BATCH_NORM)
    words = [*OWN, "data.train_examples=20", "chunk=5"]
    words += ["measure=[batch_sharpness]", "measure.batch_sharpness.batch_size=15"]
    words += ["measure.batch_sharpness.max_batches=16", "measure.batch_sharpness.rtol=0.01"]
    e = experiment(*words)
    row, _ = measure(e, e.problem.w0, 0, {}, ["batch_sharpness"], ())
    (x, y), w, ratios = e.problem.examples, e.problem.w0, {5: [], 15: []}
    rng = generator(e.seed, "batch_sharpness", 0)  # the measure's own draws
    for _ in range(row["batch_sharpness_batches"]):
        i = torch.randperm(20, generator=rng)[:15]
        for cut, of_cut in ratios.items():
            surface = e.problem.surface.on(zip(x[i].split(cut), y[i].split(cut), strict=True))
            g = surface.grad(w)
            of_cut.append(float(g @ surface.hvp(w, g) / (g @ g)))
    assert row["batch_sharpness"] == pytest.approx(np.mean(ratios[5]), rel=1e-9)
    assert row["batch_sharpness"] != pytest.approx(np.mean(ratios[15]), rel=0.1), (
        "of batches that are not cut"
    )


@pytest.mark.parametrize("value", [2.0, 2.5])
def test_the_edge_beside_weight_decay_is_where_descent_diverges(sharp, folder, value):
    """Descent on h w^2 / 2 + s w^2 / 2 diverges from h + s > 2 / lr on."""
    words = ["problem=quadratic", f"problem.eigenvalues=[{value}]", "problem.start=[1.0]", "lr=0.09"]
    words += ["objective=[weight_decay]", "objective.weight_decay.strength=20", "steps=100"]
    said = sharp("train", *words, "measure=[scores,sharpness]", "measure_every=100")
    first, end = rows_of(only_run(folder) / "metrics.jsonl")
    assert (end["edge"], end["added_curvature"]) == (pytest.approx(2 / 0.09), pytest.approx(20))
    diverges = value + end["added_curvature"] > end["edge"]
    assert (end["train_loss"] > first["train_loss"]) == diverges
    assert "2/lr = 2.222" not in said.out and "2/lr = 22.22 less 20 of the objectives" in said.out
    assert sharp("plot", "sharpness", "runs", "-o", "x.svg").code == 0
    assert "= 2.2222" in (folder / "x.svg").read_text()


def test_an_edge_is_stated_only_where_the_curvature_that_is_added_is_known(experiment):
    added = {
        "[]": 0.0,
        "[weight_decay]": 5e-4,
        "[weight_decay,langevin]": 5e-4,
        "[gradient_penalty]": None,
        "[label_noise]": 0.0,
    }
    for objectives, c in added.items():
        e = experiment("problem=uv", f"objective={objectives}")
        assert e.added_curvature == (None if c is None else pytest.approx(c, rel=1e-6)), objectives


def test_uniform_curvature_is_that_of_a_multiple_of_the_squared_norm_alone():
    w = torch.linspace(-1, 2, 7, dtype=torch.float64)
    assert uniform_curvature(lambda u: 1.5 * u.square().sum(), w) == pytest.approx(3)
    assert uniform_curvature(lambda u: u @ w, w) == 0
    assert uniform_curvature(lambda u: torch.tensor(1.0), w) == 0
    assert uniform_curvature(lambda u: u[:3].square().sum(), w) is None
    assert uniform_curvature(lambda u: u.pow(4).sum(), w) is None
    assert uniform_curvature(lambda u: 1.5 * u.square().sum(), w.float()) == pytest.approx(3, rel=1e-2)


def test_batch_norm_of_ones_own_is_noticed_by_what_it_does(experiment, own):
    own("own_norms", BATCH_NORM)
    words = [*OWN]
    assert experiment(*words, "model.own=true").problem.surface.joint
    assert experiment(*words).problem.surface.joint
    assert experiment(*words, "problem.batchnorm=population").problem.surface.joint, "in training"
    at = experiment(*words, "problem.batchnorm=population").problem
    assert not at.at(at.w0).joint, "with its statistics fixed"
    assert not experiment(*NET).problem.surface.joint


@pytest.mark.parametrize("name", ["muon", "lion", "sign_descent"])
def test_a_rule_that_says_nothing_of_its_metric_has_no_preconditioned_sharpness(experiment, name):
    with pytest.raises(Refusal, match="states nothing"):
        experiment(*NET, f"optimizer={name}", "measure=[preconditioned_sharpness]")


def test_around_adam_the_metric_is_adams_and_no_edge_is_stated(experiment):
    for around in (["optimizer=sam"], ["optimizer=clipping"]):
        e = experiment(*NET, *around, "optimizer@optimizer.base=adam", "measure=[preconditioned_sharpness]")
        w, state = e.optimizer.step(
            e.problem.w0, e.optimizer.init(e.problem.w0), e.problem.surface.grad, 0.01
        )
        row, _ = measure(e, w, 1, {}, ["preconditioned_sharpness"], state)
        assert row["preconditioned_lambda_1"] > 0 and row["preconditioned_edge"] is None


def test_an_objective_that_divides_the_examples_comes_last(experiment):
    words = ["problem=uv", "batch_size=4", "method=sgd"]
    with pytest.raises(Refusal, match=r"objective=\[trace_penalty,svag\]"):
        experiment(*words, "objective=[svag,trace_penalty]")
    assert experiment(*words, "objective=[trace_penalty,svag]")


def test_another_chunk_of_a_network_with_batch_norm_is_another_loss(sharp, folder, own):
    own("own_norms", BATCH_NORM)
    words = ["model=own_norms.Net", "trust=[own_norms]", "data.train_examples=30", "steps=2"]
    assert sharp("train", *words, "measure_every=2", "measure=[scores]").code == 0
    of = ["measure", "runs", "measure=[sharpness]", "trust=[own_norms]"]
    assert "chunk=10" in sharp(*of, "chunk=10").refusal
    assert sharp(*of, "chunk=40").code == 0


def test_the_record_of_a_grid_has_no_mean_over_it(sharp, folder):
    words = ["problem=uv", "steps=4", "measure_every=4", "measure=[scores]"]
    assert sharp("train", *words, "replicas={lr:[0.001,0.01]}").code == 0
    row = json.loads(sharp("ls", "--json").out)
    assert row["step"] == 4 and not {"lr", "lr_now", "edge", "train_loss"} & {k for k, v in row.items() if v}
    assert sharp("train", *words, "replicas=2", "runs_dir=seeds").code == 0
    row = json.loads(sharp("ls", "runs_dir=seeds", "--json").out)
    assert row["lr"] == 0.2 and row["train_loss"] > 0


def test_a_later_measure_sees_the_learning_rate_that_the_run_had(sharp, folder):
    start = build(check(compose([*NET]))).problem
    # reached at step 1, at which no row of the later measure is due
    below = 0.999 * float(start.surface.value(start.w0))
    words = [*NET, "schedule=decay_at_loss", f"schedule.loss={below}", "schedule.factor=0.1", "lr=0.1"]
    words += ["steps=4", "measure_every=4", "measure=[scores,sam_sharpness]", "measure.scores.every=1"]
    assert sharp("train", *words, "checkpoint_every=1", "measure.sam_sharpness.every=1").code == 0
    logged = {row["step"]: row["sam_edge"] for row in rows_of(only_run(folder) / "metrics.jsonl")}
    said = sharp("measure", "runs", "measure=[sam_sharpness]", "-o", "again.jsonl")
    assert said.code == 0
    again = {row["step"]: row["sam_edge"] for row in rows_of(folder / "again.jsonl")}
    assert again == pytest.approx(logged, rel=1e-9) and logged[1] > 2 * logged[0]


def test_a_schedule_of_ones_own_around_another_is_told_the_loss(own):
    own(
        "own_schedules",
        "def plateau(lr, least_loss, step, steps, *, loss: float = 0.9, base=None):\n"
        "    return 0.1 * lr if least_loss <= loss else base(step=step, steps=steps, lr=lr, least_loss=1)\n"
        "class Shape:\n    def __call__(self, *, step, steps, lr, least_loss):\n        return lr\n",
    )
    words = ["problem=uv", "schedule=own_schedules.plateau", "trust=[own_schedules]"]
    words += ["+schedule@schedule.base=constant"]
    e = build(check(compose(words)))
    assert e.schedule.asks_for_loss
    from own_schedules import Shape

    assert Schedule(Shape(), 4, 0.1).asks_for_loss
    assert not build(check(compose(["problem=uv", "schedule=warmup"]))).schedule.asks_for_loss
    nested = ["problem=uv", "schedule=warmup", "schedule@schedule.base=decay_at_loss"]
    assert build(check(compose(nested))).schedule.asks_for_loss


def test_label_noise_under_another_name_has_its_own_size():
    words = ["problem=uv", "objective=[sharpcli.objectives.label_noise.LabelNoise]", "measure=[uv_flow]"]
    words += ["objective.LabelNoise.delta=0.5", "objective.LabelNoise.distribution=signs"]
    words += ["objective.LabelNoise.shared=false"]
    assert check(compose(words)).config["measure"]["uv_flow"]["delta"] == 0.5


def test_norms_of_layers_that_inherit_from_torchs_are_not_those_of_torchs():
    class Half(nn.Linear):
        def forward(self, x):
            return super().forward(x) / 2

    class Eighth(nn.Sequential):
        def forward(self, x):
            return super().forward(x) / 8

    plain = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    for module, has_norms in (
        (plain, True),
        (nn.Sequential(Half(3, 2), nn.Linear(2, 1)), False),
        (Eighth(nn.Linear(3, 2), nn.Linear(2, 1)), False),
    ):
        w = torch.cat([p.detach().flatten() for p in module.parameters()])
        names = [name for name, _ in module.named_parameters()]
        assert bool(structural_norms(module, names)(w)) == has_norms


def test_a_run_whose_first_weights_are_lost_has_no_distance_from_them(sharp, folder):
    words = [*NET, "steps=2", "measure_every=2", "measure=[norms]"]
    assert sharp("train", *words, "runs_dir=first").code == 0
    assert sharp("train", *words, "lr=0.01", f"init_from={next((folder / 'first').iterdir())}").code == 0
    run = only_run(folder)
    (run / "checkpoints" / "step_00000000.pt").unlink()
    assert sharp("measure", str(run), "measure=[norms]", "-o", "again.jsonl").code == 0
    (row,) = rows_of(folder / "again.jsonl")
    assert "l2_norm" in row and "init_distance" not in row


HEAD_FIRST = """
import torch
class Net(torch.nn.Module):
    def __init__(self, first: bool = True):
        super().__init__()
        if first:
            self.head = torch.nn.Linear(6, 10)
        self.body = torch.nn.Linear(64, 6)
        if not first:
            self.head = torch.nn.Linear(6, 10)
    def forward(self, x):
        return self.head(torch.tanh(self.body(x.flatten(1))))
"""


def test_the_last_layer_is_the_one_that_is_evaluated_last(experiment, own):
    own("own_heads", HEAD_FIRST)
    for first in ("true", "false"):
        e = experiment("model=own_heads.Net", "trust=[own_heads]", f"model.first={first}")
        assert e.problem.last_matrix == "head.weight"
    assert experiment(*NET, "model.widths=[6,5]").problem.last_matrix.startswith("5")


def test_a_watchs_learning_rate_is_that_of_its_measures(experiment):
    import sharpcli as sharp

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    data = [(torch.randn(8, 3), torch.randn(8, 1))]
    edges = []
    for lr in (0.1, 0.2):
        watch = sharp.Watch(model, nn.functional.mse_loss, data, ["sam_sharpness"], every=1, lr=lr)
        edges.append(watch.last.row["sam_edge"])
    assert None not in edges and edges[0] > edges[1]


def test_measuring_again_with_other_settings_is_told_of(sharp, folder):
    words = [*NET, "steps=2", "measure_every=2", "measure=[scores,sam_sharpness]"]
    assert sharp("train", *words).code == 0
    plot = ("plot", "compare", "runs", "y=sam_sharpness", "-o", "x.png")
    assert "several values" not in sharp(*plot).err
    again = ("measure", "runs", "--step", "2", "measure=[sam_sharpness]")
    assert sharp(*again).code == 0 and "several values" not in sharp(*plot).err
    assert sharp(*again, "measure.sam_sharpness.rho=0.5").code == 0
    assert "sam_sharpness was measured with several values of rho" in sharp(*plot).err


@pytest.mark.parametrize("base, known", [("gd", True), ("momentum", False), ("adam", False)])
def test_the_edge_of_sam_is_known_around_gradient_descent_alone(experiment, base, known):
    """Long & Bartlett's formula tends to 2/lr for a small radius, and momentum's edge is 2 (1 + beta)/lr."""
    e = experiment(*NET, "method=sam", f"optimizer@optimizer.base={base}", "measure=[sam_sharpness]")
    row, _ = measure(e, e.problem.w0, 0, {}, ["sam_sharpness"], e.optimizer.init(e.problem.w0))
    assert (row["sam_edge"] is not None) == known and row["sam_sharpness"] > 0
