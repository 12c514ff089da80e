"""WeLore: one threshold on normalised singular values gives every matrix its own rank.

A. Jaiswal et al., "From GaLore to WeLore", arXiv 2407.11239, 2024 (ICML 2025, PMLR 267).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

# A square matrix needs rank below half for its two factors to save parameters.
LRC_MIN_RATIO = 0.4999


def normalise(singular_values: ArrayLike) -> Array:
    """z = (σ - σ_min)/(σ_max - σ_min); all ones where the spectrum is constant.

    A constant spectrum has no tail to prune, so that no threshold in [0, 1] prunes it.
    """
    s = np.asarray(singular_values, dtype=np.float64)
    if s.size == 0:
        return s
    low, high = float(s.min()), float(s.max())
    scaled = s / high if high > 0.0 else s  # keeps the span of huge spectra finite
    span = 1.0 - low / high if high > 0.0 else 0.0
    return (scaled - low / high) / span if span > 0.0 else np.ones_like(s)


def pruned_rank(singular_values: ArrayLike, threshold: float) -> int:
    """r(k) = #{z < k}, strictly."""
    return int(np.count_nonzero(normalise(singular_values) < threshold))


def effective_rank_reduction(spectra: Iterable[ArrayLike], threshold: float) -> float:
    """ERR = Σ r(k) / Σ m over matrices, as a fraction; 0 without any singular value."""
    arrays = [np.asarray(s, dtype=np.float64) for s in spectra]
    total = sum(s.size for s in arrays)
    return sum(pruned_rank(s, threshold) for s in arrays) / total if total else 0.0


def exact_threshold(spectra: Sequence[ArrayLike], target_err: float) -> float:
    """Smallest-reduction threshold with ERR ≥ `target_err` (fraction), without any search.

    Pool and sort all z; with t = ⌈target·count⌉ every k in (z_(t), z_(t+1)] prunes exactly the t
    smallest. The midpoint is taken, clear of rounding on both sides. Ties are pruned together,
    so the reduction reached may be larger. It is smaller only where the target asks for values at
    z = 1, the largest of their matrix: those are never pruned by a threshold in [0, 1].
    Raises ValueError for a target outside [0, 1].
    """
    if not 0.0 <= target_err <= 1.0:
        raise ValueError(f"target reduction must lie in [0, 1], got {target_err}")
    pool = np.sort(np.concatenate([normalise(s) for s in spectra] or [np.empty(0)]))
    # 0.3·10 is 3.0000000000000004 in some orders of rounding: forgive one part in 1e12
    count = int(np.ceil(target_err * pool.size * (1.0 - 1e-12)))
    if count == 0:
        return 0.0
    last = float(pool[count - 1])
    larger = pool[pool > last]
    return 0.5 * (last + float(larger[0])) if larger.size else 1.0


def is_low_rank_component(rank_pruned: int, full_rank: int) -> bool:
    """LRC: more than 0.4999 of the singular values are pruned; the rest are N-LRC."""
    return full_rank > 0 and rank_pruned / full_rank > LRC_MIN_RATIO


def param_ratio(rank: int, rows: int, cols: int) -> float:
    """Parameters of the two factors over those of the matrix: r(m + n)/(mn)."""
    return rank * (rows + cols) / (rows * cols)


def energy_kept(singular_values: ArrayLike, rank: int) -> float | None:
    """Σ_{i≤r} σ_i² / Σ σ_i² (Eckart-Young); None for a zero matrix."""
    s = np.sort(np.asarray(singular_values, dtype=np.float64))[::-1]
    if s.size == 0 or s[0] == 0.0:
        return None
    squares = (s / s[0]) ** 2
    return float(squares[:rank].sum() / squares.sum())
