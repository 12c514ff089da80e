"""Checked float64 arrays, so that a refusal names the tensor and the shape."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Positions = NDArray[np.intp]


def finite_matrix(values: ArrayLike, name: str, columns: int | None = None) -> Array:
    """(n, m) in float64. Raises ValueError if not two-dimensional, empty, of the wrong width or
    not finite."""
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"{name} must be a non-empty matrix, got shape {matrix.shape}")
    if columns is not None and matrix.shape[1] != columns:
        raise ValueError(f"{name} must have {columns} columns, got shape {matrix.shape}")
    return _finite(matrix, name)


def finite_vector(values: ArrayLike, name: str, size: int | None = None) -> Array:
    """(n,) in float64. Raises ValueError if empty, of another shape or not finite."""
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1 or vector.size == 0 or (size is not None and vector.size != size):
        wanted = "a non-empty vector" if size is None else f"of shape ({size},)"
        raise ValueError(f"{name} must be {wanted}, got shape {vector.shape}")
    return _finite(vector, name)


def kept_positions(length: int, padded: ArrayLike | None, name: str) -> Positions:
    """Positions that `padded` (length,) does not mark, ascending. Raises ValueError if none are."""
    if padded is None:
        return np.arange(length)
    marks = np.asarray(padded)
    if marks.dtype != np.bool_ or marks.shape != (length,):
        raise ValueError(
            f"padding of the {name} must be boolean of shape ({length},), got {marks.dtype} of "
            f"shape {marks.shape}"
        )
    kept = np.flatnonzero(~marks)
    if kept.size == 0:
        raise ValueError(f"all {length} {name} are padded")
    return kept


def positive(value: float, name: str) -> float:
    """Raises ValueError unless 0 < value < ∞."""
    if not 0.0 < value < np.inf:
        raise ValueError(f"{name} must be finite and positive, got {value}")
    return float(value)


def _finite(array: Array, name: str) -> Array:
    if not np.isfinite(array).all():
        raise ValueError(f"{name} contains NaN or infinity")
    return array
