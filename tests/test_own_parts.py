"""One word for a part of one's own; data sets of images and tokens; language models; trackers."""

import gzip
import json
import struct
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from sharpcli.config.check import check
from sharpcli.config.sweep import sweep
from sharpcli.config.words import compose
from sharpcli.data.convert import as_dataset
from sharpcli.data.images import torchvision_images
from sharpcli.data.mnist import mnist
from sharpcli.engine.experiment import build
from sharpcli.engine.measuring import measure
from sharpcli.errors import Refusal

PACKAGE = """
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import nn

from sharpcli.measures import Estimates


class Net(nn.Module):
    def __init__(self, width: int = 32, bias: bool = True):
        super().__init__()
        self.f = nn.Sequential(nn.Flatten(), nn.Linear(64, width, bias=bias), nn.Tanh(), nn.Linear(width, 10))

    def forward(self, x):
        return self.f(x)


class Needs(Net):
    def __init__(self, width: int):
        super().__init__(width)


@dataclass(frozen=True)
class Sign:
    damp: float = 1.0

    def init(self, w):
        return ()

    def step(self, w, state, grad, lr):
        return w - lr * self.damp * grad(w).sign(), state


def size(at, *, power: float = 1.0):
    return Estimates({"size": float(at.w.norm()) ** power})


def decay(lr, step, steps, *, power: float = 1.0):
    return lr * (1 - step / steps) ** power


def ridge(surface, w, rng, *, strength: float = 0.01):
    return surface.plus(lambda w: strength * w.square().sum())


def absolute(outputs, targets):
    return (outputs - targets).abs().sum() / len(targets)


def draw(frame, *, x: str = "step"):
    figure = Figure()
    figure.subplots().plot(frame[x], frame["train_loss"])
    return figure


class Toy(torch.utils.data.Dataset):
    def __init__(self, n: int = 50):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(i)), i % 10
"""
TINY = ("data.train_examples=60", "steps=2", "measure_every=2", "trust=[mine_all]")


@pytest.fixture
def package(folder, monkeypatch):
    (folder / "mine_all.py").write_text(PACKAGE)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "mine_all", raising=False)
    return folder


def last_row(folder):
    (run,) = (folder / "runs").iterdir()
    return json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])


def test_every_kind_of_part_is_chosen_by_one_word(sharp, package):
    words = [
        "model=mine_all.Net",
        "model.width=8",
        "optimizer=mine_all.Sign",
        "lr=0.01",
        "loss=mine_all.absolute",
    ]
    words += ["measure=[scores,mine_all.size]", "measure.size.power=2", "schedule=mine_all.decay"]
    words += ["objective=[mine_all.ridge]", "objective.ridge.strength=0.1"]
    said = sharp("train", *words, *TINY)
    assert said.code == 0, said.err
    assert last_row(package)["size"] > 0
    said = sharp("plot", "mine_all.draw", "runs", "trust=[mine_all]", "-o", "own.png")
    assert said.code == 0 and (package / "own.png").stat().st_size > 0


def test_a_sweep_over_ones_own_model_and_another(sharp, package):
    assert sharp("train", "loss=mine_all.absolute", "model.widths=[4]", *TINY).code == 0
    said = sharp("train", "model=mine_all.Net,mlp", *TINY, "-m")
    assert said.code == 0, said.err
    assert len(list((package / "runs").iterdir())) == 3
    assert len(sweep(["loss=glob(*)"])) == 2  # what an earlier command chose is no option of a later one


def test_the_landscape_of_ones_own_model_is_drawn_where_it_is_trusted(sharp, package):
    assert sharp("train", "model=mine_all.Net", *TINY).code == 0
    (run,) = (package / "runs").iterdir()
    said = sharp("plot", "landscape", run.name, "points=3", "dimensions=1", "-o", "l.png")
    assert "trust=[mine_all]" in said.refusal
    said = sharp("plot", "landscape", run.name, "points=3", "dimensions=1", "trust=[mine_all]", "-o", "l.png")
    assert said.code == 0, said.err
    assert (package / "l.png").exists()


def test_ones_own_data_set_is_taken_as_training_data(sharp, package):
    said = sharp(
        "train", "data=mine_all.Toy", "data.n=40", "model=mine_all.Net", "steps=1", "trust=[mine_all]"
    )
    assert said.code == 0, said.err
    assert "test_loss" not in last_row(package)


@pytest.mark.parametrize(
    "words, said",
    [
        (["model=mine_all.Net"], "trust=[mine_all]"),
        (["model=mine_all.Nets", "trust=[mine_all]"], "has no attribute 'Nets'"),
        (["model=mine_alll.Net", "trust=[mine_alll]"], "No module named 'mine_alll'"),
        (["model=mine_all.Needs", "trust=[mine_all]"], "model.width is missing"),
        (["model=mine_all.Net", "model.widht=3", "trust=[mine_all]"], "did you mean model.width"),
        (["model=mine_all.Net", "model.width=x", "trust=[mine_all]"], "model.width=x: not a whole number"),
        (["model=os.system", "trust=[mine_all]"], "trust=[os]"),
        (["measure=[scores,mine_all.Net]", "trust=[mine_all]"], "mine_all.py"),
        (["optimizer=mine_all.size", "trust=[mine_all]"], "optimizer"),
    ],
)
def test_a_wrong_word_about_ones_own_part_is_one_line(sharp, package, words, said):
    heard = sharp("train", *words, "data.train_examples=60", "steps=1")
    assert heard.code == 2 and "Traceback" not in heard.err, heard.err
    line = heard.err.strip().splitlines()[-1]
    assert line.startswith("sharp: ") and said in line


# --- data ---


class Pairs(TorchDataset):
    def __init__(self, pairs):
        self.pairs = pairs

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, i):
        return self.pairs[i]


def test_data_sets_of_torch_are_classes_or_real_targets():
    x = torch.randn(5, 3)
    data = as_dataset(Pairs([(x[i], i % 3) for i in range(5)]))
    assert data.classes and data.y_train.shape == (5, 3) and len(data.y_test) == 0
    data = as_dataset((Pairs([(x[i], x[i, :2]) for i in range(4)]), Pairs([(x[4], x[4, :2])])))
    assert not data.classes and data.y_train.shape == (4, 2) and torch.equal(data.x_test[0], x[4])
    for wrong, said in (
        (3, "gives a int"),
        (Pairs([]), "no example"),
        (Pairs(["text"]), "give pairs"),
        (Pairs([(x[0], 0), (x[0, :2], 0)]), "one shape"),
        (Pairs([(x[0], -1)]), "from 0"),
    ):
        with pytest.raises(Refusal, match=said):
            as_dataset(wrong)


def idx(array):
    """The bytes of an array in the format of MNIST's files."""
    return (
        struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    )


def test_mnist_is_read_from_its_own_files(folder):
    rng = np.random.default_rng(0)
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    arrays = {}
    for split, n in (("train", 30), ("t10k", 12)):
        arrays[split] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8), np.arange(n, dtype=np.uint8) % 10
        for kind, array in zip(("images-idx3-ubyte", "labels-idx1-ubyte"), arrays[split], strict=True):
            (raw / f"{split}-{kind}").write_bytes(idx(array))
            with gzip.open(raw / f"{split}-{kind}.gz", "wb") as packed:
                packed.write(idx(array))
    data = mnist(folder, wrong=None, train_examples=20, test_examples=None, standardized="none")
    assert data.x_train.shape == (20, 1, 28, 28) and data.y_test.shape == (12, 10)
    assert torch.equal(data.x_train[3, 0], torch.from_numpy(arrays["train"][0][3]).float() / 255)
    assert data.y_train[7].argmax() == 7
    scaled = mnist(folder, wrong=None, train_examples=None, test_examples=None, standardized="pixel")
    assert scaled.x_train.mean(0).abs().max() < 1e-5
    with pytest.raises(Refusal, match="MNIST has 30 train images"):
        mnist(folder, wrong=None, train_examples=31, test_examples=None, standardized="none")


@pytest.mark.parametrize("name", ["CIFAR100", "FashionMNIST", "SVHN"])
def test_missing_files_that_cannot_be_downloaded_are_one_line(folder, name, monkeypatch):
    monkeypatch.setattr(
        "urllib.request.urlopen", lambda *a, **k: (_ for _ in ()).throw(OSError("no network"))
    )
    with pytest.raises(Refusal, match=f"{name}: no complete, undamaged copy") as refusal:
        torchvision_images(folder, name, None, None, "none")
    assert len(str(refusal.value)) < 450


def pictures(folder, splits):
    rng = np.random.default_rng(1)
    for split in splits:
        for name in ("ant", "bee"):
            (folder / split / name).mkdir(parents=True)
            for i in range(10):
                pixels = rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")


@pytest.mark.parametrize("splits, counts", [(("",), (16, 4)), (("train", "test"), (20, 20))])
def test_a_folder_of_images_is_classes_by_their_folders(sharp, folder, monkeypatch, splits, counts):
    monkeypatch.chdir(folder)
    pictures(folder / "photos", splits)
    words = ["data=image_folder", "data.file=photos", "data.size=8", "steps=0", "measure=[scores]"]
    e = build(check(compose(words), words))
    assert (len(e.problem.examples[1]), len(e.problem.tests[1])) == counts
    assert e.problem.examples[0].shape[1:] == (3, 8, 8) and e.problem.examples[1].shape[1] == 2
    first = check(compose(words), words).hash
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(next((folder / "photos").rglob("3.png")))
    assert check(compose(words), words).hash != first  # a run is named by the images
    next((folder / "photos").rglob("4.png")).write_text("no image")
    said = sharp("train", *words)
    assert said.code == 2 and "4.png: not readable as an image" in said.err


def test_a_language_model_on_ones_own_tokens_has_the_hessian_of_its_mean_over_targets(folder, monkeypatch):
    monkeypatch.chdir(folder)
    tokens = np.random.default_rng(0).integers(1, 13, (10, 7))
    tokens[:4, 5:] = 0
    np.save("texts.npy", tokens)
    words = [
        "data=tokens",
        "data.file=texts.npy",
        "data.pad=0",
        "loss=cross_entropy",
        "problem.dtype=float64",
    ]
    words += [
        "model=huggingface",
        "model.layers=1",
        "model.width=4",
        "model.heads=1",
        "chunk=3",
        "data.test_share=0.2",
    ]
    e = build(check(compose(words), words))
    w, (x, y) = e.problem.w0, e.problem.examples
    assert x.shape == (8, 6) and y.shape == (8, 6) and int((y == -100).sum()) == 8
    surface = e.problem.surface

    def mean(w):
        return torch.nn.functional.cross_entropy(surface.predict(w, x).flatten(0, 1), y.flatten())

    v = torch.randn(len(w), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = torch.autograd.functional.vhp(mean, w, v)[1]
    assert torch.allclose(surface.hvp(w, v), exact, atol=1e-10)
    assert abs(float(surface.value(w)) - float(mean(w))) < 1e-12
    scores = e.problem.scores(w)
    assert scores["train_loss"] == pytest.approx(float(mean(w))) and 0 <= scores["test_accuracy"] <= 1


@pytest.mark.parametrize(
    "array, words, said",
    [
        (np.zeros((3, 4)), [], "give integers"),
        (np.zeros((0, 4), int), [], "at least two"),
        (np.zeros((3, 1), int), [], "at least two"),
        (-np.ones((3, 4), int), [], "counted from 0"),
        (np.zeros((3, 4), int), ["data.pad=0"], "no target counts"),
        (np.ones((3, 4), int), ["data.test_share=1"], "a share in [0, 1)"),
        (np.ones((3, 4), int), ["model.name=gtp2"], "close: gpt2"),
        (np.ones((3, 4), int), ["model.width=5", "model.heads=2"], "no causal language model"),
        (np.ones((3, 4), int), ["loss=half_squared"], "use loss=cross_entropy"),
    ],
)
def test_wrong_tokens_and_sizes_are_one_line(sharp, folder, monkeypatch, array, words, said):
    monkeypatch.chdir(folder)
    np.save("t.npy", array)
    base = ["data=tokens", "data.file=t.npy", "loss=cross_entropy", "model=huggingface", "model.layers=1"]
    heard = sharp("train", *base, "model.width=4", "model.heads=1", *words, "steps=0")
    assert heard.code == 2 and "Traceback" not in heard.err, heard.err
    assert said in heard.err.strip().splitlines()[-1]


# --- vectors, what is left out, trackers ---


def test_vectors_are_written_for_one_point_and_named_as_the_parameters(sharp, folder):
    words = [
        "data.train_examples=60",
        "model.widths=[4]",
        "steps=2",
        "measure_every=1",
        "measure=[sharpness]",
    ]
    assert sharp("train", *words).code == 0
    (run,) = (folder / "runs").iterdir()
    said = sharp("measure", run.name, "--step", "2", "--vectors", "v.safetensors", "measure.sharpness.k=2")
    assert said.code == 0, said.err
    named = load_file(folder / "v.safetensors")
    assert {name.split("/")[0] for name in named} == {"lambda_1", "lambda_2"}
    unit = torch.cat([t.flatten() for name, t in named.items() if name.startswith("lambda_1/")])
    assert float(unit.norm()) == pytest.approx(1, rel=1e-5)
    said = sharp("measure", run.name, "--vectors", "v.safetensors")
    assert said.code == 2 and "single point" in said.err
    said = sharp("measure", run.name, "--step", "2", "--vectors", "v.safetensors", "measure=[scores]")
    assert said.code == 2 and "nothing that was measured has vectors" in said.err


def test_what_is_left_out_covers_the_difference_to_all_examples(experiment):
    words = ("data.train_examples=400", "model.widths=[4]", "problem.dtype=float64", "loss=cross_entropy")
    measures = "measure=[sharpness,trace,gauss_newton]"
    whole = experiment(
        *words, measures, "measure.trace.max_products=10000", "measure.gauss_newton.max_products=10000"
    )
    truth, _ = measure(whole, whole.problem.w0, 0, {}, whole.measures)
    hits = {"lambda_1": 0, "trace": 0, "ggn_lambda_1": 0}
    for seed in range(12):
        part = experiment(*words, measures, "measure_examples=100")
        x, y = whole.problem.examples
        order = torch.randperm(400, generator=torch.Generator().manual_seed(seed))
        problem = replace(part.problem, examples=(x[order], y[order]))
        row, _ = measure(replace(part, problem=problem, seed=seed), whole.problem.w0, 0, {}, part.measures)
        for column in hits:
            error = row.get(f"{column}_error", 0) + 2 * row.get(f"{column}_stderr", 0)
            hits[column] += abs(row[column] - truth[column]) <= 2 * row[f"{column}_left_out"] + error
    assert min(hits.values()) >= 9, hits
    assert "lambda_1_left_out" not in truth


@pytest.mark.filterwarnings("ignore")  # those of the trackers themselves
@pytest.mark.parametrize("kind", ["tensorboard", "mlflow", "wandb"])
def test_a_run_is_handed_to_a_tracker_with_its_numbers(sharp, folder, monkeypatch, kind):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    words = ["problem=quadratic", "steps=3", "measure_every=1", "measure=[scores]"]
    assert sharp("train", *words).code == 0
    (run,) = (folder / "runs").iterdir()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    said = sharp("export", run.name, "--to", kind, "-o", "out")
    assert said.code == 0 and f"4 rows to {kind}" in said.out, said.err
    if kind == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(folder / "out" / run.name)).Reload()
        seen = [(event.step, event.value) for event in events.Scalars("train_loss")]
        assert seen == [(row["step"], pytest.approx(row["train_loss"])) for row in rows]
    elif kind == "mlflow":
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{folder / 'out' / 'mlflow.db'}")
        (found,) = client.search_runs([client.get_experiment_by_name("sharp").experiment_id])
        history = client.get_metric_history(found.info.run_id, "train_loss")
        assert sorted((m.step, m.value) for m in history) == [(r["step"], r["train_loss"]) for r in rows]
        assert found.data.params["steps"] == "3"
    else:
        assert list((folder / "out").rglob("*.wandb"))


def test_a_tracker_that_is_not_there_is_one_line(sharp, folder):
    assert sharp("train", "problem=quadratic", "steps=1", "measure=[scores]").code == 0
    said = sharp("export", "gd", "--to", "excel")
    assert said.code == 2 and "possible: tensorboard, wandb, mlflow" in said.err


# --- callbacks, by the real libraries ---


def test_lightning_s_trainer_is_watched(folder, monkeypatch):
    lightning = pytest.importorskip("lightning")
    from sharpcli.api.lightning import SharpnessCallback

    monkeypatch.chdir(folder)
    x, y = torch.randn(32, 8), torch.randint(0, 3, (32,))

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(8, 6), nn.Dropout(), nn.Tanh(), nn.Linear(6, 3))

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, _):
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    callback = SharpnessCallback(nn.CrossEntropyLoss(), (x, y), every=2, runs_dir="runs")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of Lightning itself
        trainer = lightning.Trainer(
            max_epochs=2,
            callbacks=[callback],
            accelerator="cpu",
            enable_progress_bar=False,
            enable_model_summary=False,
            accumulate_grad_batches=2,
            logger=lightning.pytorch.loggers.CSVLogger("csv"),
        )
        trainer.fit(Module(), DataLoader(TensorDataset(x, y), batch_size=8))
    assert [row["step"] for row in callback.watch.rows] == [0, 2, 4]
    assert "sharp/lambda_1" in (folder / "csv" / "lightning_logs" / "version_0" / "metrics.csv").read_text()


def test_hugging_face_s_trainer_is_watched_and_carried_on(folder, monkeypatch):
    transformers = pytest.importorskip("transformers")
    from sharpcli.api.huggingface import SharpnessCallback, own_loss, predicted_labels

    monkeypatch.chdir(folder)
    sizes = {"n_layer": 1, "n_embd": 8, "n_head": 2, "vocab_size": 13, "n_positions": 9}
    config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    ids = torch.randint(0, 13, (16, 8), generator=torch.Generator().manual_seed(0))
    examples = [{"input_ids": text, "labels": text} for text in ids]

    def watched(resume=None, bf16=False):
        torch.manual_seed(0)
        batches = [{"input_ids": ids, "labels": ids}]
        callback = SharpnessCallback(own_loss, batches, every=2, weight=predicted_labels)
        arguments = transformers.TrainingArguments(
            "out",
            max_steps=4,
            per_device_train_batch_size=8,
            save_steps=2,
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            logging_steps=100,
            bf16=bf16,
        )
        model = transformers.GPT2LMHeadModel(config)
        trainer = transformers.Trainer(model, arguments, train_dataset=examples, callbacks=[callback])
        trainer.train(resume_from_checkpoint=resume)
        return [(row["step"], row["lambda_1"]) for row in callback.watch.rows]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of transformers itself
        whole = watched()
        assert [step for step, _ in whole] == [0, 2, 4]
        assert watched("out/checkpoint-2") == whole
        in_bf16 = watched(bf16=True)  # of the steps; what is measured stays in float32
        assert in_bf16[0] == whole[0] and in_bf16[2] == pytest.approx(whole[2], rel=0.05)
