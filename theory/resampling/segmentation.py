"""The best contiguous cut of an ordered path of channels, for merging along one order.

One order then gives a whole family of widths. The error is that of `theory.resampling.merging`;
the exact optimum over contiguous parts is R. Bellman's dynamic programme (Comm. ACM 4, 1961).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from theory.resampling.merging import Labels, checked_features, squared_distances
from theory.resampling.operators import Array


def path_segments(features: ArrayLike, weights: ArrayLike, parts: int) -> Labels:
    """Labels (n,), ascending, of the contiguous segments with the smallest weighted error.

    Rows of `features` (n, d) in path order, weights (n,). With f_k(j) the least error of the first
    j channels in k segments, f_k(j) = min_i f_{k-1}(i) + cost(i, j); since j lies in
    k..n - parts + k, it takes O(parts·(n - parts)²) steps, and memory for a few (n, n) arrays.
    Raises ValueError unless 1 ≤ parts ≤ n and all is finite, weights not negative.
    """
    X, w = checked_features(features, weights, parts)
    n, free = len(X), len(X) - parts
    cost = segment_costs(X, w)
    reached = cost[0, 1 : free + 2]  # one segment, ending at 1..free + 1
    starts = np.zeros((parts, free + 1), dtype=np.int64)
    for k in range(1, parts):
        # starts k.., ends k + 1..; infinite costs exclude an end at or before its start
        total = reached[:, None] + cost[k : k + free + 1, k + 1 : k + free + 2]
        starts[k] = np.argmin(total, axis=0)
        reached = total[starts[k], np.arange(free + 1)]
    labels, end = np.empty(n, dtype=np.int64), free
    for k in range(parts - 1, -1, -1):
        start = int(starts[k, end])
        labels[k + start : k + end + 1] = k
        end = start
    return labels


def segment_costs(features: Array, weights: Array) -> Array:
    """cost (n, n + 1): Σ w‖x - x̄‖² of channels i..j-1 at [i, j], infinite for j ≤ i.

    Computed as Σ_{p<q} w_p w_q ‖x_p - x_q‖²/Σ w over the segment: sums of terms that are not
    negative, so that no digits cancel as they do between running sums of w‖x‖² and w x.
    """
    n = len(features)
    pairs = np.triu(squared_distances(features), 1)
    pairs *= weights[:, None]
    pairs *= weights
    np.cumsum(pairs[::-1], axis=0, out=pairs[::-1])
    np.cumsum(pairs, axis=1, out=pairs)  # now the sum over i ≤ p < q ≤ j
    ends = np.concatenate([[0.0], np.cumsum(weights)])
    mass = ends[1:] - ends[:-1, None]
    np.divide(pairs, mass, out=pairs, where=mass > 0.0)  # a part without weight costs nothing
    cost = np.full((n, n + 1), np.inf)
    np.copyto(cost[:, 1:], pairs, where=np.tri(n, dtype=np.bool_).T)
    return cost
