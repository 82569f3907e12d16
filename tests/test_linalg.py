"""Solvers on matrices whose spectrum is known."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh

from sharpcli.linalg import lanczos
from sharpcli.linalg.hutchinson import trace
from sharpcli.linalg.lanczos import cluster_errors, dots, largest


def symmetric(eigenvalues, seed=0, dtype=torch.float64):
    lam = torch.tensor(eigenvalues, dtype=torch.float64)
    Q, _ = torch.linalg.qr(torch.randn(len(lam), len(lam), dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    return (Q * lam @ Q.T).to(dtype)


def start(k, D, seed=1, dtype=torch.float64):
    return torch.randn(k, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_the_largest_are_algebraic_even_where_a_negative_one_is_larger_in_magnitude(k):
    A = symmetric([-50.0, *torch.linspace(-3, 9, 79).tolist()])
    found = largest(lambda V: V @ A, start(k, 80), k, 1e-10, 80)
    truth = torch.linalg.eigvalsh(A).flip(0)[:k]
    assert found.converged and torch.allclose(found.values, truth, rtol=1e-9)
    residual = (found.vectors[:k] @ A - found.values[:, None] * found.vectors[:k]).norm(dim=1)
    assert torch.allclose(found.residuals, residual, atol=1e-10)


def test_agrees_with_scipy_s_eigsh():
    A = symmetric(np.random.default_rng(0).normal(size=120).tolist())
    operator = LinearOperator((120, 120), matvec=lambda v: A.numpy() @ v, dtype=float)
    theirs = np.sort(eigsh(operator, k=4, which="LA", return_eigenvectors=False))[::-1]
    assert np.allclose(largest(lambda V: V @ A, start(4, 120), 4, 1e-9, 120).values, theirs, rtol=1e-8)


@pytest.mark.parametrize("seed", range(6))
def test_a_random_start_is_not_fooled_by_eigenvalues_that_crowd(seed):
    lam = [10.0, 9.97, 9.9, 9.7, *torch.linspace(0, 8, 196).tolist()]
    A = symmetric(lam, seed)
    found = largest(lambda V: V @ A, start(1, 200, seed + 10), 1, 1e-3, 200)
    assert found.converged and found.residuals[0] <= 1e-2
    assert abs(found.values[0] - 10) <= 1e-2


def test_a_gap_inside_the_cluster_is_not_trusted():
    theta = torch.tensor([1.0, 0.999, 0.1], dtype=torch.float64)
    R = torch.tensor([[0.01, 0.0], [0.0, 0.01], [0.0, 0.0]], dtype=torch.float64)
    error = cluster_errors(theta, R, 1)[0]
    assert error == pytest.approx(0.01**2 / 0.9, rel=1e-6)  # not 0.01^2 / 0.001 = 0.1, nor a residual of 0.01
    lonely = cluster_errors(theta[:2], R[:2], 1)[0]
    assert lonely == pytest.approx(0.01)  # the next value is too close and too uncertain: only the residual is left


def test_a_warm_start_costs_no_product_more_where_nothing_has_changed_and_few_where_little_has():
    A = symmetric([5.0, 4.0, *torch.linspace(-1, 3, 98).tolist()])
    cold = largest(lambda V: V @ A, start(1, 100), 1, 1e-6, 100)
    again = largest(lambda V: V @ A, cold.vectors, 1, 1e-5, 100)
    assert again.products == len(cold.vectors) == 2 and again.converged
    B = A + 0.01 * symmetric(torch.linspace(-1, 1, 100).tolist(), seed=5)
    warm = largest(lambda V: V @ B, cold.vectors, 1, 1e-4, 100, slack=10)
    assert warm.products < cold.products / 2
    assert warm.values[0] == pytest.approx(torch.linalg.eigvalsh(B)[-1].item(), rel=1e-4)


def test_a_budget_too_small_is_said():
    A = symmetric(torch.linspace(0, 1, 300).tolist())
    found = largest(lambda V: V @ A, start(1, 300), 1, 1e-8, 5)
    assert not found.converged and found.products == 5 and found.errors[0] > 1e-8


@pytest.mark.parametrize("lam", [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [2.0, 1.0, -3.0]])
def test_small_and_degenerate_operators_are_exact(lam):
    A = torch.diag(torch.tensor(lam, dtype=torch.float64))
    found = largest(lambda V: V @ A, start(3, 3), 3, 1e-6, 10)
    assert found.converged and torch.allclose(found.values, torch.tensor(lam, dtype=torch.float64), atol=1e-12)


def test_float32_inner_products_over_a_million_numbers_keep_their_digits():
    V = torch.randn(2, 10**6, generator=torch.Generator().manual_seed(0))
    exact = V.double() @ V.double().T
    assert ((dots(V, V) - exact).abs() / exact.diagonal().max()).max() < 1e-6


def test_a_large_float32_problem_keeps_its_basis_orthonormal():
    D = 200_000
    lam = torch.linspace(0, 1, D)
    found = largest(lambda V: V * lam, start(2, D, dtype=torch.float32), 2, 1e-5, 60)
    gram = found.vectors.double() @ found.vectors.double().T
    assert (gram - torch.eye(len(gram))).abs().max() < 1e-5


def test_over_a_path_of_crowding_matrices_the_stated_errors_cover_the_truth():
    lam = torch.tensor([10.0, 9.8, 9.6, 9.1, *torch.linspace(0, 8, 96).tolist()], dtype=torch.float64)
    move, vectors, hits = symmetric(torch.linspace(-1, 1, 100).tolist(), seed=9), start(1, 100), []
    for t in range(60):  # the eigenvalues cross while the eigenvectors turn
        A = torch.diag(lam * (1 + 0.02 * torch.sin(torch.arange(100.0).double() + t / 8))) + 0.02 * t * move
        found = largest(lambda V, A=A: V @ A, vectors, 1, 1e-3, 100, slack=10.0 if t else 1.0)
        error = abs(found.values[0] - torch.linalg.eigvalsh(A)[-1])
        assert found.converged and error <= 1e-3 * found.values[0]
        hits.append(error <= found.errors[0])
        vectors = found.vectors
    assert sum(hits) >= 57


def test_the_vectors_kept_for_later_are_those_that_crowd_below_the_largest():
    A = symmetric([10.0, 9.5, 8.7, *torch.linspace(0, 7, 60).tolist()])
    assert len(largest(lambda V: V @ A, start(1, 63), 1, 1e-9, 63).vectors) == 3
    assert lanczos.CROWD == 0.85


def test_hutchinson_is_exact_on_a_diagonal_matrix():
    lam = torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64)
    mean, stderr = trace(lambda Z: Z * lam, lam, 5, torch.Generator().manual_seed(0))
    assert mean == pytest.approx(2.5, abs=1e-12) and stderr == pytest.approx(0, abs=1e-12)


def test_hutchinson_s_standard_error_covers_the_truth_in_the_nominal_share_of_200_seeds():
    A = symmetric(torch.linspace(-2, 6, 40).tolist())
    truth, hits = A.trace().item(), 0
    for seed in range(200):
        mean, stderr = trace(lambda Z: Z @ A, A[0], 24, torch.Generator().manual_seed(seed))
        hits += abs(mean - truth) <= stderr
    assert 0.60 <= hits / 200 <= 0.76
