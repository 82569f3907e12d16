"""The angle between the gradient and the Hessian's top eigenvectors: Gur-Ari et al. 2018, arXiv:1812.04754;
Wen et al. 2022, arXiv:2211.05729."""

from __future__ import annotations

from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.measures import Estimates, Point


def alignment(at: Point, *, k: int, rho: float, tol: float, max_products: int) -> Estimates:
    """Cosines of the gradient g, and of SAM's gradient g(w + rho g / |g|), with the eigenvectors v_1 ... v_k
    of the k largest eigenvalues of the Hessian.

    Exact up to the error of the eigenvectors, which `sharpness` shares where it measured k or more
    eigenvalues to this `tol`. A gradient of 0 has no direction, and its columns are null. Refuses k out of
    range, rho < 0, tol <= 0 and max_products below k.

    Columns:
        alignment_1 ... alignment_k [-]: |cos(g, v_i)|, without its sign because the sign of v_i is arbitrary
        alignment_share [-]: the share of |g|^2 in the span of v_1 ... v_k: the sum of the squared cosines
        sam_alignment_1 ... sam_alignment_k [-]: alignment_i of SAM's gradient
        sam_alignment_share [-]: alignment_share of SAM's gradient
        alignment_converged [-]: whether the k eigenvalues reached `tol`
    """
    if not 1 <= k <= len(at.w) or rho < 0 or not tol > 0 or max_products < k:
        raise Refusal(
            f"measure.alignment: k={k}, rho={rho}, tol={tol}, max_products={max_products}; k in 1 to "
            f"{len(at.w)}, rho >= 0, "
            "tol above 0, max_products at least k"
        )
    ritz = at.curvature.eigenpairs("hessian", k, tol, max_products, at.warm)
    V, g = ritz.vectors[:k].double(), at.curvature.linearization.grad
    gradient_norm = float(g.double().norm())
    sam_gradient = at.surface.grad(at.w + (rho / gradient_norm) * g) if gradient_norm else g
    values = {**_cosines("alignment", V, g), **_cosines("sam_alignment", V, sam_gradient)}
    return Estimates(
        values | {"alignment_converged": ritz.converged}, ritz.products, 2, ritz.remembered.saved()
    )


def _cosines(name: str, V: Tensor, g: Tensor) -> dict[str, float | None]:
    gradient_norm = float(g.double().norm())
    if not gradient_norm:
        return dict.fromkeys([*(f"{name}_{i + 1}" for i in range(len(V))), f"{name}_share"])
    cosines = (V @ g.double() / gradient_norm).abs()
    return {
        **{f"{name}_{i + 1}": float(c) for i, c in enumerate(cosines)},
        f"{name}_share": float(cosines.square().sum()),
    }
