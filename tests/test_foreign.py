"""Every kind of part as a stranger would write it, from the text of docs/extend.md: it works, or is refused
in a line."""

import json
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, only_run
from test_docs import modules

from sharpcli.run import Run
from sharpcli.runs_dir import in_directory

PAGE = ROOT / "docs" / "extend.md"
SHORT = (*TINY, "steps=4", "measure_every=2")
LION = (
    "optimizer._target_=lion.Lion",
    "+optimizer.beta1=0.9",
    "+optimizer.beta2=0.99",
    "lr=0.001",
    "trust=[lion]",
)


@pytest.fixture
def page(folder, monkeypatch):
    """The modules of the page, and a way to write more."""
    modules(PAGE, folder, monkeypatch)

    def write(name, text):
        (folder / f"{name}.py").write_text(text)
        sys.modules.pop(name, None)

    return write


def test_a_foreign_optimizer_is_custom_and_has_no_edge_anywhere(sharp, folder, page):
    said = sharp("train", *SHORT, *LION)
    assert said.code == 0, said.err
    run = Run(only_run(folder))
    assert run.name.startswith("custom-network-lr0.001-") and run.config["method"] == "custom"
    assert all("edge" not in row and "base_edge" not in row for row in run.logged())
    assert "2/lr" not in said.out + said.err and "edge" not in said.out + said.err
    assert sharp("plot", "sharpness", run.name, "-o", "x.svg").code == 0
    assert "edge of stability" not in (folder / "x.svg").read_text()


def test_a_foreign_optimizer_is_measured_by_everything_that_asks_an_optimizer(sharp, folder, page):
    measures = "measure=[scores,sharpness,preconditioned_sharpness,sam_sharpness]"
    assert sharp("train", *SHORT, *LION, measures).code == 0
    row = Run(only_run(folder)).logged()[-1]
    assert row["preconditioned_lambda_1"] == pytest.approx(row["lambda_1"], rel=2e-3)  # P = 1
    assert row["preconditioned_edge"] is None
    assert "central flow" in sharp("train", *SHORT, *LION, "measure=[central_flow]").refusal


def test_sam_takes_a_foreign_optimizer_for_its_base(sharp, folder, page):
    words = ["method=sam", "optimizer.base._target_=lion.Lion", "+optimizer.base.beta1=0.9"]
    words += [
        "+optimizer.base.beta2=0.99",
        "trust=[lion]",
        "lr=0.001",
        "measure=[scores,preconditioned_sharpness]",
    ]
    assert sharp("train", *SHORT, *words).code == 0
    assert all("base_edge" not in row for row in Run(only_run(folder)).logged())


def test_a_toy_does_not_run_a_foreign_rule_by_the_compiled_steps_of_a_rule_that_it_inherits(
    sharp, folder, page
):
    page(
        "inherited",
        "from sharpcli.optimizers.gd import GD\n\n\nclass Half(GD):\n"
        "    def step(self, w, state, grad, lr):\n        return w - lr / 2 * grad(w), state\n",
    )
    words = ["problem=uv", "steps=40", "measure_every=20", "measure=[scores]"]
    assert sharp("train", *words, "method=gd", "lr=0.01", "runs_dir=a").code == 0
    half = ["optimizer._target_=inherited.Half", "trust=[inherited]", "lr=0.02", "runs_dir=b"]
    assert sharp("train", *words, *half).code == 0
    (a,), (b,) = (in_directory(folder / d) for d in "ab")
    assert b.logged()[-1]["train_loss"] == pytest.approx(a.logged()[-1]["train_loss"], rel=1e-12)
    assert b.name.startswith("custom-") and "edge" not in b.logged()[-1]


BROKEN = {
    "optimizer without a step": (
        "class Part:\n    def init(self, w):\n        return ()\n",
        ["optimizer._target_=broken.Part"],
        "step is missing",
    ),
    "optimizer whose state is a list": (
        "class Part:\n    def init(self, w):\n        return [w]\n    def step(self, w, s, g, lr):\n       "
        " return w, s\n",
        ["optimizer._target_=broken.Part"],
        "init(w) gives a list; give a tuple of tensors",
    ),
    "optimizer whose state holds a number": (
        "class Part:\n    def init(self, w):\n        return (0,)\n    def step(self, w, s, g, lr):\n      "
        "  return w, s\n",
        ["optimizer._target_=broken.Part"],
        "give a tuple of tensors",
    ),
    "optimizer whose step gives w alone": (
        "class Part:\n    def init(self, w):\n        return ()\n    def step(self, w, s, g, lr):\n        "
        "return w\n",
        ["optimizer._target_=broken.Part"],
        "step(w, state, grad, lr) gives (w, state)",
    ),
    "objective that gives a number": (
        "def part(surface, w, rng):\n    return 1.0\n",
        ["+objective.part._target_=broken.part"],
        "objective.part: gives a float; give the surface with its change",
    ),
    "schedule that gives a word": (
        "def part(step):\n    return 'fast'\n",
        ["schedule._target_=broken.part"],
        "schedule: gives 'fast' for step 0; give a finite number",
    ),
    "model that gives a function": (
        "def part(shape, outputs):\n    return lambda x: x\n",
        ["~model.activation", "model._target_=broken.part", "~model.widths"],
        "model: (shape, outputs) gives a function; give a torch.nn.Module",
    ),
    "loss that gives a value for each example": (
        "def part(outputs, targets):\n    return (outputs - targets).square().sum(1)\n",
        ["loss._target_=broken.part"],
        "give a scalar, the mean over the examples",
    ),
    "data that are a pair": (
        "import torch\ndef part():\n    return torch.zeros(3, 2), torch.zeros(3, 1)\n",
        ["~data.train_examples", "~data.wrong", "data._target_=broken.part"],
        "data: gives a tuple; give a sharpcli.data.Dataset",
    ),
    "problem that is a surface": (
        "def part(seed):\n    return None\n",
        ["problem=quadratic", "~problem.eigenvalues", "~problem.start", "problem._target_=broken.part"],
        "problem=part: gives a NoneType; give a sharpcli.problems.problem.Problem",
    ),
    "measure that gives a dictionary": (
        "def part(at):\n    return {'x': 1.0}\n",
        ["+measure.part._target_=broken.part"],
        "measure.part: gives a dict; give a sharpcli.measures.Estimates",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_part_that_gives_what_it_must_not_is_refused_in_a_line(sharp, folder, page, name):
    text, words, said = BROKEN[name]
    page("broken", text)
    short = [w for w in SHORT if not any(x.startswith("~data" if "data" in w else "~model") for x in words)]
    short = ["steps=4", "measure_every=2"] if any("problem=" in w for w in words) else short
    result = sharp("train", *short, *words, "trust=[broken]")
    refusals = [line for line in result.err.splitlines() if line.startswith("sharp: ")]
    assert result.code == 2 and len(refusals) == 1 and said in refusals[0], result.err
    assert "Traceback" not in result.err


def test_a_default_of_a_foreign_part_is_written_into_the_config_and_counts(sharp, folder, page):
    for default in ("0.1", "0.2"):
        page("mild", f"def part(surface, w, rng, *, share: float = {default}):\n    return surface\n")
        assert sharp("train", *SHORT, "+objective.part._target_=mild.part", "trust=[mild]").code == 0
    runs = in_directory(folder / "runs")
    assert sorted(run.config["objective"]["part"]["share"] for run in runs) == [0.1, 0.2]


# --- identity: what a run is made of ---

LOADER = (
    "import numpy as np\nimport torch\nfrom sharpcli.data import Dataset\n\n\n"
    "def load(*, path{annotation}):\n    a = np.load(path)\n"
    "    x, y = torch.from_numpy(a['x']).float(), torch.from_numpy(a['y']).float()\n"
    "    return Dataset(x[:20], y[:20], x[20:], y[20:], classes=False)\n"
)


def save(shift, where=slice(None), y_shift=0.0):
    g = np.random.default_rng(0)
    x, y = g.normal(size=(30, 4)), g.normal(size=(30, 1))
    x[where] += shift
    y[where] += y_shift
    np.savez("a.npz", x=x, y=y)


@pytest.mark.parametrize("annotation", [": str", "", ": 'str'"])
def test_a_changed_data_file_is_a_new_run_and_never_an_old_result(sharp, folder, page, annotation):
    page("loader", LOADER.format(annotation=annotation))
    words = [
        "~data.train_examples",
        "~data.wrong",
        "data._target_=loader.load",
        "+data.path=a.npz",
        "trust=[loader]",
    ]
    words += ["model.widths=[3]", "steps=4", "measure_every=2", "measure=[scores]"]
    save(0.0)
    assert sharp("train", *words).code == 0
    assert "already complete" in sharp("train", *words).out
    first = Run(only_run(folder))
    save(1.0)
    said = sharp("train", *words)
    assert said.code == 0 and "already" not in said.out and "the training data changed since" in said.err
    assert len(in_directory(folder / "runs")) == 2
    assert "already complete" in sharp("train", *words).out
    assert (
        "the training data changed since this run was made"
        in sharp("measure", first.name, "trust=[loader]").refusal
    )
    save(1.0, slice(20, None))  # the test set alone
    again = sharp("train", *words)
    assert again.code == 0 and "already" not in again.out and len(in_directory(folder / "runs")) == 3
    save(0.0)
    assert f"{first.name}: already complete" in sharp("train", *words).out


def test_an_unfinished_run_is_not_carried_on_with_other_data(sharp, folder, page):
    page("loader", LOADER.format(annotation=": str"))
    words = [
        "~data.train_examples",
        "~data.wrong",
        "data._target_=loader.load",
        "+data.path=a.npz",
        "trust=[loader]",
    ]
    words += ["model.widths=[3]", "steps=4", "measure_every=2", "measure=[scores]", "checkpoint_every=2"]
    save(0.0)
    assert sharp("train", *words).code == 0
    run = Run(only_run(folder))
    run.cut((run.path / "metrics.jsonl").read_bytes().index(b'"step": 4') - 1)
    run.drop(4)
    before = (run.path / "metrics.jsonl").read_bytes()
    save(0.0, y_shift=2.0)
    said = sharp("train", *words)
    assert said.code == 0 and "resuming" not in said.err and len(in_directory(folder / "runs")) == 2
    assert (run.path / "metrics.jsonl").read_bytes() == before


def test_a_model_that_reads_its_weights_from_a_file_is_a_new_run_when_the_file_changes(sharp, folder, page):
    page(
        "pretrained",
        "import torch\nfrom torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self, path: str):\n"
        "        super().__init__()\n        self.stack = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
        "        self.stack[1].weight.data = torch.load(path)\n\n    def forward(self, x):\n        return "
        "self.stack(x)\n",
    )
    words = ["~model.widths", "~model.activation", "model._target_=pretrained.Net", "+model.path=w.pt"]
    words += [
        "trust=[pretrained]",
        "data.train_examples=60",
        "steps=2",
        "measure_every=2",
        "measure=[scores]",
    ]
    torch.save(torch.zeros(10, 64), "w.pt")
    assert sharp("train", *words).code == 0
    torch.save(torch.ones(10, 64), "w.pt")
    said = sharp("train", *words)
    assert said.code == 0 and "the first weights changed since" in said.err
    assert len(in_directory(folder / "runs")) == 2


def test_moving_a_module_of_this_package_renames_no_run(monkeypatch):
    from sharpcli.config.check import check
    from sharpcli.config.targets import parts
    from sharpcli.config.words import compose
    from sharpcli.optimizers import gd

    words = ["optimizer._target_=sharpcli.elsewhere.gd.GD"]
    monkeypatch.setitem(sys.modules, "sharpcli.elsewhere", type(sys)("sharpcli.elsewhere"))
    monkeypatch.setitem(sys.modules, "sharpcli.elsewhere.gd", gd)
    monkeypatch.setitem(parts(), "sharpcli.elsewhere.gd.GD", frozenset({"optimizer"}))
    assert check(compose(words), words).hash == check(compose([])).hash
    assert check(compose(["optimizer=momentum"])).hash != check(compose([])).hash


# --- frozen parameters ---

FROZEN = (
    "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self, freeze: str):\n        "
    "super().__init__()\n"
    "        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh())\n        self.head = "
    "nn.Linear(5, 10)\n"
    "        for name, p in self.named_parameters():\n            p.requires_grad_(not "
    "name.startswith(freeze))\n\n"
    "    def forward(self, x):\n        return self.head(self.body(x))\n"
)
NET = (
    "~model.widths",
    "~model.activation",
    "model._target_=frozen.Net",
    "trust=[frozen]",
    "data.train_examples=60",
)


def test_frozen_parameters_are_held_and_counted_nowhere(sharp, folder, page):
    page("frozen", FROZEN)
    words = ["+model.freeze=body", "steps=20", "measure_every=20", "problem.dtype=float64"]
    measures = "measure=[scores,sharpness,trace,norms,hessian_rank]"
    assert sharp("train", *NET, *words, measures, "measure.sharpness.tol=1e-8").code == 0
    run = Run(only_run(folder))
    facts, row = run.provenance, run.logged()[-1]
    assert facts["frozen"] == ["body.1.weight", "body.1.bias"] and facts["parameters"] == 60
    w = run.load(20)["w"]
    assert len(w) == 60
    # an independent computation: the module as torch builds it, its head at w, the dense Hessian in the head
    # alone
    import frozen

    torch.manual_seed(0)
    net = frozen.Net("body").double()
    from sklearn.datasets import load_digits

    raw = load_digits()
    x = torch.from_numpy(raw.images).float()[:, None]
    mean, std = x[:60].mean(0), x[:60].std(0, correction=0)
    x = ((x - mean) / torch.where(std > 0, std, 1.0))[:60].double()
    y = torch.nn.functional.one_hot(torch.from_numpy(raw.target[:60]).long(), 10).double()

    def loss(head):
        parts = {"head.weight": head[:50].view(10, 5), "head.bias": head[50:]}
        return 0.5 * (torch.func.functional_call(net, parts, (x,)) - y).square().sum(1).mean()

    H = torch.autograd.functional.hessian(loss, w)
    assert row["train_loss"] == pytest.approx(float(loss(w)), rel=1e-10)
    assert row["lambda_1"] == pytest.approx(float(torch.linalg.eigvalsh(H)[-1]), rel=1e-6)
    assert row["trace"] == pytest.approx(float(H.trace()), rel=1e-8)
    assert row["l2_norm"] == pytest.approx(float(w.norm()), rel=1e-10)


def test_a_model_without_a_trainable_parameter_is_refused(sharp, folder, page):
    page("frozen", FROZEN.replace("startswith(freeze)", "startswith('')"))
    assert "no trainable parameter" in sharp("train", *NET, "+model.freeze=x", "steps=2").refusal


def test_a_file_of_weights_is_measured_in_its_trainable_parameters_alone(sharp, folder, page):
    page("frozen", FROZEN)
    import frozen

    torch.manual_seed(3)
    torch.save(frozen.Net("body").state_dict(), "w.pt")
    sizes = {}
    for freeze in ("body", "head", "none"):
        words = [
            "w.pt",
            *NET,
            f"+model.freeze={freeze}",
            "measure=[log_det,norms]",
            "--json",
            "-o",
            f"{freeze}.jsonl",
        ]
        said = sharp("measure", *words)
        assert said.code == 0, said.err
        row = json.loads(said.out)
        sizes[freeze] = row["log_det_products"], row["l2_norm"]
        facts = json.loads((folder / f"{freeze}.jsonl").read_text().splitlines()[0])["provenance"]
        assert ("frozen" in facts) is (freeze != "none")
    assert [products for products, _ in sizes.values()] == [60, 325, 385]
    assert sizes["body"][1] ** 2 + sizes["head"][1] ** 2 == pytest.approx(sizes["none"][1] ** 2, rel=1e-5)


def test_weights_whose_frozen_parameters_differ_are_no_start(sharp, folder, page):
    page("frozen", FROZEN)
    words = ["+model.freeze=body", "steps=2", "measure_every=2", "measure=[scores]"]
    assert sharp("train", *NET, *words).code == 0
    run = only_run(folder).name
    assert sharp("train", *NET, *words, "lr=0.1", f"init_from={run}").code == 0
    said = sharp("train", *NET, *words, "seed=1", f"init_from={run}")
    assert "the frozen parameters" in said.refusal and "use the same model and seed" in said.refusal


# --- what a hostile reader tried ---


LOADED = (
    "import torch\nfrom torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self, buffer: bool):\n"
    "        super().__init__()\n        self.b = nn.Linear(4, 10)\n        held = torch.load('feat.pt')\n"
    "        if buffer:\n            self.register_buffer('a', held)\n        else:\n"
    "            self.a = nn.Parameter(held, requires_grad=False)\n\n"
    "    def forward(self, x):\n        return self.b(torch.tanh(x.flatten(1) @ self.a.T))\n"
)


@pytest.mark.parametrize("buffer", ["true", "false"])
def test_a_changed_file_of_frozen_weights_or_buffers_is_a_new_run_each_time(sharp, folder, page, buffer):
    page("loaded", LOADED)
    words = ["~model.widths", "~model.activation", "model._target_=loaded.Net", f"+model.buffer={buffer}"]
    words += ["trust=[loaded]", "data.train_examples=60", "steps=2", "measure_every=2", "measure=[scores]"]
    for seed, threads in ((1, 1), (2, 1), (3, 2)):
        torch.save(torch.randn(4, 64, generator=torch.Generator().manual_seed(seed)) / 8, "feat.pt")
        said = sharp("train", *words, f"threads={threads}")
        assert said.code == 0 and "already" not in said.out, said.out
    runs = in_directory(folder / "runs")
    assert len(runs) == 3 and all([row["step"] for row in run.logged()] == [0, 2] for run in runs)
    assert "already complete" in sharp("train", *words).out
    first = min(runs, key=lambda run: len(run.name))
    again = sharp("measure", first.name, "measure=[scores]", "trust=[loaded]", "threads=2")
    assert "the frozen parameters or buffers changed" in again.refusal
    assert "use the same model" in sharp("train", *words, "lr=0.1", f"init_from={first.name}").refusal


@pytest.mark.parametrize("annotation", ["Path", "Path | None"])
@pytest.mark.parametrize("kind", ["objective", "measure"])
def test_a_file_that_any_part_names_counts_by_its_content(sharp, folder, page, kind, annotation):
    page(
        "filed",
        "from pathlib import Path\nfrom sharpcli.measures import Estimates\n\n\n"
        f"def objective(surface, w, rng, *, file: {annotation}):\n    c = float(file.read_text())\n"
        "    return surface.plus(lambda w: c * w.square().sum())\n\n\n"
        f"def measure(at, *, file: {annotation}):\n    return Estimates({{'c': float(file.read_text())}})\n",
    )
    words = [*SHORT, f"+{kind}.o._target_=filed.{kind}", f"+{kind}.o.file=c.txt", "trust=[filed]"]
    for content in "01":
        (folder / "c.txt").write_text(content)
        said = sharp("train", *words)
        assert said.code == 0 and "already" not in said.out, said.err
    assert len(in_directory(folder / "runs")) == 2
    (folder / "c.txt").rename(folder / "d.txt")
    assert "already complete" in sharp("train", *[w.replace("c.txt", "d.txt") for w in words]).out


def test_a_default_that_is_a_mapping_or_a_pair_counts(sharp, folder, page):
    for scale in ("1.0", "2.0"):
        page(
            "mapped",
            f"def part(surface, w, rng, *, table: dict = {{'a': {scale}}}, pair: tuple = (0.5, 1)):\n"
            "    return surface\n",
        )
        said = sharp("train", *SHORT, "+objective.part._target_=mapped.part", "trust=[mapped]")
        assert said.code == 0 and "already" not in said.out, said.err
    assert len(in_directory(folder / "runs")) == 2


WRONG = {
    "an optimizer that writes into its weights": (
        "class Part:\n    def init(self, w):\n        return ()\n    def step(self, w, s, g, lr):\n"
        "        return w.sub_(lr * g(w)), s\n",
        ["optimizer._target_=wrong.Part"],
        "step changes w or its state in place",
    ),
    "an optimizer that changes the type of w": (
        "class Part:\n    def init(self, w):\n        return ()\n    def step(self, w, s, g, lr):\n"
        "        return w.double(), s\n",
        ["optimizer._target_=wrong.Part"],
        "w torch.float32 of shape",
    ),
    "a loss that is detached": (
        "def part(o, t):\n    return ((o - t) ** 2).mean().detach()\n",
        ["loss._target_=wrong.part"],
        "the loss has no gradient in the weights",
    ),
    "a schedule that stops to be a number": (
        "def part(step):\n    return 0.05 if step < 3 else float('nan')\n",
        ["schedule._target_=wrong.part"],
        "schedule: gives nan for step 3",
    ),
    "a measure that gives an array": (
        "import numpy as np\nfrom sharpcli.measures import Estimates\n\n\ndef part(at):\n"
        "    return Estimates({'x': np.zeros(3)})\n",
        ["+measure.part._target_=wrong.part"],
        "measure.part: x is a ndarray; give a number",
    ),
    "a measure that writes a column of the loop": (
        "from sharpcli.measures import Estimates\n\n\ndef part(at):\n    return Estimates({'step': 7})\n",
        ["+measure.part._target_=wrong.part"],
        "the column step is the training loop's",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_part_that_goes_wrong_later_is_refused_in_a_line(sharp, folder, page, name):
    text, words, said = WRONG[name]
    page("wrong", text)
    result = sharp("train", *SHORT, *words, "trust=[wrong]")
    refusals = [line for line in result.err.splitlines() if line.startswith("sharp: ")]
    assert result.code == 2 and len(refusals) == 1 and said in refusals[0], result.err


def test_scalars_of_torch_and_numpy_are_numbers_of_a_measure(sharp, folder, page):
    page(
        "scalars",
        "import numpy as np\nfrom sharpcli.measures import Estimates\n\n\ndef part(at):\n"
        "    return Estimates({'a': at.w.norm(), 'b': np.float32(1.5), 'c': np.int64(2)})\n",
    )
    assert sharp("train", *SHORT, "+measure.part._target_=scalars.part", "trust=[scalars]").code == 0
    row = Run(only_run(folder)).logged()[0]
    assert row["a"] > 0 and row["b"] == 1.5 and row["c"] == 2


def test_lazy_layers_and_a_module_that_is_handed_out_twice_work(sharp, folder, page):
    page(
        "modules",
        "from torch import nn\n\nONE = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n\n\n"
        "def same(shape, outputs):\n    return ONE\n\n\n"
        "def lazy(shape, outputs):\n"
        "    return nn.Sequential(nn.Flatten(), nn.LazyLinear(5), nn.Tanh(), nn.LazyLinear(10))\n",
    )
    words = [
        "~model.widths",
        "~model.activation",
        "data.train_examples=60",
        "steps=2",
        "measure_every=2",
        "trust=[modules]",
    ]
    assert sharp("train", *words, "model._target_=modules.same", "lr=0.01,0.02", "-m").code == 0
    assert sharp("train", *words, "model._target_=modules.lazy").code == 0


def test_theory_of_a_time_refuses_what_has_another_time(sharp, folder):
    toy = ["problem=uv", "problem.d=8", "problem.n=4", "steps=20", "measure_every=10", "lr=0.01"]
    for measure in ("uv_flow", "sam_flow", "gradient_flow_distance"):
        said = sharp("train", *toy, "method=gd", "schedule=cosine", f"measure=[{measure}]")
        assert "use schedule=constant" in said.err and said.code == 2
    for method in ("limiting_flow", "central_flow"):
        assert "use batch_size=full" in sharp("train", *toy, f"method={method}", "batch_size=2").refusal


def test_a_grid_of_a_sweep_that_is_wrong_stops_it_before_the_first_job(sharp, folder):
    said = sharp("train", *SHORT, "replicas=1,{nope:[1]}", "-m").refusal
    assert "replicas.nope" in said and "nothing was started" in said
    assert (
        "replicas.compiled: this setting is now called compile_toys"
        in sharp("train", *SHORT, "replicas={compiled:[true,false]}").refusal
    )
    assert list(folder.iterdir()) == []
