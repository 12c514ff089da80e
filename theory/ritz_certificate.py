"""What an orthonormal basis proves about singular values it was not built to find exactly.

For G (m, n), any Q (m, l) with orthonormal columns, ŝ = σ(QᵀG) and ε = ‖G‖_F² - ‖QᵀG‖_F² ≥ 0

    ŝ_i² ≤ s_i² ≤ ŝ_i² + ε,                          s_i² ≤ ε for i > l,
    Σ_{i≤r} ŝ_i²/F² ≤ E_r ≤ (Σ_{i≤r} ŝ_i² + ε)/F²,   E_r = Σ_{i≤r} s_i²/F², F = ‖G‖_F,
    F²/(ŝ_1² + ε) ≤ F²/s_1² ≤ F²/ŝ_1²                (stable rank),

by Weyl's and Ky Fan's inequalities for GᵀG = GᵀQQᵀG + Gᵀ(I - QQᵀ)G, whose second term is positive
semidefinite of trace ε. For a right basis read Gᵀ for G.

Computed numbers obey this only up to rounding, and where G has low rank ε is nothing but rounding.
With δ ≥ ‖QᵀQ - I‖_2 the matrix Q(QᵀQ)^(-1/2) is exactly orthonormal and its Ritz values lie in
ŝ/√(1 ± δ). Sums, products and the small eigenproblem err by at most T = τF², where for unit
roundoff u (N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2002, §3.1, §3.5)

    τ₀ = u [4√l (m + n + 8) + l (10 l + m + n)],   τ = τ₀/(1 - τ₀):

the first term bounds the product QᵀG, of norm error γ_m √l F, and both sums of squares, the second
l values of the eigenproblem. Both are worst cases, far above what is seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.spectral_summaries import descending

Array = NDArray[np.float64]

FLOAT64_ROUNDOFF = 2.0**-53


@dataclass(frozen=True, slots=True)
class RitzCertificate:
    """Both ends of every quantity; l Ritz values. Ranks and energies are None for a zero matrix."""

    sigma_lo: Array  # (l,) of s_i, i = 1..l
    sigma_hi: Array  # (l,)
    energy_lo: Array | None  # (l,) of E_r, r = 1..l
    energy_hi: Array | None  # (l,)
    stable_rank_lo: float | None
    stable_rank_hi: float | None
    residual_energy: float  # at least ε of the exact basis: s_i² of every i > l is below it
    flag: str | None  # zero_gradient


def ritz_certificate(
    ritz_values: ArrayLike,
    fro_squared: float,
    residual_energy: float,
    *,
    rows: int,
    cols: int,
    unit_roundoff: float = FLOAT64_ROUNDOFF,
    defect: float | None = None,
) -> RitzCertificate:
    """Intervals of s_i, E_r and the stable rank that contain the true ones, rounding included.

    `ritz_values` (l,) ŝ, `fro_squared` ‖G‖_F², summed in float64 by rows or pairwise, and
    `residual_energy` ε as computed; a negative one counts as 0. `unit_roundoff` is that of the
    arithmetic in which Q and QᵀG were formed: 2^-24 for float32 (not TF32). `defect` is an upper
    bound of ‖QᵀQ - I‖_2; `orthonormality_defect` measures one, which pays for float32 bases.
    Without it that of a Householder QR is assumed, 2 l^(3/2) max(m, n) u, which no other method of
    orthonormalisation need keep.
    Raises ValueError for l outside 1..min(m, n), numbers that are not finite, a defect of 1 or
    more, or an ε so far below 0 that Q cannot have been orthonormal.
    """
    s = descending(ritz_values)
    count = s.size
    if not 1 <= count <= min(rows, cols):
        raise ValueError(
            f"a {rows} x {cols} matrix has 1..{min(rows, cols)} Ritz values, got {count}"
        )
    if not (np.isfinite(fro_squared) and fro_squared >= 0.0 and np.isfinite(residual_energy)):
        raise ValueError(
            f"‖G‖² = {fro_squared} and ε = {residual_energy} must be finite and ‖G‖² ≥ 0"
        )
    if fro_squared == 0.0:
        zero = np.zeros(count)
        return RitzCertificate(zero, zero, None, None, None, None, 0.0, "zero_gradient")
    assumed = 2.0 * count**1.5 * max(rows, cols) * unit_roundoff
    delta = assumed if defect is None else defect
    if defect is not None and not 0.0 <= defect < 1.0:
        raise ValueError(f"the basis is not orthonormal: ‖QᵀQ - I‖ may be {defect:.3g}, limit 1")
    slack = _rounding(rows, cols, count, unit_roundoff) * (1.0 + delta)
    # In units of F², so that neither 1e-20 nor 1e15 loses anything.
    squares = (s / np.sqrt(fro_squared)) ** 2
    residual = residual_energy / fro_squared
    if residual < -(slack + delta):
        raise ValueError(
            f"ε/‖G‖² = {residual:.3g}, but rounding explains no less than {-(slack + delta):.3g}: "
            "the basis is not orthonormal"
        )
    epsilon = max(residual, 0.0) + slack + delta + slack * delta
    total_lo, total_hi = max(1.0 - slack, 0.0), 1.0 + slack
    sums = np.cumsum(squares)
    stretch = 1.0 / (1.0 - delta) if delta < 1.0 else np.inf
    lower = np.maximum(squares - slack, 0.0) / (1.0 + delta)
    upper = (squares + slack) * stretch + epsilon
    sums_upper = (sums + slack) * stretch + epsilon
    upper = np.minimum(upper, total_hi / np.arange(1, count + 1))  # i s_i² ≤ F²
    fro = float(np.sqrt(fro_squared))
    return RitzCertificate(
        sigma_lo=fro * np.sqrt(lower),
        sigma_hi=fro * np.sqrt(upper),
        energy_lo=np.maximum(sums - slack, 0.0) / (1.0 + delta) / total_hi,
        energy_hi=np.minimum(sums_upper / total_lo, 1.0) if total_lo > 0.0 else np.ones(count),
        stable_rank_lo=max(1.0, total_lo / float(upper[0])),
        stable_rank_hi=min(float(min(rows, cols)), _ratio(total_hi, float(lower[0]))),
        residual_energy=epsilon * fro_squared,
        flag=None,
    )


def orthonormality_defect(basis: ArrayLike) -> float:
    """Upper bound of ‖QᵀQ - I‖_2 of a basis Q (d, l) as stored, formed in float64 (d l² products).

    Includes the rounding of forming it, so that it holds as it stands.
    """
    Q = np.asarray(basis, dtype=np.float64)
    d, count = Q.shape
    squares = float(np.sum(Q * Q))
    return float(np.linalg.norm(Q.T @ Q - np.eye(count))) + (d + 4) * FLOAT64_ROUNDOFF * squares


def certify(G: ArrayLike, basis: ArrayLike) -> RitzCertificate:
    """The certificate of a left basis Q (m, l) of G (m, n), everything formed in float64.

    For a right basis pass Gᵀ. Raises ValueError for shapes that do not match, NaN or Inf.
    """
    X, Q = np.asarray(G, dtype=np.float64), np.asarray(basis, dtype=np.float64)
    if X.ndim != 2 or Q.ndim != 2 or X.shape[0] != Q.shape[0]:
        raise ValueError(f"a basis of shape {Q.shape} does not fit a matrix of shape {X.shape}")
    if not (np.all(np.isfinite(X)) and np.all(np.isfinite(Q))):
        raise ValueError("matrix and basis must be finite")
    # A power of two scales without rounding.
    unit = float(np.ldexp(1.0, np.frexp(np.max(np.abs(X), initial=0.0))[1]))
    X = X / unit
    B = Q.T @ X
    fro_squared = float(np.sum(np.einsum("ij,ij->i", X, X)))
    found = ritz_certificate(
        np.linalg.svd(B, compute_uv=False),
        fro_squared,
        fro_squared - float(np.sum(np.einsum("ij,ij->i", B, B))),
        rows=X.shape[0],
        cols=X.shape[1],
        defect=orthonormality_defect(Q),
    )
    return RitzCertificate(
        found.sigma_lo * unit,
        found.sigma_hi * unit,
        found.energy_lo,
        found.energy_hi,
        found.stable_rank_lo,
        found.stable_rank_hi,
        found.residual_energy * unit * unit,
        found.flag,
    )


def _rounding(rows: int, cols: int, count: int, unit_roundoff: float) -> float:
    """τ; infinite where τ₀ reaches 1, so that nothing is claimed."""
    terms = 4.0 * np.sqrt(count) * (rows + cols + 8) + count * (10.0 * count + rows + cols)
    first_order = float(terms) * unit_roundoff
    return first_order / (1.0 - first_order) if first_order < 1.0 else np.inf


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 0.0 else np.inf
