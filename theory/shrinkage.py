"""Signal of rank one in noise: what is visible, and which singular values to keep.

Setting: Y = θ u vᵀ + G/√n, G (m, n) with iid unit-variance entries, β = m/n ≤ 1, in the limit of
large m (F. Benaych-Georges & R. R. Nadakuditi, J. Multivariate Anal. 111, 2012).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.random_matrix import mp_edges, mp_median


@dataclass(frozen=True, slots=True)
class Spike:
    """Limits for one planted singular value θ."""

    visible: bool  # θ > β^¼
    singular_value: float  # observed y; the noise edge 1 + √β if not visible
    overlap_short: float  # ⟨u, û⟩² on the side of size m
    overlap_long: float  # ⟨v, v̂⟩² on the side of size n


def bbp(theta: float, beta: float) -> Spike:
    """Observed singular value √((1+θ²)(β+θ²))/θ and squared overlaps of a planted θ.

    Overlaps 1 - β(1+θ²)/(θ²(θ²+β)) (short side) and 1 - (β+θ²)/(θ²(θ²+1)) (long side), both 0
    up to θ = β^¼   (Benaych-Georges & Nadakuditi 2012, theorem 2.10).
    Raises ValueError for θ < 0 or β outside (0, 1].
    """
    edge = float(np.sqrt(mp_edges(beta)[1]))
    if theta < 0.0:
        raise ValueError(f"a singular value cannot be negative, got {theta}")
    if theta <= beta**0.25:
        return Spike(False, edge, 0.0, 0.0)
    t = theta * theta
    return Spike(
        visible=True,
        singular_value=float(np.sqrt((1.0 + t) * (beta + t)) / theta),
        overlap_short=1.0 - beta * (1.0 + t) / (t * (t + beta)),
        overlap_long=1.0 - (beta + t) / (t * (t + 1.0)),
    )


def planted_value(y: ArrayLike, beta: float) -> NDArray[np.float64]:
    """θ behind an observed y: θ² = (c + √(c² - 4β))/2, c = y² - 1 - β; 0 up to the noise edge."""
    observed = np.asarray(y, dtype=np.float64)
    centred = observed**2 - 1.0 - beta
    visible = observed > np.sqrt(mp_edges(beta)[1])
    root = np.sqrt(np.where(visible, centred**2 - 4.0 * beta, 0.0).clip(0.0))
    return np.sqrt(np.where(visible, 0.5 * (centred + root), 0.0))


def frobenius_shrinkage(y: ArrayLike, beta: float) -> NDArray[np.float64]:
    """Shrunk singular value √((y² - β - 1)² - 4β)/y of least squared error, 0 up to the edge.

    M. Gavish & D. L. Donoho, "Optimal shrinkage of singular values", arXiv 1405.7511, eq. 7.
    """
    observed = np.asarray(y, dtype=np.float64)
    visible = observed > np.sqrt(mp_edges(beta)[1])
    safe = np.where(visible, observed, 1.0)
    squared = np.where(visible, (safe**2 - beta - 1.0) ** 2 - 4.0 * beta, 0.0)
    return np.sqrt(squared.clip(0.0)) / safe


def hard_threshold_known_noise(beta: float) -> float:
    """λ*(β): keep singular values above λ*·√n·s, s the standard deviation of a noise entry.

    λ* = √(2(β+1) + 8β/(β+1+√(β²+14β+1)))   (Gavish & Donoho, IEEE Trans. IT 60, 2014, eq. 11).
    It minimises squared error; it is not a test for the presence of signal.
    """
    mp_edges(beta)
    inner = beta + 1.0 + np.sqrt(beta**2 + 14.0 * beta + 1.0)
    return float(np.sqrt(2.0 * (beta + 1.0) + 8.0 * beta / inner))


def hard_threshold_unknown_noise(beta: float) -> float:
    """ω(β) = λ*(β)/√median: keep singular values above ω times the median singular value.

    Gavish & Donoho 2014, section III-E.
    """
    return hard_threshold_known_noise(beta) / float(np.sqrt(mp_median(beta)))
