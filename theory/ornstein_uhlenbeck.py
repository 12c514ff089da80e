"""Matérn-1/2 processes by their banded precision: two Cholesky factorisations, O(n r³).

A Matérn-1/2 (Ornstein-Uhlenbeck) process is Markov in its value alone, so that the precision J of
r of them at n indexes, with Λ added at every index, has bandwidth r in the order (index, function).
With D_s and E_s the Schur complements of J from the left and from the right, the diagonal blocks of
J⁻¹ are (D_s + E_s - J_ss)⁻¹ (H. Rue & L. Held, Gaussian Markov Random Fields, 2005, section 2.4).
J holds 1/(2u) of a short gap u = gap/ℓ: below `SHORTEST_GAP` too few digits of the rest are left,
and `theory.kalman_scan` serves instead. Smoother processes cannot be had so: u⁻³ and u⁻⁵ come in.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import cho_solve_banded, cholesky_banded

from theory.kalman import Array, Smoothed, symmetric

SHORTEST_GAP = 1e-6


def log_normaliser(u: ArrayLike, precision: ArrayLike, linear: ArrayLike) -> float:
    """ln ∫ prior · Π exp(-½ uᵀΛu + ηᵀu): gaps u (n - 1,) over ℓ, Λ (n, r, r), η (n, r)."""
    bands, half_log_prior = _bands(np.asarray(u), np.asarray(precision))
    factor = cholesky_banded(bands, lower=True, check_finite=False)
    eta = np.asarray(linear).ravel()
    mean = cho_solve_banded((factor, True), eta, check_finite=False)
    return float(0.5 * (eta @ mean) - np.log(factor[0]).sum() - half_log_prior)


def smooth(u: ArrayLike, precision: ArrayLike, linear: ArrayLike) -> Smoothed:
    """Mean (n, r) and covariance (n, r, r) at every index, and `log_normaliser`."""
    eta = np.asarray(linear, dtype=np.float64)
    n, r = eta.shape
    bands, half_log_prior = _bands(np.asarray(u), np.asarray(precision))
    factor = cholesky_banded(bands, lower=True, check_finite=False)
    mean = cho_solve_banded((factor, True), eta.ravel(), check_finite=False)
    reverse = np.zeros_like(bands)
    for d, band in enumerate(bands):
        reverse[d, : n * r - d] = band[: n * r - d][::-1]
    from_right = _schur(cholesky_banded(reverse, lower=True, check_finite=False), r)
    own = _diagonal_blocks(bands, r)
    own = own + np.swapaxes(np.tril(own, -1), 1, 2)
    remaining = _schur(factor, r) + from_right[::-1, ::-1, ::-1] - own
    value = 0.5 * (eta.ravel() @ mean) - np.log(factor[0]).sum() - half_log_prior
    return Smoothed(
        mean.reshape(n, r), symmetric(np.linalg.inv(symmetric(remaining))), np.array(value)
    )


def _bands(u: Array, precision: Array) -> tuple[Array, float]:
    """J (r + 1, n·r) as `cholesky_banded` takes it, lower, and -½ln|J| without Λ, negated."""
    n, r, _ = precision.shape
    noise = np.concatenate([[1.0], -np.expm1(-2.0 * u)])  # of each index given the one before
    carried = np.exp(-u) / noise[1:]
    bands = np.zeros((r + 1, n, r))
    for a in range(r):
        for b in range(a + 1):
            bands[a - b, :, b] = precision[:, a, b]
    bands[0] += (1.0 / noise)[:, None]
    bands[0, :-1] += (np.exp(-u) * carried)[:, None]
    bands[r, :-1] = -carried[:, None]
    return bands.reshape(r + 1, n * r), 0.5 * r * float(np.log(noise).sum())


def _schur(factor: Array, r: int) -> Array:
    """L_ss L_ssᵀ (n, r, r) of a banded Cholesky factor."""
    L = _diagonal_blocks(factor, r)
    return L @ np.swapaxes(L, 1, 2)


def _diagonal_blocks(bands: Array, r: int) -> Array:
    """Lower triangles (n, r, r) of the blocks on the diagonal."""
    split = bands.reshape(bands.shape[0], -1, r)
    blocks = np.zeros((split.shape[1], r, r))
    for a in range(r):
        for b in range(a + 1):
            blocks[:, a, b] = split[a - b, :, b]
    return blocks
