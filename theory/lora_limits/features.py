"""Explicit monomial features with Φ(Q) Φ(K)ᵀ = p(β Q Kᵀ) for a polynomial p.

By the multinomial theorem (q·k)^n = Σ_{|m|=n} n!/∏ m_i! ∏ (q_i k_i)^{m_i}: one feature per
multi-index m of degree ≤ g, C(d_h + g, g) of them (J. Alman & Z. Song, arXiv 2302.13214). For small
d_h and teaching: the count explodes, see `polynomial.rank_exponent`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from theory.lora_limits.arrays import Array, finite_matrix, finite_vector, positive
from theory.lora_limits.polynomial import feature_count, log_feature_count

DEFAULT_MAX_BYTES = 2**31


def feature_maps(
    queries: ArrayLike,
    keys: ArrayLike,
    coefficients: ArrayLike,
    beta: float,
    *,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> tuple[Array, Array]:
    """Φ(Q) (L_q, k₁) and Φ(K) (L_k, k₁) with Φ(Q) Φ(K)ᵀ = Σ_n c_n (β q·k)^n entrywise.

    `queries` (L_q, d_h), `keys` (L_k, d_h), `coefficients` c (g + 1,). A feature is
    √(|c_n| n!/∏ m_i!) ∏ x_i^{m_i}, with the sign of c_n on the query side. Nothing is implied about
    the product where |β q·k| exceeds the bound that the polynomial was made for.
    Raises ValueError for widths that differ, β ≤ 0, or features above `max_bytes`.
    """
    Q = finite_matrix(queries, "queries")
    K = finite_matrix(keys, "keys")
    c = finite_vector(coefficients, "coefficients")
    if Q.shape[1] != K.shape[1]:
        raise ValueError(f"queries {Q.shape} and keys {K.shape} have different widths")
    positive(beta, "the softmax scale")
    _check_memory(Q.shape[1], c.size - 1, len(Q) + len(K), max_bytes)
    half = math.sqrt(beta)
    weights, query_monomials = _monomials(half * Q, c.size - 1)
    _, key_monomials = _monomials(half * K, c.size - 1)
    degrees = np.concatenate([np.full(w.size, n) for n, w in enumerate(weights)])
    scale = np.sqrt(np.abs(c[degrees]) * np.concatenate(weights))
    return query_monomials * (scale * np.sign(c[degrees])), key_monomials * scale


def _check_memory(width: int, degree: int, rows: int, max_bytes: int) -> None:
    """ValueError with the numbers where k₁·rows float64 values exceed the budget."""
    needed = 8 * rows * feature_count(width, degree)
    if needed > max_bytes:
        digits = log_feature_count(width, degree) / math.log(10.0)
        raise ValueError(
            f"10^{digits:.2f} features of width {width} and degree {degree} for {rows} rows need "
            f"10^{math.log10(needed):.2f} bytes; the budget is {max_bytes} bytes"
        )


def _monomials(X: Array, degree: int) -> tuple[list[Array], Array]:
    """n!/∏ m_i! per degree n, and all monomials (rows, k₁) in the same order.

    A monomial is a non-decreasing sequence of channels; degree n + 1 appends one channel that is
    not smaller than the last, which reaches every multi-index once.
    """
    rows, width = X.shape
    values = np.empty((rows, feature_count(width, degree)))
    values[:, 0] = 1.0
    weights = [np.ones(1)]
    start, last, run = 0, np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
    for n in range(1, degree + 1):
        repeats = width - last
        parent = np.repeat(np.arange(last.size), repeats)
        offset = np.arange(parent.size) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        run = np.where(offset == 0, run[parent], 0) + 1  # how often the new channel now occurs
        weights.append(weights[-1][parent] * n / run)
        end = start + last.size
        last = last[parent] + offset
        values[:, end : end + last.size] = values[:, start + parent] * X[:, last]
        start = end
    return weights, values
