"""The threshold c·√(ln L), the ratio of a norm to it, and what a head may be called.

Hu et al. (arXiv 2406.03136) give an L^(1+o(1)) algorithm for attention and its LoRA gradients if
the entries of the queries and keys are o(√log L) (theorem 3.1 with only the queries adapted, A.1
with queries, keys and values), and none in O(L^(2-δ)) from √log L on under SETH (theorem 4.1).

What the numbers do not say. o(·) carries no constant, so that a ratio is an indicator relative to
the chosen c (1 unless said otherwise). Below: the *sufficient* conditions of theorem 3.1 or A.1
hold with that c. Above: nothing is guaranteed for all inputs of that norm; the head at hand need
not be hard. The theorems take d_h = O(log L), which `width_over_log` shows real heads to exceed.
For a fixed norm the threshold grows with L: a head leaves the guaranteed regime as L shrinks.
"""

from __future__ import annotations

import math
from typing import Literal

Band = Literal["below", "near", "above"]
HeadVerdict = Literal["certified", "effective", "borderline", "outside"]

# Wide enough to cover a threshold with log₂ L in place of ln L, √(ln 2) = 0.833 of it.
NEAR_FROM = 0.8
NEAR_TO = 1.25


def threshold(length: float, c: float = 1.0) -> float:
    """c·√(ln L), L the number of keys. Raises ValueError unless L > 1, finite, and c > 0."""
    if not 1.0 < length < math.inf:
        raise ValueError(f"length must be finite and above 1 (ln 1 = 0), got {length}")
    if not 0.0 < c < math.inf:
        raise ValueError(f"the constant c must be finite and positive, got {c}")
    return c * math.sqrt(math.log(length))


def ratio(norm: float, length: float, c: float = 1.0) -> float:
    """norm/(c·√(ln L)). Raises ValueError as `threshold`, and for a norm that is not ≥ 0."""
    return _non_negative(norm, "norm") / threshold(length, c)


def band(ratio_: float) -> Band:
    """below < 0.8, near 0.8 to 1.25, above > 1.25. Raises ValueError unless the ratio is ≥ 0."""
    value = _non_negative(ratio_, "ratio")
    if value < NEAR_FROM:
        return "below"
    return "near" if value <= NEAR_TO else "above"


def head_verdict(ratio_as: float, ratio_logit: float) -> HeadVerdict:
    """From the ratios of gamma_as (entries) and gamma_logit (logits) of one head.

    certified: gamma_as is below, the conditions of the theorem hold with the constant c.
    effective: gamma_as is not below, but the logits are, and only they enter the polynomial method.
    borderline: the logits are near. outside: no guarantee, which is not a proof of hardness.
    """
    if band(ratio_as) == "below":
        return "certified"
    of_logits: dict[Band, HeadVerdict] = {
        "below": "effective",
        "near": "borderline",
        "above": "outside",
    }
    return of_logits[band(ratio_logit)]


def log10_L_star(norm: float) -> float:
    """norm²/ln 10: log₁₀ of the length above which this norm, held fixed, is under √(ln L)."""
    return _non_negative(norm, "norm") ** 2 / math.log(10.0)


def width_over_log(head_width: int, length: float) -> float:
    """d_h/ln L; the theorems assume that it stays bounded as L grows."""
    return head_width / threshold(length) ** 2


def _non_negative(value: float, name: str) -> float:
    if not value >= 0.0:
        raise ValueError(f"{name} must be at least 0, got {value}")
    return value
