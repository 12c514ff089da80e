"""Inner products of checkpoints, streamed: low-rank updates of one matrix are never made dense
where no checkpoint stores that matrix anew, since ⟨P_i Q_iᵀ, P_j Q_jᵀ⟩ = Σ (P_iᵀP_j) ∘ (Q_iᵀQ_j).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analyzer.checkpoints.stored import StoredTensor
from analyzer.models.manifold.shared import (
    Shared,
    Unchanged,
    change_of,
    deviation,
    numbers,
)
from theory.checkpoint_geometry import centred_gram

Array = NDArray[np.float64]

_BLOCK = 1 << 22  # entries of all checkpoints together that are in memory at once


@dataclass(frozen=True, slots=True)
class Products:
    """Of N deviations δ from a reference r: centred Gram (N, N), ⟨r, δ_i⟩ (N,) and ⟨r, r⟩."""

    gram: Array
    with_reference: Array
    square: float

    @classmethod
    def none(cls, n: int) -> Products:
        return cls(np.zeros((n, n)), np.zeros(n), 0.0)

    def __add__(self, other: Products) -> Products:
        return Products(
            self.gram + other.gram,
            self.with_reference + other.with_reference,
            self.square + other.square,
        )

    def about(self, reference: int) -> Array:
        """⟨δ_i, δ_j⟩, `reference` being the number of the point that is r itself."""
        row = self.gram[reference]
        return self.gram - row - row[:, None] + row[reference]

    def uncentred(self, reference: int) -> Array:
        """⟨r + δ_i, r + δ_j⟩."""
        along = self.with_reference
        return self.about(reference) + along + along[:, None] + self.square


def tensor_products(shared: Shared, tensor: StoredTensor) -> Products:
    """Inner products of all members in one tensor."""
    changes = [change_of(shared, member, tensor) for member in shared.members]
    n = len(changes)
    gram, along, square = np.zeros((n, n)), np.zeros(n), 0.0
    dense = any(change is None or isinstance(change, np.ndarray) for change in changes)
    moved = [i for i, change in enumerate(changes) if not isinstance(change, Unchanged)]
    for rows in _row_blocks(tensor.shape):
        r = numbers(shared.origin, tensor.name, rows)
        block = np.zeros((n if dense else 0, r.size))
        for i in moved:
            delta = deviation(shared, shared.members[i], tensor, changes[i], rows, r)
            along[i] += float(np.vdot(r, delta))
            if dense:
                block[i] = delta.ravel()
        square += float(np.vdot(r, r))
        gram += centred_gram([block]) if dense else 0.0
    if not dense:
        factors = {i: change for i, change in enumerate(changes) if isinstance(change, tuple)}
        for i, (left, right) in factors.items():
            for j, (other_left, other_right) in factors.items():
                gram[i, j] = np.vdot(left.T @ other_left, right.T @ other_right)
        gram = centred(gram)
    return Products(gram, along, square)


def _row_blocks(shape: tuple[int, ...]) -> Iterator[slice | None]:
    """Slices of the first axis; None where there is no axis."""
    if not shape:
        yield None
        return
    step = max(1, _BLOCK // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def centred(gram: Array) -> Array:
    means = gram.mean(axis=0)
    return gram - means - means[:, None] + means.mean()
