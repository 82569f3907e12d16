"""Solvers on matrices whose spectrum is known."""

import math
import statistics

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh

from sharpcli.linalg import nearby, quadrature
from sharpcli.linalg import trace as traces
from sharpcli.linalg.ascent import ascend
from sharpcli.linalg.krylov import Krylov, dots
from sharpcli.linalg.lanczos import cluster_errors, extremes, from_remembered, largest
from sharpcli.linalg.nearby import Remembered
from sharpcli.linalg.semidefinite import least

# spectra of 120 eigenvalues on which standard errors of few samples are too short
SPECTRA = {
    "a few stand out": [30.0, 20.0, 10.0, *torch.linspace(-0.5, 1, 117).tolist()],
    "a single one stands out": [100.0, *torch.linspace(0, 0.1, 119).tolist()],
    "they decay": [1 / i for i in range(1, 121)],
    "all are alike": torch.linspace(0.5, 1.5, 120).tolist(),
    "of both signs": torch.linspace(-1, 1.1, 120).tolist(),
    "five of them": [5.0, 4.0, 3.0, 2.0, -1.0, *[0.0] * 115],
}


def symmetric(eigenvalues, seed=0, dtype=torch.float64):
    lam = torch.tensor(eigenvalues, dtype=torch.float64)
    Q, _ = torch.linalg.qr(
        torch.randn(len(lam), len(lam), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    )
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


def crowded(number):
    """A spectrum [200] whose 2 to 8 largest eigenvalues lie within 0.1 to 10 % of the top, over a bulk."""
    seeded = torch.Generator().manual_seed(number)

    def uniform(*shape):
        return torch.rand(*shape, generator=seeded, dtype=torch.float64)

    width, k = 10 ** (-3 + 2 * uniform(1)), 2 + number % 7
    top, height, decay = 1 - width * uniform(k), 0.3 + 0.6 * uniform(1), 1 + 6 * uniform(1)
    below = height * uniform(200 - k) ** decay
    return torch.cat([top, torch.where(uniform(200 - k) < 0.3, -0.1 * below, below)])


def test_what_a_random_start_may_have_missed_in_a_crowd_is_stated():
    hits, products = 0, []
    for number in range(100):
        lam = crowded(number)
        found = largest(lambda V, lam=lam: V * lam, start(1, 200, 10_000 + number), 1, 1e-3, 200)
        error = float(lam.max() - found.values[0])
        assert found.converged and found.errors[0] <= 1e-3 * found.values[0] and error <= 5e-3
        hits, products = hits + (error <= float(found.errors[0])), [*products, found.products]
    assert hits >= 95, hits  # |R|^2 / gap alone: 36
    assert sum(products) <= 19 * 100


def test_a_gap_inside_the_cluster_is_not_trusted():
    theta = torch.tensor([1.0, 0.999, 0.1], dtype=torch.float64)
    R = torch.tensor([[0.01, 0.0], [0.0, 0.01], [0.0, 0.0]], dtype=torch.float64)
    error = cluster_errors(theta, R, 1)[0]
    assert error == pytest.approx(0.01**2 / 0.9, rel=1e-6)  # not 0.01^2 / 0.001 = 0.1, nor a residual of 0.01
    lonely = cluster_errors(theta[:2], R[:2], 1)[0]
    assert lonely == pytest.approx(
        0.01
    )  # the next value is too close and too uncertain: only the residual is left


def test_a_warm_start_costs_no_product_more_where_nothing_has_changed_and_few_where_little_has():
    A = symmetric([5.0, 4.0, *torch.linspace(-1, 3, 98).tolist()])
    cold = largest(lambda V: V @ A, start(1, 100), 1, 1e-6, 100)
    rows = cold.remembered.near(1)
    again = largest(lambda V: V @ A, rows, 1, 1e-5, 100)
    assert again.products == len(rows) == 2 and again.converged
    B = A + 0.01 * symmetric(torch.linspace(-1, 1, 100).tolist(), seed=5)
    warm = largest(lambda V: V @ B, rows, 1, 1e-4, 100, slack=10)
    assert warm.products < cold.products / 2
    assert warm.values[0] == pytest.approx(torch.linalg.eigvalsh(B)[-1].item(), rel=1e-4)


def test_a_budget_too_small_is_said():
    A = symmetric(torch.linspace(0, 1, 300).tolist())
    found = largest(lambda V: V @ A, start(1, 300), 1, 1e-8, 5)
    assert not found.converged and found.products == 5 and found.errors[0] > 1e-8


@pytest.mark.parametrize("products", [1, 3, 10, 30])
def test_the_error_of_a_solve_that_has_not_converged_covers_what_it_has_missed(products):
    hits = cases = 0
    for lam in SPECTRA.values():
        A = symmetric(lam)
        for seed in range(10):
            krylov = Krylov(lambda V, A=A: V @ A, start(1, 120, seed), 120)
            found = extremes(krylov, 1, 1e-9, products - 1, least=True)
            hits += abs(found.values[0] - max(lam)) <= found.errors[0]
            hits, cases = hits + (abs(found.least - min(lam)) <= found.least_error), cases + 2
    assert hits >= 0.95 * cases, (hits, cases)


@pytest.mark.parametrize("lam", [[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [2.0, 1.0, -3.0]])
def test_small_and_degenerate_operators_are_exact(lam):
    A = torch.diag(torch.tensor(lam, dtype=torch.float64))
    found = largest(lambda V: V @ A, start(3, 3), 3, 1e-6, 10)
    assert found.converged and torch.allclose(
        found.values, torch.tensor(lam, dtype=torch.float64), atol=1e-12
    )


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
    remembered = largest(lambda V: V @ A, start(1, 63), 1, 1e-9, 63).remembered
    assert len(remembered.near(1)) == 3 < len(remembered.vectors) == nearby.KEPT_VECTORS
    assert torch.allclose(remembered.values[:3], torch.tensor([10.0, 9.5, 8.7]).double(), rtol=1e-6)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


METHODS = [traces.hutchinson, traces.hutchpp, traces.xtrace]


def test_both_ends_come_from_one_run_and_cost_less_than_two():
    A = symmetric([-7.0, *torch.linspace(-3, 9, 79).tolist(), 11.0])
    one = extremes(Krylov(lambda V: V @ A, start(1, 81), 81), 2, 1e-8, 81, least=True)
    truth = torch.linalg.eigvalsh(A)
    assert one.converged and one.values.tolist() == pytest.approx(truth.flip(0)[:2].tolist(), rel=1e-7)
    assert one.least == pytest.approx(truth[0].item(), rel=1e-7) and one.least_error <= 1e-8 * 11
    up = largest(lambda V: V @ A, start(1, 81), 2, 1e-8, 81)
    down = largest(lambda V: -V @ A, start(1, 81), 1, 1e-8, 81)
    assert one.products < up.products + down.products
    assert one.vectors[-1] @ A @ one.vectors[-1] == pytest.approx(one.least, rel=1e-7)


@pytest.mark.parametrize("least", [False, True])
def test_a_basis_too_small_for_the_problem_is_restarted_and_still_finds_the_pairs(least):
    A = symmetric([-12.0, *torch.linspace(0, 9, 300).tolist(), 9.3, 10.0])
    krylov = Krylov(lambda V: V @ A, start(1, 303), 16)
    found = extremes(krylov, 3, 1e-7, 400, least=least)
    assert krylov.restarted and len(krylov.V) <= 16 and found.converged
    assert found.values.tolist() == pytest.approx(torch.linalg.eigvalsh(A).flip(0)[:3].tolist(), rel=1e-6)
    residual = (found.vectors[:3] @ A - found.values[:, None] * found.vectors[:3]).norm(dim=1)
    assert torch.allclose(residual, found.residuals, atol=1e-9)
    if least:
        assert found.least == pytest.approx(-12, rel=1e-7)


def test_the_decomposition_holds_through_blocks_growth_and_restart():
    A = symmetric(np.random.default_rng(1).normal(size=60).tolist())
    krylov = Krylov(lambda V: V @ A, start(4, 60), 20)

    def defect():
        left = krylov.V @ A
        right = krylov.T[: krylov.size, : krylov.size] @ krylov.V + krylov.C[: krylov.size] @ krylov._G
        both = torch.cat([krylov.V, krylov._G])
        return max((left - right).abs().max(), (both @ both.T - torch.eye(len(both))).abs().max())

    assert defect() < 1e-12
    krylov.grow(torch.randn(2, 4, generator=rng(), dtype=torch.float64))
    krylov.grow(torch.randn(1, 4, generator=rng(1), dtype=torch.float64))
    assert krylov.size == 7 and defect() < 1e-12
    theta, Y = krylov.ritz()
    krylov.restart(Y[:5], theta[:5])
    assert krylov.size == 5 and defect() < 1e-12
    krylov.grow(torch.eye(4, dtype=torch.float64)[:1])
    assert krylov.size == 6 and defect() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_decomposition_holds_where_any_directions_are_inserted(dtype):
    A = symmetric(torch.linspace(-3, 9, 60).tolist(), dtype=dtype)
    krylov = Krylov(lambda V: V @ A, start(2, 60, dtype=dtype), 40)
    krylov.grow(krylov.residuals(krylov.ritz()[1])[:1])
    assert krylov.insert(start(2, 60, 5, dtype))
    assert krylov.insert(krylov.G[:1].clone())  # a direction that is in G
    assert krylov.insert(krylov.G[:1] + 1e-6 * start(1, 60, 6, dtype))  # and one that nearly is
    krylov.grow(krylov.residuals(krylov.ritz()[1])[:1])
    assert not krylov.insert(krylov.V[:1].clone())
    m, V, G = krylov.size, krylov.V, krylov.G
    small = 100 * torch.finfo(dtype).eps
    assert m == 8 == krylov.products and G.shape == (krylov.width, 60)
    explained = V.T @ krylov.T[:m, :m].to(V) + G.T @ krylov.C[:m].T.to(V)
    assert (A @ V.T - explained).norm() < small * A.norm()
    assert torch.allclose(V @ V.T, torch.eye(m, dtype=dtype), atol=small)
    assert (G @ V.T).norm() < small and torch.allclose(G @ G.T, torch.eye(len(G), dtype=dtype), atol=small)


def path(lam, move, t):
    """A matrix whose eigenvectors have turned by t times a rotation, with the eigenvalues lam."""
    Q = torch.matrix_exp(t * (move - move.T))
    return Q * lam @ Q.T


def solved_along(matrices, k=1, tol=1e-3):
    """The results along a path, each from the one before, with the true values."""
    found, remembered = [], None
    for number, A in enumerate(matrices):
        draws = rng(number)

        def product(V, A=A):
            return V @ A

        def fresh(like=A[0], draws=draws):
            return torch.randn(like.shape, generator=draws, dtype=torch.float64)

        if remembered is None:
            ritz = largest(product, start(1, len(A)), k, tol, len(A))
        else:
            ritz = from_remembered(product, remembered, k, tol, len(A), len(A), fresh=fresh)
        remembered = Remembered.of(ritz.remembered.saved())
        found.append((ritz, torch.linalg.eigvalsh(A).flip(0)[:k]))
    return found


def test_along_a_slow_path_every_error_is_covered_and_products_are_fewer_than_a_block_s():
    move = 0.01 * start(150, 150, 3) / 150**0.5
    lam = torch.tensor([10.0, 8.4, 7.9, *torch.linspace(-1, 5, 147).tolist()], dtype=torch.float64)
    found = solved_along(path(lam * (1 + 0.005 * t), move, float(t)) for t in range(40))
    for ritz, truth in found:
        assert ritz.converged and abs(ritz.values[0] - truth[0]) <= ritz.errors[0] <= 1.001e-3 * truth[0]
    by_block = []
    for t in range(2, 40):
        A, before = path(lam * (1 + 0.005 * t), move, float(t)), found[t - 1][0]
        by_block.append(largest(lambda V, A=A: V @ A, before.vectors, 1, 1e-3, 150, slack=3.0).products)
    assert sum(ritz.products for ritz, _ in found[2:]) < 0.75 * sum(by_block)


def test_of_eigenvectors_that_turn_on_as_they_did_one_product_each_is_enough():
    move = 0.3 * start(150, 150, 3) / 150**0.5
    lam = torch.tensor([10.0, 8.4, 7.9, *torch.linspace(-1, 5, 147).tolist()], dtype=torch.float64)
    found = solved_along(path(lam, move, float(t) / 5) for t in range(40))
    spent = [ritz.products for ritz, _ in found[10:]]
    assert statistics.median(spent) == 1 and sum(spent) < 1.5 * len(spent)
    for before, (ritz, truth) in zip([ritz for ritz, _ in found[9:]], found[10:], strict=False):
        assert abs(ritz.values[0] - truth[0]) <= ritz.errors[0] <= 1.001e-3 * truth[0]
        predicted = abs(float(before.remembered.start(1)[0] @ ritz.remembered.refined[0]))
        last = abs(float(before.remembered.refined[0] @ ritz.remembered.refined[0]))
        assert predicted > last  # the turn is 0.06 a solve


def test_a_refined_vector_is_nearer_to_the_eigenvector_for_no_product():
    A = symmetric([10.0, *torch.linspace(-3, 7, 119).tolist()])
    cold = largest(lambda V: V @ A, start(1, 120), 1, 0.03, 120)
    truth = torch.linalg.eigh(A)[1][:, -1]
    plain, refined = (abs(float(v[0] @ truth)) for v in (cold.vectors, cold.remembered.refined))
    assert 1 - refined < 0.7 * (1 - plain)


def test_what_an_earlier_version_saved_is_read_and_shapes_that_do_not_fit_are_not():
    A = symmetric([10.0, 9.0, *torch.linspace(0, 8, 118).tolist()])
    saved = largest(lambda V: V @ A, start(1, 120), 1, 1e-3, 120).remembered.saved()
    for unknown in ({*nearby.TURNS}, {*nearby.OF_SAMPLE}, {*nearby.TURNS, *nearby.OF_SAMPLE}):
        old = {name: t for name, t in saved.items() if name not in unknown}
        ritz = from_remembered(lambda V: V @ A, Remembered.of(old), 1, 1e-3, 120, 120)
        assert ritz.converged and ritz.products <= 2
    for name, wrong in (
        ("refined", saved["refined"][:, :5]),
        ("smooth", torch.zeros(2, 2)),
        ("ages", torch.zeros(9)),
        ("at", saved["vectors"][:, :5]),
        ("ratio", torch.ones(3)),
    ):
        with pytest.raises(ValueError, match="do not fit"):
            Remembered.of(saved | {name: wrong})


@pytest.mark.parametrize("k", [1, 3])
def test_eigenvalues_that_crowd_and_turn_are_tracked_for_fewer_products_than_a_block_takes(k):
    lam = torch.tensor([10.0, 9.8, 9.7, 9.3, 9.0, *torch.linspace(0, 8, 145).tolist()], dtype=torch.float64)
    move = 0.05 * start(150, 150, 4) / 150**0.5
    swing = torch.sin(torch.arange(150.0).double())
    matrices = [path(lam * (1 + 0.01 * torch.sin(swing + t / 5)), move, float(t)) for t in range(40)]
    found = solved_along(matrices, k)
    ratios = [((ritz.values - truth).abs() / ritz.errors).max() for ritz, truth in found]
    assert all(ritz.converged for ritz, _ in found) and sum(ratio > 1 for ratio in ratios) <= 1
    block, before = 0, found[0][0]
    for A in matrices[1:]:
        before = largest(lambda V, A=A: V @ A, before.vectors, k, 1e-3, 150, slack=3.0)
        block += before.products
    assert sum(ritz.products for ritz, _ in found[1:]) < 0.9 * block


@pytest.mark.parametrize("speed", [0.002, 0.01, 0.05])
def test_an_eigenvalue_that_overtakes_is_seen(speed):
    # the second rises through the first, neither vector turns: residuals say nothing of it
    rest = torch.linspace(0, 7, 118).double()
    matrices = []
    for t in range(1, 41):
        lam = torch.cat([torch.tensor([10.0, 9.5 + 10 * speed * t]).double(), rest])
        matrices.append(torch.diag(lam) + 1e-5 * symmetric(torch.linspace(-1, 1, 120).tolist(), 7))
    missed, longest = 0, 0
    for ritz, truth in solved_along(matrices):
        missed = missed + 1 if abs(ritz.values[0] - truth[0]) > max(1e-3 * truth[0], ritz.errors[0]) else 0
        longest = max(longest, missed)
    assert longest < nearby.MOST_AGE
    assert longest == 0 or speed < 0.005  # faster ones are seen at once


def test_what_was_remembered_of_another_matrix_is_no_obstacle():
    A, B = symmetric([10.0, 9.0, *torch.linspace(0, 8, 118).tolist()]), symmetric(range(120), 3)
    cold = largest(lambda V: V @ A, start(1, 120), 1, 1e-3, 120)
    other = from_remembered(lambda V: V @ B, cold.remembered, 1, 1e-3, 120, 120)
    assert other.converged and abs(other.values[0] - 119) <= other.errors[0]
    few = from_remembered(lambda V: V @ B, cold.remembered, 1, 1e-3, 4, 120)
    assert not few.converged and few.products == 4


def test_room_for_a_large_basis_costs_nothing_until_it_is_used():
    lam = torch.linspace(0, 1, 300_000)
    krylov = Krylov(lambda V: V * lam, start(1, 300_000, dtype=torch.float32), 10**5)
    extremes(krylov, 1, 1e-3, 60)
    assert len(krylov.T) == len(krylov.C) == krylov._V.allocated <= 2 * max(krylov.size, 16)


def test_equal_eigenvalues_that_one_start_cannot_see_are_found_by_fresh_ones():
    A = symmetric([4.0, 4.0, 4.0, 1.0, 1.0])
    fresh = iter(start(9, 5, seed=7))
    found = extremes(Krylov(lambda V: V @ A, start(1, 5), 5), 4, 1e-9, 20, fresh=lambda: next(fresh))
    assert found.converged and found.values.tolist() == pytest.approx([4, 4, 4, 1])


def test_a_solver_says_where_it_is():
    said = []
    A = symmetric(torch.linspace(0, 1, 50).tolist())
    extremes(Krylov(lambda V: V @ A, start(1, 50), 50), 1, 1e-6, 50, tell=lambda n, e: said.append((n, e)))
    assert [n for n, _ in said] == list(range(len(said))) and said[0][1] > 0.01 > 1e-6 >= said[-1][1]


def test_hutchinson_is_exact_on_a_diagonal_matrix():
    lam = torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64)
    found = traces.hutchinson(lambda Z: Z * lam, lam, rng(), 0.1, 8)
    assert found.value == pytest.approx(2.5, abs=1e-12) and found.stderr == pytest.approx(0, abs=1e-12)
    assert traces.exact(lambda Z: Z * lam, lam).value == pytest.approx(2.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_two_standard_errors_of_a_trace_that_stops_by_itself_cover_the_truth(method, dtype):
    hits = cases = 0
    for lam in SPECTRA.values():
        A = symmetric(lam, dtype=dtype)
        truth = A.double().trace().item()
        for seed in range(40):
            found = method(lambda Z, A=A: Z @ A, A[0], rng(seed), 0.05, 60)
            deviation = abs(found.value - truth)
            hits, cases = hits + (deviation <= 2 * found.stderr), cases + 1
            assert deviation <= 10 * found.stderr
    assert hits >= 0.94 * cases, (hits, cases)


def test_sixteen_probes_are_asked_where_the_entries_beside_the_diagonal_seem_to_vanish():
    A = torch.zeros(40, 40, dtype=torch.float64)
    A[0, 1] = A[1, 0] = 5.0  # the samples are 10 z_0 z_1 + 40: all alike for one seed in 128 of 8 probes
    A += torch.eye(40, dtype=torch.float64)
    for seed in range(400):
        found = traces.hutchinson(lambda Z: Z @ A, A[0], rng(seed), 0.3, 100)
        assert abs(found.value - 40) <= 5 * found.stderr, seed


def test_an_exact_trace_states_what_rounding_does():
    lam = [1.0, *torch.linspace(-1, 1, 299).tolist()]
    A = symmetric(lam, dtype=torch.float32)
    found = traces.exact(lambda Z: Z @ A, A[0])
    assert abs(found.value - 1) <= 2 * found.stderr < 1e-3
    assert traces.exact(lambda Z: Z @ A.double(), A[0].double()).stderr < 1e-12


@pytest.mark.parametrize("method", METHODS)
def test_a_trace_stops_at_the_requested_error_or_says_that_it_did_not(method):
    A = symmetric([30.0, 20.0, 10.0, *torch.linspace(0, 2, 197).tolist()])
    found = method(lambda Z: Z @ A, A[0], rng(), 0.05, 150)
    assert found.converged and found.stderr <= 0.05 * found.value and found.products < 150
    assert abs(found.value - A.trace()) <= 4 * found.stderr
    short = method(lambda Z: Z @ A, A[0], rng(), 1e-5, 24)
    assert not short.converged and short.products <= 24


def test_hutchpp_and_xtrace_need_fewer_products_than_hutchinson_where_a_few_eigenvalues_stand_out():
    A = symmetric([300.0, 200.0, 100.0, *torch.linspace(0, 2, 397).tolist()])
    spent = [method(lambda Z: Z @ A, A[0], rng(), 0.02, 3000).products for method in METHODS]
    assert max(spent[1:]) < spent[0] / 4, spent


def test_a_trace_keeps_no_more_vectors_than_there_is_room_for():
    A = symmetric([300.0, 200.0, 100.0, *torch.linspace(0, 2, 397).tolist()])
    held = []

    def matvec(Z):
        held.append(len(Z))
        return Z @ A

    for method in (traces.hutchpp, traces.xtrace):
        wide = method(matvec, A[0], rng(), 0.002, 300)
        held.clear()
        bound = method(matvec, A[0], rng(), 0.002, 300, room=16)
        assert abs(bound.value - float(A.trace())) <= 4 * bound.stderr and bound.stderr > wide.stderr
        assert sum(held) == bound.products
        assert bound.products <= 8 or method is traces.hutchpp
    exact = traces.hutchpp(matvec, A[0], rng(), 0.05, 300)
    assert exact == traces.hutchpp(matvec, A[0], rng(), 0.05, 300, room=1000)


def test_a_trace_of_low_rank_is_exact_by_xtrace():
    A = symmetric([5.0, 2.0, -1.0, *[0.0] * 57])
    found = traces.xtrace(lambda Z: Z @ A, A[0], rng(), 1e-9, 40)
    assert found.value == pytest.approx(6, rel=1e-10) and found.stderr < 1e-12 and found.converged


def test_quadrature_has_the_moments_of_the_matrix_within_its_errors():
    A = symmetric([*torch.linspace(-1, 1, 150).tolist(), *torch.linspace(9, 10, 50).tolist()])  # two clusters
    rules = []
    for seed in range(12):
        krylov = Krylov(lambda V: V @ A, start(1, 200, seed), 40)
        quadrature.extend(krylov, 40)
        rules.append(quadrature.rule(krylov))
    found = quadrature.stack(rules)
    assert torch.allclose(found.weights.sum(1), torch.ones(12, dtype=torch.float64))
    lam = torch.linalg.eigvalsh(A)
    for power in (1, 2):
        mean, stderr = found.mean(found.nodes**power, 200)
        assert abs(mean - (lam**power).mean()) <= 3 * stderr and stderr < 0.1 * abs(mean)
    share, stderr = found.mean((found.nodes > 5).double(), 200)
    assert abs(share - 0.25) <= 3 * stderr + 1e-3
    grid = torch.linspace(-3, 12, 3000, dtype=torch.float64)
    curve, _ = found.curve(grid, 0.1)
    assert torch.trapezoid(curve, grid) == pytest.approx(1, abs=1e-3)
    for same in (grid.numpy(), grid.tolist()):
        assert torch.equal(found.curve(same, 0.1)[0], curve)


@pytest.mark.parametrize(
    "lam", [torch.linspace(-1, 3, 40).tolist(), [30.0, *torch.linspace(0, 1, 39).tolist()]]
)
def test_two_standard_errors_of_a_quadrature_cover_the_truth_in_most_of_200_seeds(lam):
    A = symmetric(lam)
    truth, hits = torch.linalg.eigvalsh(A).square().mean(), 0
    for seed in range(200):
        rules = []
        for probe in range(6):
            krylov = Krylov(lambda V: V @ A, start(1, 40, 1000 * seed + probe), 4)
            quadrature.extend(krylov, 4)
            rules.append(quadrature.rule(krylov))
        found = quadrature.stack(rules)
        mean, stderr = found.mean(found.nodes**2, 40)
        hits += abs(mean - truth) <= 2 * stderr
    assert hits >= 188, hits


def test_the_number_of_eigenvalues_above_a_crowd_is_known_to_the_weights_of_the_nodes_around_it():
    lam = torch.cat([torch.logspace(-9, 0, 300, dtype=torch.float64), -torch.logspace(-9, -2, 100).double()])
    rules = []
    for probe in range(8):
        krylov = Krylov(lambda V: V * lam, start(1, 400, probe), 20)
        quadrature.extend(krylov, 20)
        rules.append(quadrature.rule(krylov))
    found = quadrature.stack(rules)
    share, stderr = found.mean((found.nodes > 1e-6).double(), 400)
    weight, times_log = found.around(1e-6, found.nodes.clamp_min(1e-6).log())
    wrong = abs(share - float((lam > 1e-6).double().mean()))
    assert wrong > 2 * stderr  # what the probes say of each other says nothing of it
    assert wrong <= 2 * stderr + weight and times_log >= weight


def test_two_lanczos_steps_are_exact_for_cubics_of_a_probe():
    lam = torch.tensor([1.0, 2.0, 5.0, 7.0], dtype=torch.float64)
    v = torch.tensor([1.0, -2.0, 0.5, 1.0], dtype=torch.float64)
    krylov = Krylov(lambda V: V * lam, v[None], 2)
    quadrature.extend(krylov, 2)
    nodes, weights = quadrature.rule(krylov)
    for power in range(4):
        assert float((weights * nodes**power).sum()) == pytest.approx(
            float((v**2 * lam**power).sum() / v.square().sum())
        )


def test_ascent_finds_the_trust_region_s_solution_and_the_box_s_best_vertex():
    A, b = symmetric([3.0, 1.0, -2.0, 0.5]), start(1, 4, seed=3)[0]

    def rise(u):
        return float(0.5 * u @ A @ u + b @ u), A @ u + b

    lam, Q = torch.linalg.eigh(A)
    low, high = (
        float(lam[-1]) + 1e-12,
        1e3,
    )  # the secular equation |(mu - A)^-1 b| = radius, on the largest mu
    for _ in range(200):
        mu = (low + high) / 2
        low, high = (mu, high) if float(((Q.T @ b) / (mu - lam)).norm()) > 0.7 else (low, mu)
    truth = rise(Q @ ((Q.T @ b) / (mu - lam)))[0]
    found = ascend(rise, torch.zeros(4, dtype=torch.float64), 0.7, "l2", 500, 1e-12)
    assert found.value == pytest.approx(truth, rel=1e-6) and found.u.norm() <= 0.7 + 1e-12
    convex = A @ A

    def bowl(u):
        return float(0.5 * u @ convex @ u + b @ u), convex @ u + b

    signs = torch.cartesian_prod(*[torch.tensor([-0.7, 0.7], dtype=torch.float64)] * 4)
    best = max(bowl(s)[0] for s in signs)
    starts = start(8, 4, seed=5).sign() * 0.7
    assert max(ascend(bowl, s, 0.7, "linf", 200, 1e-12).value for s in starts) == pytest.approx(
        best, rel=1e-9
    )


@pytest.mark.parametrize("tol", [1e-3, 1e-6])
def test_the_copy_of_a_double_eigenvalue_is_counted_although_k_values_are_in_the_basis_already(tol):
    wrong = 0
    for seed in range(20):
        g = torch.Generator().manual_seed(seed)
        Q = torch.linalg.qr(torch.randn(40, 40, generator=g, dtype=torch.float64))[0]
        A = Q @ torch.diag(torch.tensor([10.0, 10, 5, 4.9] + [0] * 36, dtype=torch.float64)) @ Q.T

        def fresh(g=g):
            return torch.randn(40, generator=g, dtype=torch.float64)

        krylov = Krylov(lambda V, A=A: V @ A, fresh()[None], 1000)
        ritz = extremes(krylov, 2, tol, 500, fresh=fresh)
        wrong += not torch.allclose(ritz.values, torch.tensor([10.0, 10.0]).double(), rtol=tol)
    assert wrong <= 2  # where 5 has converged before the basis is invariant, nothing tells of the copy


def test_an_eigenvalue_that_overtook_outside_an_invariant_warm_start_is_found():
    A = torch.diag(torch.tensor([10.0, 9, 8] + [0] * 30, dtype=torch.float64))
    g = torch.Generator().manual_seed(0)
    krylov = Krylov(lambda V: V @ A, torch.eye(33, dtype=torch.float64)[1:3], 1000)
    ritz = extremes(
        krylov, 1, 1e-6, 500, slack=3.0, fresh=lambda: torch.randn(33, generator=g, dtype=torch.float64)
    )
    assert float(ritz.values[0]) == pytest.approx(10.0, rel=1e-6) and ritz.converged


def test_a_solve_whose_residual_is_only_rounding_ends():
    A = torch.diag(torch.linspace(0.1, 5, 60))  # float32: no residual reaches the tolerance
    krylov = Krylov(lambda V: V @ A, torch.ones(1, 60), 1000)
    calls = []

    def tell(products, error):
        calls.append(products)
        assert len(calls) < 2000, "an endless loop"

    ritz = extremes(krylov, 1, 1e-12, 300, fresh=lambda: torch.randn(60), tell=tell)
    assert not ritz.converged or ritz.products <= 300


def test_directions_that_are_zero_add_nothing():
    krylov = Krylov(lambda V: V @ torch.diag(torch.arange(5.0).double()), torch.ones(1, 5).double(), 5)
    assert krylov.width == 1 and not krylov.grow(torch.zeros(1, 1, dtype=torch.float64)) and krylov.size == 1


class Counting:
    """A product V A of which the call of a number, or a component of it, is not finite."""

    def __init__(self, A, call, value, component=None):
        self.A, self.call, self.value, self.component, self.calls = A, call, value, component, 0

    def __call__(self, V):
        product = V @ self.A
        if self.calls >= self.call:
            product = product.clone()
            if self.component is None:
                product[:] = self.value
            else:
                product[-1, self.component] = self.value
        self.calls += 1
        assert self.calls < 500, "an endless loop"
        return product


@pytest.mark.parametrize("component", [None, 3])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("call", [0, 1, 4])
def test_every_solver_ends_and_says_so_where_a_product_is_not_finite(call, value, component):
    A = symmetric(torch.linspace(-1, 4, 60).tolist())

    def product():
        return Counting(A, call, value, component)

    solvers = [
        lambda: largest(product(), start(2, 60), 2, 1e-12, 60),
        lambda: extremes(Krylov(product(), start(1, 60), 10), 2, 1e-12, 80, least=True, fresh=lambda: A[0]),
        lambda: quadrature.extend(Krylov(product(), start(1, 60), 30), 30),
        lambda: traces.exact(product(), A[0]),
        *(lambda m=m: m(product(), A[0], rng(), 1e-9, 50) for m in METHODS),
    ]
    for number, solve in enumerate(solvers):
        with pytest.raises(FloatingPointError, match="not finite"):
            solve()
            raise AssertionError(number)


def test_an_ascent_whose_function_is_not_finite_ends_with_what_it_reached():
    def cliff(u):  # beyond |u| = 1/2 the loss overflows
        value = float("inf") if u.norm() > 0.5 else float(u.sum())
        return value, torch.ones_like(u) if math.isfinite(value) else torch.full_like(u, float("nan"))

    found = ascend(cliff, torch.zeros(3, dtype=torch.float64), 2.0, "l2", 50, 1e-6)
    assert 0 < found.value <= 0.5 * 3**0.5 + 1e-12 and not found.converged
    with pytest.raises(FloatingPointError, match="not finite"):
        ascend(cliff, torch.ones(3, dtype=torch.float64), 2.0, "l2", 50, 1e-6)


def test_a_quadratic_program_with_nan_is_an_error():
    with pytest.raises(ValueError, match="not finite|not solved"):
        least(torch.full((1, 1), float("nan")), torch.ones(1))
    with pytest.raises(ValueError, match="not finite|not solved"):
        least(torch.eye(3), torch.tensor([1.0, float("inf"), 0.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stated_errors_of_eigenvalues_include_the_rounding_of_products(dtype):
    A = symmetric([10.0, 4.0, *torch.linspace(-2, 3, 118).tolist()])
    truth = torch.linalg.eigvalsh(A)
    for seed in range(10):
        found = extremes(
            Krylov(lambda V: (V.double() @ A).to(dtype), start(1, 120, seed, dtype), 200),
            2,
            1e-5,
            120,
            least=True,
        )
        assert found.converged and found.least_converged
        stated = [*found.errors.tolist(), found.least_error]
        values = [*found.values.tolist(), found.least]
        assert min(stated) >= 10 * torch.finfo(dtype).eps * 10
        for value, error, lam in zip(values, stated, (truth[-1], truth[-2], truth[0]), strict=True):
            assert abs(value - float(lam)) <= error


def test_a_tolerance_below_rounding_is_not_reached_and_costs_no_more_than_rounding():
    A = symmetric([10.0, 4.0, *torch.linspace(-2, 3, 118).tolist()], dtype=torch.float32)
    loose = largest(lambda V: V @ A, start(1, 120, dtype=torch.float32), 1, 1e-5, 120)
    tight = largest(lambda V: V @ A, start(1, 120, dtype=torch.float32), 1, 1e-12, 120)
    assert loose.converged and not tight.converged and tight.products < loose.products + 12


def test_products_that_are_not_symmetric_show_in_the_stated_error():
    A = symmetric([10.0, 4.0, *torch.linspace(-2, 3, 58).tolist()])
    wrong = A + 1e-3 * torch.randn(60, 60, generator=rng(), dtype=torch.float64)
    found = largest(lambda V: V @ wrong.T, start(1, 60), 1, 1e-2, 60)
    assert found.errors[0] >= abs(found.values[0] - 10) and found.errors[0] >= 1e-4


def test_the_smallest_eigenvalue_has_a_tolerance_of_its_own():
    A = symmetric([1000.0, *torch.linspace(0, 1, 118).tolist(), -0.01])
    krylov = Krylov(lambda V: V @ A, start(1, 120), 120)
    found = extremes(krylov, 1, 1e-3, 120, least=True)
    assert found.least_converged and abs(found.least + 0.01) <= found.least_error <= 1e-5
    few = extremes(Krylov(lambda V: V @ A, start(1, 120), 120), 1, 1e-3, 12, least=True)
    assert few.converged and few.least_converged is False and few.least_error > 1e-5
    columns = few.columns("lambda")
    assert columns["lambda_min_converged"] is False


@pytest.mark.parametrize(
    "lam", [[0.0] * 5, [7.0], [-3.0], [-5.0, -4.0, -1.0], [0.0, 0.0, -2.0], [1e-30, 1e-31], [1e30, -1e30]]
)
def test_the_edges_of_small_matrices(lam):
    A = torch.diag(torch.tensor(lam, dtype=torch.float64))
    D = len(lam)
    draws = rng()

    def fresh():
        return torch.randn(D, generator=draws, dtype=torch.float64)

    found = extremes(Krylov(lambda V: V @ A, start(1, D), 100), D, 1e-6, 100, least=True, fresh=fresh)
    truth = sorted(lam, reverse=True)
    scale = max(map(abs, lam))
    assert found.values.tolist() == pytest.approx(truth, rel=1e-9, abs=1e-12 * scale)
    assert found.least == pytest.approx(truth[-1], rel=1e-9, abs=1e-12 * scale)
    for method in ("hutchinson", "hutchpp", "xtrace"):
        exactly = traces.estimate(method, lambda V: V @ A, A[0], rng(), 0.05, 100)
        assert exactly.value == pytest.approx(sum(lam), abs=1e-12 * scale) and exactly.products == D
    for method in METHODS[:2]:
        estimated = method(lambda V: V @ A, A[0], rng(), 0.05, 100)
        assert abs(estimated.value - sum(lam)) <= 2 * estimated.stderr + 1e-12 * scale
