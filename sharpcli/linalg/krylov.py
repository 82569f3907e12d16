"""A Krylov decomposition of a symmetric operator that is known by its products alone, grown, restarted and
read.

Parlett, The Symmetric Eigenvalue Problem (1998), chapters 12 and 13; the restart is that of Stewart 2001, "A
Krylov-Schur algorithm for large eigenproblems".
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn.functional import pad

from sharpcli.linalg.split import added, dimension

Matvec = Callable[[Float[Tensor, "m D"]], Float[Tensor, "m D"]]  # the rows v_i to the rows A v_i
KEPT_VECTORS = 8
FIRST_ROWS = 32  # rows of a basis that are allocated at first
# Entries of a row whose products are summed in the row's own precision, before the sums are added in float64.
SUM_LENGTH = 8192
# Gram-Schmidt is repeated when a pass leaves less than this share of a vector's norm (Parlett, section 6.9).
REORTHOGONALIZE_BELOW = 0.7
# Passes of Gram-Schmidt at most: two are nearly always enough (Parlett, section 6.9).
MAX_PASSES = 6
# A vector is dependent on the basis when its remainder is below this many machine epsilons of its norm.
DEPENDENT_EPS = 10


class Stack:
    """Rows [m, D], at most `most`, to which others are appended in place: to concatenate them would hold all
    of them twice. Memory is allocated for `first` rows, and then for twice as many; on a processor the system
    gives it as it is written."""

    def __init__(self, like: Float[Tensor, "*m D"], first: int, most: int | float = math.inf) -> None:
        self.most = most
        self._rows, self._used = like.new_empty(int(min(first, most)), like.shape[-1]), 0

    @property
    def rows(self) -> Float[Tensor, "m D"]:
        """The rows, a view."""
        return self._rows[: self._used]

    @property
    def allocated(self) -> int:
        """The number of rows that memory is allocated for."""
        return len(self._rows)

    def append(self, X: Float[Tensor, "b D"]) -> None:
        """Appends the rows of X."""
        while self._used + len(X) > len(self._rows):
            more = int(min(2 * len(self._rows), self.most))
            held, self._rows = self.rows, self._rows.new_empty(more, self._rows.shape[1])
            self._rows[: len(held)] = held
        self._rows[self._used : self._used + len(X)] = X
        self._used += len(X)

    def replace(self, X: Float[Tensor, "q D"]) -> None:
        """Puts the rows of X, no more than there are, in the place of all."""
        self._used = 0
        self.append(X)

    def __len__(self) -> int:
        return self._used


class Krylov:
    """The Krylov decomposition A V^T = V^T T + G^T C^T of a symmetric A, with orthonormal rows V [m, D], and
    orthonormal rows G [p, D] that span what A maps out of the span of V; T [m, m] is symmetric, C is [m, p].

    A Ritz pair (theta, y) of T stands for the vector y V and has the residual (y C) G, of norm |y C|, so that
    residuals cost no work of length D. `grow` moves a direction z G into V, for one product with A. T and C
    are float64 and on the CPU: they have a few hundred entries, and all decisions depend on them.

    `size` is m, `width` p, `capacity` the largest m. `products` counts the products with A, and `restarted`
    says whether the basis was ever cut back. `asymmetry` is the largest difference seen between v_i.A v_j and
    v_j.A v_i, as a norm over i: what rounding, or a wrong derivative, has done to products that should be
    symmetric. `is_single` says whether the basis began with one vector. A product that is not
    finite raises FloatingPointError.
    """

    def __init__(self, matvec: Matvec, start: Float[Tensor, "b D"], capacity: int) -> None:
        """Orthonormalizes the rows of `start` into the first basis, for one product each."""
        self.matvec, self.products = matvec, 0
        self.capacity, self.width = min(capacity, dimension(start)), 0
        # V, T and C are allocated for a few rows and enlarged as the basis grows: the capacity of a small
        # network is tens of thousands, and T is its square. Most solves need no more than these; enlarging
        # holds the old rows and the new.
        self._V = Stack(start, FIRST_ROWS, self.capacity)
        self._G = start.new_empty(0, start.shape[-1])
        self.T = torch.zeros(self._V.allocated, self._V.allocated, dtype=torch.float64)
        self.C = torch.zeros(self._V.allocated, 0, dtype=torch.float64)
        self.restarted, self.asymmetry, self.is_single = False, 0.0, len(start) == 1
        self.add(start)

    @property
    def size(self) -> int:
        """m, the number of basis vectors."""
        return len(self._V)

    @property
    def dimension(self) -> int:
        """D, the number of coordinates of the operator's vectors."""
        return dimension(self.V)

    @property
    def V(self) -> Float[Tensor, "m D"]:
        """The basis V [m, D]."""
        return self._V.rows

    @property
    def G(self) -> Float[Tensor, "p D"]:
        """The directions G [p, D] outside of the basis."""
        return self._G

    def add(self, X: Float[Tensor, "b D"]) -> bool:
        """Adds the components of the rows of X that are orthogonal to V, for one product each.

        Only for a basis that is empty or invariant under A (`width` 0): otherwise T would miss the products
        between the new rows and the old. Returns False if no row is independent of V or the capacity is
        reached.
        """
        assert not self.width, "the directions G are added to the basis before any others"
        old_size = self.size
        for x in X[: self.capacity - old_size]:
            if (unit := orthonormal(x, self.V)) is not None:
                self._append(unit)
        self._multiply(old_size)
        return self.size > old_size

    def grow(self, Z: Float64[Tensor, "q p"]) -> bool:
        """Adds the directions Z G to the basis, at most q of them, for one product each; returns False if
        nothing was added: G is empty, the capacity is reached, or the directions are zero."""
        old_size, capacity_left = self.size, self.capacity - self.size
        if not capacity_left or not self.width:
            return False
        # The columns of Q are orthonormal coordinates of the directions, without those that depend on earlier
        # columns up to rounding.
        Q, R = torch.linalg.qr(Z.T)
        Q = Q[:, R.diagonal().abs() > 1e-8 * R.abs().max()][:, :capacity_left]
        if not Q.shape[1]:
            return False
        for x in Q.T.to(self._G) @ self._G:
            self._append(x / norm(x))
        block = self.C[:old_size] @ Q
        self.T[:old_size, old_size : self.size], self.T[old_size : self.size, :old_size] = block, block.T
        complement = torch.linalg.svd(Q)[0][:, Q.shape[1] :]
        self._G = complement.T.to(self._G) @ self._G
        self.C, self.width = self.C @ complement, complement.shape[1]
        self._multiply(old_size)
        return self.size > old_size

    def insert(self, X: Float[Tensor, "b D"]) -> bool:
        """Adds the components of the rows of X that are orthogonal to V to any basis, for one product each;
        returns False if nothing was added. What products with earlier vectors say of a row q, T takes from G
        and C: v_i.A q = q.A v_i = (G q).C_i."""
        added, self.is_single = False, False
        for x in X[: self.capacity - self.size]:
            q = orthonormal(x, self.V)
            if q is None:
                continue
            old_size, overlap = self.size, dots(self._G, q[None])[:, 0]
            self._append(q)
            block = self.C[:old_size] @ overlap
            self.T[:old_size, old_size], self.T[old_size, :old_size] = block, block
            self._leave(q, overlap)
            self._multiply(old_size)
            added = True
        return added

    def _leave(self, q: Tensor, overlap: Float64[Tensor, " p"]) -> None:
        """Makes the rows of G orthogonal to the unit vector q, with which they have this overlap. In a
        rotation of G one row alone overlaps."""
        length = float(overlap.norm())
        if not self.width or length <= torch.finfo(q.dtype).eps:
            return
        Q = torch.linalg.svd(overlap[:, None])[0]  # its first column is along the overlap
        G, self.C = Q.T.to(self._G) @ self._G, self.C @ Q
        left = G[0] - dots(G[:1], q[None])[0, 0].to(q) * q
        length = norm(left)
        unit = orthonormal(left, torch.cat([self.V, G[1:]]))  # what rounding left in these is large beside it
        # else q is that row, up to rounding
        if unit is not None and length > torch.finfo(q.dtype).eps ** 0.5:
            self._G = torch.cat([unit[None], G[1:]])
            self.C[:, 0] *= length
        else:
            self._G, self.C, self.width = G[1:], self.C[:, 1:], self.width - 1

    def ritz(self) -> tuple[Float64[Tensor, " m"], Float64[Tensor, "m m"]]:
        """The Ritz values theta [m], largest first, and the matching eigenvectors of T as rows [m, m]."""
        T = self.T[: self.size, : self.size]
        theta, Y = torch.linalg.eigh((T + T.T) / 2)
        return theta.flip(0), Y.T.flip(0)

    def residuals(self, Y: Float64[Tensor, "q m"]) -> Float64[Tensor, "q p"]:
        """The residuals Y C of the Ritz vectors Y V, in the coordinates of G."""
        return Y @ self.C[: self.size]

    def restart(self, Y: Float64[Tensor, "q m"], theta: Float64[Tensor, " q"]) -> None:
        """Replaces the basis by the q Ritz vectors Y V with values theta. The decomposition stays exact, and
        with it the residuals of these vectors."""
        C = self.residuals(Y)
        self._V.replace(Y.to(self.V) @ self.V)
        self.T.zero_()
        self.C.zero_()
        self.T[: self.size, : self.size] = torch.diag(theta)
        self.C[: self.size] = C
        self.restarted = True

    def _append(self, x: Tensor) -> None:
        """Appends the unit vector x [D] to V, doubling the allocated rows if they are all in use."""
        self._V.append(x[None])
        extra = self._V.allocated - len(self.T)
        if extra:
            self.T, self.C = pad(self.T, (0, extra, 0, extra)), pad(self.C, (0, 0, 0, extra))

    def _multiply(self, first: int) -> None:
        """Multiplies the basis vectors from index `first` on by A. The components of the products in V go to
        T (the rows above `first` hold theirs already, by symmetry), the remainders to G and C."""
        if self.size == first:
            return
        images = self.matvec(self.V[first : self.size])
        self.products += self.size - first
        for j, x in enumerate(images, first):
            length = finite(norm(x))
            negligible = DEPENDENT_EPS * torch.finfo(x.dtype).eps * length
            in_V, in_G = self._expected(j, first, x, negligible), self.T.new_zeros(self.width)
            x = _without(x, self.V, in_V)
            length = norm(x)
            for _ in range(MAX_PASSES):
                a, b = dots(self.V, x[None])[:, 0], dots(self._G, x[None])[:, 0]
                x = torch.addmv(x, self.V.T, a.to(x), alpha=-1)
                if self.width:
                    x = torch.addmv(x, self._G.T, b.to(x), alpha=-1)
                in_V, in_G = in_V + a, in_G + b
                length, previous_length = norm(x), length
                if length > REORTHOGONALIZE_BELOW * previous_length or length <= negligible:
                    break
            # what earlier products say of the same entries
            self.asymmetry = max(self.asymmetry, float((in_V[:first] - self.T[:first, j]).norm()))
            self.T[first : self.size, j] = in_V[first:]
            self.C[j] = in_G
            if length > negligible:
                self._G = torch.cat([self._G, (x / length)[None]])
                self.C = torch.cat([self.C, self.C.new_zeros(len(self.C), 1)], 1)
                self.C[j, -1] = length
                self.width += 1
        block = self.T[first : self.size, first : self.size]
        self.asymmetry = max(self.asymmetry, float((block - block.T).norm(dim=0).max()))

    def _expected(
        self, j: int, first: int, image: Float[Tensor, " D"], negligible: float
    ) -> Float64[Tensor, " m"]:
        """The components of the product with v_j in V that are known before a pass over V: those that earlier
        products say by symmetry, and those in the vectors that are multiplied with it. In Lanczos's steps two
        of them are not zero; once they are subtracted a single pass over V is enough."""
        out = self.T.new_zeros(self.size)
        out[:first] = self.T[:first, j]
        out[first:] = dots(self.V[first:], image[None])[:, 0]
        return torch.where(out.abs() > negligible, out, 0.0)


def _without(
    x: Float[Tensor, " D"], V: Float[Tensor, "m D"], c: Float64[Tensor, " m"]
) -> Float[Tensor, " D"]:
    """x - c V, by no more rows of V than those from the first to the last c_i that is not zero."""
    rows = c.nonzero().flatten().tolist()
    if not rows:
        return x
    part = slice(rows[0], rows[-1] + 1)
    return torch.addmv(x, V[part].T, c[part].to(x), alpha=-1)


def orthonormal(x: Float[Tensor, " D"], V: Float[Tensor, "m D"]) -> Float[Tensor, " D"] | None:
    """The unit vector along the component of x that is orthogonal to the orthonormal rows of V; None if that
    component is zero up to rounding. Raises FloatingPointError if x is not finite."""
    length = finite(norm(x))
    negligible = DEPENDENT_EPS * torch.finfo(x.dtype).eps * length
    for _ in range(MAX_PASSES):
        if len(V):
            x = torch.addmv(x, V.T, dots(V, x[None])[:, 0].to(x), alpha=-1)
        length, previous_length = norm(x), length
        if length > REORTHOGONALIZE_BELOW * previous_length or length <= negligible:
            break
    return x / length if length > negligible else None


def dots(A: Float[Tensor, "m D"], B: Float[Tensor, "p D"]) -> Float64[Tensor, "m p"]:
    """The inner products A B^T, in float64 and on the CPU, for rows of any length D.

    Products of `SUM_LENGTH` entries are summed in the tensors' own precision and the partial sums in float64:
    over 10^6 entries a float32 matrix product was seen to lose 3e-5.
    """
    m, p, D = len(A), len(B), A.shape[1]
    if not m or not p:
        return torch.zeros(m, p, dtype=torch.float64)
    if m > p:  # the fewer rows first: on a processor that takes little more than half of the time
        return dots(B, A).T
    chunked = D - D % SUM_LENGTH  # entries in chunks of that length; the remainder is one shorter chunk
    products = (A[:, chunked:] @ B[:, chunked:].T).double()
    if chunked:
        a, b = (X[:, :chunked].unflatten(1, (-1, SUM_LENGTH)).transpose(0, 1) for X in (A, B))
        products = products + torch.bmm(a, b.transpose(1, 2)).double().sum(0)
    return added(products).to("cpu")


def norm(x: Float[Tensor, "*shape"]) -> float:
    """The Euclidean norm |x|, summed as `dots`."""
    row = x.flatten()[None]
    return float(dots(row, row)) ** 0.5


def finite(x: float) -> float:
    """The number x, computed from a product; raises FloatingPointError if it is infinite or no number."""
    if not math.isfinite(x):
        raise FloatingPointError("a product with the matrix is not finite")
    return x
