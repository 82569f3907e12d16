"""The engine against two independent libraries, curvlinops and hessian-eigenthings, on an mlp and a
ResNet-20."""

import pytest
import torch
from scipy.sparse.linalg import eigsh

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
