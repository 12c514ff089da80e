"""The lengthscale of one mode from its own messages.

With Λ and η fixed, ln Z_k(ℓ) is the only part of the ELBO that depends on ℓ once q(U^k) is the
optimal one: raising it is one more step of coordinate ascent on the same bound.
"""

from __future__ import annotations

from math import exp, log

import numpy as np
from scipy.optimize import minimize_scalar

from analyzer.models.funbat.entries import Array, Mode
from analyzer.models.funbat.factors import evidence

LARGEST_STEP = 1.0  # in ln ℓ: the messages belong to the old ℓ
SMALLEST_GAPS, LARGEST_SPANS = 0.3, 10.0
_TOLERANCE = 0.02  # in ln ℓ


def lengthscale_bounds(mode: Mode) -> tuple[float, float]:
    """0.3 of the median gap to 10 spans, in scaled units."""
    return SMALLEST_GAPS * float(np.median(np.diff(mode.grid))), LARGEST_SPANS


def is_learnable(mode: Mode) -> bool:
    """Whether the mode has a lengthscale that data can speak about."""
    return mode.kernel != "iid" and mode.grid.size > 1


def at_bound(mode: Mode, lengthscale: float) -> bool:
    """Whether a learned ℓ stopped at the edge of the search: the data ask for more."""
    if not is_learnable(mode):
        return False
    low, high = lengthscale_bounds(mode)
    return lengthscale <= low * exp(2 * _TOLERANCE) or lengthscale >= high * exp(-2 * _TOLERANCE)


def learn_lengthscale(mode: Mode, precision: Array, linear: Array, lengthscale: float) -> float:
    """ℓ within one step of the present one that raises ln Z, or the present one."""
    log_z = evidence(mode, precision, linear)
    low, high = (log(bound) for bound in lengthscale_bounds(mode))
    present = log(lengthscale)
    bounds = (
        max(low, min(present, high) - LARGEST_STEP),
        min(high, max(present, low) + LARGEST_STEP),
    )
    found = minimize_scalar(
        lambda log_l: -log_z(exp(log_l)),
        bounds=bounds,
        method="bounded",
        options={"xatol": _TOLERANCE},
    )
    better = -float(found.fun) > log_z(lengthscale)
    return exp(float(found.x)) if better else lengthscale
