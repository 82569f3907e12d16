"""Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) and spectral descent (Carlson et al. 2015):
steps that stretch every direction of a weight matrix alike."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from sharpcli.errors import Refusal
from sharpcli.landscape.surface import Grad, Layout
from sharpcli.optimizers import Optimizer, State, shaped, started

QUINTIC = (3.4445, -4.7750, 2.0315)  # of the Newton-Schulz iteration; Jordan et al.'s


@dataclass(frozen=True)
class Muon:
    """For every weight matrix W [a, b], a kernel [a, ...] taken as one: V <- beta V + (1 - beta) G and W <- W
    - lr max(1, a / b)^(1/2) P, where P is the orthogonal polar factor of V (U V^T of its singular value
    decomposition), or of (1 - beta) G + beta V for `nesterov`. P is approximated by `newton_schulz` rounds of
    a quintic iteration, as `torch.optim.Muon` does, whose 5 rounds take every singular value above 0.003 |V|
    to one between 0.68 and 1.21; 0 rounds take P exactly. beta = 0 with 0 rounds is spectral descent,
    steepest in the spectral norm, but for its length.

    Vectors and single numbers follow the rule `base` with the step size lr base_lr. The state is (V [D of the
    matrices], those of the base). It follows no gradient flow, and no edge is known.

    Refuses beta outside [0, 1), newton_schulz below 0, base_lr below 0, and weights without a matrix.
    """

    beta: float
    nesterov: bool
    newton_schulz: int
    base_lr: float
    base: Optimizer
    layout: Layout = field(init=False, default=())

    def __post_init__(self) -> None:
        if not (0 <= self.beta < 1 and self.newton_schulz >= 0 and self.base_lr >= 0):
            raise Refusal(
                f"optimizer.beta={self.beta} newton_schulz={self.newton_schulz} base_lr={self.base_lr}: beta "
                f"at least 0 and below 1, the others at least 0"
            )

    def shaped(self, layout: Layout) -> Self:
        """The rule for weights that are the concatenation of these tensors."""
        if not any(len(shape) > 1 for _, shape in layout):
            raise Refusal(
                "optimizer=muon: the weights of this problem are no matrices; take optimizer=momentum, or a "
                "problem with matrices"
            )
        out = copy.copy(self)
        vectors = tuple((name, shape) for name, shape in layout if len(shape) < 2)
        object.__setattr__(out, "layout", layout)
        object.__setattr__(out, "base", shaped(self.base, vectors) if vectors else self.base)
        return out

    def init(self, w: Tensor) -> State:
        matrices, vectors = self._parts(w)
        return torch.zeros_like(torch.cat(matrices)), *started(self.base, _joined(vectors, w))

    def step(self, w: Tensor, state: State, grad: Grad, lr: float) -> tuple[Tensor, State]:
        g = grad(w)
        (ours, others), (weights, rest) = self._parts(g), self._parts(w)
        gradient = torch.cat(ours)
        V = self.beta * state[0] + (1 - self.beta) * gradient
        towards = (1 - self.beta) * gradient + self.beta * V if self.nesterov else V
        shapes = [shape for _, shape in self.layout if len(shape) > 1]
        pieces = towards.split([shape.numel() for shape in shapes])
        moved = [
            W
            - lr
            * max(1.0, shape[0] / shape[1:].numel()) ** 0.5
            * self._polar(piece.view(shape[0], -1)).flatten()
            for W, piece, shape in zip(weights, pieces, shapes, strict=True)
        ]
        vectors, of_vectors = _joined(rest, w), _joined(others, w)

        def grad_of_vectors(at: Tensor) -> Tensor:
            if at is vectors:
                return of_vectors
            return _joined(self._parts(grad(self._whole(weights, at)))[1], w)

        after, base_state = self.base.step(vectors, state[1:], grad_of_vectors, lr * self.base_lr)
        return self._whole(moved, after), (V, *base_state)

    def flow_step(self, lr: float) -> None:
        """None: it follows no gradient flow."""

    def _parts(self, w: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The matrices of w, and the other tensors, each flat."""
        pieces = w.split([shape.numel() for _, shape in self.layout])
        both = list(zip(pieces, self.layout, strict=True))
        matrices = [piece for piece, (_, shape) in both if len(shape) > 1]
        return matrices, [piece for piece, (_, shape) in both if len(shape) < 2]

    def _whole(self, matrices: Sequence[Tensor], vectors: Tensor) -> Tensor:
        """The weights [D] of these matrices and vectors: `_parts` the other way round."""
        ours, others = iter(matrices), iter(vectors.split([s.numel() for _, s in self.layout if len(s) < 2]))
        return torch.cat([next(ours) if len(shape) > 1 else next(others) for _, shape in self.layout])

    def _polar(self, V: Tensor) -> Tensor:
        """The orthogonal polar factor of V [a, b]; 0 in directions in which V is 0."""
        if self.newton_schulz == 0:
            U, sizes, Vh = torch.linalg.svd(V, full_matrices=False)
            kept = sizes > sizes.max() * max(V.shape) * torch.finfo(V.dtype).eps
            return (U * kept.to(U)) @ Vh
        a, b, c = QUINTIC
        X = V.T if V.shape[0] > V.shape[1] else V
        X = X / X.norm().clamp_min(1e-7)
        for _ in range(self.newton_schulz):
            gram = X @ X.T
            X = a * X + (b * gram + c * gram @ gram) @ X
        return X.T if V.shape[0] > V.shape[1] else X


def _joined(pieces: list[Tensor], like: Tensor) -> Tensor:
    return torch.cat(pieces) if pieces else like[:0]
