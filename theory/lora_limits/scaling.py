"""For which adapter scalings and weight scales the largest query entry stays within a limit.

g(s) = ‖Q0 + sU‖∞ with Q0 the base queries and U = X lora_Aᵀ lora_Bᵀ is convex and piecewise linear
in s, so that {s : g(s) ≤ G} is one interval, found exactly from the entries. It settles one of the
two conditions of theorem 3.1 of Hu et al. (arXiv 2406.03136); that of the keys does not depend on
s. Within it the sufficient condition holds with the constant in G, outside nothing is guaranteed.
DoRA and other updates that are not linear in s have no such interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from theory.lora_limits.arrays import finite_matrix, positive

Reason = Literal[
    "bounded",
    "no_update",  # U = 0 and the base is within the limit: every s will do
    "fixed_entry_above",  # an entry that s does not move exceeds the limit
    "entries_conflict",  # each entry has its interval, but they do not meet
]


@dataclass(frozen=True, slots=True)
class ScalingInterval:
    """{s : ‖Q0 + sU‖∞ ≤ limit}."""

    reason: Reason
    low: float | None  # None if empty; -∞ and ∞ if unbounded
    high: float | None
    limit: float
    base_norm: float  # ‖Q0‖∞, at s = 0

    @property
    def empty(self) -> bool:
        return self.low is None

    @property
    def unbounded(self) -> bool:
        return self.reason == "no_update"

    @property
    def base_passes(self) -> bool:
        return self.base_norm <= self.limit


def scaling_interval(base: ArrayLike, direction: ArrayLike, limit: float) -> ScalingInterval:
    """Q0 and U (L, n), for one head or all; exact up to the rounding of one division.

    Raises ValueError for NaN or infinity, shapes that differ, or a limit that is not positive.
    """
    Q0, U = finite_matrix(base, "the base queries"), finite_matrix(direction, "the update")
    if Q0.shape != U.shape:
        raise ValueError(f"base queries {Q0.shape} and update {U.shape} differ in shape")
    bound = positive(limit, "the limit")
    norm = float(np.max(np.abs(Q0)))
    moved = U != 0.0
    if np.any(np.abs(Q0[~moved]) > bound):
        return ScalingInterval("fixed_entry_above", None, None, bound, norm)
    # signed so that u > 0; the quotient by a tiny u may overflow to ±∞, which bounds nothing
    a, u = (Q0 * np.sign(U))[moved], np.abs(U[moved])
    with np.errstate(over="ignore"):
        low = float(np.max((-bound - a) / u, initial=-math.inf))
        high = float(np.min((bound - a) / u, initial=math.inf))
    if low > high or low == math.inf or high == -math.inf:
        return ScalingInterval("entries_conflict", None, None, bound, norm)
    reason = "no_update" if low == -math.inf and high == math.inf else "bounded"
    return ScalingInterval(reason, low, high, bound, norm)


@dataclass(frozen=True, slots=True)
class AlphaRoom:
    """How far α may be raised from 0."""

    alpha_max: float | None  # None if unbounded, or if s = 0 already exceeds the limit
    headroom: float | None  # alpha_max/α; below 1 where the adapter is over it
    unbounded: bool


def alpha_room(
    interval: ScalingInterval, alpha: float, rank: int, *, rank_stabilised: bool = False
) -> AlphaRoom:
    """alpha_max = high·r (plain) or high·√r (rsLoRA), and alpha_max/alpha.

    Where s = 0 fails, some s > 0 may still be within the limit: the interval says so.
    Raises ValueError unless alpha > 0 and rank ≥ 1.
    """
    if rank < 1:
        raise ValueError(f"the adapter's rank must be at least 1, got {rank}")
    positive(alpha, "alpha")
    if interval.unbounded:
        return AlphaRoom(None, None, unbounded=True)
    if interval.high is None or not interval.base_passes:
        return AlphaRoom(None, None, unbounded=False)
    alpha_max = interval.high * (math.sqrt(rank) if rank_stabilised else rank)
    return AlphaRoom(alpha_max, alpha_max / alpha, unbounded=False)


def weight_scale(gamma_q: float, limit: float) -> float | None:
    """s_W = limit/gamma_q, the factor of W (and its bias) that brings gamma_q to the limit.

    None if gamma_q = 0, which no factor moves. Raises ValueError for a negative gamma_q or a limit
    that is not positive.
    """
    if not 0.0 <= gamma_q < math.inf:
        raise ValueError(f"gamma_q must be finite and at least 0, got {gamma_q}")
    return positive(limit, "the limit") / gamma_q if gamma_q > 0.0 else None
