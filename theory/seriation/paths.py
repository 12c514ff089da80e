"""The shortest path that can be had: exact for a few points, by local search for more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from theory.seriation.distances import DenseDistances, Metric, RowDistances, nearest, nearest_rows
from theory.seriation.exact import MAX_POINTS, shortest_path
from theory.seriation.local_search import search
from theory.seriation.total_variation import path_length

Floats = NDArray[np.floating]
EXACT, LOCAL = "exact", "2opt+oropt"


@dataclass(frozen=True, slots=True)
class Path:
    """An order and its length; `solver` says whether it is the shortest for certain."""

    order: NDArray[np.intp]
    length: float
    solver: str


def short_path(distances: Floats, *, k: int = 10) -> Path:
    """A short path through points with (n, n) `distances`: exact up to 12 points, beyond by local
    search on the k nearest neighbours. Raises ValueError unless the matrix is square and finite.
    """
    n = len(distances)
    if distances.shape != (n, n):
        raise ValueError(f"distances must be square, not {distances.shape}")
    if not np.isfinite(distances.sum(dtype=np.float64)):
        raise ValueError("distances must be finite")
    if n <= MAX_POINTS:
        order, solver = shortest_path(distances), EXACT
        order = order[::-1].copy() if n and order[0] > order[-1] else order
    else:
        order, solver = search(DenseDistances(distances), nearest(distances, k)), LOCAL
    return Path(order, path_length(distances, order), solver)


def short_path_of_rows(
    x: Floats, metric: Metric = "l1", weights: Floats | None = None, *, k: int = 20
) -> tuple[Path, float]:
    """As `short_path` by local search, of the rows of x, without the matrix of all distances.

    Beside the path comes the mean length over all orders. Raises ValueError below 5 rows.
    """
    distances = RowDistances(x, metric, weights)
    neighbours, total = nearest_rows(x, k, metric, weights)
    order = search(distances, neighbours)
    length = float(distances.pairs(order[:-1], order[1:]).sum())
    return Path(order, length, LOCAL), total / len(x)
