"""Data-free bound on what a width change does to one hidden layer.

f(x) = Σ_i a_i φ(w̃_i·x̃) with x̃ = (x, 1) becomes f'(x) = Σ_j (Σ_i C_ji a_i) φ(w̃'_j·x̃), w̃' = P w̃.
Writing φ(w̃_i·x̃) = Σ_j C_ji φ(w̃_i·x̃) + (1 - Σ_j C_ji) φ(w̃_i·x̃), the triangle inequality and the
Lipschitz constant of φ give

    ‖f(x) - f'(x)‖ ≤ Lip(φ)·‖x̃‖·Σ_i ‖a_i‖ [Σ_j |C_ji| ‖w̃_i - w̃'_j‖ + |1 - Σ_j C_ji| ‖w̃_i‖].

For a merge C is the indicator of the partition and the bound is Σ_i ‖a_i‖ ‖w̃_i - w̄_c(i)‖. The
second term vanishes wherever the columns of C sum to 1 (merge, area, duplication), and needs
φ(0) = 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from theory.resampling.merging import squared_distances
from theory.resampling.operators import Array, shape
from theory.resampling.width_change import WidthChange, along

# Rounding of n/m·E leaves column sums this far from 1.
_SUM_ROUNDING = 1e-12


def certificate(incoming: ArrayLike, outgoing: ArrayLike, change: WidthChange) -> float:
    """Bound on ‖f - f'‖ per unit of ‖x̃‖ and of the activation's Lipschitz constant.

    incoming (n, d + 1): rows w̃_i, the bias as last column; outgoing (out, n): columns a_i.
    ReLU has constant 1, GELU 1.13, SiLU 1.10. Raises ValueError where shapes do not agree.
    """
    w = np.asarray(incoming, dtype=np.float64)
    a = np.asarray(outgoing, dtype=np.float64)
    _, n = shape(change.producing)
    if w.ndim != 2 or a.ndim != 2 or w.shape[0] != n or a.shape[1] != n:
        raise ValueError(f"{n} channels, got incoming {w.shape} and outgoing {a.shape}")
    size = np.linalg.norm(a, axis=0)
    rest = np.abs(1.0 - np.asarray(change.consuming.sum(axis=0)).ravel())
    rest[rest < _SUM_ROUNDING] = 0.0
    moved = _weighted_distances(change, w, along(change.producing, w, 0))
    return float(size @ (moved + rest * np.linalg.norm(w, axis=1)))


def _weighted_distances(change: WidthChange, old: Array, new: Array) -> Array:
    """Σ_j |C_ji| ‖w̃_i - w̃'_j‖ for each old channel i, over the entries that C has."""
    if not sparse.issparse(change.consuming):
        distance = np.sqrt(squared_distances(new, old))
        return np.sum(np.abs(np.asarray(change.consuming)) * distance, axis=0)
    entries = sparse.coo_array(change.consuming)
    total = np.zeros(old.shape[0])
    step = max(1, 2**22 // old.shape[1])  # differences held at a time: 32 MiB
    for start in range(0, entries.nnz, step):
        part = slice(start, start + step)
        rows, columns = entries.coords[0][part], entries.coords[1][part]
        distance = np.linalg.norm(old[columns] - new[rows], axis=1)
        total += np.bincount(
            columns, weights=np.abs(entries.data[part]) * distance, minlength=total.size
        )
    return total
