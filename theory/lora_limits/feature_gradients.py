"""Attention and its gradients through low-rank factors, never forming an L × L matrix.

With F ≈ U Wᵀ, U = Φ(Q)/rowsum, W = Φ(K) from `features.feature_maps`, and V_v, G_v the columns of
values and output gradient,

    ∂Q ≈ β [Σ_v diag(G_v) U (Wᵀ diag(V_v) K) - diag(ρ) U (Wᵀ K)]
    ∂K ≈ β [Σ_v diag(V_v) W (Uᵀ diag(G_v) Q) - W (Uᵀ diag(ρ) Q)],   ∂V ≈ W (Uᵀ G)

in O(L k₁ d_h d_v). The construction of J. Hu et al., arXiv 2406.03136, after J. Alman & Z. Song,
arXiv 2402.04497, in softmax rows; ρ = rowsum(G ⊙ O) needs no product of ranks.

The error bounds hold for this input and these features. They do not make the algorithm almost
linear: for that k₁ must stay below any power of L, which no finite case can show.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from theory.lora_limits.arrays import Array, finite_matrix
from theory.lora_limits.gradients import LoraGradients, check_factors

_BLOCK = 128  # rows whose masked product is formed at once


@dataclass(frozen=True, slots=True)
class FactoredAttention:
    """F ≈ left rightᵀ, its lower triangle if `causal`; rows sum to 1."""

    left: Array  # U (L_q, k₁)
    right: Array  # W (L_k, k₁)
    causal: bool


@dataclass(frozen=True, slots=True)
class FactoredGradients:
    """Approximate ∂Q (L_q, d_h), ∂K (L_k, d_h), ∂V (L_k, d_v)."""

    queries: Array
    keys: Array
    values: Array


def factored_attention(
    query_features: ArrayLike, key_features: ArrayLike, *, causal: bool = False
) -> FactoredAttention:
    """Normalise the rows of Φ(Q) Φ(K)ᵀ, or of its lower triangle.

    Raises ValueError for widths that differ, a causal mask with L_q ≠ L_k, or a row sum that is not
    positive: the polynomial is then too coarse to stand for exp.
    """
    phi_q = finite_matrix(query_features, "query features")
    phi_k = finite_matrix(key_features, "key features")
    if phi_q.shape[1] != phi_k.shape[1]:
        raise ValueError(f"features {phi_q.shape} and {phi_k.shape} have different widths")
    if causal and len(phi_q) != len(phi_k):
        raise ValueError(f"a causal mask needs as many queries as keys: {len(phi_q)}, {len(phi_k)}")
    sums = _product(phi_q, phi_k, np.ones((len(phi_k), 1)), causal)
    if not np.all(sums > 0.0):
        raise ValueError(f"row {int(np.argmin(sums))} sums to {sums.min():g}: raise the degree")
    return FactoredAttention(phi_q / sums, phi_k, causal)


def factored_output(attention: FactoredAttention, values: ArrayLike) -> Array:
    """O (L_q, d_v) ≈ F V from values (L_k, d_v). ValueError for another length."""
    V = finite_matrix(values, "values")
    if len(V) != len(attention.right):
        raise ValueError(f"values {V.shape} do not match {len(attention.right)} keys")
    return _apply(attention, V)


def factored_gradients(
    attention: FactoredAttention,
    queries: ArrayLike,
    keys: ArrayLike,
    values: ArrayLike,
    output_gradient: ArrayLike,
    beta: float,
) -> FactoredGradients:
    """∂Q, ∂K, ∂V through the factors; shapes as in `gradients.attention_gradients`.

    For a loss that depends on the output, pass G at `factored_output`. Memory is O(L k₁).
    Raises ValueError for shapes that do not agree.
    """
    Q, K = finite_matrix(queries, "queries"), finite_matrix(keys, "keys")
    V, G = finite_matrix(values, "values"), finite_matrix(output_gradient, "output gradient")
    lengths = len(attention.left), len(attention.right)
    if (len(Q), len(K)) != lengths or len(V) != len(K) or G.shape != (len(Q), V.shape[1]):
        raise ValueError(
            f"shapes do not agree: attention {lengths}, queries {Q.shape}, keys {K.shape}, "
            f"values {V.shape}, output gradient {G.shape}"
        )
    rho = np.sum(G * _apply(attention, V), axis=1, keepdims=True)
    d_queries = -rho * _apply(attention, K)
    d_keys = -_apply_transposed(attention, rho * Q)
    for v, g in zip(V.T[:, :, None], G.T[:, :, None], strict=True):
        d_queries += g * _apply(attention, v * K)
        d_keys += v * _apply_transposed(attention, g * Q)
    return FactoredGradients(
        queries=beta * d_queries, keys=beta * d_keys, values=_apply_transposed(attention, G)
    )


def logit_gradient_error(delta: float, output_gradient: ArrayLike, values: ArrayLike) -> float:
    """E with Σ_j |P̂_ij - P_ij| ≤ E for every row, P as in `gradients`, G = O - Y at each output.

    `delta` < 1 bounds the error of exp: absolute, for centred keys without a mask; relative,
    otherwise. With e = 2δ/(1-δ), the row error of F, q = max|G Vᵀ| and D = e max|V| max_i‖V_i‖₁,

        p = e q + (1 + e) D,   E = p + e q + (1 + e) p.

    G is the exact one. For a G that does not depend on the output the bound holds but is loose.
    Raises ValueError for δ outside [0, 1).
    """
    if not 0.0 <= delta < 1.0:
        raise ValueError(f"the error of exp must lie in [0, 1), got {delta}")
    G = finite_matrix(output_gradient, "output gradient")
    V = finite_matrix(values, "values")
    if G.shape[1] != V.shape[1]:
        raise ValueError(f"output gradient {G.shape} and values {V.shape} differ in width")
    e = 2.0 * delta / (1.0 - delta)
    q = max(float(np.max(np.abs(G[i : i + _BLOCK] @ V.T))) for i in range(0, len(G), _BLOCK))
    feedback = e * float(np.max(np.abs(V))) * float(np.max(np.abs(V).sum(axis=1)))
    p = e * q + (1.0 + e) * feedback
    return p + e * q + (1.0 + e) * p


def query_adapter_error(
    row_error: float,
    inputs: ArrayLike,
    keys: ArrayLike,
    lora_A: ArrayLike,
    lora_B: ArrayLike,
    scaling: float,
    beta: float,
) -> LoraGradients:
    """Entrywise bounds on the error of dlora_A and dlora_B of the query projection of one head.

    `row_error` is E of `logit_gradient_error`, `inputs` X (L_q, in), `keys` K (L_k, d_h), best
    centred, which P allows because its rows sum to 0; lora_A (r, in), lora_B (d_h, r).

        |Δ dlora_B[b, a]| ≤ |s| β E ‖(X lora_Aᵀ)_:a‖₁ max|K_:b|
        |Δ dlora_A[a, b]| ≤ |s| β E ‖X_:b‖₁ max|(K lora_B)_:a|

    For several heads that share lora_A the bounds on dlora_A add up. Without rotary embedding only:
    a rotation between projection and product mixes channels.
    """
    if not 0.0 <= row_error < np.inf:
        raise ValueError(f"the row error must be finite and not negative, got {row_error}")
    X, K = finite_matrix(inputs, "inputs"), finite_matrix(keys, "keys")
    A, B = finite_matrix(lora_A, "lora_A"), finite_matrix(lora_B, "lora_B")
    check_factors(A, B, (K.shape[1], X.shape[1]))
    scale = abs(scaling) * beta * row_error
    inner = np.abs(X @ A.T).sum(axis=0)
    outer = np.abs(K @ B).max(axis=0)
    return LoraGradients(
        lora_A=scale * np.outer(outer, np.abs(X).sum(axis=0)),
        lora_B=scale * np.outer(np.abs(K).max(axis=0), inner),
    )


def _apply(attention: FactoredAttention, M: Array) -> Array:
    """F M (L_q, columns)."""
    return _product(attention.left, attention.right, M, attention.causal)


def _apply_transposed(attention: FactoredAttention, M: Array) -> Array:
    """Fᵀ M (L_k, columns): in reversed order an upper triangle is a lower one."""
    left, right = attention.left, attention.right
    if attention.causal:
        return _product(right[::-1], left[::-1], M[::-1], True)[::-1]
    return _product(right, left, M, False)


def _product(left: Array, right: Array, M: Array, causal: bool) -> Array:
    """(left rightᵀ) M, or tril(left rightᵀ) M by prefix sums over blocks of rows."""
    if not causal:
        return left @ (right.T @ M)
    result = np.empty((len(left), M.shape[1]))
    prefix = np.zeros((right.shape[1], M.shape[1]))
    for start in range(0, len(left), _BLOCK):
        rows = slice(start, start + _BLOCK)
        inside = np.tril(left[rows] @ right[rows].T) @ M[rows]
        result[rows] = left[rows] @ prefix + inside
        prefix += right[rows].T @ M[rows]
    return result
