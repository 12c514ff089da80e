"""Gaussian-process posterior by one dense solve: any kernel, O((n r)³).

r independent functions of one kernel, known at n points through exp(-½ uᵀΛu + ηᵀu), whitened as in
`theory.kalman` (Λ = R Rᵀ, g = R⁺η), so that the only solve is with

    B = I + Rᵀ (K ⊗ I_r) R,   ln ∫ = ½gᵀg - ½gᵀB⁻¹g - ½ln|B|

(C. E. Rasmussen & C. K. I. Williams, Gaussian Processes for Machine Learning, 2006, eq. 3.27 has
this B for diagonal Λ).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import solve_triangular

from theory.kalman import Array, Smoothed, Whitened


def iid_covariance(x: ArrayLike, other: ArrayLike) -> Array:
    """κ = 1 where two indexes are equal, else 0: (n, m) for a mode whose indexes are labels."""
    return np.equal.outer(np.asarray(x), np.asarray(other)).astype(np.float64)


def smooth(K: ArrayLike, cross: ArrayLike, prior: ArrayLike, seen: Whitened) -> Smoothed:
    """Posterior at m points from K (n, n), cross (m, n), prior variances (m,), R and g.

    Means (m, r), covariances (m, r, r). Points whose R is 0 do not enter the solve.
    Raises numpy.linalg.LinAlgError where B is not positive definite: K was no covariance.
    """
    root, g = seen.root, seen.target
    known = np.any(root != 0.0, axis=(-1, -2))
    R, g = root[known], g[known]
    (n, r), m = g.shape, np.shape(cross)[0]
    gram, cross_known = np.asarray(K)[np.ix_(known, known)], np.asarray(cross)[:, known]
    rows = np.swapaxes(R, -1, -2).reshape(n * r, r)  # Rᵀ of every point, stacked
    B = np.eye(n * r) + np.repeat(np.repeat(gram, r, 0), r, 1) * (rows @ rows.T)
    L = np.linalg.cholesky(B)
    white = solve_triangular(L, g.ravel(), lower=True)
    alpha = (R @ solve_triangular(L.T, white).reshape(n, r, 1))[..., 0]
    # L⁻¹ Rᵀ (K ⊗ I) column block by column block: (nr, m, r)
    spread = np.repeat(cross_known.T, r, 0)[:, :, None] * rows[:, None, :]
    Z = solve_triangular(L, spread.reshape(n * r, m * r), lower=True).reshape(n * r, m, r)
    Z = np.ascontiguousarray(Z.transpose(1, 2, 0))
    cov = np.asarray(prior)[:, None, None] * np.eye(r) - Z @ np.swapaxes(Z, -1, -2)
    log_normaliser = 0.5 * (g.ravel() @ g.ravel() - white @ white) - np.log(np.diagonal(L)).sum()
    return Smoothed(cross_known @ alpha, cov, log_normaliser)


def smooth_iid(seen: Whitened) -> Smoothed:
    """K = I: every index on its own, covariance (I + Λ)⁻¹, O(n r³)."""
    R, g = seen.root, seen.target
    r = g.shape[-1]
    B = np.eye(r) + np.swapaxes(R, -1, -2) @ R
    L = np.linalg.cholesky(B)
    white = np.linalg.solve(L, np.concatenate([g[..., None], np.swapaxes(R, -1, -2)], axis=-1))
    g_white, R_white = white[..., :1], white[..., 1:]
    mean = (np.swapaxes(R_white, -1, -2) @ g_white)[..., 0]
    cov = np.eye(r) - np.swapaxes(R_white, -1, -2) @ R_white
    half_log_det = np.log(np.diagonal(L, axis1=-2, axis2=-1)).sum()
    return Smoothed(mean, cov, 0.5 * ((g * g).sum() - (g_white**2).sum()) - half_log_det)
