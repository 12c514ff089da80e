"""How far a fitted matrix is from the weights, beside truncated SVD at equal stored numbers.

Singular values move less than entries: ‖s - ŝ‖₂ ≤ ‖W - Ŵ‖_F (L. Mirsky, Quart. J. Math. 11, 1960)
and |s_i - ŝ_i| ≤ ‖W - Ŵ‖₂ (H. Weyl, Math. Ann. 71, 1912). No matrix of rank r is nearer to W than
the truncated SVD (C. Eckart & G. Young, Psychometrika 1, 1936), which is why it is the baseline.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FitErrors:
    """Errors relative to W; Mirsky's bound is sv_rel ≤ rel_fro."""

    rel_fro: float  # ‖W - Ŵ‖_F/‖W‖_F
    sv_rel: float  # ‖s - ŝ‖₂/‖s‖₂
    s1_rel: float  # |s_1 - ŝ_1|/s_1
    weyl_bound: float  # ‖W - Ŵ‖₂, above every |s_i - ŝ_i|


def fit_errors(W: ArrayLike, fitted: ArrayLike) -> FitErrors | None:
    """Errors of a fitted matrix (n, m); None where W is zero, which leaves nothing to compare with.

    Raises ValueError for other shapes than two equal matrices.
    """
    exact, approx = np.asarray(W, dtype=np.float64), np.asarray(fitted, dtype=np.float64)
    if exact.ndim != 2 or exact.shape != approx.shape:
        raise ValueError(f"two matrices of one shape, got {exact.shape} and {approx.shape}")
    scale = float(np.max(np.abs(exact), initial=0.0))
    if scale == 0.0:
        return None
    exact, approx = exact / scale, approx / scale
    s, fitted_s = (np.linalg.svd(X, compute_uv=False) for X in (exact, approx))
    return FitErrors(
        rel_fro=float(np.linalg.norm(exact - approx) / np.linalg.norm(exact)),
        sv_rel=float(np.linalg.norm(s - fitted_s) / np.linalg.norm(s)),
        s1_rel=float(abs(s[0] - fitted_s[0]) / s[0]),
        weyl_bound=scale * float(np.linalg.svd(exact - approx, compute_uv=False)[0]),
    )


def svd_rank_for(stored: int, shape: tuple[int, int]) -> int:
    """Rank whose two factors hold at most `stored` numbers: r = ⌊stored/(n + m)⌋, at most full."""
    return min(stored // (shape[0] + shape[1]), min(shape))


def svd_baseline(singular_values: ArrayLike, shape: tuple[int, int], stored: int) -> float | None:
    """‖W - W_r‖_F/‖W‖_F of the truncated SVD with as many stored numbers; None for a zero matrix.

    singular_values: all min(n, m) of them, in any order.
    """
    s = np.sort(np.asarray(singular_values, dtype=np.float64))[::-1]
    if s.size == 0 or s[0] == 0.0:
        return None
    squares = (s / s[0]) ** 2
    return float(np.sqrt(squares[svd_rank_for(stored, shape) :].sum() / squares.sum()))
