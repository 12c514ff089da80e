"""Bounds on queries, keys and logits from weights alone, whatever the text.

They hold for every input of the norm layer (module `normed_rows`), so that they are upper bounds
and not values: expect them several times above what a text reaches. A head whose bound is below the
threshold is below it for every text; one whose bound is above may be far below it. In the first
layer of a rotary model the token table holds every input there is: `norms` of it are exact.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from theory.lora_limits.arrays import Array, Positions, finite_vector, positive
from theory.lora_limits.normed_rows import NormedRows


def entry_bounds(rows: NormedRows, pairs: ArrayLike | None = None) -> Array:
    """max over z of |q_c| (n,): √d‖A_c‖₂ + |a_c|, attained without RoPE.

    Channels of a RoPE pair (c, c') in `pairs` (p, 2), at every position at once, both get
    √d σ_max([A_c; A_c']) + ‖(a_c, a_c')‖₂; channels in no pair keep theirs (partial rotary).
    Raises ValueError for pairs that repeat or leave a channel's range.
    """
    squares = np.einsum("cd,cd->c", rows.A, rows.A)
    bounds = rows.radius * np.sqrt(squares) + np.abs(rows.a)
    if pairs is None:
        return bounds
    first, second = _checked_pairs(pairs, rows.a.size).T
    products = np.einsum("cd,cd->c", rows.A[first], rows.A[second])
    # the larger eigenvalue of the 2 × 2 Gram matrix, in closed form
    p, r = squares[first], squares[second]
    sigma = np.sqrt(0.5 * (p + r) + np.hypot(0.5 * (p - r), products))
    bounds[first] = bounds[second] = rows.radius * sigma + np.hypot(rows.a[first], rows.a[second])
    return bounds


def token_bound(rows: NormedRows) -> float:
    """max over z of ‖q‖₂ ≤ √d σ_max(A) + ‖a‖₂; the same after RoPE."""
    return rows.radius * math.sqrt(_largest_eigenvalue(rows.A @ rows.A.T)) + float(
        np.linalg.norm(rows.a)
    )


def logit_bound_rope(q_bound: float, k_bound: float, beta: float) -> float:
    """|S| ≤ β·(bound on ‖q‖₂)·(bound on ‖k‖₂), at all positions, from `token_bound` of each."""
    return positive(beta, "beta") * q_bound * k_bound


def logit_bound(q: NormedRows, k: NormedRows, beta: float) -> float:
    """Without RoPE: β(√d√d' σ_max(A_QᵀA_K) + √d‖A_Qᵀa_K‖ + √d'‖A_Kᵀa_Q‖ + |a_Q·a_K|) ≥ |S|.

    Attained if a_Q = a_K = 0. σ_max² is the largest eigenvalue of Cᵀ(A_KA_Kᵀ)C with
    CCᵀ = A_QA_Qᵀ, all (d_h, d_h), which is exact to about √ε·‖A_Q‖₂‖A_K‖₂ in the worst case.
    Raises ValueError if q and k differ in head width.
    """
    if q.a.size != k.a.size:
        raise ValueError(f"q has {q.a.size} channels, k has {k.a.size}")
    values, vectors = np.linalg.eigh(q.A @ q.A.T)
    C = vectors * np.sqrt(values.clip(0.0))
    product = math.sqrt(_largest_eigenvalue(C.T @ (k.A @ k.A.T) @ C))
    return positive(beta, "beta") * (
        q.radius * k.radius * product
        + q.radius * float(np.linalg.norm(q.A.T @ k.a))
        + k.radius * float(np.linalg.norm(k.A.T @ q.a))
        + abs(float(q.a @ k.a))
    )


def qk_norm_entry_bounds(gain: ArrayLike, pairs: ArrayLike | None = None) -> Array:
    """√d_h|γ_c| (d_h,) for queries or keys normalised per head (RMS) with gain γ before RoPE.

    With RoPE a pair takes its larger |γ|. No weight and no adapter enters: LoRA cannot change it.
    """
    gamma = _pair_maxima(gain, pairs)
    return math.sqrt(gamma.size) * gamma


def qk_norm_logit_bound(
    q_gain: ArrayLike, k_gain: ArrayLike, beta: float, pairs: ArrayLike | None = None
) -> float:
    """|S| ≤ β d_h max_c |γ_q,c γ_k,c|, each γ the larger of its pair with RoPE."""
    gq, gk = _pair_maxima(q_gain, pairs), _pair_maxima(k_gain, pairs)
    if gq.size != gk.size:
        raise ValueError(f"gains of q and k differ in width: {gq.size} and {gk.size}")
    return positive(beta, "beta") * gq.size * float(np.max(gq * gk))


def _pair_maxima(gain: ArrayLike, pairs: ArrayLike | None) -> Array:
    gamma = np.abs(finite_vector(gain, "the gain"))
    if pairs is not None:
        both = _checked_pairs(pairs, gamma.size)
        gamma[both] = gamma[both].max(axis=1, keepdims=True)
    return gamma


def _checked_pairs(pairs: ArrayLike, channels: int) -> Positions:
    both = np.asarray(pairs)
    if both.ndim != 2 or both.shape[1] != 2 or not np.issubdtype(both.dtype, np.integer):
        raise ValueError(f"pairs must be integers of shape (p, 2), got shape {both.shape}")
    if both.size and (both.min() < 0 or both.max() >= channels):
        raise ValueError(f"pairs must lie in 0..{channels - 1}, got {both.min()}..{both.max()}")
    if np.unique(both).size != both.size:
        raise ValueError("a channel belongs to two pairs")
    return both.astype(np.intp)


def _largest_eigenvalue(symmetric: Array) -> float:
    return max(float(np.linalg.eigvalsh(symmetric)[-1]), 0.0)
