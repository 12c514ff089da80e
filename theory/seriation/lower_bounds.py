"""No path through all points is shorter than these.

M. Held & R. M. Karp, "The Traveling-Salesman Problem and Minimum Spanning Trees", Oper. Res. 18,
1970. A path is a spanning tree; with a dummy point at distance 0 from all it closes to a tour.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def mst_weight(distances: Floats) -> float:
    """Weight of the minimum spanning tree of (n, n) distances."""
    return _tree(distances, np.zeros(len(distances)))[0]


def held_karp(distances: Floats, *, steps: int = 60, decay: float = 0.95) -> float:
    """The best of `steps` 1-tree bounds, and of the minimum spanning tree.

    With a price π_i on each end of an edge a tree changes by Σ deg_i π_i and a path through all
    points and the dummy by 2 Σ π_i: MST(D_ij + π_i + π_j) + the two smallest π - 2 Σ π ≤ path.
    Subgradient steps t(deg - 2), t from 0.1/n of the first bound, times `decay` each.
    """
    n = len(distances)
    if n < 2:
        return 0.0
    prices = np.zeros(n)
    best, step = -np.inf, 0.0
    for count in range(max(steps, 1)):
        weight, degrees = _tree(distances, prices)
        cheapest = np.argsort(prices, kind="stable")[:2]
        degrees[cheapest] += 1  # where the dummy joins
        bound = weight + prices[cheapest].sum() - 2.0 * prices.sum()
        best = max(best, float(bound))
        if count == 0:
            step = 0.1 * weight / n
        if (degrees == 2).all():  # the tree is a path: nothing above it
            break
        prices += step * (degrees - 2)
        step *= decay
    return best


def _tree(distances: Floats, prices: NDArray[np.float64]) -> tuple[float, NDArray[np.intp]]:
    """Weight and degrees of the minimum spanning tree of D_ij + π_i + π_j (R. C. Prim, 1957)."""
    n = len(distances)
    degrees = np.zeros(n, dtype=np.intp)
    nearest = np.full(n, np.inf)  # of points outside, from the tree; ∞ for those inside
    joint = np.zeros(n, dtype=np.intp)
    outside = np.ones(n, dtype=bool)
    weight, point = 0.0, 0
    for _ in range(n - 1):
        outside[point] = False
        nearest[point] = np.inf
        row = distances[point] + prices
        row += prices[point]
        closer = (row < nearest) & outside
        nearest[closer] = row[closer]
        joint[closer] = point
        point = int(np.argmin(nearest))
        weight += float(nearest[point])
        degrees[point] += 1
        degrees[joint[point]] += 1
    return weight, degrees
