"""Symmetric r×r matrices as r(r+1)/2 numbers, one mode at a time.

Second moments S of a function and the core's E[wwᵀ] are symmetric in every mode's pair of axes
once they are contracted with symmetric S of the other modes, so that the sums over entries run over
pairs i ≤ j: 6 numbers in place of 9 a mode at rank 3, 28 in place of 49 at rank 7.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def packed_size(r: int) -> int:
    return r * (r + 1) // 2


def pack(S: Array) -> Array:
    """(…, r, r) → (…, q): the entries i ≤ j."""
    r = S.shape[-1]
    i, j = np.triu_indices(r)
    return S.reshape(*S.shape[:-2], r * r).take(r * i + j, axis=-1)


def unpack(packed: Array, r: int) -> Array:
    """(…, q) → (…, r, r)."""
    return packed.take(_positions(r), axis=-1)


def pack_pairs(square: Array, ranks: Sequence[int]) -> Array:
    """(P, P) → (q_1, …, q_K) such that ⟨square, S¹ ⊗ … ⊗ S^K⟩ = ⟨packed, pack(S¹) ⊗ …⟩.

    P = Π r_k in C order. Entries i < j stand for both orders of their pair.
    """
    K = len(ranks)
    interleaved = [axis for k in range(K) for axis in (k, K + k)]
    out = square.reshape(*ranks, *ranks).transpose(interleaved)
    for k, r in enumerate(ranks):  # axes before k are packed already
        i, j = np.triu_indices(r)
        front = np.moveaxis(out, (k, k + 1), (0, 1))
        both = front[i, j] + front[j, i]
        both[i == j] *= 0.5
        out = np.moveaxis(both, 0, k)
    return out


def unpack_pairs(packed: Array, ranks: Sequence[int]) -> Array:
    """Sums of pack(S¹) ⊗ … ⊗ pack(S^K) (q_1, …, q_K) as the sums of S¹ ⊗ … ⊗ S^K (P, P)."""
    K, P = len(ranks), int(np.prod(ranks))
    out = packed
    for k, r in enumerate(ranks):
        out = np.moveaxis(
            np.moveaxis(out, 2 * k, -1)[..., _positions(r)], (-2, -1), (2 * k, 2 * k + 1)
        )
    return out.transpose([2 * k for k in range(K)] + [2 * k + 1 for k in range(K)]).reshape(P, P)


def halve_off_diagonal(packed: Array, r: int) -> Array:
    """From entries that stand for both orders of their pair (…, q) to the matrix's own."""
    i, j = np.triu_indices(r)
    return packed * np.where(i == j, 1.0, 0.5)


def _positions(r: int) -> NDArray[np.intp]:
    """Where entry (i, j) of a symmetric matrix stands among the packed ones (r, r)."""
    where = np.zeros((r, r), dtype=np.intp)
    i, j = np.triu_indices(r)
    where[i, j] = where[j, i] = np.arange(i.size)
    return where
