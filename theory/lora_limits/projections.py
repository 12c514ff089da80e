"""Rows of a projection with its update, in the order of torch's ``Linear``: y = x Wᵀ + b.

Hu et al. (arXiv 2406.03136) write Q = X(W* + (α/r)BA) with B (d, r) and A (r, d). A stored adapter
holds lora_A (r, d_in) and lora_B (d_out, r) with ΔW = s·lora_B·lora_A: the paper's B is lora_Aᵀ and
its A is lora_Bᵀ. The arrays here are one head's rows, or those of several heads one below another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from theory.lora_limits.arrays import Array, finite_matrix, finite_vector


@dataclass(frozen=True, slots=True)
class LowRankUpdate:
    """ΔW = scaling·lora_B·lora_A."""

    lora_A: ArrayLike  # (r, d)
    lora_B: ArrayLike  # (n, r)
    scaling: float  # s = α/r, or α/√r if rank-stabilised


@dataclass(frozen=True, slots=True)
class DenseUpdate:
    """ΔW and Δb of a full fine-tune: tuned minus base."""

    weight: ArrayLike  # (n, d)
    bias: ArrayLike | None = None  # (n,)


Update = LowRankUpdate | DenseUpdate


@dataclass(frozen=True, slots=True)
class Projected:
    """Tokens through a projection: the base's part and the update's, kept apart."""

    base: Array  # (L, n) X W*ᵀ + b
    update: Array | None  # (L, n) X ΔWᵀ (+ Δb); None without an update

    @property
    def adapted(self) -> Array:
        """(L, n) what the model computes."""
        return self.base if self.update is None else self.base + self.update

    def head(self, rows: slice) -> Projected:
        """The columns of one head."""
        update = None if self.update is None else self.update[:, rows]
        return Projected(self.base[:, rows], update)


def adapter_scaling(alpha: float | None, rank: int, *, rank_stabilised: bool = False) -> float:
    """s = α/r, or α/√r (rsLoRA, D. Kalajdzievski, arXiv 2312.03732).

    Raises ValueError for a rank below 1 and an alpha that is missing or not finite.
    """
    if rank < 1:
        raise ValueError(f"the adapter's rank must be at least 1, got {rank}")
    if alpha is None or not np.isfinite(alpha):
        raise ValueError(f"the adapter's alpha must be a finite number, got {alpha}")
    return float(alpha) / (np.sqrt(rank) if rank_stabilised else rank)


def project(
    x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None, update: Update | None = None
) -> Projected:
    """X (L, d) through W (n, d), b (n,) and an update; the low-rank one costs L·r·(d + n).

    Raises ValueError for NaN or infinity and for shapes that do not fit, naming both.
    """
    X, W = finite_matrix(x, "X"), finite_matrix(weight, "W")
    if X.shape[1] != W.shape[1]:
        raise ValueError(f"X of shape {X.shape} does not fit W of shape {W.shape} in torch order")
    base = X @ W.T
    if bias is not None:
        base += finite_vector(bias, "the bias", W.shape[0])
    return Projected(base, None if update is None else _update_of(X, W.shape, update))


def project_update(x: ArrayLike, shape: tuple[int, int], update: Update) -> Array:
    """(L, n) what the update of a weight of this shape (n, d) adds, the weight itself not needed.

    Raises ValueError as `project`.
    """
    X = np.asarray(x, dtype=np.float64)  # NaN and infinity show in the product, which is smaller
    if X.ndim != 2 or X.shape[1] != shape[1]:
        raise ValueError(f"X of shape {X.shape} does not fit W of shape {shape} in torch order")
    return _update_of(X, shape, update)


def merged_weight(weight: ArrayLike, update: Update | None) -> Array:
    """W + ΔW (n, d). Raises ValueError as `project`."""
    W = finite_matrix(weight, "W")
    if update is None:
        return W
    if isinstance(update, LowRankUpdate):
        A, B = checked_factors(update, W.shape)
        return W + update.scaling * (B @ A)
    return W + _checked_delta(update, W.shape)


def checked_factors(update: LowRankUpdate, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """lora_A and lora_B for a weight of this shape. Raises ValueError if they do not fit."""
    A, B = finite_matrix(update.lora_A, "lora_A"), finite_matrix(update.lora_B, "lora_B")
    if A.shape[0] != B.shape[1] or (B.shape[0], A.shape[1]) != shape:
        raise ValueError(
            f"lora_B of shape {B.shape} and lora_A of shape {A.shape} do not fit W of shape {shape}"
        )
    if not np.isfinite(update.scaling):
        raise ValueError(f"the adapter's scaling must be finite, got {update.scaling}")
    return A, B


def _checked_delta(update: DenseUpdate, shape: tuple[int, ...]) -> Array:
    delta = finite_matrix(update.weight, "the update")
    if delta.shape != shape:
        raise ValueError(f"the update of shape {delta.shape} does not fit W of shape {shape}")
    return delta


def _update_of(X: Array, shape: tuple[int, ...], update: Update) -> Array:
    if isinstance(update, LowRankUpdate):
        A, B = checked_factors(update, shape)
        return finite_matrix(update.scaling * (X @ A.T), "X lora_Aᵀ") @ B.T
    moved = X @ _checked_delta(update, shape).T
    if update.bias is not None:
        moved += finite_vector(update.bias, "the update of the bias", shape[0])
    return moved
