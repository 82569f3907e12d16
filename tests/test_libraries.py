"""The engine and the Python interface against independent libraries, curvlinops, hessian-eigenthings and
PyHessian, and against the closed forms that those libraries are tested with."""

import itertools

import pytest
import torch
from scipy.sparse.linalg import eigsh

import sharpcli as sharp
from sharpcli.data import Dataset, one_hot
from sharpcli.landscape.curvature import Curvature
from sharpcli.landscape.distributed import ALONE
from sharpcli.losses.cross_entropy import cross_entropy
from sharpcli.models.mlp import mlp
from sharpcli.models.resnet import resnet
from sharpcli.problems.network import network

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
MODELS = {
    "mlp": lambda s, c: mlp(s, c, widths=[12], activation="tanh"),
    "resnet20": lambda s, c: resnet(s, c, depth=20, width=2, norm="none", groups=1, skip=True),
    "resnet20_group": lambda s, c: resnet(s, c, depth=20, width=2, norm="group", groups=1, skip=True),
}


def both(name):
    """Our problem in unequal batches, and the same module and examples for the libraries."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(10, 3, 12, 12, generator=g), one_hot(torch.randint(0, 4, (10,), generator=g), 4)
    data = Dataset(x, y, x[:2], y[:2], classes=True)
    cpu = torch.device("cpu")
    p = network(
        0,
        cpu,
        6,
        2**31,
        "auto",
        ALONE,
        None,
        data,
        MODELS[name],
        cross_entropy,
        dtype="float64",
        batchnorm="batch",
    )
    torch.manual_seed(0)
    module = MODELS[name]((3, 12, 12), 4).double()
    return p, module, (x.double(), y.double())


class Loss(torch.nn.Module):
    reduction = "mean"

    def forward(self, outputs, targets):
        return cross_entropy(outputs, targets)


@pytest.mark.parametrize("name", ["mlp", "resnet20"])
def test_products_and_eigenvalues_are_those_of_curvlinops_and_scipy(name):
    curvlinops = pytest.importorskip("curvlinops")
    p, module, (x, y) = both(name)
    batches = [(x[:6], y[:6]), (x[6:], y[6:])]
    H, G = (
        kind(module, Loss(), list(module.parameters()), batches, num_data=10, check_deterministic=False)
        for kind in (curvlinops.HessianLinearOperator, curvlinops.GGNLinearOperator)
    )
    v = torch.randn(len(p.w0), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    here = p.surface.linearize(p.w0)
    assert torch.allclose(here.hvp(v), H @ v, rtol=1e-6, atol=1e-8)
    assert torch.allclose(here.ggn(v), G @ v, rtol=1e-6, atol=1e-8)
    theirs = sorted(eigsh(H.to_scipy(), k=3, which="LA", tol=1e-8, return_eigenvectors=False))[::-1]
    ours = Curvature(p.surface, p.w0, 0, 0, 10**9).eigenpairs("hessian", 3, 1e-6, 200)
    assert ours.values.tolist() == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("name", ["mlp", "resnet20", "resnet20_group"])
def test_products_and_eigenvalues_are_those_of_hessian_eigenthings(name):
    he = pytest.importorskip("hessian_eigenthings")
    p, module, (x, y) = both(name)
    operator = he.HessianOperator(module, [(x, y)], he.supervised_loss(cross_entropy))
    v = torch.randn(len(p.w0), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(p.surface.hvp(p.w0, v), operator.matvec(v), rtol=1e-6, atol=1e-8)
    theirs = he.lanczos(operator, k=2, max_iter=120, tol=1e-8, which="LA", seed=0, reorthogonalize=True)
    ours = Curvature(p.surface, p.w0, 0, 0, 10**9).eigenpairs("hessian", 2, 1e-6, 200)
    assert ours.values.tolist() == pytest.approx(sorted(map(float, theirs.eigenvalues))[::-1], rel=1e-4)


# --- the Python interface on what those libraries test and publish ---


def linear(outputs, data):
    """A linear layer without bias [outputs, 5] in float64, and inputs [16, 5]."""
    g = torch.Generator().manual_seed(data)
    layer = torch.nn.Linear(5, outputs, bias=False).double()
    layer.weight.data = torch.randn(outputs, 5, generator=g, dtype=torch.float64)
    return layer, torch.randn(16, 5, generator=g, dtype=torch.float64), g


def mean_of_products(blocks, x):
    """(1/n) sum_i B_i (x) x_i x_i^T, blocks [n, C, C] of the outputs and x [n, d] -> [C d, C d]."""
    C, d = blocks.shape[1], x.shape[1]
    return torch.einsum("iab,ij,ik->ajbk", blocks, x, x).reshape(C * d, C * d) / len(x)


def least_squares():
    """(2/n) X^T X of the mean squared error."""
    layer, x, g = linear(1, 0)
    y = torch.randn(16, 1, generator=g, dtype=torch.float64)
    return layer, torch.nn.MSELoss(), (x, y), 2 * x.T @ x / 16


def logistic():
    """(1/n) X^T diag(p (1 - p)) X."""
    layer, x, g = linear(1, 1)
    y = (torch.rand(16, 1, generator=g) > 0.5).double()
    p = torch.sigmoid(layer(x)).detach()
    return layer, torch.nn.BCEWithLogitsLoss(), (x, y), (x * p * (1 - p)).T @ x / 16


def softmax():
    """(1/n) sum_i (diag p_i - p_i p_i^T) (x) x_i x_i^T."""
    layer, x, g = linear(3, 2)
    p = torch.softmax(layer(x).detach(), 1)
    blocks = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    y = torch.randint(0, 3, (16,), generator=g)
    return layer, torch.nn.CrossEntropyLoss(), (x, y), mean_of_products(blocks, x)


@pytest.mark.parametrize("case", [least_squares, logistic, softmax])
@pytest.mark.parametrize("cut", [16, 5])
def test_closed_forms_of_linear_models_of_which_both_matrices_are_the_same(case, cut):
    layer, loss, (x, y), exact = case()
    batches = list(zip(x.split(cut), y.split(cut), strict=True))
    for kind in (sharp.hessian, sharp.gauss_newton):
        A = kind(layer, loss, batches)
        assert torch.allclose(A.dense(), exact, rtol=1e-12, atol=1e-14)
        assert A.eigenpairs(2, tol=1e-9).values.tolist() == pytest.approx(
            torch.linalg.eigvalsh(exact).flip(0)[:2].tolist(), rel=1e-8
        )
        assert A.trace().value == pytest.approx(float(exact.trace()), rel=1e-12)


def test_the_example_of_hessian_eigenthings():
    he = pytest.importorskip("hessian_eigenthings")
    torch.manual_seed(0)
    sizes = (20, 32, 16)
    layers = [f for a, b in itertools.pairwise(sizes) for f in (torch.nn.Linear(a, b), torch.nn.Tanh())]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(16, 1)).double()
    x = torch.randn(256, 20).double()
    y = x @ torch.randn(20, 1).double() + 0.1 * torch.randn(256, 1).double()
    batches = list(zip(x.split(32), y.split(32), strict=True))
    operator = he.HessianOperator(model, batches, he.supervised_loss(torch.nn.functional.mse_loss))
    theirs = he.lanczos(operator, k=3, max_iter=40, tol=1e-7, which="LA", seed=0)
    found = sharp.measure(model, torch.nn.MSELoss(), batches, ["sharpness", "trace"], k=3, tol=1e-6)
    for i, value in enumerate(sorted(map(float, theirs.eigenvalues))[::-1], 1):
        assert abs(found[f"lambda_{i}"] - value) <= found.error(f"lambda_{i}") + 1e-6 * value
    estimate = he.trace(operator, num_matvecs=99, method="hutch++", seed=0)
    bound = found.error("trace") + 3 * estimate.stderr
    assert abs(found["trace"] - estimate.estimate) <= bound


@pytest.mark.filterwarnings("ignore")
def test_the_example_of_pyhessian(monkeypatch):
    pyhessian = pytest.importorskip("pyhessian")
    net = resnet((3, 8, 8), 10, depth=8, width=4, norm="batch", groups=1, skip=True).eval()
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 3, 8, 8, generator=g), torch.randint(0, 10, (40,), generator=g)
    loss = torch.nn.CrossEntropyLoss()
    torch.manual_seed(0)
    theirs = pyhessian.hessian(net, loss, data=(x, y), cuda=False)
    (value,), _ = theirs.eigenvalues(maxIter=500, tol=1e-6)
    traces = torch.tensor(theirs.trace(maxIter=200, tol=0.0))
    found = sharp.measure(net, loss, (x, y), ["sharpness", "trace"], tol=1e-5, rtol=0.02)
    assert found["lambda_1"] == pytest.approx(value, rel=1e-3)
    stderr = float(traces.std()) / len(traces) ** 0.5
    assert abs(found["trace"] - float(traces.mean())) <= found.error("trace") + 3 * stderr
