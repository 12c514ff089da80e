"""What the entries say about one mode's functions: Λ_s and η_s at every index s.

Entry n sees mode k through a_n = W_(k) ⊗_{j≠k} u^j, and

    Λ_s = Σ_{n at s} τ_n E[a_n a_nᵀ],   η_s = Σ_{n at s} τ_n y_n E[a_n]

(S. Fang et al., "Functional Bayesian Tucker decomposition for continuous-indexed tensor data",
arXiv 2311.04829: the messages of an entry's likelihood, there kept one an entry). Expectations
factorise over modes, and the core is the same for all entries: sum the row-wise Khatri-Rao products
of the other modes' moments over the entries of an index first, and contract the n sums, not the N
entries, with the core. With sorted entries the sum is one sparse product per column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from analyzer.models.funbat.entries import Sorted
from analyzer.models.funbat.packing import halve_off_diagonal, pack, pack_pairs, unpack

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Moments:
    """E[u] and E[uuᵀ] at every index of a mode, the constant 1 first where there is one."""

    mean: Array  # (n, r)
    second: Array  # (n, q), packed


@dataclass(frozen=True, slots=True)
class Sums:
    """Σ_{n at s} over entries: y ⊗_{j≠k} m^j and ⊗_{j≠k} S^j, other modes in ascending order.

    With a diagonal core ⊗ is the elementwise product.
    """

    linear: Array  # (n, Π r_j)
    square: Array  # (n, Π q_j)

    def weighted(self, weights: Array) -> Sums:
        """Row s times weights[s]; weights (n,) or (1,)."""
        return Sums(weights[:, None] * self.linear, weights[:, None] * self.square)


@dataclass(frozen=True, slots=True)
class Core:
    """q(w) = N(mean, cov), prior N(0, v I); w = vec(W) in C order."""

    mean: Array  # W (r_1, …, r_K)
    cov: Array  # (P, P)
    prior_variance: float  # v

    def packed_second_moment(self) -> Array:
        """E[wwᵀ] packed for `pack_pairs`' inner product, (q_1, …, q_K)."""
        w = self.mean.ravel()
        return pack_pairs(self.cov + np.outer(w, w), self.mean.shape)


def moments(mean: Array, cov: Array, constant: bool) -> Moments:
    """From mean (n, r) and cov (n, r, r). `constant` prepends a 1 that is known exactly."""
    if constant:
        n, r = mean.shape
        mean = np.concatenate([np.ones((n, 1)), mean], axis=1)
        widened = np.zeros((n, r + 1, r + 1))
        widened[:, 1:, 1:] = cov
        cov = widened
    return Moments(mean, pack(cov + mean[:, :, None] * mean[:, None, :]))


def sum_entries(
    entries: Sorted,
    mode: int,
    all_moments: Sequence[Moments],
    weights: Array | None,
    diagonal: bool,
) -> Sums:
    """`Sums` of one mode; weights (N,), in the order of `entries`, multiply every entry."""
    add = _hadamard_sums if diagonal else _khatri_rao_sums
    y = entries.values if weights is None else entries.values * weights
    return Sums(
        add(entries, mode, [m.mean for m in all_moments], y),
        add(entries, mode, [m.second for m in all_moments], weights),
    )


def sum_means(
    entries: Sorted,
    mode: int,
    all_moments: Sequence[Moments],
    weights: Array | None,
    diagonal: bool,
) -> Array:
    """Σ_{n at s} weight_n ⊗_{j≠k} m^j: what `Sums.linear` is of values that are all 1."""
    add = _hadamard_sums if diagonal else _khatri_rao_sums
    return add(entries, mode, [m.mean for m in all_moments], weights)


def contract(sums: Sums, core: Core | None, mode: int, rank: int) -> tuple[Array, Array]:
    """Λ (n, r, r) and η (n, r) from weighted sums; `core` None is the superdiagonal of ones."""
    if core is None:
        return unpack(sums.square, rank), sums.linear
    E_w = np.moveaxis(core.mean, mode, -1).reshape(-1, rank)
    E_ww = np.moveaxis(core.packed_second_moment(), mode, -1)
    square = sums.square @ E_ww.reshape(sums.square.shape[1], -1)
    return unpack(halve_off_diagonal(square, rank), rank), sums.linear @ E_w


def _khatri_rao_sums(
    entries: Sorted, mode: int, columns: Sequence[Array], weights: Array | None
) -> Array:
    """Σ_{n at s} weight_n ⊗_{j≠mode} columns_j[row_j(n)]: (n_s, Π c_j).

    The widest other mode stands in the sparse product; the columns of the rest become its data.
    """
    others = [k for k in range(len(columns)) if k != mode]
    widest = max(others, key=lambda k: columns[k].shape[1])
    outer = [k for k in others if k != widest]
    matrix = _entry_matrix(entries, mode, widest, len(columns[widest]))
    by_column = {k: np.ascontiguousarray(columns[k].T) for k in outer}
    sizes = [columns[k].shape[1] for k in outer]
    out = np.empty((*sizes, entries.starts.size - 1, columns[widest].shape[1]))
    for combination in product(*(range(size) for size in sizes)):
        data = weights
        for k, column in zip(outer, combination, strict=True):
            gathered = by_column[k][column][entries.rows[k]]
            data = gathered if data is None else gathered * data
        if data is not None:
            matrix.data = data
        out[combination] = matrix @ columns[widest]
    out = np.moveaxis(out, -1, others.index(widest))
    return np.ascontiguousarray(np.moveaxis(out, -1, 0)).reshape(entries.starts.size - 1, -1)


def _hadamard_sums(
    entries: Sorted, mode: int, columns: Sequence[Array], weights: Array | None
) -> Array:
    """Σ_{n at s} weight_n Π_{j≠mode} columns_j[row_j(n)], elementwise: (n_s, c)."""
    others = [k for k in range(len(columns)) if k != mode]
    inner, outer = others[-1], others[:-1]
    matrix = _entry_matrix(entries, mode, inner, len(columns[inner]))
    out = np.empty((entries.starts.size - 1, columns[inner].shape[1]))
    for column in range(out.shape[1]):
        data = weights
        for k in outer:
            gathered = np.ascontiguousarray(columns[k][:, column])[entries.rows[k]]
            data = gathered if data is None else gathered * data
        if data is not None:
            matrix.data = data
        out[:, column] = matrix @ columns[inner][:, column]
    return out


def _entry_matrix(entries: Sorted, mode: int, other: int, n_other: int) -> csr_array:
    """A sparse (n_mode, n_other) matrix with a one for every entry, repeats kept apart."""
    shape = (entries.starts.size - 1, n_other)
    return csr_array(
        (np.ones(entries.values.size), entries.rows[other], entries.starts), shape=shape
    )
