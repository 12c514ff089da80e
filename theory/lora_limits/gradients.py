"""Exact attention of one head and its gradients, down to the two factors of an adapter.

    S = β Q Kᵀ,  F = softmax(S),  O = F V,  G = ∂loss/∂O,  ρ = rowsum(G ⊙ O)
    P = ∂loss/∂S = F ⊙ (G Vᵀ) - diag(ρ) F
    ∂Q = β P K,  ∂K = β Pᵀ Q,  ∂V = Fᵀ G,  dW = ∂ᵀ X,
    dlora_B = s dW lora_Aᵀ,  dlora_A = s lora_Bᵀ dW

with rows F_i as softmax rows and torch order, y = x Wᵀ, W = W* + s lora_B lora_A. The gradients for
which J. Hu et al., arXiv 2406.03136, ask for an almost linear algorithm; the formulas printed there
mix row and column conventions of F. Here in O(L²), as the reference for any approximation.

Queries and keys are those that enter the product. Where rotary embedding comes between projection
and product, rotate ∂Q and ∂K back before `weight_gradient`. With grouped queries add the ∂K and ∂V
of the query heads that share a key head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from theory.lora_limits.arrays import Array, finite_matrix, positive


@dataclass(frozen=True, slots=True)
class AttentionGradients:
    """Derivatives of the loss for one head."""

    logits: Array  # P (L_q, L_k), of S = β Q Kᵀ; zero where masked
    queries: Array  # (L_q, d_h)
    keys: Array  # (L_k, d_h)
    values: Array  # (L_k, d_v)


@dataclass(frozen=True, slots=True)
class LoraGradients:
    """Derivatives for lora_A (r, in) and lora_B (out, r)."""

    lora_A: Array
    lora_B: Array


def centred_keys(keys: ArrayLike) -> Array:
    """Keys (L, d_h) minus their mean: softmax and its gradients do not change.

    Unmasked, every row of S then has mean 0 and Σ_j exp(S_ij) ≥ L by Jensen's inequality.
    """
    K = finite_matrix(keys, "keys")
    return K - K.mean(axis=0)


def attention_matrix(
    queries: ArrayLike, keys: ArrayLike, beta: float, *, causal: bool = False
) -> Array:
    """F (L_q, L_k) = softmax of β Q Kᵀ by rows; `causal` hides keys after the query.

    Raises ValueError for widths that differ, β that is not positive and finite, or a causal mask
    with L_q ≠ L_k.
    """
    Q, K = finite_matrix(queries, "queries"), finite_matrix(keys, "keys")
    if Q.shape[1] != K.shape[1]:
        raise ValueError(f"queries {Q.shape} and keys {K.shape} have different widths")
    positive(beta, "the softmax scale")
    S = beta * (Q @ K.T)
    if causal:
        if len(Q) != len(K):
            raise ValueError(f"a causal mask needs as many queries as keys: {len(Q)}, {len(K)}")
        S[np.triu_indices(len(Q), 1)] = -np.inf
    F = np.exp(S - S.max(axis=1, keepdims=True))
    return F / F.sum(axis=1, keepdims=True)


def squared_loss(output: ArrayLike, target: ArrayLike) -> tuple[float, Array]:
    """½‖O - Y‖_F² and G = O - Y, the loss of arXiv 2406.03136. ValueError for unequal shapes."""
    result, wanted = finite_matrix(output, "output"), finite_matrix(target, "target")
    if result.shape != wanted.shape:
        raise ValueError(f"output {result.shape} and target {wanted.shape} must have one shape")
    residual = result - wanted
    return 0.5 * float(np.sum(residual**2)), residual


def attention_gradients(
    queries: ArrayLike,
    keys: ArrayLike,
    values: ArrayLike,
    output_gradient: ArrayLike,
    beta: float,
    *,
    causal: bool = False,
) -> AttentionGradients:
    """P, ∂Q, ∂K, ∂V from Q (L_q, d_h), K (L_k, d_h), V (L_k, d_v) and G (L_q, d_v).

    Raises ValueError for shapes that do not agree, and like `attention_matrix`.
    """
    Q, K = finite_matrix(queries, "queries"), finite_matrix(keys, "keys")
    V, G = finite_matrix(values, "values"), finite_matrix(output_gradient, "output gradient")
    if len(V) != len(K) or G.shape != (len(Q), V.shape[1]):
        raise ValueError(
            f"shapes do not agree: queries {Q.shape}, keys {K.shape}, values {V.shape}, "
            f"output gradient {G.shape}"
        )
    F = attention_matrix(Q, K, beta, causal=causal)
    weighted = F * (G @ V.T)
    P = weighted - weighted.sum(axis=1, keepdims=True) * F
    return AttentionGradients(
        logits=P, queries=beta * (P @ K), keys=beta * (P.T @ Q), values=F.T @ G
    )


def weight_gradient(projection_gradient: ArrayLike, inputs: ArrayLike) -> Array:
    """dW (out, in) = ∂ᵀ X from ∂ (L, out) of the projected rows and their inputs X (L, in)."""
    D = finite_matrix(projection_gradient, "projection gradient")
    X = finite_matrix(inputs, "inputs")
    if len(D) != len(X):
        raise ValueError(f"gradient {D.shape} and inputs {X.shape} have different lengths")
    return D.T @ X


def lora_gradients(
    weight: ArrayLike, lora_A: ArrayLike, lora_B: ArrayLike, scaling: float
) -> LoraGradients:
    """From dW (out, in), lora_A (r, in), lora_B (out, r) and s.

    A fresh adapter, lora_B = 0, has dlora_A = 0. Raises ValueError for shapes that do not agree,
    rank 0 included.
    """
    D = finite_matrix(weight, "weight gradient")
    A, B = finite_matrix(lora_A, "lora_A"), finite_matrix(lora_B, "lora_B")
    check_factors(A, B, D.shape)
    return LoraGradients(lora_A=scaling * (B.T @ D), lora_B=scaling * (D @ A.T))


def check_factors(lora_A: Array, lora_B: Array, shape: tuple[int, int]) -> None:
    """ValueError unless lora_B lora_A has the `shape` (out, in)."""
    product = (len(lora_B), lora_A.shape[1])
    if lora_B.shape[1] != len(lora_A) or product != shape:
        raise ValueError(
            f"lora_B {lora_B.shape} times lora_A {lora_A.shape} does not have shape {shape}"
        )
