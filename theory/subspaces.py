"""How close are two subspaces: overlap, principal angles, distances, Davis-Kahan bounds.

U (d, p) and V (d, q) have orthonormal columns; where p < q the two are exchanged. Bases stored in
float32 or bfloat16 are orthonormal only to that rounding, so both are made so again by a QR
factorisation in float64: the result belongs to the stored span, whatever its precision.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.spectral_summaries import descending

Array = NDArray[np.float64]

# Largest |UᵀU - I| that still counts as orthonormal: bfloat16 columns stay below 0.01.
_ORTHONORMAL = 0.05
_EPS = float(np.finfo(np.float64).eps)


def overlap(U: ArrayLike, V: ArrayLike) -> float:
    """φ = ‖UᵀV‖_F²/q in [0, 1], q the smaller dimension: the mean cos² of the principal angles.

    Raises ValueError for bases of different d, or not orthonormal to 0.05.
    """
    wide, narrow = _bases(U, V)
    return min(1.0, float(np.sum((wide.T @ narrow) ** 2)) / narrow.shape[1])


def chance_overlap(p: int, d: int) -> float:
    """E φ = p/d of two independent uniform subspaces, p the larger dimension, d the space's.

    Raises ValueError unless 1 ≤ p ≤ d.
    """
    if not 1 <= p <= d:
        raise ValueError(f"a subspace dimension must lie in 1..{d}, got {p}")
    return p / d


def chance_corrected(phi: float, p: int, d: int) -> float | None:
    """(φ - p/d)/(1 - p/d): 0 at chance, 1 for equal subspaces; None for p = d, where φ is 1."""
    chance = chance_overlap(p, d)
    return None if p == d else (phi - chance) / (1.0 - chance)


def principal_angles(U: ArrayLike, V: ArrayLike) -> Array:
    """θ_1 ≤ … ≤ θ_q in radians, in [0, π/2].

    From sines σ((I - UUᵀ)V) below 45° and cosines σ(UᵀV) above, each where it is well conditioned:
    cosines alone give 0 for every angle below 1e-8 (Å. Björck & G. H. Golub, Math. Comp. 27, 1973).
    Raises ValueError like `overlap`.
    """
    wide, narrow = _bases(U, V)
    inner = wide.T @ narrow
    cosines = np.linalg.svd(inner, compute_uv=False)  # descending, so angles ascend
    sines = np.linalg.svd(narrow - wide @ inner, compute_uv=False)[::-1]
    small = cosines**2 >= 0.5
    return np.where(small, np.arcsin(np.minimum(sines, 1.0)), np.arccos(np.minimum(cosines, 1.0)))


def pairwise(bases: Sequence[ArrayLike]) -> tuple[Array, Array]:
    """φ and θ_max, both (T, T), of every pair of T bases (d, r) with the same d and r.

    As `overlap` and `principal_angles` give them, with one QR factorisation a basis.
    Raises ValueError like `overlap`, and for bases of unequal r or none at all.
    """
    units = [_orthonormal(basis) for basis in bases]
    shapes = sorted({unit.shape for unit in units})
    if len(shapes) != 1:
        raise ValueError(f"bases of one shape are needed, got {shapes}")
    stack = np.array(units)  # (T, d, r)
    count, d, r = stack.shape
    flat = stack.transpose(1, 0, 2).reshape(d, count * r)
    inner = (flat.T @ flat).reshape(count, r, count, r).transpose(0, 2, 1, 3)  # (T, T, r, r)
    phi = np.minimum(np.sum(inner**2, axis=(2, 3)) / r, 1.0)
    smallest = np.linalg.svd(inner, compute_uv=False)[..., -1]
    theta = np.arccos(np.clip(smallest, -1.0, 1.0))
    # The cosine has lost small angles; the sine ‖(I - UUᵀ)V‖₂ has not.
    first, second = np.nonzero(np.triu(smallest**2 >= 0.5))
    squares = np.empty((first.size, r, r))
    for pair, (a, b) in enumerate(zip(first, second, strict=True)):
        outside = stack[b] - stack[a] @ inner[a, b]
        squares[pair] = outside.T @ outside
    sines = np.sqrt(np.clip(np.linalg.eigvalsh(squares)[:, -1], 0.0, 1.0))
    theta[first, second] = theta[second, first] = np.arcsin(sines)
    return phi, theta


def chordal_distance(angles: ArrayLike) -> float:
    """√Σ sin²θ, equal to ‖UUᵀ - VVᵀ‖_F/√2 for p = q."""
    return float(np.linalg.norm(np.sin(np.asarray(angles, dtype=np.float64))))


def geodesic_distance(angles: ArrayLike) -> float:
    """√Σ θ², the length in radians of the shortest path on the Grassmannian (p = q)."""
    return float(np.linalg.norm(np.asarray(angles, dtype=np.float64)))


def gap_distance(angles: ArrayLike) -> float:
    """sin θ_max, equal to ‖UUᵀ - VVᵀ‖_2 for p = q."""
    return float(np.sin(np.max(np.asarray(angles, dtype=np.float64))))


def ritz_residual(G: ArrayLike, U: ArrayLike, ritz_values: ArrayLike) -> float:
    """Upper bound of ‖GGᵀU - U diag(ŝ²)‖_2 for G (d, n), U (d, r), ŝ (r,), in units of G squared.

    With the largest rounding error of forming it in float64, so that it holds as it stands. For a
    right subspace pass Gᵀ. U needs float64 orthonormal columns: rounding them leaves a residual.
    """
    X, basis = np.asarray(G, dtype=np.float64), np.asarray(U, dtype=np.float64)
    s = np.asarray(ritz_values, dtype=np.float64)
    scale = float(np.max(np.abs(X), initial=0.0))
    if scale == 0.0:
        return 0.0
    X, s = X / scale, s / scale
    found = float(np.linalg.norm(X @ (X.T @ basis) - basis * s**2, 2))
    # Two products of inner lengths d and n, and the sums of d and r terms behind them.
    rounding = 2.0 * (sum(X.shape) + 4 * s.size) * _EPS * np.sqrt(s.size) * float(np.sum(X * X))
    return (found + rounding) * scale * scale


def davis_kahan(
    residual: float, ritz_values: ArrayLike, residual_energy: float, rank: int
) -> float | None:
    """Upper bound of sin θ_max between the leading `rank` Ritz vectors and singular vectors of G.

    sin θ_max ≤ ‖GGᵀÛ - Û diag(ŝ²)‖_2/(ŝ_r² - s_{r+1}²) (C. Davis & W. M. Kahan, SIAM J. Numer.
    Anal. 7, 1970), with s_{r+1}² ≤ ŝ_{r+1}² + ε unknown but bounded. `residual` is that norm for
    the leading columns (`ritz_residual`); `ritz_values` are those of the whole basis (l ≥ rank;
    ŝ_{l+1} = 0), `residual_energy` ε = ‖G‖_F² - ‖QᵀG‖_F². None without a gap: any subspace may then
    be the leading one. At most 1. Raises ValueError for a rank outside 1..l.
    """
    s = descending(ritz_values)
    if not 1 <= rank <= s.size:
        raise ValueError(f"rank must lie in 1..{s.size}, got {rank}")
    top = float(s[0])
    if top == 0.0:
        return None
    following = float(s[rank]) / top if rank < s.size else 0.0
    gap = (float(s[rank - 1]) / top) ** 2 - following**2 - max(residual_energy, 0.0) / top / top
    return min(1.0, residual / top / top / gap) if gap > 0.0 else None


@dataclass(frozen=True, slots=True)
class QGaLoreMonitor:
    """What Q-GaLore's rule would have done; refresh t is the projector of `first_vectors[t]`."""

    cosines: Array  # (t - 1,) |cos| of refresh t - 1 and t
    queue_means: Array  # mean of the last `queue_size`; empty while the queue fills
    lengthened: tuple[int, ...]  # refreshes at which the gap is multiplied


def q_galore_monitor(
    first_vectors: Sequence[ArrayLike], *, queue_size: int = 5, cos_threshold: float = 0.4
) -> QGaLoreMonitor:
    """Does the first singular vector (d,) of successive refreshes stay put?

    Z. Zhang et al., arXiv 2407.08296: once `queue_size` cosines are known, every refresh at which
    the mean of the last ones reaches `cos_threshold` lengthens the gap; the queue is not emptied.
    Their code averages signed cosines of vectors whose signs are arbitrary; this takes |cos|.
    Raises ValueError for a queue below 1, a zero or non-finite vector, or unequal lengths.
    """
    if queue_size < 1:
        raise ValueError(f"queue_size must be at least 1, got {queue_size}")
    vectors = [np.asarray(v, dtype=np.float64).ravel() for v in first_vectors]
    if any(v.size != vectors[0].size for v in vectors):
        raise ValueError("first vectors must have one length")
    units = []
    for t, vector in enumerate(vectors):
        largest = float(np.max(np.abs(vector), initial=0.0))
        if not (np.isfinite(largest) and largest > 0.0):
            raise ValueError(f"first vector {t} is zero or not finite")
        scaled = vector / largest
        units.append(scaled / np.linalg.norm(scaled))
    cosines = np.array([min(1.0, abs(float(a @ b))) for a, b in itertools.pairwise(units)])
    full = range(queue_size, cosines.size + 1)
    means = np.array([float(cosines[end - queue_size : end].mean()) for end in full])
    return QGaLoreMonitor(
        cosines,
        means,
        tuple(end for end, mean in zip(full, means, strict=True) if mean >= cos_threshold),
    )


def _bases(U: ArrayLike, V: ArrayLike) -> tuple[Array, Array]:
    """Both bases orthonormal in float64, the one of more columns first."""
    first, second = _orthonormal(U), _orthonormal(V)
    if first.shape[0] != second.shape[0]:
        raise ValueError(
            f"subspaces of different spaces: dimension {first.shape[0]} and {second.shape[0]}"
        )
    return (first, second) if first.shape[1] >= second.shape[1] else (second, first)


def _orthonormal(basis: ArrayLike) -> Array:
    Q = np.asarray(basis, dtype=np.float64)
    if Q.ndim != 2 or not 1 <= Q.shape[1] <= Q.shape[0]:
        raise ValueError(f"a basis needs shape (d, p) with 1 ≤ p ≤ d, got {Q.shape}")
    if not np.all(np.isfinite(Q)):
        raise ValueError("a basis must be finite")
    Q, R = np.linalg.qr(Q)
    defect = float(np.max(np.abs(R.T @ R - np.eye(R.shape[0]))))  # RᵀR is the Gram matrix
    if defect > _ORTHONORMAL:
        raise ValueError(f"columns are not orthonormal: |UᵀU - I| is {defect:.3g}, limit 0.05")
    return Q
