"""The angle between the gradient and the Hessian's top eigenvectors: Gur-Ari et al. 2018, arXiv:1812.04754; Wen et al. 2022,
arXiv:2211.05729."""

from __future__ import annotations

from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.measures import Estimates, Point


def alignment(at: Point, *, k: int, rho: float, tol: float, max_products: int) -> Estimates:
    """`alignment_i` = |cos(g, v_i)| (the sign of v_i is arbitrary), `alignment_share` = the share of |g|^2 in the
    span of v_1 ... v_k, and the same for SAM's gradient g(w + rho g / |g|) as `sam_alignment...`.

    Exact given the eigenvectors, which are those of `sharpness` where that was measured with k or more. A
    zero gradient has no direction: None. Refuses k out of range, rho < 0, tol <= 0.
    """
    if not 1 <= k <= len(at.w) or rho < 0 or not tol > 0 or max_products < k:
        raise Refusal(
            f"measure.alignment: k={k}, rho={rho}, tol={tol}, max_products={max_products}; k in 1 to "
            f"{len(at.w)}, rho >= 0, "
            "tol above 0, max_products at least k"
        )
    ritz = at.curvature.eigenpairs("hessian", k, tol, max_products, at.warm)
    V, g = ritz.vectors[:k].double(), at.curvature.linearization.grad
    size = float(g.double().norm())
    ascent = at.surface.grad(at.w + (rho / size) * g) if size else g
    values = {**_cosines("alignment", V, g), **_cosines("sam_alignment", V, ascent)}
    return Estimates(values | {"alignment_converged": ritz.converged}, ritz.products, 2, ritz.vectors)


def _cosines(name: str, V: Tensor, g: Tensor) -> dict[str, float | None]:
    size = float(g.double().norm())
    if not size:
        return dict.fromkeys([*(f"{name}_{i + 1}" for i in range(len(V))), f"{name}_share"])
    cosines = (V @ g.double() / size).abs()
    return {
        **{f"{name}_{i + 1}": float(c) for i, c in enumerate(cosines)},
        f"{name}_share": float(cosines.square().sum()),
    }
