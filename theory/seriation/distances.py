"""Distances between the rows of a matrix: all of them, the nearest, or those of given pairs.

``l1`` Σ|x-y| is what total variation adds up, ``l2`` is Euclidean and comes from Gram matrices.
With `weights` a (one a row) the distance is (a_i + a_j)/2 · ‖w_i - w_j‖₂: how much a unit's outputs
weigh times how much its inputs differ.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

Metric = Literal["l1", "l2"]
Floats = NDArray[np.floating]
Indices = NDArray[np.intp]

MAX_DENSE = 8192
_BLOCK = 1024
_FLOAT32_FROM = 4096  # rows from which a matrix of all distances is held in float32
_PAIRED = 1 << 20  # entries of differences that are held at once


class Distances(Protocol):
    """Distances among points 0 … n-1 and a dummy n at distance 0 from all."""

    @property
    def n(self) -> int: ...

    def pairs(self, i: Indices, j: Indices) -> NDArray[np.float64]:
        """Distances of i from j, element by element."""
        ...


class DenseDistances:
    """All distances, held as a matrix."""

    def __init__(self, matrix: Floats) -> None:
        self.n = len(matrix)
        self.padded = np.zeros((self.n + 1, self.n + 1), dtype=matrix.dtype)
        self.padded[:-1, :-1] = matrix

    def pairs(self, i: Indices, j: Indices) -> NDArray[np.float64]:
        return self.padded[i, j].astype(np.float64, copy=False)


class RowDistances:
    """Distances computed from the rows when asked for; `x` (n, d)."""

    def __init__(self, x: Floats, metric: Metric = "l1", weights: Floats | None = None) -> None:
        self.n = len(x)
        self.x, self.metric, self.weights = x, metric, weights

    def pairs(self, i: Indices, j: Indices) -> NDArray[np.float64]:
        i, j = np.broadcast_arrays(i, j)
        result = np.zeros(i.shape)
        real = np.flatnonzero((i.ravel() < self.n) & (j.ravel() < self.n))
        step = max(1, _PAIRED // self.x.shape[1])
        for begin in range(0, real.size, step):
            at = real[begin : begin + step]
            a, b = i.ravel()[at], j.ravel()[at]
            gap = self.x[a] - self.x[b]
            if self.metric == "l1":
                found = np.abs(gap, out=gap).sum(axis=1, dtype=np.float64)
            else:
                found = np.sqrt(np.einsum("ij,ij->i", gap, gap))
            if self.weights is not None:
                found = found * (self.weights[a] + self.weights[b]) / 2
            result.ravel()[at] = found
        return result


def distance_matrix(
    blocks: Iterable[Floats], n: int, metric: Metric = "l1", weights: Floats | None = None
) -> Floats:
    """(n, n) distances of rows whose columns come in blocks (n, d_b); symmetric, diagonal 0.

    float64, or float32 from 4096 rows on. Raises ValueError for more than 8192 rows, or where a
    block has another number of rows.
    """
    if n > MAX_DENSE:
        raise ValueError(f"{n} points are more than {MAX_DENSE}: take their nearest neighbours")
    total = np.zeros((n, n), dtype=np.float64 if n < _FLOAT32_FROM else np.float32)
    for block in blocks:
        if block.shape[0] != n:
            raise ValueError(f"a block has {block.shape[0]} rows, not {n}")
        for rows in _ranges(n):
            for columns in _ranges(n, rows.start):
                part = _between(block[rows], block[columns], metric)
                total[rows, columns] += part
                if columns.start > rows.start:
                    total[columns, rows] += part.T
    if metric == "l2":
        np.sqrt(total, out=total)
    if weights is not None:
        total *= ((weights[:, None] + weights) / 2).astype(total.dtype)
    np.fill_diagonal(total, 0.0)
    return total


def nearest(matrix: Floats, k: int) -> Indices:
    """(n, k) the k nearest other points of every point, by distance and then by number."""
    n = len(matrix)
    k = min(k, n - 1)
    found = np.empty((n, k), dtype=np.intp)
    for rows in _ranges(n):
        found[rows] = _smallest(matrix[rows].copy(), rows.start, k)
    return found


def nearest_rows(
    x: Floats, k: int, metric: Metric = "l1", weights: Floats | None = None
) -> tuple[Indices, float]:
    """As `nearest`, of the rows of x, and the sum of all n² distances, a block at a time."""
    n = len(x)
    k = min(k, n - 1)
    found = np.empty((n, k), dtype=np.intp)
    total = 0.0
    for rows in _ranges(n):
        part = np.concatenate([_between(x[rows], x[c], metric) for c in _ranges(n)], axis=1)
        if metric == "l2":
            np.sqrt(part, out=part)
        if weights is not None:
            part *= (weights[rows, None] + weights) / 2
        total += float(part.sum(dtype=np.float64))
        found[rows] = _smallest(part, rows.start, k)
    return found, total


def _smallest(part: Floats, start: int, k: int) -> Indices:
    """Columns of the k smallest of every row, without row `start` + i's own; overwrites `part`."""
    own = np.arange(len(part))
    part[own, start + own] = np.inf
    columns = np.sort(np.argpartition(part, k - 1, axis=1)[:, :k], axis=1)
    nearby = np.take_along_axis(part, columns, axis=1)
    by_distance = np.argsort(nearby, axis=1, kind="stable")
    return np.take_along_axis(columns, by_distance, axis=1)


def _between(a: Floats, b: Floats, metric: Metric) -> Floats:
    """Σ|x-y|, or for l2 Σ(x-y)², of all rows of a and b."""
    if metric == "l1":
        return cdist(a, b, "cityblock")
    sizes = np.einsum("ij,ij->i", a, a)[:, None] + np.einsum("ij,ij->i", b, b)
    squares = sizes - 2.0 * (a @ b.T)
    # What cancellation leaves of |x - y|² is good to √ε/8; where less is left, from x - y itself.
    close = np.nonzero(squares < 8.0 * np.sqrt(np.finfo(squares.dtype).eps) * sizes)
    step = max(1, _PAIRED // a.shape[1])
    for begin in range(0, close[0].size, step):
        i, j = (index[begin : begin + step] for index in close)
        gap = a[i] - b[j]
        squares[i, j] = np.einsum("ij,ij->i", gap, gap)
    return squares


def _ranges(n: int, start: int = 0) -> list[slice]:
    return [slice(at, min(at + _BLOCK, n)) for at in range(start, n, _BLOCK)]
