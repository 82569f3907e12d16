"""Matching the units of two networks by permutations that leave the function as it is (git re-basin)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sharpcli.landscape.surface import Layout
from sharpcli.landscape.symmetries import Exchangeable

ROUNDS = 100  # passes over the sets of units, which end as soon as none changes


def matched(w: Tensor, to: Tensor, layout: Layout, sets: Sequence[Exchangeable]) -> Tensor:
    """w [D] with its hidden units in the order that brings it nearest to `to` [D], as far as weight matching
    finds it (Ainsworth et al. 2023, arXiv:2209.04836, section 3.2): <to, Pw> is raised set by set of
    exchangeable units, with an assignment each, until none changes. `layout`: the tensors of w."""
    sizes = [shape.numel() for _, shape in layout]
    ours, theirs = ([t.detach().cpu().double() for t in v.split(sizes)] for v in (w, to))
    ours, theirs = ([t.view(s) for t, (_, s) in zip(ts, layout, strict=True)] for ts in (ours, theirs))
    for _ in range(ROUNDS):
        changed = False
        for units in sets:
            similar = torch.zeros(units.size, units.size, dtype=torch.float64)
            for (k, d), at in units.places.items():
                one, other = (
                    t.movedim(d, 0)[at.reshape(-1)].reshape(units.size, -1) for t in (theirs[k], ours[k])
                )
                similar += one @ other.T
            order = np.asarray(linear_sum_assignment(similar.numpy(), maximize=True)[1])
            # a matrix from a set of units to itself makes the gain quadratic: it is computed anew
            moved = reordered(ours, units, order)
            gain = sum(float(((moved[k] - ours[k]) * theirs[k]).sum()) for k in {k for k, _ in units.places})
            if gain > 1e-9 * float(similar.abs().max()):
                ours, changed = moved, True
        if not changed:
            break
    return torch.cat([t.flatten() for t in ours]).to(w)


def reordered(tensors: Sequence[Tensor], units: Exchangeable, order: np.ndarray) -> list[Tensor]:
    """The tensors of a layout where unit `order[i]` of a set has moved to the place of unit i."""
    out = list(tensors)
    for (k, d), at in units.places.items():
        index = np.arange(out[k].shape[d])
        index[at] = at[order]
        out[k] = out[k].index_select(d, torch.from_numpy(index).to(out[k].device))
    return out
