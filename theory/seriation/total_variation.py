"""How far neighbouring channels differ: total variation, path lengths, and both against chance."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating]


def total_variation(weights: ArrayLike) -> float:
    """Σ|differences along axis 0| + Σ|differences along axis 1|, or along the one axis of a vector.

    Further axes (taps of a kernel) are not differenced. X. Yang & X. Wang, "Neural Metamorphosis",
    arXiv 2410.11878, section 3.3.
    """
    array = np.asarray(weights, dtype=np.float64)
    return sum(float(np.abs(np.diff(array, axis=axis)).sum()) for axis in range(min(array.ndim, 2)))


def path_length(distances: ArrayLike, order: ArrayLike) -> float:
    """Σ_t D[o_t, o_{t+1}] in float64."""
    matrix, order = np.asarray(distances), np.asarray(order, dtype=np.intp)
    return float(matrix[order[:-1], order[1:]].sum(dtype=np.float64))


def mean_path_length(distances: ArrayLike) -> float:
    """Mean length over all orders: (n - 1) times the mean distance of two different points."""
    matrix = np.asarray(distances)
    n = len(matrix)
    return float(matrix.sum(dtype=np.float64)) / n if n > 1 else 0.0


def shuffle_columns(x: Floats, seed: int | tuple[int, ...]) -> Floats:
    """Each column of x in a random order of its own: the same values in every column, and no more
    structure along the rows than chance gives."""
    return np.random.default_rng(seed).permuted(x, axis=0)


def smoothness(ratio: float | None, null_ratio: float | None) -> float | None:
    """1 - ratio/null_ratio: 0 is what chance gives; None where either is not known or 0."""
    return None if ratio is None or not null_ratio else 1.0 - ratio / null_ratio
