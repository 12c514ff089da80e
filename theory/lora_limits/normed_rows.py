"""A projection behind a norm layer, as rows acting on the normalised token.

The layer's output is x = g ∘ z + b with ‖z‖₂ ≤ √d, and Σ z = 0 for LayerNorm, whatever its input
and its eps. Row c of the projection then gives q_c = A_c·z + a_c with A_c = w_c ∘ g, less its mean
for LayerNorm, and a_c = w_c·b + bias_c.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from theory.lora_limits.arrays import Array, Positions, finite_matrix, finite_vector
from theory.lora_limits.projections import LowRankUpdate, checked_factors

NormKind = Literal["layernorm", "rmsnorm"]


@dataclass(frozen=True, slots=True)
class NormLayer:
    kind: NormKind
    gain: ArrayLike  # (d,) what multiplies z; 1 + weight for Gemma
    bias: ArrayLike | None = None  # (d,)


@dataclass(frozen=True, slots=True)
class NormedRows:
    """q = A z + a for every z with ‖z‖₂ ≤ √d."""

    A: Array  # (n, d), or (n, r) in an orthonormal basis of the rows, which no bound can tell
    a: Array  # (n,)
    radius: float  # √d, the largest ‖z‖₂

    def rows(self, which: slice) -> NormedRows:
        """Those of one head."""
        return NormedRows(self.A[which], self.a[which], self.radius)


def normed_rows(weight: ArrayLike, norm: NormLayer, bias: ArrayLike | None = None) -> NormedRows:
    """W (n, d) in torch order, with the adapter merged where it is to be included; bias (n,).

    Linear in (W, bias) together: the rows of an update alone are those of ΔW and Δb. Raises
    ValueError for NaN or infinity, an unknown kind of norm and shapes that do not fit.
    """
    W = finite_matrix(weight, "W")
    offset = np.zeros(W.shape[0]) if bias is None else finite_vector(bias, "the bias", W.shape[0])
    if norm.bias is not None:
        offset = offset + W @ finite_vector(norm.bias, "the norm's bias", W.shape[1])
    return NormedRows(_through_gain(W, norm), offset, math.sqrt(W.shape[1]))


def low_rank_rows(update: LowRankUpdate, norm: NormLayer) -> NormedRows:
    """Rows of s·lora_B·lora_A alone, never formed: (n, r) by a QR of lora_A, in O(r²(d + n)).

    A bound of the base's rows plus that of these bounds the adapted ones (triangle inequality), at
    any s after scaling the second by |s|; the merged rows give the tighter bound. Raises
    ValueError as `normed_rows` and for factors that do not fit.
    """
    A, B = finite_matrix(update.lora_A, "lora_A"), finite_matrix(update.lora_B, "lora_B")
    checked_factors(update, (B.shape[0], A.shape[1]))
    scaled = update.scaling * B
    offset = np.zeros(B.shape[0])
    if norm.bias is not None:
        offset = scaled @ (A @ finite_vector(norm.bias, "the norm's bias", A.shape[1]))
    _, R = np.linalg.qr(_through_gain(A, norm).T)
    return NormedRows(scaled @ R.T, offset, math.sqrt(A.shape[1]))


def half_split_pairs(rotary_width: int) -> Positions:
    """RoPE pairs (c, c + w/2) of rotate_half over the first w channels, shape (w/2, 2).

    Raises ValueError unless w is even and at least 2.
    """
    if rotary_width < 2 or rotary_width % 2:
        raise ValueError(f"the rotary width must be even and at least 2, got {rotary_width}")
    first = np.arange(rotary_width // 2)
    return np.stack([first, first + rotary_width // 2], axis=1)


def _through_gain(W: Array, norm: NormLayer) -> Array:
    if norm.kind not in ("layernorm", "rmsnorm"):
        raise ValueError(f"the norm must be layernorm or rmsnorm, got {norm.kind!r}")
    A = W * finite_vector(norm.gain, "the norm's gain", W.shape[1])
    return A - A.mean(axis=1, keepdims=True) if norm.kind == "layernorm" else A
