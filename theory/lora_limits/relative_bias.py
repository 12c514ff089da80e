"""A learned bias of logits by bucketed distance, as in T5.

C. Raffel et al., arXiv 1910.10683, section 2.1: near distances have a bucket each, far ones share
logarithmic ones up to `max_distance`, beyond which there is one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from theory.lora_limits.arrays import Array, Positions, finite_vector
from theory.lora_limits.logits import AdditiveBias


def distance_buckets(distance: Positions, buckets: int, max_distance: int) -> Positions:
    """Bucket of each distance ≥ 0 among `buckets`; the first half hold one distance each.

    Raises ValueError for fewer than two buckets or a `max_distance` within the first half.
    """
    exact = buckets // 2
    if exact < 1 or max_distance <= exact:
        raise ValueError(f"{buckets} buckets do not reach the distance {max_distance}")
    # float32, as models were trained: a distance at the edge of a bucket depends on it
    share = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    far = exact + (share / np.float32(np.log(max_distance / exact)) * (buckets - exact)).astype(int)
    return np.where(distance < exact, distance, np.minimum(far, buckets - 1))


def relative_bias(values: ArrayLike, max_distance: int, *, two_sided: bool) -> AdditiveBias:
    """The bias of one head from its learned `values` (buckets,).

    `two_sided`: half of the buckets are for keys behind the query, half for keys ahead; otherwise
    keys ahead, which a causal mask hides, count as distance 0.
    """
    table = finite_vector(values, "the learned bias")
    count = table.size // 2 if two_sided else table.size
    distance_buckets(np.zeros(1, dtype=int), count, max_distance)  # raises for a bad table

    def bias(queries: Positions, keys: Positions) -> Array:
        ahead = keys[None, :] - queries[:, None]
        if two_sided:
            bucket = distance_buckets(np.abs(ahead), count, max_distance) + count * (ahead > 0)
        else:
            bucket = distance_buckets(np.maximum(-ahead, 0), count, max_distance)
        return table[bucket]

    return bias
