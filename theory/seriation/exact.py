"""The shortest Hamiltonian path of a few points, exactly.

M. Held & R. M. Karp, "A Dynamic Programming Approach to Sequencing Problems", J. SIAM 10, 1962.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_POINTS = 12


def shortest_path(distances: ArrayLike) -> NDArray[np.intp]:
    """(n,) order of the least length, of at most 12 points; O(2ⁿ n²).

    Shortest paths through a set that end in a given point, for all sets of one size at a time; of
    equal ones the first. Raises ValueError for more points.
    """
    matrix = np.asarray(distances, dtype=np.float64)
    n = len(matrix)
    if n > MAX_POINTS:
        raise ValueError(f"{n} points are more than {MAX_POINTS}, which an exact path can have")
    if n <= 1:
        return np.arange(n)
    sets = np.arange(1 << n)
    size = sum((sets >> bit) & 1 for bit in range(n))
    length = np.full((1 << n, n), np.inf)  # set, end → length
    previous = np.zeros((1 << n, n), dtype=np.intp)
    length[1 << np.arange(n), np.arange(n)] = 0.0
    for count in range(1, n):
        ends = sets[size == count]
        longer = length[ends][:, :, None] + matrix  # set, end, next
        best = np.argmin(longer, axis=1)
        for point in range(n):
            free = (ends >> point) & 1 == 0
            grown = ends[free] | (1 << point)
            length[grown, point] = longer[free, best[free, point], point]
            previous[grown, point] = best[free, point]
    order = [int(np.argmin(length[-1]))]
    visited = (1 << n) - 1
    while visited != 1 << order[-1]:
        before = int(previous[visited, order[-1]])
        visited ^= 1 << order[-1]
        order.append(before)
    return np.array(order, dtype=np.intp)
