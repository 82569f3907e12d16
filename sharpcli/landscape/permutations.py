"""Matching the neurons of two networks by permutations that leave the function as it is (git re-basin)."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sharpcli.landscape.surface import Layout

ROUNDS = 100  # passes over the layers, which end as soon as none changes


def matched(w: Tensor, to: Tensor, layout: Layout) -> Tensor | None:
    """w [D] with the neurons of every hidden layer in the order that brings it nearest to `to` [D]: weight
    matching by Ainsworth et al. 2023, arXiv:2209.04836, section 3.2, which raises <to, Pw> layer by layer
    with an assignment each, until none changes.

    None where the layout is no chain of layers, in which each layer's units are the next one's inputs (a
    convolution's channels with all their positions). A network with branches may look like a chain: whoever
    calls compares the outputs.
    """
    layers = _chain(layout)
    if layers is None:
        return None
    sizes = [shape.numel() for _, shape in layout]
    ours, theirs = ([t.detach().cpu().double() for t in v.split(sizes)] for v in (w, to))
    ours, theirs = ([t.view(s) for t, (_, s) in zip(ts, layout, strict=True)] for ts in (ours, theirs))
    orders = [torch.arange(layout[layer[0]][1][0]) for layer in layers[:-1]]
    for _ in range(ROUNDS):
        changed = False
        for i, order in enumerate(orders):
            similar = torch.zeros(len(order), len(order), dtype=torch.float64)
            for k in layers[i]:  # rows: the incoming weights, biases and scales
                mine = _columns(ours[k], orders[i - 1] if i else None, k == layers[i][0])
                similar += theirs[k].reshape(len(order), -1) @ mine.reshape(len(order), -1).T
            k = layers[i + 1][0]  # columns: the outgoing weights
            mine = ours[k] if i + 1 == len(orders) else ours[k][orders[i + 1]]
            mine, other = (_by_input(t, len(order)) for t in (mine, theirs[k]))
            similar += other @ mine.T
            best = torch.from_numpy(np.asarray(linear_sum_assignment(similar.numpy(), maximize=True)[1]))
            gain = similar[range(len(order)), best].sum() - similar[range(len(order)), order].sum()
            if gain > 1e-9 * similar.abs().max():
                orders[i], changed = best, True
        if not changed:
            break
    pieces: list[Tensor] = [t.clone() for t in ours]
    for i, layer in enumerate(layers):
        for k in layer:
            t = _columns(ours[k], orders[i - 1] if i else None, k == layer[0])
            pieces[k] = t if i == len(orders) else t[orders[i]]
    return torch.cat([t.flatten() for t in pieces]).to(w)


def _chain(layout: Layout) -> list[list[int]] | None:
    """For each layer the places of its tensors in the layout: its matrix or kernel, then its vectors. None
    where one does not fit the one before."""
    layers: list[list[int]] = []
    for k, (_, shape) in enumerate(layout):
        if len(shape) > 1:
            if layers and (shape[1] % layout[layers[-1][0]][1][0] or not shape[1]):
                return None
            layers.append([k])
        elif layers and shape[0] == layout[layers[-1][0]][1][0]:
            layers[-1].append(k)
        else:
            return None
    return layers if len(layers) > 1 else None


def _by_input(t: Tensor, inputs: int) -> Tensor:
    """A weight [out, inputs * positions, ...] as [inputs, everything else]."""
    return t.reshape(t.shape[0], inputs, -1).transpose(0, 1).reshape(inputs, -1)


def _columns(t: Tensor, order: Tensor | None, is_matrix: bool) -> Tensor:
    """A weight with its inputs in a new order; vectors as they are."""
    if order is None or not is_matrix:
        return t
    split = t.reshape(t.shape[0], len(order), -1)[:, order]
    return split.reshape(t.shape)
