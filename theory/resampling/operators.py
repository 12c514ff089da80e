"""Operators E (m, n) that resample n channels at m positions; every row sums to 1.

Rows that sum to 1 keep constants, and m = n gives the identity. Position j of the result is
u_j = (j + ½)/m, which is the fractional channel u_j·n - ½ of the source. Local operators are sparse
(a few entries a row), so that applying one to (n, d) weights costs O(m d) and not O(m n d).
Continuous weights: K. Solodskikh et al., "Integral Neural Networks", CVPR 2023, section 3.
"""

from __future__ import annotations

from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Array = NDArray[np.float64]
Operator: TypeAlias = Array | sparse.csr_array

# Keys' kernel with the free parameter of the usual image resamplers.
_CUBIC_A = -0.75


def area(n: int, m: int) -> sparse.csr_array:
    """E_ji = |cell j of m ∩ cell i of n|·m, the mean of the source over each new cell.

    Overlaps are counted in units of 1/(nm), in integers. Raises ValueError for n or m below 1.
    """
    _check_widths(n, m)
    first = np.arange(m) * n // m
    reach = -(-n // m) + 1  # source cells that one new cell can touch
    rows = np.repeat(np.arange(m), reach)
    columns = (first[:, None] + np.arange(reach)).ravel()
    overlap = np.minimum((rows + 1) * n, (columns + 1) * m) - np.maximum(rows * n, columns * m)
    return _assembled(rows, columns, overlap / n, (m, n), keep=overlap > 0)


def linear(n: int, m: int) -> sparse.csr_array:
    """Linear interpolation between cell centres, constant beyond the outermost ones.

    Raises ValueError for n or m below 1.
    """
    _check_widths(n, m)
    position = np.clip((np.arange(m) + 0.5) * n / m - 0.5, 0.0, n - 1.0)
    left = np.minimum(np.floor(position).astype(np.int64), max(n - 2, 0))
    part = position - left
    rows = np.tile(np.arange(m), 2)
    columns = np.minimum(np.concatenate([left, left + 1]), n - 1)
    return _assembled(rows, columns, np.concatenate([1.0 - part, part]), (m, n))


def cubic(n: int, m: int) -> sparse.csr_array:
    """Cubic convolution on four cell centres; beyond the border the outermost value repeats.

    R. Keys, IEEE Trans. ASSP 29, 1981, eq. 4 with a = -3/4. Raises ValueError for n or m below 1.
    """
    _check_widths(n, m)
    position = (np.arange(m) + 0.5) * n / m - 0.5
    centre = np.floor(position).astype(np.int64)
    columns = centre[:, None] + np.arange(-1, 3)
    weights = _keys_kernel(np.abs(position[:, None] - columns))
    rows = np.repeat(np.arange(m), 4)
    return _assembled(rows, np.clip(columns, 0, n - 1).ravel(), weights.ravel(), (m, n))


def dct(n: int, m: int) -> Array:
    """E = Φ_m Φ_nᵀ/n with min(n, m) cosines: exact for every cosine both grids can hold.

    Dense. Raises ValueError for n or m below 1.
    """
    _check_widths(n, m)
    count = min(n, m)
    return cosines(m, count) @ cosines(n, count).T / n


def cosines(n: int, count: int) -> Array:
    """Φ (n, count): φ_0 = 1, φ_k(u) = √2 cos(πku) at the n cell centres; ΦᵀΦ = n·I for count ≤ n.

    The phase k(2a + 1) is reduced modulo 4n in integers, so that high orders stay exact.
    """
    phase = np.outer(2 * np.arange(n) + 1, np.arange(count)) % (4 * n)
    basis = np.sqrt(2.0) * np.cos(np.pi * phase / (2 * n))
    basis[:, 0] = 1.0
    return basis


def subsample(n: int, m: int) -> sparse.csr_array:
    """Channel floor((j + ½)n/m): the cell that the new centre falls in.

    Raises ValueError for n or m below 1.
    """
    _check_widths(n, m)
    return selection((2 * np.arange(m) + 1) * n // (2 * m), n)


def merge(labels: NDArray[np.integer], weights: NDArray[np.floating]) -> sparse.csr_array:
    """Weighted mean of each part of a partition: E_ci = w_i/Σ_{label c} w.

    labels (n,) in 0..m-1, every one used; weights (n,) ≥ 0. A part whose weights are all 0 gets
    its plain mean. Raises ValueError for an empty part or a negative or non-finite weight.
    """
    labels, w = np.asarray(labels), np.asarray(weights, dtype=np.float64)
    if labels.shape != w.shape or labels.ndim != 1 or labels.size == 0:
        raise ValueError(f"one weight for each label, got {w.shape} for {labels.shape}")
    if not np.all(np.isfinite(w) & (w >= 0.0)):
        raise ValueError("merge weights must be finite and not negative")
    if labels.min() < 0 or not np.all(sizes := np.bincount(labels)):
        raise ValueError(f"labels must use every value in 0..{labels.max()}")
    total = np.bincount(labels, weights=w)
    shares = np.where(total[labels] > 0.0, w, 1.0) / np.where(total > 0.0, total, sizes)[labels]
    return _assembled(labels, np.arange(labels.size), shares, (sizes.size, labels.size))


def selection(indices: NDArray[np.integer], n: int) -> sparse.csr_array:
    """Row j takes source channel indices[j] of n. Raises ValueError for an index outside 0..n-1."""
    chosen = np.asarray(indices)
    if chosen.size == 0 or chosen.min() < 0 or chosen.max() >= n:
        raise ValueError(f"channel indices must lie in 0..{n - 1}")
    return _assembled(np.arange(chosen.size), chosen, np.ones(chosen.size), (chosen.size, n))


def shape(operator: Operator) -> tuple[int, int]:
    """(m, n), which sparse arrays leave untyped."""
    return cast(tuple[int, int], operator.shape)


def _keys_kernel(distance: Array) -> Array:
    """h(x) for x ≥ 0: two cubics, on [0, 1] and on [1, 2]."""
    a, x = _CUBIC_A, distance
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = a * (((x - 5.0) * x + 8.0) * x - 4.0)
    return np.where(x <= 1.0, near, np.where(x < 2.0, far, 0.0))


def _assembled(
    rows: NDArray[np.integer],
    columns: NDArray[np.integer],
    values: Array,
    size: tuple[int, int],
    keep: NDArray[np.bool_] | None = None,
) -> sparse.csr_array:
    """CSR matrix of the entries; those at one place are added."""
    keep = values != 0.0 if keep is None else keep
    return sparse.csr_array(
        sparse.coo_array((values[keep], (rows[keep], columns[keep])), shape=size)
    )


def _check_widths(n: int, m: int) -> None:
    if n < 1 or m < 1:
        raise ValueError(f"a width must be at least 1, got {n} -> {m}")
