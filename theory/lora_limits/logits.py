"""Rows of S = β q kᵀ (+ bias), block by block: spread, largest |logit|, participation.

Time O(L·L_k·d_h), memory O(block·L_k).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from theory.lora_limits.arrays import Array, Positions, finite_matrix, kept_positions, positive

Mask = Literal["none", "causal"]
# From positions of queries (n,) and keys (m,) to what is added to their logits (n, m), as in ALiBi.
AdditiveBias = Callable[[Positions, Positions], Array]

BLOCK_ENTRIES = 1 << 20  # 8 MiB of float64


@dataclass(frozen=True, slots=True)
class RowLogits:
    """One value per query that is not padded, in order; over the keys that it sees."""

    spread: Array  # (n,) max_j S_ij - min_j S_ij
    largest: Array  # (n,) max_j |S_ij|
    top: Array  # (n,) max_j S_ij
    participation: Array  # (n,) Σ_j F_ij², F = softmax(S)


def row_logits(
    q: ArrayLike,
    k: ArrayLike,
    beta: float,
    *,
    mask: Mask = "none",
    padded_queries: ArrayLike | None = None,
    padded_keys: ArrayLike | None = None,
    additive: AdditiveBias | None = None,
    window: int | None = None,
    block_rows: int | None = None,
) -> RowLogits:
    """q (L, d_h) and k (L_k, d_h) after RoPE; the padding masks are boolean, True = left out.

    "causal" lets a query see the keys up to its own position and needs L = L_k; of these, a
    `window` leaves the last ones, its own included. `additive` is added to the logits before the
    mask. `block_rows` bounds the memory and changes nothing else.
    Raises ValueError for NaN or infinity, shapes that do not fit, β ≤ 0, a window without a causal
    mask, or a query that sees no key.
    """
    Q, K = head_pair(q, k)
    scale = positive(beta, "beta")
    queries = kept_positions(Q.shape[0], padded_queries, "queries")
    keys = kept_positions(K.shape[0], padded_keys, "keys")
    if mask == "causal":
        if Q.shape[0] != K.shape[0]:
            raise ValueError(
                f"a causal mask needs as many queries as keys, got {Q.shape[0]} and {K.shape[0]}"
            )
        if queries[0] < keys[0]:
            raise ValueError(f"the query at position {queries[0]} sees no key")
    if window is not None and (mask != "causal" or window < 1):
        raise ValueError(f"a window must be at least 1 and causal, got {window}, mask {mask!r}")
    if block_rows is not None and block_rows < 1:
        raise ValueError(f"block_rows must be at least 1, got {block_rows}")
    rows = block_rows or max(1, BLOCK_ENTRIES // keys.size)
    K = K[keys]
    parts: list[tuple[Array, Array, Array, Array]] = []
    for start in range(0, queries.size, rows):
        at = queries[start : start + rows]
        # later keys are hidden from the whole block
        seen = int(np.searchsorted(keys, at[-1], side="right")) if mask == "causal" else keys.size
        S = (scale * Q[at]) @ K[:seen].T
        if additive is not None:
            S += additive(at, keys[:seen])
        hidden = keys[:seen] > at[:, None] if mask == "causal" else None
        if hidden is not None and window is not None:
            hidden |= keys[:seen] <= at[:, None] - window
            if hidden.all(axis=1).any():
                raise ValueError(f"a query sees no key within the window of {window}")
        parts.append(_rows(S, hidden))
    return RowLogits(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def head_pair(q: ArrayLike, k: ArrayLike) -> tuple[Array, Array]:
    """Queries (L, d_h) and keys (L_k, d_h). Raises ValueError if their widths differ."""
    Q, K = finite_matrix(q, "q"), finite_matrix(k, "k")
    if Q.shape[1] != K.shape[1]:
        raise ValueError(f"q of shape {Q.shape} does not fit k of shape {K.shape}")
    return Q, K


def _rows(S: Array, hidden: np.ndarray | None) -> tuple[Array, Array, Array, Array]:
    """Spread, largest, top and participation of each row; overwrites S."""
    if hidden is None:
        low = S.min(axis=1)
    else:
        low = S.min(axis=1, initial=np.inf, where=~hidden)
        S[hidden] = -np.inf
    top = S.max(axis=1)
    S -= top[:, None]
    np.exp(S, out=S)
    participation = np.einsum("ij,ij->i", S, S) / S.sum(axis=1) ** 2
    return top - low, np.maximum(top, -low), top, participation
