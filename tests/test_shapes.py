"""The shapes that the signatures of sharpcli.linalg and sharpcli.landscape state hold in real computations.

Run as a program, this file imports the two packages with every function checked by jaxtyping and beartype,
calls them all on small inputs, and prints as JSON what was not called and which wrong shapes were refused. A
process of its own, because the checks are added at import.
"""

import ast
import json
import os
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

PACKAGES = ["sharpcli.linalg", "sharpcli.landscape"]
SETTINGS = {"seed": 0, "step": 0, "basis_bytes": 2**20}


def test_the_stated_shapes_hold_in_every_function_and_wrong_ones_are_refused():
    done = subprocess.run(
        [sys.executable, __file__], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    checked = json.loads(done.stdout)
    assert checked["called"] > 100 and checked["not_called"] == []
    assert len(checked["wrong"]) >= 10
    assert {name: error for name, error in checked["wrong"].items() if error != "TypeCheckError"} == {}


def main():
    from jaxtyping import install_import_hook

    hook = install_import_hook(PACKAGES, "beartype.beartype")
    import torch._dynamo.exc  # noqa: F401  # slow to import, and slower once functions are profiled

    import sharpcli.landscape
    import sharpcli.linalg

    files = [
        file
        for package in (sharpcli.linalg, sharpcli.landscape)
        for file in sorted(Path(package.__file__).parent.glob("*.py"))
    ]
    called = set()

    def profile(frame, event, _):
        if event == "call":
            called.add((frame.f_code.co_filename, frame.f_code.co_qualname))

    sys.setprofile(profile)
    solve()
    surfaces()
    share_curvature()
    follow_flows()
    draw_landscapes()
    sys.setprofile(None)
    defined = {(str(file), name) for file in files for name in functions(ast.parse(file.read_text()))}
    print(
        json.dumps(
            {
                "called": len(defined & called),
                "not_called": sorted(defined - called),
                "wrong": wrong_shapes(),
            }
        )
    )
    hook.uninstall()


def functions(node, prefix=""):
    """The qualified names of all functions defined in a syntax tree, but for what a protocol only names."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef) and any(ast.unparse(base) == "Protocol" for base in child.bases):
            continue
        if isinstance(child, ast.FunctionDef):
            yield prefix + child.name
            yield from functions(child, f"{prefix}{child.name}.<locals>.")
        elif isinstance(child, ast.ClassDef):
            yield from functions(child, f"{prefix}{child.name}.")
        else:
            yield from functions(child, prefix)


def normal(*shape, seed=0, dtype=None):
    import torch

    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype or torch.float64)


def solve():
    """Every function of sharpcli.linalg, on matrices."""
    import torch

    from sharpcli.linalg import accuracy, ascent, lanczos, nearby, quadrature, sampled, semidefinite, trace
    from sharpcli.linalg import krylov as krylov_module

    symmetric = normal(60, 60)
    symmetric = symmetric + symmetric.T
    for dtype in (torch.float64, torch.float32):
        A = symmetric.to(dtype)

        def matvec(V, A=A):
            return V @ A

        start, tol = normal(1, 60, dtype=dtype), 1e-3
        krylov = krylov_module.Krylov(matvec, start, 12)  # too few vectors: restarts
        ritz = lanczos.extremes(krylov, 2, tol, 400, least=True, tell=lambda products, error: None)
        assert krylov.restarted and ritz.converged and len(ritz.columns("lambda")) == 10
        assert list(ritz.named("lambda")) == ["lambda_1", "lambda_2", "lambda_min"]
        assert lanczos.largest(matvec, ritz.vectors, 2, tol, 400, slack=3.0).converged
        assert krylov_module.norm(start) > 0
        remembered = nearby.Remembered.of(ritz.remembered.saved())
        moved = normal(60, 60, seed=3, dtype=dtype)

        def product(V, A=A + 0.02 * (moved + moved.T)):
            return V @ A

        again = lanczos.from_remembered(
            product, remembered, 1, tol, 60, 60, tell=lambda products, error: None
        )
        for _ in range(2):
            again = lanczos.from_remembered(product, again.remembered, 1, tol, 60, 60)
        assert again.converged and len(again.remembered.ages) > 1
        assert len(again.remembered.near(1, least=True)) > 1
        for share in (0.1, 0.5):  # of the cost of a product: too dear to say how A has changed
            cheap = sampled.Sampled(product, lambda V: 0.01 * V, share, partial(normal, 60, dtype=dtype))
            again = lanczos.from_remembered(
                product,
                again.remembered,
                2,
                tol,
                60,
                60,
                fresh=partial(normal, 60, dtype=dtype),
                sampled=cheap,
            )
        assert again.converged and cheap.spent > 0 and len(again.remembered.sought) == 1
        assert again.remembered.foretold(0 * again.remembered.vectors)[1] < 1e-3
        krylov = krylov_module.Krylov(product, start, 60)
        sought = sampled.search(product, krylov.V, normal(60, seed=2, dtype=dtype), 1.0, 3)
        assert sought.may_exceed(-100.0, krylov.V, True) and not sought.lies_in(krylov.V)
        assert sampled.admit(krylov, sought.vector, 1, 0.1, 5, True) is not None
        rules = []
        for seed in range(2):
            krylov = krylov_module.Krylov(matvec, normal(1, 60, seed=seed, dtype=dtype), 60)
            quadrature.extend(krylov, 6 + seed)
            rules.append(quadrature.rule(krylov))
        density = quadrature.stack(rules)
        density.mean(density.nodes**2, 60)
        density.around(0.0, density.nodes)
        assert accuracy.loss_rounding(1.0, start) > 0 and accuracy.mean_and_stderr([1.0, 2.0])[1] > 0
        unconverged = krylov_module.Krylov(matvec, start, 60)
        assert not lanczos.extremes(unconverged, 1, tol, 3).converged
        density.curve(torch.linspace(-30, 30, 50), 0.5)
        for method in ("hutchinson", "hutchpp", "xtrace"):
            rng = torch.Generator().manual_seed(0)
            trace.estimate(method, matvec, A[0], rng, 1e-3, 56)
        trace.estimate("xtrace", matvec, A[0], rng, 1e-3, 60)  # exact

        def value_and_grad(u, A=A):
            return float(0.5 * u @ A @ u), A @ u

        for norm in ("l2", "linf"):
            assert ascent.highest(value_and_grad, normal(3, 60, dtype=dtype), 0.5, norm, 20, 1e-3)
    Q = normal(3, 3) @ normal(3, 3).T
    x = semidefinite.least(Q, semidefinite.svec(normal(2, 2) + normal(2, 2).T))
    assert semidefinite.smat(x, 2).shape == (2, 2)


def draw_landscapes():
    """Every function of planes, paths, symmetries and permutations."""
    import numpy as np
    import torch

    from sharpcli.landscape import paths, permutations, planes, symmetries
    from sharpcli.landscape.surface import LossSurface

    layout = (("0.weight", torch.Size([2, 3])), ("0.bias", torch.Size([2])), ("2.weight", torch.Size([1, 2])))
    surface = LossSurface(lambda w, x: w[None], lambda out, y: out.square().sum(), ((normal(1), normal(1)),))
    first, last = normal(10), normal(10, seed=1)
    planes.filter_normalized(last, first, [shape for _, shape in layout])
    basis, _ = planes.principal_plane(normal(4, 10), first)
    planes.coordinates(normal(4, 10), first, basis)
    planes.plane_through(first, last, normal(10, seed=2))
    assert len(planes.values(surface, normal(5, 10))) == 5
    assert len(paths.places("chain", 6)) == 6
    middle = paths.fit(lambda step: surface, "chain", first, last, 3, 0.1, torch.Generator())
    paths.barrier([0.0, 0.25, 0.5, 0.75, 1.0], [0.0, 1.0, 3.0, 1.0, 0.0])
    paths.barrier([0.0, 0.5, 1.0], [float(surface.value(w)) for w in (first, middle, last)])

    def predict(w, x):
        hidden = (x @ w[:6].view(2, 3).T + w[6:8]).tanh()
        return hidden @ w[8:].view(1, 2).T

    (hidden,) = symmetries.exchangeable(predict, first, normal(2, 3), layout).sets
    assert hidden.size == 2 and len(hidden.places) == 3
    operate()
    tensors = [t.view(s) for t, (_, s) in zip(first.split([6, 2, 2]), layout, strict=True)]
    assert len(permutations.reordered(tensors, hidden, np.array([1, 0]))) == 3
    assert permutations.matched(first, last, layout, [hidden]).shape == (10,)


def operate():
    """Every operation by which `symmetries` follows units."""
    import torch
    import torch.nn.functional as F

    from sharpcli.landscape import symmetries

    names = ("kernel", "scale", "words", "square")
    sizes = ((4, 1, 2, 2), (4,), (3, 4), (4, 4))
    layout = tuple((name, torch.Size(size)) for name, size in zip(names, sizes, strict=True))

    def predict(w, x):
        parts = w.split([size.numel() for _, size in layout])
        kernel, scale, words, square = (p.view(s) for p, (_, s) in zip(parts, layout, strict=True))
        h = F.max_pool2d(F.conv2d(F.pad(x, (1, 1)), kernel, scale), 2)
        h = F.group_norm(F.batch_norm(h, None, None, scale, training=True), 2, scale)
        h = F.pad(h, (0, 0, 0, 0, 1, 0))[:, 1:].mean((2, 3))
        h = torch.cat(F.layer_norm(h, (4,), scale).split(2, 1), 1) + F.embedding(torch.tensor([0, 2]), words)
        h = torch.stack([h, F.logsigmoid(F.glu(torch.cat([h, h], 1)))], 0).sum(0) + (h @ square[0])[:, None]
        h = h.unsqueeze(2).squeeze(2).permute(0, 1).t().softmax(0).t()
        return torch.baddbmm(h.unsqueeze(0), h.expand(1, 2, 4), square.unsqueeze(0)).view(2, 2, 2)

    symmetries.exchangeable(predict, normal(16 + 4 + 12 + 16), normal(2, 1, 6, 6), layout)


def network(w, x):
    """Two layers of a network with D = 22 weights, 3 inputs and 2 outputs."""
    return (x @ w[:12].view(3, 4)).tanh() @ w[12:20].view(4, 2) + w[20:]


def surface(n=13, dtype=None, **settings):
    from sharpcli.landscape.surface import LossSurface
    from sharpcli.losses.half_squared import half_squared

    x, y = normal(n, 3, seed=1, dtype=dtype), normal(n, 2, seed=2, dtype=dtype)
    return LossSurface(network, half_squared, ((x[:9], y[:9]), (x[9:], y[9:])), **settings)


def halved(surface, w):
    """The surface in half precision, whose second derivatives are refused."""
    from sharpcli.errors import Refusal
    from sharpcli.landscape.half_precision import HALVES, HalfPrecision

    for half in HALVES:
        in_half = HalfPrecision.of(surface, half)
        in_half.through(lambda u: 2 * u).value(w)
        assert in_half.grad(w).shape == (22,) and in_half.value(w).shape == ()
        assert in_half.exact.grad(w).shape == surface.exact.grad(w).shape
        with suppress(Refusal):
            in_half.linearize(w)
        with suppress(Refusal):
            in_half.gradient_graph(w)
        with suppress(Refusal):
            in_half.curvature_grad(w, w[None])


def compiled_steps(surface, w):
    """The surface with compiled steps, whose second derivatives are those of the surface."""
    import torch

    from sharpcli.landscape.compiled_steps import CompiledSteps, pays

    assert pays("true", w.device, 1)
    compile, torch.compile = torch.compile, lambda function, **_: function  # compiling takes seconds
    steps = CompiledSteps.of(surface, "true")
    assert torch.equal(steps.grad(w), surface.grad(w))
    torch.compile = compile
    assert steps.exact.grad(w).shape == (22,) and steps.linearize(w).hvp(w).shape == (22,)
    at = w.detach().requires_grad_()
    assert steps.gradient_graph(at).shape == (22,) and steps.curvature_grad(w, w[None]).shape == (22,)
    assert torch.equal(steps.through(lambda u: 2 * u).exact.grad(w), surface.through(lambda u: 2 * u).grad(w))


def surfaces():
    """A surface, its linearization kept and rebuilt, its derivatives, and their compiled and distributed
    forms."""
    import torch

    from sharpcli.landscape import differences, second_derivatives, third_derivatives
    from sharpcli.landscape.compiled_products import CompiledProducts
    from sharpcli.landscape.distributed import Processes, processes
    from sharpcli.landscape.surface import LossSurface, whole_loss
    from sharpcli.losses.cross_entropy import cross_entropy
    from sharpcli.losses.half_squared import half_squared

    for dtype in (torch.float64, torch.float32):
        w, V = normal(22, dtype=dtype), normal(3, 22, seed=3, dtype=dtype)
        for budget in (2**31, 0):
            whole = surface(dtype=dtype, graph_budget=budget).plus(lambda w: 0.1 * w.square().sum())
            whole = whole.plus(lambda w: w.sum())
            value, gradient = whole.value_and_grad(w)
            assert abs(float(whole.value(w)) - value) < 1e-4 and torch.allclose(whole(w), gradient, atol=1e-4)
            whole.curvature_grad(w, V)
            at = whole.linearize(w)
            assert at.kept is (budget > 0) and at.grad.shape == (22,)
            for product in (at.hvp, at.ggn, at.second_moment, partial(whole.hvp, w)):
                assert product(V).shape == (3, 22) and product(V[0]).shape == (22,)
    halved(surface(dtype=torch.float32), normal(22, dtype=torch.float32))
    compiled_steps(surface(dtype=torch.float32), normal(22, dtype=torch.float32))
    plain = surface()
    w, V = normal(22), normal(3, 22, seed=3)
    part = plain.through(lambda u: torch.cat([u, w[5:]]))
    assert second_derivatives.agreement(plain, w, torch.Generator().manual_seed(0)).derivative
    third_derivatives.check_third_derivatives(plain, w)
    third_derivatives.check_penalty(lambda w: w.pow(4).sum(), w, "of_mine")
    assert differences.uniform_curvature(lambda w: 0.75 * w.square().sum(), w) is not None
    normed = LossSurface(
        lambda w, x: torch.nn.functional.layer_norm(network(w, x), (2,)), half_squared, plain.batches
    )
    normed.curvature_grad(w, V)
    assert part.hvp(w[:5], normal(2, 5)).shape == (2, 5)
    assert len(plain.on(plain.batches[:1]).joined[0]) == 9 and whole_loss(plain, "sgd") is plain
    assert len(plain.over(*plain.as_one).batches) == 1
    share_structures(plain, w, V)
    torch.compile = lambda function: function  # the compiler itself is tested elsewhere
    compiled = CompiledProducts("true", network, cross_entropy)
    assert surface(compiled=compiled).hvp(w, V).shape == (3, 22)
    compiled = CompiledProducts("auto", network, cross_entropy)
    x, y = plain.batches[0]
    assert compiled.product(network, torch.device("cuda"), 10**6)(w, V[0], x, y).shape == (22,)
    with processes() as alone:
        alone.wait()
        assert alone.first and alone.sum(w) is w and alone.largest(2.0, w) == 2.0
    for joint in (True, False):
        assert sum(len(y) for rank in (0, 1) for _, y in Processes(rank, 2).share(plain.batches, joint)) == 13


def share_structures(plain, w, V):
    """Examples in nested structures, and outputs of which the loss takes one."""
    import torch

    from sharpcli.landscape.batches import Examples, can_be_cut, head, mapped, tree_of
    from sharpcli.landscape.surface import LossSurface
    from sharpcli.losses.half_squared import half_squared

    batches = tuple((Examples({"x": x, "scale": 2.0}, len(y)), y) for x, y in plain.batches)

    def predict(w, rows):
        f = network(w, tree_of(rows)["x"])
        return {"f": f, "other": f.square()}

    nested = LossSurface(predict, lambda outputs, y: half_squared(outputs["f"], y), batches)
    assert torch.allclose(nested.linearize(w).ggn(V), plain_of(plain, half_squared).linearize(w).ggn(V))
    x, y = nested.joined
    assert len(x) == 13 and x.device == w.device and x.nbytes > 0
    assert len(head((x, y), 4)[0]) == 4 and can_be_cut((x, y)) and len(x[torch.tensor([2, 0])]) == 2
    assert mapped(torch.Tensor.float, x).tree["x"].dtype == torch.float32
    assert not can_be_cut((Examples({"x": x.tree["x"], "shared": torch.ones(3)}, 13), y))


def plain_of(surface, loss):
    """The same surface with another loss."""
    from dataclasses import replace

    return replace(surface, loss=loss)


def share_curvature():
    """The measures' shared computations, cold, stored and warm."""
    from sharpcli.errors import Refusal
    from sharpcli.landscape.curvature import Curvature
    from sharpcli.landscape.surface import LossSurface
    from sharpcli.linalg.split import Split
    from sharpcli.losses.half_squared import half_squared
    from sharpcli.rng import generator

    at = Curvature(surface(), normal(22), **SETTINGS, tell=lambda products, error: None)
    for operator in ("hessian", "gauss_newton"):
        cold = at.eigenpairs(operator, 2, 1e-6, 22, None, True)
        assert at.eigenpairs(operator, 1, 1e-6, 22).products == 0
        assert at.dense(operator).shape == (22, 22)
        assert at.quadrature(operator, 3, 5)[0].nodes.shape[0] == 3
        assert at.trace(operator, "hutchpp", generator(0, "trace", 0), 0.1, 30).converged
    assert (
        Curvature(surface(), normal(22), **SETTINGS).eigenpairs("hessian", 2, 1e-6, 22, cold.vectors).products
    )
    for graph_budget in (0, 2**31):
        parted = Curvature(surface(graph_budget=graph_budget), normal(22), **SETTINGS)
        parted.split = Split(22, 0, 1, lambda t: t.clone())  # of a single part
        assert parted.eigenpairs("hessian", 2, 1e-6, 22, cold.vectors).converged
        assert parted.eigenpairs("hessian", 1, 1e-7, 22, cold.remembered.saved()).products
        assert parted.room
    large = Curvature(surface(n=400), normal(22), **SETTINGS)
    sampled = large._sampled("hessian", normal(1, 22, seed=4), True)
    assert 0 < sampled.share < 0.25 and sampled.changed(normal(2, 22)).shape == (2, 22)
    near = Curvature(surface(), normal(22), **SETTINGS)
    assert near.known_grad is None
    assert near.eigenpairs("hessian", 2, 1e-6, 22, cold.remembered.saved()).converged
    assert near.known_grad is not None
    with suppress(Refusal):  # of a vector without rows
        Curvature(surface(), normal(22), **SETTINGS).eigenpairs("hessian", 1, 1e-3, 20, normal(22))
        raise AssertionError("a vector for a block of vectors was taken")
    x = normal(2, 7)  # a Hessian of rank 2, whose third eigenvector no Krylov space of one start contains
    linear = LossSurface(lambda w, x: (x @ w)[:, None], half_squared, ((x, normal(2, 1)),))
    assert Curvature(linear, normal(7), **SETTINGS).eigenpairs("hessian", 4, 1e-6, 20).converged


def quadratic(f, y):
    """A loss whose Hessian in an example's two outputs is not diagonal."""
    r = f - y
    return (r.square().sum() + r[:, 0] @ r[:, 1]) / (2 * len(y))


def follow_flows():
    """Interpolators of few examples, and flows to them."""
    from dataclasses import replace

    from sharpcli.landscape import flows, interpolators

    few = surface(n=10).on([tuple(part[:4] for part in surface(n=10).batches[0])])
    w = normal(22)
    on_manifold, _ = flows.limit(interpolators.Interpolators(few), w, 1e-4, 1e-9)
    for loss in (few.loss, quadratic):
        fit = interpolators.Interpolators(replace(few, loss=loss))
        J = fit.jacobian(w)
        assert J.shape == (8, 22) and fit.outputs(w).shape == fit.residual(w).shape == (8,)
        assert fit.trace(w).ndim == 0 and float(interpolators.lambda_1(J, 4)) > 0
        projected, residual = fit.project(on_manifold + 1e-2 * w, 1e-9)
        assert residual <= 1e-9
        for of in (interpolators.trace, interpolators.lambda_1):
            fit.slope(projected, of, 1e-9)
    for solver in ("RK45", "LSODA"):
        flows.integrate(lambda w: -few.grad(w), w, 1.0, solver, 1e-4, 1e-6)
    flows.integrate(lambda w: -few.grad(w), w, 1e3, "RK45", 1e-4, 1e-6, 0.1)


def wrong_shapes():
    """The error type that each call with a wrong shape or precision raises; None where it passes."""
    from sharpcli.landscape import interpolators
    from sharpcli.linalg import ascent, quadrature, semidefinite
    from sharpcli.linalg import krylov as krylov_module

    w, at = normal(22), surface().linearize(normal(22))
    calls = {
        "a block of D + 1 columns": lambda: surface().hvp(w, normal(3, 23)),
        "a vector of D + 1 entries": lambda: surface().hvp(w, normal(23)),
        "a third derivative along D + 1": lambda: surface().curvature_grad(w, normal(3, 23)),
        "weights as a row": lambda: surface().grad(w[None]),
        "integers": lambda: surface().value(w.long()),
        "a scalar as a block": lambda: at.hvp(w.sum()),
        "rows of two lengths": lambda: krylov_module.dots(normal(2, 5), normal(3, 6)),
        "another length than the basis": lambda: krylov_module.orthonormal(normal(5), normal(2, 6)),
        "a start that is no block": lambda: krylov_module.Krylov(lambda V: V, w, 4),
        "nodes without weights": lambda: quadrature.Quadrature(normal(2, 4), normal(2, 3)),
        "nodes in float32": lambda: quadrature.Quadrature(normal(2, 4).float(), normal(2, 4).float()),
        "a matrix that is not square": lambda: semidefinite.svec(normal(2, 3)),
        "a gradient of another length": lambda: interpolators.tangent(normal(6, 22), normal(23), 1e-9),
        "a matrix for a point": lambda: ascent.project(normal(2, 2), 1.0, "l2"),
    }
    errors = {}
    for name, call in calls.items():
        try:
            call()
            errors[name] = None
        except Exception as error:
            errors[name] = type(error).__name__
    return errors


if __name__ == "__main__":
    main()
