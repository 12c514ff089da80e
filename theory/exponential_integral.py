"""E_a(z) = ∫_1^∞ t^(-a) e^(-zt) dt for any real a, with the moments its exponential family needs.

With t = eᵛ the integrand exp((1-a)v - z eᵛ) is smooth and falls faster than any power on both
sides of its maximum, so one Gauss-Legendre rule serves every a and z; logarithms keep it in range.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_NODES = 192
_NEGLIGIBLE = 45.0  # e^-45 of the maximum


@dataclass(frozen=True, slots=True)
class Moments:
    """Of the density ∝ t^(-a) e^(-zt) on t ≥ 1."""

    log_integral: float  # ln E_a(z)
    mean: Array  # (2,) of ln t and t
    covariance: Array  # (2, 2) of ln t and t


def log_expint(a: float, z: float) -> float:
    """ln E_a(z), to 1e-10. Raises ValueError unless z > 0, or z = 0 and a > 1."""
    return moments(a, z).log_integral


def moments(a: float, z: float) -> Moments:
    """ln E_a(z), mean and covariance of (ln t, t). Raises like `log_expint`.

    Both derivatives of ln E_a(z), by a and by z, are minus these means.
    """
    if z < 0.0 or (z == 0.0 and a <= 1.0):
        raise ValueError(f"the integral diverges for a = {a}, z = {z}")
    points, weights = _rule()
    length = _support(a, z)
    v = length * points
    exponent = (1.0 - a) * v - z * np.expm1(v)
    top = float(exponent.max())
    density = weights * np.exp(exponent - top)
    total = float(density.sum())
    density /= total
    statistics = np.stack([v, np.exp(v)])  # (2, nodes)
    mean = statistics @ density
    centred = statistics - mean[:, None]
    return Moments(
        log_integral=float(np.log(total * length)) + top - z,
        mean=mean,
        covariance=(centred * density) @ centred.T,
    )


@lru_cache(maxsize=1)
def _rule() -> tuple[Array, Array]:
    points, weights = np.polynomial.legendre.leggauss(_NODES)
    return 0.5 * (points + 1.0), 0.5 * weights


def _support(a: float, z: float) -> float:
    """v beyond which the integrand is negligible."""
    ends = [_NEGLIGIBLE / (a - 1.0)] if a > 1.0 else []
    if z > 0.0:
        growth = max(1.0 - a, 0.0)
        peak = growth * np.log(growth / z) - growth + z if growth > z else 0.0
        end = np.log1p(_NEGLIGIBLE / z)
        for _ in range(6):
            end = np.log1p((_NEGLIGIBLE + growth * end - peak) / z)
        ends.append(float(end))
    return min(ends)
