"""Toys and data sets: what is known in closed form, and what the files hold."""

import numpy as np
import pytest
import torch
from conftest import CIFAR, needs_cifar

from sharpcli import CONF
from sharpcli.data.arrays import arrays
from sharpcli.data.cifar10 import cifar10
from sharpcli.data.digits import digits
from sharpcli.errors import Refusal
from sharpcli.problems.minibatches import Minibatches, chunks
from sharpcli.problems.plane import valley
from sharpcli.problems.quadratic import quadratic
from sharpcli.problems.regression import normal
from sharpcli.problems.uv import uv

PLAIN = {"inputs": "signs", "spread": 0.0, "rows": None, "instance": None}


def hessian(surface, w):
    return surface.hvp(w, torch.eye(len(w), dtype=w.dtype))


def test_the_quadratic_has_its_eigenvalues():
    p = quadratic(eigenvalues=[3.0, -1.0], start=[1.0, 2.0])
    assert torch.equal(hessian(p.surface, p.w0), torch.diag(torch.tensor([3.0, -1.0]).double()))
    assert p.scores(p.w0) == {"train_loss": 0.5 * (3 - 4), "distance": pytest.approx(5**0.5)}


def test_the_valley_s_sharpness_at_a_minimum_is_the_squared_distance_from_the_origin():
    p = valley(0, 1, start=[4.0, 0.25], box=0.0)
    assert p.scores(p.w0)["train_loss"] == 0
    assert torch.linalg.eigvalsh(hessian(p.surface, p.w0)).tolist() == pytest.approx(
        [0, 16 + 1 / 16], abs=1e-12
    )


def test_the_trace_of_uv_on_an_interpolator_is_four_times_the_squared_weights():
    p = uv(0, 3, None, d=6, n=4, k=2, start=0.5, **PLAIN)
    x, y = p.examples
    assert set(x.unique().tolist()) == {-1.0, 1.0} and [len(b) for _, b in p.surface.batches] == [3, 1]
    # an interpolator, as u*u - v*v; the default driver of torch 2.6 has wrong solutions here
    beta = torch.linalg.lstsq(x, y, driver="gelsd").solution[:, 0]
    w = torch.cat([beta.clamp_min(0).sqrt(), (-beta).clamp_min(0).sqrt()])
    assert p.surface.value(w) < 1e-25
    assert hessian(p.surface, w).trace().item() == pytest.approx(4 * w.square().sum().item(), rel=1e-10)
    truth = p.scores(w)["recovery_error"]
    assert truth > 0.01 and p.scores(p.w0)["recovery_error"] == pytest.approx(1.0)


def test_gradient_of_uv_by_hand():
    p = uv(1, 100, None, d=5, n=3, k=1, start=0.3, **PLAIN)
    x, y = p.examples
    w = torch.randn(10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u, v = w.split(5)
    pull = x.T @ (x @ (u * u - v * v) - y[:, 0]) / 3
    assert torch.allclose(p.surface.grad(w), torch.cat([2 * u * pull, -2 * v * pull]), rtol=1e-12)


def test_minibatches_are_a_permutation_of_each_epoch_and_a_function_of_seed_and_epoch():
    x = torch.arange(10.0)[:, None]
    batches = Minibatches((x, x), 4, seed=3)
    assert batches.per_epoch == 3
    seen = torch.cat([batches(step, batches.order(0))[0] for step in range(3)])
    assert [len(batches(step, batches.order(0))[1]) for step in range(3)] == [4, 4, 2]
    assert sorted(seen.flatten().tolist()) == list(range(10))
    assert not torch.equal(batches.order(0), batches.order(1))
    assert torch.equal(batches.order(1), Minibatches((x, x), 4, seed=3).order(1))
    assert [len(y) for _, y in chunks((x, x), 4)] == [4, 4, 2]


def test_digits_are_standardized_per_pixel_over_the_training_images():
    d = digits(train_examples=1500, wrong=0)
    assert (
        d.x_train.shape == (1500, 1, 8, 8)
        and d.x_test.shape == (297, 1, 8, 8)
        and d.y_train.shape == (1500, 10)
    )
    assert d.x_train.mean(0).abs().max() < 1e-5
    std = d.x_train.std(0, correction=0)
    assert bool(((std - 1).abs() < 1e-4).logical_or(std == 0).all())
    for n, wrong in ((0, 0), (1797, 0), (1500, 298), (10, -1)):
        with pytest.raises(Refusal):
            digits(train_examples=n, wrong=wrong)


def test_wrong_digits_are_test_images_under_the_next_class():
    right, taught = digits(train_examples=20, wrong=0), digits(train_examples=20, wrong=5)
    assert torch.equal(taught.x_train, torch.cat([right.x_train, right.x_test[:5]])) and torch.equal(
        taught.x_test, right.x_test
    )
    assert torch.equal(taught.y_train[20:].argmax(1), (right.y_test[:5].argmax(1) + 1) % 10)
    assert torch.equal(taught.y_train[:20], right.y_train)


@pytest.mark.parametrize("wrong", [-1, 5])
def test_examples_taught_wrongly_are_as_many_as_there_are(wrong, tmp_path):
    with pytest.raises(Refusal, match=f"data.wrong={wrong}: 0 to 4, the number of test examples"):
        arrays(file=save(tmp_path / "a.npz"), wrong=wrong)


def test_every_data_set_of_classes_can_teach_test_examples_wrongly(tmp_path):
    data = arrays(file=save(tmp_path / "a.npz"), wrong=2)
    right = arrays(file=save(tmp_path / "a.npz"), wrong=None)
    assert torch.equal(data.x_train[-2:], right.x_test[:2]) and torch.equal(data.x_test, right.x_test)
    classes = right.y_test.shape[1]
    assert torch.equal(data.y_train[-2:].argmax(1), (right.y_test[:2].argmax(1) + 1) % classes)
    of_classes = {"arrays", "cifar10", "cifar100", "digits", "fashion_mnist", "image_folder", "mnist", "svhn"}
    assert {
        file.stem for file in (CONF / "data").glob("*.yaml") if "\nwrong:" in file.read_text()
    } == of_classes
    with pytest.raises(Refusal, match="of one class each"):
        arrays(file=save(tmp_path / "b.npz", y_train=np.zeros(9), y_test=np.ones(4)), wrong=2)


@needs_cifar
def test_cifar10_is_the_first_images_standardized_over_all_50000():
    from torchvision.datasets import CIFAR10

    d = cifar10(CIFAR, wrong=None, train_examples=200, test_examples=100, standardized="pixel")
    raw = CIFAR10(str(CIFAR), train=True, download=False)
    x = raw.data.transpose(0, 3, 1, 2)[:200].astype(np.float64) / 255
    mean = raw.data.mean(0, dtype=np.float64).transpose(2, 0, 1) / 255
    std = raw.data.std(0, dtype=np.float64).transpose(2, 0, 1) / 255
    assert np.allclose(d.x_train.numpy(), (x - mean) / std, atol=1e-4)
    assert d.y_train.argmax(1).tolist() == raw.targets[:200] and d.x_test.shape == (100, 3, 32, 32)
    channel = cifar10(CIFAR, wrong=None, train_examples=200, test_examples=100, standardized="channel")
    mean, std = raw.data.mean((0, 1, 2)) / 255, raw.data.std((0, 1, 2)) / 255
    assert np.allclose(channel.x_train.numpy(), (x - mean[:, None, None]) / std[:, None, None], atol=1e-4)
    with pytest.raises(Refusal):
        cifar10(CIFAR, wrong=None, train_examples=50_001, test_examples=1, standardized="none")


def save(path, **changes):
    g = np.random.default_rng(0)
    held = {
        "x_train": g.normal(size=(9, 4)),
        "y_train": np.arange(9) % 3,
        "x_test": g.normal(size=(4, 4)),
        "y_test": np.arange(4) % 3,
    }
    held |= changes
    np.savez(path, **{key: value for key, value in held.items() if value is not None})
    return path


def test_arrays_take_classes_and_real_targets(tmp_path):
    d = arrays(wrong=None, file=save(tmp_path / "a.npz"))
    assert d.classes and d.y_train.shape == (9, 3) and d.x_train.dtype == torch.float64  # as in the file
    d = arrays(wrong=None, file=save(tmp_path / "b.npz", y_train=np.zeros(9), y_test=np.ones(4)))
    assert not d.classes and d.y_train.shape == (9, 1)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"y_test": None}, "no y_test in it"),
        ({"y_train": np.arange(8) % 3}, "x_train has 9 examples and y_train 8"),
        ({"x_train": np.full((9, 4), np.nan)}, "NaN"),
        ({"x_train": np.array(["a"] * 9)}, "give an array of numbers"),
        ({"x_test": np.zeros((4, 5))}, "agree in kind"),
        ({"y_train": np.arange(9) - 1}, "classes"),
        ({"y_test": np.zeros(4)}, "agree in kind"),
        ({"x_train": np.array([None] * 9)}, "not a readable .npz"),
        ({"y_train": np.zeros((9, 2, 2)), "y_test": np.zeros((4, 2, 2))}, "real targets are"),
    ],
)
def test_arrays_refuse_what_they_cannot_use(tmp_path, changes, words):
    with pytest.raises(Refusal, match=words):
        arrays(wrong=None, file=save(tmp_path / "a.npz", **changes))


def test_arrays_refuse_a_file_that_is_no_archive(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"nothing")
    with pytest.raises(Refusal, match="not a readable"):
        arrays(wrong=None, file=tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["uv", "hadamard", "squares", "least_squares", "matrix_sensing", "teacher"])
def test_a_toy_on_one_s_own_file_is_the_toy_on_the_same_numbers(experiment, tmp_path, name):
    words = (f"problem={name}", "method=gd", "lr=0.01", "steps=5")
    drawn = experiment(*words).problem
    x, y = (part.numpy() for part in drawn.examples)
    np.savez(tmp_path / "own.npz", Z=x.reshape(len(x), 10, 10) if name == "matrix_sensing" else x, y=y[:, 0])
    own = experiment(*words, "data=table", f"data.file={tmp_path / 'own.npz'}").problem
    w = drawn.w0 + 0.1
    assert torch.equal(own.w0, drawn.w0) and torch.equal(own.surface.grad(w), drawn.surface.grad(w))
    c, k = np.zeros(own.compiled.scratch), own.compiled
    assert k.output(w.numpy(), k.x[1], c) == pytest.approx(float(own.surface.predict(w, own.examples[0])[1]))
    gone = {"test_error", "test_accuracy"} if name == "teacher" else set()
    assert own.scores(w).keys() == drawn.scores(w).keys() - gone


@pytest.mark.parametrize(
    "name, arrays, words",
    [
        ("uv", {"Z": np.ones((3, 5))}, "no y in it"),
        ("uv", {"Z": np.ones((3, 5)), "y": np.ones(4)}, "give Z .n, d. "),
        ("uv", {"Z": np.ones((3, 5)), "y": np.array([1, 2, np.nan])}, "give finite numbers"),
        ("uv", {"Z": np.ones((3, 5, 5)), "y": np.ones(3)}, "problem=uv: the data's inputs are"),
        ("matrix_sensing", {"Z": np.ones((3, 5)), "y": np.ones(3)}, "problem=matrix: the data's inputs are"),
        ("uv", {"Z": np.ones((2, 5)), "y": np.array([1.0, 2.0])}, "give labels that some vector fits"),
        (
            "squares",
            {"Z": np.ones((1, 5)), "y": np.array([-1.0])},
            "give labels that some vector without negative entries fits",
        ),
        ("teacher", {"Z": np.ones((3, 5, 5)), "y": np.ones(3)}, "problem=teacher: the data's inputs are"),
        ("valley", {"Z": np.ones((2, 5)), "y": np.ones(2)}, "problem=valley takes no data"),
    ],
)
def test_a_file_that_a_toy_cannot_use_is_refused(experiment, tmp_path, name, arrays, words):
    np.savez(tmp_path / "own.npz", **arrays)
    with pytest.raises(Refusal, match=words):
        experiment(f"problem={name}", "method=gd", "data=table", f"data.file={tmp_path / 'own.npz'}")


def test_an_array_that_is_no_archive_and_examples_given_twice_are_refused(experiment, tmp_path):
    np.save(tmp_path / "own.npy", np.ones((3, 5)))
    own = ("problem=uv", "method=gd", "data=table", f"data.file={tmp_path / 'own.npy'}")
    with pytest.raises(Refusal, match="not a readable .npz"):
        experiment(*own)
    np.savez(tmp_path / "own.npy", Z=np.ones((1, 2)), y=np.ones(1))
    (tmp_path / "own.npy.npz").replace(tmp_path / "own.npy")
    with pytest.raises(Refusal, match="give one of them"):
        experiment(*own, "problem.d=2", "problem.n=1", "problem.k=1", "problem.rows=[[1,1,1]]")


def test_a_relu_net_s_norms_are_what_they_say_and_its_layers_stack(experiment):
    words = (
        "problem=teacher",
        "method=gd",
        "problem.d=3",
        "problem.n=7",
        "problem.width=4",
        "problem.depth=3",
        "problem.bias=true",
    )
    plain = experiment(*words).problem
    assert dict(plain.layout) == {"inner": (4, 3), "inner_2": (4, 4), "a": (4,), "b": (4,), "b_2": (4,)}
    inner, deeper, a, b, c = plain.tensors(plain.w0)
    z = plain.examples[0]
    by_hand = torch.relu(torch.relu(z @ inner.T + b) @ deeper.T + c) @ a
    assert torch.allclose(plain.surface.predict(plain.w0, z)[:, 0], by_hand, rtol=1e-13)
    for norm, over in (("layer", 1), ("batch", 0)):
        p = experiment(*words[:-2], f"problem.norm={norm}").problem
        inner, a = p.tensors(p.w0)
        hidden = torch.relu(z @ inner.T)
        size = hidden.norm(dim=1, keepdim=True) if over else hidden.square().mean(0).sqrt()
        assert torch.allclose(p.surface.predict(p.w0, z)[:, 0], (hidden / size) @ a, rtol=1e-12)
        assert p.surface.joint == (norm == "batch") and p.norms(p.w0) == {}


def test_a_deep_teacher_s_labels_are_a_deep_network_s_and_a_dead_teacher_is_refused(experiment):
    words = "problem=teacher", "method=gd", "problem.d=3", "problem.n=40", "problem.neurons=6", "seed=2"
    shallow, same = experiment(*words).problem, experiment(*words, "problem.teacher_depth=2").problem
    deep = experiment(*words, "problem.teacher_depth=4").problem
    (z, y), (deep_z, deep_y) = shallow.examples, deep.examples
    assert torch.equal(y, same.examples[1]) and torch.equal(z, deep_z)
    inner = torch.nn.functional.normalize(normal((6, 3), 2, "relu-teacher"), dim=1)
    h = (z @ inner.T).clamp(min=0)
    for layer in range(2):
        h = (h @ normal((6, 6), 2, f"relu-teacher-{layer}").T / 3**0.5).clamp(min=0)
    signs = torch.tensor([1.0, -1.0] * 3, dtype=torch.float64)
    assert torch.allclose(deep_y[:, 0], 3**0.5 * h @ signs, atol=1e-14) and not torch.equal(y, deep_y)
    with pytest.raises(Refusal, match="every label is 0, as the teacher's neurons are dead"):
        experiment(*words[:-2], "problem.neurons=1", "problem.teacher_depth=9", "seed=3")
    with pytest.raises(Refusal, match="problem.teacher_depth=1: a network has at least two layers"):
        experiment(*words, "problem.teacher_depth=1")


def test_a_network_of_one_layer_is_refused(experiment):
    with pytest.raises(Refusal, match="at least two layers"):
        experiment("problem=xor", "method=gd", "problem.depth=1")
