"""How many singular values of diag(s) + LᵀR exceed τ, exactly, from a 2r×2r matrix.

The eigenvalues of A = [[0, M], [Mᵀ, 0]] are ±σ_j(M) and zeros. In the coordinates (x ± y)/√2 it
is diag(s, −s) plus a term of rank 2r, so with e± = 1/(±s − τ) and

    H(τ) = [[0, I], [I, 0]] + ½ [[L(e₊+e₋)Lᵀ, L(e₊−e₋)Rᵀ], [R(e₊−e₋)Lᵀ, R(e₊+e₋)Rᵀ]]

Haynsworth's inertia additivity gives #{σ_j(M) > τ} = #{s_i > τ} + neg(H) − r, where neg is the
number of negative eigenvalues, and Woodbury's formula makes H the matrix of a shift-invert step.
"""

from __future__ import annotations

import numpy as np

from analyzer.spectral.results import EPS, FloatArray


def resolvent(shifts: FloatArray, sigma: FloatArray) -> FloatArray:
    """1/(σ − θ), (k, 2N), for shifts θ (k,) and σ = (s, −s) (2N,)."""
    return 1.0 / (sigma - shifts[:, None])


def with_coupling(LL: FloatArray, LR: FloatArray, RR: FloatArray) -> FloatArray:
    """H (…, 2r, 2r) from its three weighted products (…, r, r)."""
    r = LL.shape[-1]
    H = np.empty((*LL.shape[:-2], 2 * r, 2 * r))
    H[..., :r, :r] = LL
    H[..., r:, r:] = RR
    H[..., :r, r:] = LR + np.eye(r)
    H[..., r:, :r] = np.swapaxes(H[..., :r, r:], -1, -2)
    return H


def inertia_count(tau: float, s: FloatArray, L: FloatArray, R: FloatArray) -> tuple[int, bool]:
    """#{σ_j(diag(s) + LᵀR) > τ} for τ > 0, and whether it is beyond doubt of rounding.

    s (N,), factors in rows L, R (r, N), scaled so that the columns of either are of similar norm.
    A τ that hits a base value is nudged by 32 ε.
    """
    if np.any(s == tau):
        tau *= 1 + 32 * EPS
    e = resolvent(np.array([tau]), np.concatenate([s, -s]))
    upper, lower = e[0, : s.size], e[0, s.size :]
    even, odd = 0.5 * (upper + lower), 0.5 * (upper - lower)
    H = with_coupling((L * even) @ L.T, (L * odd) @ R.T, (R * even) @ R.T)
    values = np.linalg.eigvalsh(H)
    size = np.abs(upper) + np.abs(lower)
    weight = float(np.sum(L * L + R * R, axis=0) @ size)
    noise = 4 * EPS * np.sqrt(s.size) * (1 + weight)
    count = int(np.sum(s > tau)) + int(np.sum(values < 0)) - L.shape[0]
    return count, bool(np.min(np.abs(values), initial=np.inf) > noise)
