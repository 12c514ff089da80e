"""Tracy-Widom law of the largest eigenvalue of W Wᵀ, W real m × n with iid entries.

Distribution function: F₁(s) = det(I - K), K(x, y) = ½ Ai((x + y)/2 + s) on (0, ∞)
(Ferrari & Spohn, J. Phys. A 38, 2005). Centring and scaling: Z. Ma, Bernoulli 18, 2012
(I. Johnstone, Ann. Statist. 29, 2001 with n - ½ and m - ½ in place of n - 1 and m).
"""

from __future__ import annotations

import numpy as np
from scipy.special import airy

# Quantiles of F₁, from the determinant below with 80 nodes.
QUANTILES = {
    0.01: -3.895433,
    0.05: -3.180380,
    0.10: -2.782428,
    0.50: -1.268575,
    0.90: 0.450143,
    0.95: 0.979316,
    0.99: 2.023449,
    0.999: 3.272196,
}


def tw1_cdf(s: float, nodes: int = 60) -> float:
    """F₁(s) by Gauss-Legendre discretisation of the Fredholm determinant.

    F. Bornemann, Math. Comp. 79, 2010: convergence is exponential in the number of nodes.
    The range is cut at 2(12 - s), where the Airy kernel is below 1e-13.
    """
    points, weights = np.polynomial.legendre.leggauss(nodes)
    length = max(2.0 * (12.0 - s), 4.0)
    x = 0.5 * length * (points + 1.0)
    root = np.sqrt(0.5 * length * weights)
    kernel = 0.5 * airy(0.5 * (x[:, None] + x[None, :]) + s)[0]  # (nodes, nodes)
    return float(np.linalg.det(np.eye(nodes) - root[:, None] * kernel * root[None, :]))


def centre_and_scale(rows: int, cols: int) -> tuple[float, float]:
    """(μ, σ) with (λ_max(W Wᵀ)/s² - μ)/σ → F₁; the shape's order does not matter.

    μ = (a + b)², σ = (a + b)(1/a + 1/b)^⅓, a = √(n - ½), b = √(m - ½)   (Ma 2012).
    Raises ValueError unless both sizes are at least 1.
    """
    if min(rows, cols) < 1:
        raise ValueError(f"both sizes must be at least 1, got {rows} × {cols}")
    a, b = np.sqrt(cols - 0.5), np.sqrt(rows - 0.5)
    return float((a + b) ** 2), float((a + b) * (1.0 / a + 1.0 / b) ** (1.0 / 3.0))


def tw_edge(rows: int, cols: int, variance: float = 1.0, level: float = 0.99) -> float:
    """Quantile `level` (a key of `QUANTILES`) of λ_max(W Wᵀ) for iid entries of this variance.

    Raises KeyError for a level that is not tabulated, ValueError for an empty shape.
    """
    centre, scale = centre_and_scale(rows, cols)
    return variance * (centre + QUANTILES[level] * scale)
