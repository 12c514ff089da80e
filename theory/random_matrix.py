"""Marchenko-Pastur law of W Wᵀ/n for an m × n matrix of iid entries, β = m/n ≤ 1.

V. Marchenko, L. Pastur, Mat. Sb. 72, 1967.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import quad

Array = NDArray[np.float64]


def _check_beta(beta: float) -> None:
    if not 0.0 < beta <= 1.0:
        raise ValueError(f"aspect ratio min/max must lie in (0, 1], got {beta}")


def mp_edges(beta: float, variance: float = 1.0) -> tuple[float, float]:
    """Support λ∓ = s²(1 ∓ √β)². Raises ValueError unless 0 < β ≤ 1."""
    _check_beta(beta)
    root = np.sqrt(beta)
    return float(variance * (1.0 - root) ** 2), float(variance * (1.0 + root) ** 2)


def mp_density(x: ArrayLike, beta: float, variance: float = 1.0) -> Array:
    """√((λ₊ - x)(x - λ₋)) / (2π β s² x), zero outside the support. Raises ValueError for β."""
    lower, upper = mp_edges(beta, variance)
    points = np.asarray(x, dtype=np.float64)
    inside = (points > lower) & (points < upper)
    safe = np.where(inside, points, 1.0)
    bulk = np.sqrt(np.clip((upper - safe) * (safe - lower), 0.0, None))
    return np.where(inside, bulk / (2.0 * np.pi * beta * variance * safe), 0.0)


def mp_cdf(x: ArrayLike, beta: float, variance: float = 1.0) -> Array:
    """Integral of `mp_density` in closed form, s² scaled out. Raises ValueError for β."""
    a, b = mp_edges(beta)
    t = np.clip(np.asarray(x, dtype=np.float64) / variance, a, b)
    total = a + b
    value = np.sqrt((b - t) * (t - a))
    value += total / 2.0 * (np.arcsin(np.clip((2.0 * t - total) / (b - a), -1.0, 1.0)) + np.pi / 2)
    if a > 0.0:
        inner = (total * t - 2.0 * a * b) / (t * (b - a))
        value -= np.sqrt(a * b) * (np.arcsin(np.clip(inner, -1.0, 1.0)) + np.pi / 2)
    return np.clip(value / (2.0 * np.pi * beta), 0.0, 1.0)


def mp_quantile(q: ArrayLike, beta: float, variance: float = 1.0) -> Array:
    """Inverse of `mp_cdf`, for probabilities in [0, 1]. Raises ValueError for β.

    Solved for the angle φ with λ = centre - radius·cos φ: the distribution function is smooth
    in φ at both edges, where in λ its slope vanishes or diverges. Newton's method from a table;
    bisection in the table's end cells, where the slope is no guide.
    """
    a, b = mp_edges(beta)
    target = np.atleast_1d(np.asarray(q, dtype=np.float64))
    table = np.linspace(0.0, np.pi, 257)
    levels = mp_cdf(_at_angle(table, a, b), beta)
    phi = np.interp(target, levels, table)
    inner = (target > levels[2]) & (target < levels[-3])
    for _ in range(3):
        x = _at_angle(phi[inner], a, b)
        # √((b-x)(x-a)) = ½(b-a) sin φ = dx/dφ
        slope = (0.5 * (b - a) * np.sin(phi[inner])) ** 2 / (2.0 * np.pi * beta * x)
        phi[inner] -= (mp_cdf(x, beta) - target[inner]) / slope
    if not inner.all():
        phi[~inner] = _bisect(target[~inner], a, b, beta)
    return np.reshape(variance * _at_angle(phi, a, b), np.shape(q))


def _bisect(target: Array, a: float, b: float, beta: float) -> Array:
    low, high = np.zeros_like(target), np.full_like(target, np.pi)
    for _ in range(54):  # π·2⁻⁵⁴ is below the rounding of φ
        middle = 0.5 * (low + high)
        below = mp_cdf(_at_angle(middle, a, b), beta) < target
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return 0.5 * (low + high)


def _at_angle(phi: Array, a: float, b: float) -> Array:
    """a + (b - a) sin²(φ/2), accurate near both ends."""
    return a + (b - a) * np.sin(0.5 * phi) ** 2


@lru_cache(maxsize=4096)
def mp_median(beta: float) -> float:
    """Median eigenvalue at unit variance. Raises ValueError unless 0 < β ≤ 1."""
    return float(mp_quantile(0.5, beta))


@lru_cache(maxsize=4096)
def hill_null(beta: float) -> float:
    """Hill exponent of the upper half of the law: 1 + ½ / ∫₀^∞ P(λ > median·eᵗ) dt.

    By parts the integral is E[ln(λ/median); λ > median], taken here over the angle φ.
    Raises ValueError unless 0 < β ≤ 1.
    """
    a, b = mp_edges(beta)
    median = mp_median(beta)
    start = 2.0 * np.arcsin(np.sqrt((median - a) / (b - a)))

    def integrand(phi: float) -> float:
        x = a + (b - a) * np.sin(0.5 * phi) ** 2
        # √((b-x)(x-a)) = ½(b-a) sin φ = dx/dφ
        return np.log(x / median) * (0.5 * (b - a) * np.sin(phi)) ** 2 / (2.0 * np.pi * beta * x)

    return float(1.0 + 0.5 / quad(integrand, start, np.pi)[0])
