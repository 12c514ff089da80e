"""Sequential merging by orthogonal projection: one task vector after the other.

A. Tang et al., "Merging Models on the Fly Without Retraining: A Sequential Approach to Scalable
Continual Model Merging" (OPCM), arXiv 2501.09522, 2025. The new update loses, in the basis of the
merged one's singular vectors, its leading block and its diagonal: what it would add to directions
that the merged update already uses. The result is rescaled to the mean norm of the updates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

# Singular values closer than this, relatively, leave their singular vectors undetermined.
_DEGENERATE_GAP = 1e-6


@dataclass(frozen=True, slots=True)
class Projection:
    """The part of the new update that is added."""

    update: Array  # P
    rank: int  # r: size of the leading block that is removed
    degenerate: bool  # what is removed depends on an arbitrary choice of singular vectors


@dataclass(frozen=True, slots=True)
class MergeState:
    """Merged update after some steps."""

    merged: dict[str, Array]  # Δ_m by tensor
    scale: float  # λ of the last step
    mean_norm: float  # mean ‖Δ_i‖ over the updates merged, all tensors together
    count: int
    degenerate: tuple[str, ...] = ()  # tensors flagged in the last step


def start(update: Mapping[str, ArrayLike]) -> MergeState:
    """The first update as it is, λ = 1."""
    first = {name: np.asarray(value, dtype=np.float64) for name, value in update.items()}
    return MergeState(first, 1.0, _norm(first), 1)


def step(state: MergeState, update: Mapping[str, ArrayLike], alpha: float = 0.5) -> MergeState:
    """Δ_m ← (λ_{t-1} Δ_m + P)/λ_t, λ_t = ‖λ_{t-1} Δ_m + P‖/mean ‖Δ_i‖, norms over all tensors.

    So the merged update has the mean norm. Matrices are projected, tensors of other order are
    added as they are. Raises ValueError for other tensors than those merged, or a sum that is zero.
    """
    if update.keys() != state.merged.keys():
        raise ValueError(f"other tensors: {sorted(update.keys() ^ state.merged.keys())}")
    new = {name: np.asarray(value, dtype=np.float64) for name, value in update.items()}
    total: dict[str, Array] = {}
    flagged: list[str] = []
    for name, merged in state.merged.items():
        if merged.shape != new[name].shape:
            raise ValueError(f"{name} has shape {new[name].shape}, merged is {merged.shape}")
        added = new[name]
        if merged.ndim == 2:
            projection = project(merged, added, alpha)
            added = projection.update
            flagged += [name] if projection.degenerate else []
        total[name] = state.scale * merged + added
    count = state.count + 1
    mean_norm = state.mean_norm + (_norm(new) - state.mean_norm) / count
    scale = _norm(total) / mean_norm if mean_norm > 0.0 else 0.0
    if scale == 0.0:
        raise ValueError("the updates cancel: nothing is left to rescale")
    merged = {name: value / scale for name, value in total.items()}
    return MergeState(merged, scale, mean_norm, count, tuple(flagged))


def project(merged: ArrayLike, new: ArrayLike, alpha: float = 0.5) -> Projection:
    """P = Δ_t - U_p T V_pᵀ with T the leading r × r block and the diagonal of G = U_pᵀ Δ_t V_p.

    Both (m, n), p = min(m, n), Δ_m = U S Vᵀ; r is the first index, from 0, at which the running sum
    of singular values exceeds alpha of their total. Equal to removing the same entries from UᵀΔ_t V
    with full bases, none of which beyond p is touched. `degenerate`: from r on there are equal
    values, two that are zero to rounding, or, where m ≠ n, one: the null space on the longer side
    then has more than one direction. Raises ValueError unless 0 ≤ alpha < 1.
    """
    if not 0.0 <= alpha < 1.0:
        raise ValueError(f"alpha must lie in [0, 1), got {alpha}")
    old, update = np.asarray(merged, dtype=np.float64), np.asarray(new, dtype=np.float64)
    U, s, Vt = np.linalg.svd(old, full_matrices=False)
    if s.size == 0 or s[0] == 0.0:
        return Projection(update, 0, degenerate=False)
    running = np.cumsum(s)
    r = int(np.argmax(running / running[-1] > alpha))
    # entry i of the diagonal, and the leading block, of G; G itself is not needed beyond
    removed = np.diag(np.einsum("mi,mn,in->i", U, update, Vt, optimize=True))
    removed[:r, :r] = U[:, :r].T @ update @ Vt[:r].T
    # two equal values inside the removed block span a plane that is removed as a whole
    gaps = (s[:-1] - s[1:]) <= _DEGENERATE_GAP * s[:-1]
    m, n = old.shape
    n_null = int(np.sum(s <= s[0] * max(m, n) * np.finfo(np.float64).eps))
    turns = bool(np.any(gaps[max(r - 1, 0) :])) or n_null > (1 if m == n else 0)
    return Projection(update - U @ removed @ Vt, r, degenerate=turns and bool(update.any()))


def _norm(tensors: Mapping[str, Array]) -> float:
    return float(np.sqrt(sum(np.vdot(value, value) for value in tensors.values())))
