"""The norms that the theorems of Hu et al. (arXiv 2406.03136) speak of, for one head, before RoPE.

They depend on how a head's logits are split between queries and keys, which the attention matrix
does not: one large channel inflates them. Read them beside the norms of `chain`, never alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from theory.lora_limits.arrays import Array, finite_matrix
from theory.lora_limits.projections import Projected


@dataclass(frozen=True, slots=True)
class LiteralNorms:
    """Largest |entry| of each matrix; None where the matrix was not given."""

    gamma_x: float  # X, input of the query projection (after its norm layer)
    gamma_x_keys: float  # X of the keys; the same in self-attention
    gamma_q_base: float  # X W_Q*
    gamma_dq: float  # s X B A; 0 without an update of the queries
    gamma_q: float  # X W_Q, adapted
    gamma_k_base: float  # X W_K*, which is C⁽²⁾ and the paper's ‖C⁽²⁾‖∞ of theorem 3.1
    gamma_dk: float
    gamma_k: float
    gamma_v_base: float | None  # X W_V*, which is C⁽³⁾
    gamma_v: float | None
    gamma_qkt: float | None  # X W_Q W_Kᵀ, adapted
    c1: float | None  # C⁽¹⁾ = s X; None without a scaling
    touches_qk: bool  # whether the queries or the keys have an update

    @property
    def c2(self) -> float:
        return self.gamma_k_base

    @property
    def c3(self) -> float | None:
        return self.gamma_v_base

    @property
    def gamma_partial(self) -> float:
        """max(‖XW_Q‖∞, ‖XW_K*‖∞), the sufficient condition of theorem 3.1 (keys frozen)."""
        return max(self.gamma_q, self.gamma_k_base)

    @property
    def gamma_full(self) -> float | None:
        """max(‖XW_Q‖∞, ‖XW_K‖∞, ‖XW_QW_Kᵀ‖∞, ‖X_keys‖∞), theorem A.1; None without gamma_qkt.

        The last two stem from treating the gradient of W_K apart. The attention matrix is the same,
        so that one bounded pair (Q, K) suffices: decide on gamma_q and gamma_k.
        """
        if self.gamma_qkt is None:
            return None
        return max(self.gamma_q, self.gamma_k, self.gamma_qkt, self.gamma_x_keys)

    @property
    def gamma_hard(self) -> float:
        """max(‖XW_K*‖∞, ‖sXBA‖∞), bounded in theorem 4.1's family of inputs, hard under SETH.

        A large value does not make a head hard: the theorem speaks of the worst input.
        """
        return max(self.gamma_k_base, self.gamma_dq)


@dataclass(frozen=True, slots=True)
class TokenQuantiles:
    """Quantiles over tokens of a token's largest |entry|."""

    q50: float
    q99: float


def literal_norms(
    x: ArrayLike,
    q: Projected,
    k: Projected,
    v: Projected | None = None,
    *,
    key_weight: ArrayLike | None = None,
    key_input: ArrayLike | None = None,
    scaling: float | None = None,
) -> LiteralNorms:
    """Norms of one head; q (L, d_h) and k, v (L_k, d_h) as `project` returns them, biases included.

    x (L, d). `key_weight` (d_h, d) is the adapted W_K in torch order, needed for gamma_qkt. The
    bias of the keys shifts each row of logits by a constant and stays out of gamma_qkt.
    `key_input` (L_k, d_k) is the input of the keys in cross-attention, `scaling` the s of the
    query adapter. With grouped queries the caller pairs each query head with its key head. Drop
    padded tokens before the projection; over a batch each gamma is the largest of the samples.
    Raises ValueError for NaN or infinity and for shapes that do not fit.
    """
    X = finite_matrix(x, "X")
    Xk = X if key_input is None else finite_matrix(key_input, "X of the keys")
    Q, K = _adapted(q, "Q", X.shape[0]), _adapted(k, "K", Xk.shape[0])
    if Q.shape[1] != K.shape[1]:
        raise ValueError(f"Q of shape {Q.shape} does not fit K of shape {K.shape}")
    gamma_qkt = None
    if key_weight is not None:
        W = finite_matrix(key_weight, "W_K")
        if W.shape != (K.shape[1], Xk.shape[1]):
            raise ValueError(f"W_K of shape {W.shape} does not fit X {Xk.shape} and K {K.shape}")
        gamma_qkt = max_entry(Q @ W)
    return LiteralNorms(
        gamma_x=max_entry(X),
        gamma_x_keys=max_entry(Xk),
        gamma_q_base=max_entry(q.base),
        gamma_dq=max_entry(q.update),
        gamma_q=max_entry(Q),
        gamma_k_base=max_entry(k.base),
        gamma_dk=max_entry(k.update),
        gamma_k=max_entry(K),
        gamma_v_base=None if v is None else max_entry(v.base),
        gamma_v=None if v is None else max_entry(_adapted(v, "V", Xk.shape[0])),
        gamma_qkt=gamma_qkt,
        c1=None if scaling is None else abs(scaling) * max_entry(X),
        touches_qk=q.update is not None or k.update is not None,
    )


def max_entry(matrix: Array | None) -> float:
    """‖Z‖∞ = max |Z_ij|; 0 for None."""
    return 0.0 if matrix is None else max(float(matrix.max()), -float(matrix.min()))


def token_quantiles(values: ArrayLike) -> TokenQuantiles:
    """Median and 0.99 quantile over the tokens (rows) of max_c |values_ic|, values (L, n)."""
    largest = np.max(np.abs(finite_matrix(values, "values")), axis=1)
    q50, q99 = np.quantile(largest, [0.5, 0.99])
    return TokenQuantiles(float(q50), float(q99))


def _adapted(part: Projected, name: str, tokens: int) -> Array:
    matrix = finite_matrix(part.adapted, name)
    if matrix.shape[0] != tokens:
        raise ValueError(f"{name} of shape {matrix.shape} does not fit X with {tokens} tokens")
    return matrix
