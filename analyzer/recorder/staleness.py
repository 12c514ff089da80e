"""How well bases of earlier records fit a gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from analyzer.errors import NonFinite
from analyzer.recorder.schema import Staleness
from analyzer.spectral.warm_start import LeadingSubspace, Side


def ages(
    matrices: Sequence[Tensor],
    side: Side,
    bases: Sequence[Mapping[int, Tensor]],
    found: Sequence[LeadingSubspace | NonFinite],
) -> list[list[Staleness]]:
    """How matrices of one shape and their own bases Q (`found`) fit `bases` P (d, l) by their age.

    One product with all bases of a matrix, (PᵀG, or GP on the right) and QᵀP; the energies in them
    are taken of all matrices at once. Nothing for a matrix that is zero or not finite.
    """
    lines: list[list[Staleness]] = [[] for _ in matrices]
    energies, overlaps = [], []
    columns: list[tuple[LeadingSubspace, list[Staleness], int, int]] = []  # of each basis
    for G, of_one, own, into in zip(matrices, bases, found, lines, strict=True):
        if isinstance(own, NonFinite) or own.fro == 0.0 or not of_one:
            continue
        A = G if side == "left" else G.T
        P = torch.cat([basis.to(A) for basis in of_one.values()], dim=1)
        energies.append(P.T @ A)
        overlaps.append(P.T @ own.basis)
        columns += [(own, into, lag, basis.shape[1]) for lag, basis in of_one.items()]
    if not columns:
        return lines
    starts = np.cumsum([0, *(width for *_, width in columns[:-1])])
    inside, shared = (
        np.add.reduceat(torch.cat(parts).double().square_().sum(1).cpu().numpy(), starts)
        for parts in (energies, overlaps)
    )
    for (own, into, lag, width), energy, both in zip(columns, inside, shared, strict=True):
        into.append(
            Staleness(
                lag_steps=lag,
                captured=min(float(energy) / own.fro**2, 1.0),
                overlap=min(float(both) / min(width, own.sigma.size), 1.0),
            )
        )
    return lines
