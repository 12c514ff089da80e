"""How a ratio moves with the length L, for causal models and for Gaussian entries.

In a causal model a prefix of the text gives the same queries and keys, so that one pass over L
tokens holds every shorter length. In a bidirectional model it does not: X changes with the length.
For a fixed norm the threshold √(ln L) grows with L; a running maximum grows too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import erfcx, ndtri

from theory.lora_limits.arrays import Array, positive
from theory.lora_limits.chain import stacked_channel_norms
from theory.lora_limits.logits import head_pair
from theory.lora_limits.thresholds import threshold


def running_maximum(per_token: ArrayLike) -> Array:
    """max over the first n tokens of |values|, n = 1..L; values (L,) or (L, …).

    Of queries (L, d_h) this is gamma_q at each length; of √`RowLogits.largest` with a causal mask,
    gamma_logit. Raises ValueError for no token, NaN or infinity.
    """
    values = np.abs(np.asarray(per_token, dtype=np.float64))
    if values.ndim == 0 or values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"need finite values of at least one token, got shape {values.shape}")
    return np.maximum.accumulate(values.reshape(values.shape[0], -1).max(axis=1))


def prefix_channel_norms(q: ArrayLike, k: ArrayLike, beta: float) -> Array:
    """gamma_chansum, gamma_chan, gamma_bal and gamma_as of each prefix, (4, L).

    q and k (L, d_h) after RoPE, of a causal model. Raises ValueError unless they have one shape and
    finite entries, and β > 0.
    """
    Q, K = head_pair(q, k)
    if Q.shape[0] != K.shape[0]:
        raise ValueError(f"prefixes need as many queries as keys, got {Q.shape[0]}, {K.shape[0]}")
    q_tops = np.maximum.accumulate(np.abs(Q), axis=0)
    k_tops = np.maximum.accumulate(np.abs(K), axis=0)
    return stacked_channel_norms(q_tops, k_tops, positive(beta, "beta"))


def prefix_ratios(norms: ArrayLike, lengths: Sequence[int], c: float = 1.0) -> Array:
    """norms[n - 1]/(c√(ln n)) for each n of `lengths`; norms (L,) of the prefixes 1..L.

    Raises ValueError for a length outside 2..L.
    """
    values = np.asarray(norms, dtype=np.float64)
    if any(not 2 <= n <= values.size for n in lengths):
        raise ValueError(f"lengths must lie in 2..{values.size}, got {list(lengths)}")
    return np.array([values[n - 1] / threshold(n, c) for n in lengths])


def gaussian_crossover(std: float, head_width: int) -> float | None:
    """log₁₀ of the least L > 1 where the median largest |entry| of L·d_h normal ones is √(ln L).

    Solves σ·z(1 - ln 2/(2 L d_h)) = √(ln L), z the normal quantile. An extrapolation that assumes
    independent normal entries. From that length on the ratio is below 1 if σ ≤ 1/√2; if σ > 1/√2 it
    tends to σ√2 > 1, being below 1 over a bounded range of lengths or never, for which the result
    is None. In log₁₀, as L overflows near σ = 1/√2. Raises ValueError unless σ > 0 and d_h ≥ 1.
    """
    sigma = positive(std, "the standard deviation")
    if head_width < 1:
        raise ValueError(f"the head width must be at least 1, got {head_width}")
    # With z as the unknown, ln L = -ln(tail(z)) - offset: the excess over σ²z² = ln L in closed
    # form, where tail(z) = exp(-z²/2) erfcx(z/√2)/2 cannot underflow.
    offset = math.log(2.0 * head_width / math.log(2.0))

    def excess(z: float) -> float:
        return (sigma**2 - 0.5) * z * z + math.log(0.5 * erfcx(z / math.sqrt(2.0))) + offset

    def slope(z: float) -> float:  # 2σ²z - hazard(z), the derivative; it changes sign at most once
        return 2.0 * sigma**2 * z - math.sqrt(2.0 / math.pi) / erfcx(z / math.sqrt(2.0))

    low = -float(ndtri(math.exp(-offset)))  # L = 1, where the excess is σ²z²
    if excess(low) <= 0.0:  # so small a σ that this is lost in rounding
        return (sigma * low) ** 2 / math.log(10.0)
    if sigma**2 <= 0.5:
        high = low + 2.0 * head_width  # Mills: excess ≤ offset - ln(z√(2π)) < 0 there
    else:
        if slope(low) >= 0.0:
            return None
        high = 2.0 * low
        while slope(high) < 0.0:
            high *= 2.0
        high = _root(slope, low, high)
        if excess(high) > 0.0:
            return None
    return (sigma * _root(excess, low, high)) ** 2 / math.log(10.0)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    root: Any = brentq(function, low, high, xtol=1e-14 * high)
    return float(root)
