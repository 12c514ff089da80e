"""Loss barriers along a path between two networks, from losses on a grid of t in [0, 1].

Linear: max_t [L(θ_t) - ((1 - t)L_A + t L_B)], R. Entezari et al., arXiv 2110.06296, ICLR 2022.
Mean: max_t L(θ_t) - (L_A + L_B)/2, J. Frankle et al., arXiv 1912.05671, ICML 2020. They agree where
L_A = L_B; the linear one is never negative, the mean one never below |L_A - L_B|/2. A drop in
accuracy is the barrier of the negated accuracies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Barriers:
    """Both barriers, and the t where each is reached (the first, among equals)."""

    linear: float
    linear_t: float
    mean: float
    mean_t: float


def default_grid(points: int = 25) -> Array:
    """t (points,), endpoints included. Raises ValueError below 2 points."""
    if points < 2:
        raise ValueError(f"a path needs its two endpoints, got {points} points")
    return np.linspace(0.0, 1.0, points)


def barriers(losses: ArrayLike, t: ArrayLike | None = None) -> Barriers:
    """Barriers of losses (T,) at t (T,), by default evenly spaced.

    An infinite loss inside the path is an infinite barrier. Raises ValueError for NaN, an endpoint
    that is not finite, or a grid that does not ascend from 0 to 1.
    """
    L = np.asarray(losses, dtype=np.float64)
    grid = default_grid(L.size) if t is None else np.asarray(t, dtype=np.float64)
    if L.shape != grid.shape or grid[0] != 0.0 or grid[-1] != 1.0 or np.any(np.diff(grid) <= 0.0):
        raise ValueError("one loss for each t, ascending from 0 to 1")
    if np.isnan(L).any() or not np.isfinite(L[[0, -1]]).all():
        raise ValueError("losses must be numbers, finite at both ends")
    start, end = L[0], L[-1]
    excess = L - (start + grid * (end - start))
    excess[[0, -1]] = 0.0  # the chord ends on the losses, whatever the rounding
    highest, top = int(np.argmax(excess)), int(np.argmax(L))
    return Barriers(
        linear=float(excess[highest]),
        linear_t=float(grid[highest]),
        mean=float(L[top] - (start + end) / 2.0),
        mean_t=float(grid[top]),
    )
