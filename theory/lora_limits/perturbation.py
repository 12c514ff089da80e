"""How many features the change that an adapter makes to attention needs.

F_adapted ∝ exp(S₀) ⊙ exp(ΔS) by rows. Without rotary embedding rank ΔS ≤ r for an adapter on the
queries (≤ 2r on queries and keys), and |ΔS| is often small where |S₀| is not, so that a polynomial
of degree g in ΔS has only C(rank + g, g) features. Rotary embedding turns each row of the update by
its own rotation: the rank then is that of the rotated update, up to d_h, so it is measured here.

The count is for the factor exp(ΔS) alone. exp(S₀) stays exact: nothing here approximates attention
of the base model or makes the adapted one sub-quadratic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.polynomial.chebyshev import chebval
from numpy.typing import ArrayLike, NDArray

from theory.lora_limits.arrays import Array, finite_matrix, positive
from theory.lora_limits.polynomial import (
    certified_degree,
    chebyshev_coefficients,
    feature_count,
)

_BLOCK = 256  # rows of logits held at once


@dataclass(frozen=True, slots=True)
class HeadUpdate:
    """One head before an adapter and what it adds, as they enter the product; see `head_update`."""

    queries: Array  # base (L, d_h)
    keys: Array  # base, centred (L, d_h)
    query_update: Array  # (L, d_h)
    key_update: Array  # centred (L, d_h)
    beta: float
    causal: bool


@dataclass(frozen=True, slots=True)
class PerturbationRank:
    """Features of exp(ΔS) at a certified relative entrywise error."""

    delta_logit: float  # max|ΔS| over visible pairs, centred keys
    rank: int  # of ΔS
    degree: int
    k_delta: int  # C(rank + degree, degree)
    row_error_bound: float  # of Σ_j |F̂_ij - F_ij|: 2ε/(1 - ε)


def head_update(
    queries: ArrayLike,
    keys: ArrayLike,
    query_update: ArrayLike,
    key_update: ArrayLike,
    beta: float,
    *,
    causal: bool = False,
) -> HeadUpdate:
    """Check shapes and centre keys and key update over positions, which softmax does not see.

    Centring never raises the rank of ΔS. Pass updates as s (X lora_Aᵀ) lora_Bᵀ, not as the
    difference of two projections, whose rounding has full rank; zeros where there is no adapter.
    Raises ValueError for shapes that do not agree or β that is not positive and finite.
    """
    Q, K = finite_matrix(queries, "queries"), finite_matrix(keys, "keys")
    dQ = finite_matrix(query_update, "query update")
    dK = finite_matrix(key_update, "key update")
    if dQ.shape != Q.shape or dK.shape != K.shape or Q.shape[1] != K.shape[1]:
        raise ValueError(
            f"shapes do not agree: queries {Q.shape} and update {dQ.shape}, "
            f"keys {K.shape} and update {dK.shape}"
        )
    if causal and len(Q) != len(K):
        raise ValueError(f"a causal mask needs as many queries as keys: {len(Q)}, {len(K)}")
    positive(beta, "the softmax scale")
    return HeadUpdate(Q, K - K.mean(axis=0), dQ, dK - dK.mean(axis=0), beta, causal)


def delta_logit(head: HeadUpdate) -> float:
    """max|ΔS_ij| over visible pairs, ΔS = S_adapted - S₀ of centred keys. O(L²) time."""
    return max(
        float(np.max(np.abs(np.where(visible, change, 0.0))))
        for _, change, visible in _blocks(head)
    )


def update_rank(head: HeadUpdate, rtol: float = 1e-6) -> int:
    """Rank of ΔS in O(L d_h²): singular values above rtol·σ_1; 0 for an adapter that adds nothing.

    The default tolerance ignores the rounding of float32 activations.
    """
    left, right = _factors(head)
    core = np.linalg.qr(left).R @ np.linalg.qr(right).R.T
    values = np.linalg.svd(core, compute_uv=False)
    return int(np.count_nonzero(values > rtol * values[0]))


def perturbation_rank(head: HeadUpdate, eps: float) -> PerturbationRank:
    """Features that bring exp(ΔS) within the relative error `eps` < 1 at every visible pair.

    Certified, so usually more than needed: see `row_error` for what a degree really does.
    Raises ValueError for eps outside (0, 1).
    """
    if not 0.0 < eps < 1.0:
        raise ValueError(f"the accuracy must lie in (0, 1), got {eps}")
    size, rank = delta_logit(head), update_rank(head)
    degree = certified_degree(size, eps, relative=True)
    return PerturbationRank(
        delta_logit=size,
        rank=rank,
        degree=degree,
        k_delta=feature_count(rank, degree) if rank else 1,
        row_error_bound=2.0 * eps / (1.0 - eps),
    )


def row_error(head: HeadUpdate, degree: int) -> float:
    """Measured max_i Σ_j |F̂_ij - F_ij| with F̂ ∝ exp(S₀) ⊙ p(ΔS), p the truncation of that degree.

    inf where a row of exp(S₀) ⊙ p(ΔS) does not have a positive sum. O(L²) time, in row blocks.
    """
    bound = delta_logit(head)
    coefficients = chebyshev_coefficients(bound, degree)
    worst = 0.0
    for base, change, visible in _blocks(head):
        weights = np.where(visible, np.exp(base - np.max(base, axis=1, keepdims=True)), 0.0)
        exact = weights * np.exp(np.where(visible, change, 0.0))
        scaled = np.where(visible, change, 0.0) / (bound or 1.0)
        approximate = weights * chebval(scaled, coefficients)
        sums = approximate.sum(axis=1, keepdims=True)
        if not np.all(sums > 0.0):
            return math.inf
        difference = approximate / sums - exact / exact.sum(axis=1, keepdims=True)
        worst = max(worst, float(np.max(np.abs(difference).sum(axis=1))))
    return worst


def _factors(head: HeadUpdate) -> tuple[Array, Array]:
    """(L, 2d_h) each with β·left rightᵀ = ΔS = β (ΔQ K₀ᵀ + (Q₀ + ΔQ) ΔKᵀ)."""
    left = np.hstack([head.query_update, head.queries + head.query_update])
    return left, np.hstack([head.keys, head.key_update])


def _blocks(head: HeadUpdate) -> Iterator[tuple[Array, Array, NDArray[np.bool_]]]:
    """S₀ (-inf where masked), ΔS and the visible pairs, for consecutive blocks of rows."""
    left, right = _factors(head)
    columns = np.arange(len(head.keys))
    for start in range(0, len(left), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(left)))
        if head.causal:
            visible = columns[None, :] <= rows[:, None]
        else:
            visible = np.ones((rows.size, columns.size), dtype=bool)
        base = head.beta * (head.queries[rows] @ head.keys.T)
        yield np.where(visible, base, -np.inf), head.beta * (left[rows] @ right.T), visible
