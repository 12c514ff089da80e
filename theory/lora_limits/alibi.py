"""Linear position biases: a head adds slope·(j - i) to the logit of query i and key j.

O. Press et al., "ALiBi", arXiv 2108.12409. They belong to logits and ranges, not to entry norms.
"""

from __future__ import annotations

import numpy as np

from theory.lora_limits.arrays import Array, Positions
from theory.lora_limits.logits import AdditiveBias


def alibi_slopes(n_heads: int) -> Array:
    """(n_heads,) 2^(-8/n), 2^(-16/n), … for n a power of two.

    Of other numbers the largest power of two below gives the first slopes, and every other one of
    the next power's the rest. Raises ValueError for fewer than one head.
    """
    if n_heads < 1:
        raise ValueError(f"the number of heads must be at least 1, got {n_heads}")
    below = 1 << (n_heads.bit_length() - 1)
    first = _geometric(below)
    return np.concatenate([first, _geometric(2 * below)[::2][: n_heads - below]])


def alibi(slope: float) -> AdditiveBias:
    """The bias of one head, zero for a query's own key."""

    def bias(queries: Positions, keys: Positions) -> Array:
        return slope * (keys[None, :] - queries[:, None]).astype(np.float64)

    return bias


def _geometric(count: int) -> Array:
    return np.exp2(-8.0 / count * np.arange(1, count + 1), dtype=np.float64)
