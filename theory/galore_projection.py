"""GaLore's projector: the top-r singular vectors of one minibatch gradient, on one or both sides.

J. Zhao, Z. Zhang, B. Chen, Z. Wang, A. Anandkumar & Y. Tian, "GaLore: Memory-Efficient LLM Training
by Gradient Low-Rank Projection", arXiv 2403.03507, ICML 2024, Algorithm 2. For G (m, n):

    left   P = U_r (m, r),  R = Pᵀ G (r, n),    back: P R
    right  Q = V_r (n, r),  R = G Q (m, r),     back: R Qᵀ
    full   both,            R = Pᵀ G Q (r, r),  back: P R Qᵀ

The paper projects from the left if m ≤ n; the released code does so only if m < n. They differ for
square matrices, where the choice decides which side's subspace is followed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Side = Literal["left", "right", "full"]
ProjType = Literal["std", "reverse_std", "left", "right", "full"]
SideRule = Literal["paper", "code"]


@dataclass(frozen=True, slots=True)
class Projector:
    """Orthonormal columns; the side that is not projected is None.

    `determined`: how many of the r columns belong to singular values above max(m, n)·ε·σ_1. The
    others are an arbitrary basis: the gradient had a lower rank than was asked for.
    """

    side: Side
    left: Array | None  # P (m, r)
    right: Array | None  # Q (n, r)
    determined: int


def check_rank(rank: int, rows: int, cols: int) -> None:
    """Raises ValueError unless 1 ≤ rank ≤ min(rows, cols)."""
    limit = min(rows, cols)
    if not 1 <= rank <= limit:
        raise ValueError(f"rank must lie in 1..{limit} for a {rows} x {cols} matrix, got {rank}")


def projection_side(
    rows: int, cols: int, proj_type: ProjType = "std", rule: SideRule = "paper"
) -> Side:
    """The side that `proj_type` projects; ``reverse_std`` takes the side that ``std`` does not."""
    if rule not in ("paper", "code"):
        raise ValueError(f"side rule must be 'paper' or 'code', got {rule!r}")
    left = rows < cols or (rows == cols and rule == "paper")
    if proj_type == "std":
        return "left" if left else "right"
    if proj_type == "reverse_std":
        return "right" if left else "left"
    if proj_type in ("left", "right", "full"):
        return proj_type
    raise ValueError(f"unknown proj_type {proj_type!r}")


def fit_projector(gradient: ArrayLike, rank: int, side: Side) -> Projector:
    """The projector of G (m, n). Raises ValueError for a rank outside 1..min(m, n), NaN or Inf.

    The signs of its columns are the SVD's own. One projection does not depend on them, moments kept
    across a change of projector do.
    """
    G = as_matrix(gradient)
    check_rank(rank, *G.shape)
    U, s, Vt = np.linalg.svd(G, full_matrices=False)
    floor = max(G.shape) * np.finfo(np.float64).eps * s[0]
    return Projector(
        side=side,
        left=U[:, :rank] if side != "right" else None,
        right=Vt[:rank].T if side != "left" else None,
        determined=int(np.count_nonzero(s[:rank] > floor)),
    )


def project(projector: Projector, gradient: Array) -> Array:
    """R: (r, n), (m, r) or (r, r)."""
    R = gradient if projector.left is None else projector.left.T @ gradient
    return R if projector.right is None else R @ projector.right


def project_back(projector: Projector, low_rank: Array) -> Array:
    """R or N back in the shape of G (m, n), without any scale."""
    X = low_rank if projector.left is None else projector.left @ low_rank
    return X if projector.right is None else X @ projector.right.T


def captured_energy(projector: Projector, gradient: ArrayLike) -> float | None:
    """‖R‖_F²/‖G‖_F² in [0, 1]; None for a zero gradient.

    Out of sample if the projector was fitted to another batch or at an earlier step.
    """
    G = as_matrix(gradient)
    largest = float(np.max(np.abs(G)))
    if largest == 0.0:
        return None
    scaled = G / largest
    return min(1.0, float(np.sum(project(projector, scaled) ** 2) / np.sum(scaled**2)))


def as_matrix(values: ArrayLike) -> Array:
    """A float64 matrix without NaN or Inf; ValueError otherwise."""
    X = np.asarray(values, dtype=np.float64)
    if X.ndim != 2 or X.size == 0:
        raise ValueError(f"expected a matrix with at least one element, got shape {X.shape}")
    bad = int(np.count_nonzero(~np.isfinite(X)))
    if bad:
        raise ValueError(f"{bad} of {X.size} elements are not finite")
    return X
