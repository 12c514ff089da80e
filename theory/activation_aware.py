"""Low-rank factors that weigh a weight matrix by the inputs it sees: CorDA and EoRA; MKOR's test.

X is (N, n), one layer input a row, and C = XᵀX/N (n, n).

CorDA (Y. Yang et al., arXiv 2406.05223, NeurIPS 2024): U S Vᵀ = W C, so W = U S (VᵀC⁻¹); the
adapter takes the top r terms (ipm, instruction-previewed) or the bottom r (kpm,
knowledge-preserved) and the base keeps the rest.
EoRA (S.-Y. Liu et al., arXiv 2410.21271): with C = QΛQᵀ, the best rank-r approximation of
ΔW Q√Λ, mapped back by Λ^(-1/2)Qᵀ, minimises ‖(ΔW - BA)Xᵀ‖_F over all rank-r BA.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_factor, cho_solve

from theory.galore_projection import as_matrix, check_rank

Array = NDArray[np.float64]

CORDA_DAMPING = 0.01


@dataclass(frozen=True, slots=True)
class CordaFactors:
    """W = residual + B A. `reconstruction_error`: ‖W - U S VᵀC⁻¹‖_F/‖W‖_F of all k terms.

    It is rounding only while C is well conditioned; None for W = 0.
    """

    B: Array  # U√S (m, r)
    A: Array  # √S VᵀC⁻¹ (r, n)
    residual: Array  # (m, n)
    singular_values: Array  # of W C, (k,), descending
    condition: float  # of the damped C
    reconstruction_error: float | None


@dataclass(frozen=True, slots=True)
class EoraFactors:
    """B A ≈ ΔW. `null_directions`: eigenvalues of C that are zero to rounding.

    Along these the inputs have no component: the error cannot see what ΔW does there, and A is
    zero there.
    """

    B: Array  # (m, r)
    A: Array  # (r, n)
    error: float  # √tr((ΔW-BA) C (ΔW-BA)ᵀ) = ‖(ΔW-BA)Xᵀ‖_F/√N, the least possible
    null_directions: int


def second_moment(rows: ArrayLike) -> Array:
    """C = XᵀX/N (n, n) of layer inputs X (N, n), not centred."""
    X = as_matrix(rows)
    return X.T @ X / X.shape[0]


def corda(
    weight: ArrayLike,
    second_moments: ArrayLike,
    rank: int,
    mode: Literal["ipm", "kpm"],
    *,
    damping: float = CORDA_DAMPING,
) -> CordaFactors:
    """CorDA factors of W (m, n) with C + damping·mean(diag C)·I.

    Raises ValueError for a rank outside 1..min(m, n), a C that does not fit or is not positive
    definite even when damped.
    """
    W, C = _weight_and_moments(weight, second_moments)
    check_rank(rank, *W.shape)
    if mode not in ("ipm", "kpm"):
        raise ValueError(f"mode must be 'ipm' or 'kpm', got {mode!r}")
    damped = C + damping * float(np.mean(np.diag(C))) * np.eye(C.shape[0])
    eigenvalues = np.linalg.eigvalsh(damped)
    if eigenvalues[0] <= 0.0:
        raise ValueError(
            f"the damped second moments must be positive definite, smallest eigenvalue "
            f"{eigenvalues[0]:.3g} at damping {damping}"
        )
    U, s, Vt = np.linalg.svd(W @ damped, full_matrices=False)
    right = cho_solve(cho_factor(damped), Vt.T).T  # VᵀC⁻¹, C symmetric
    part = slice(0, rank) if mode == "ipm" else slice(s.size - rank, s.size)
    root = np.sqrt(s[part])
    B, A = U[:, part] * root, root[:, None] * right[part]
    norm = float(np.linalg.norm(W))
    return CordaFactors(
        B=B,
        A=A,
        residual=W - B @ A,
        singular_values=s,
        condition=float(eigenvalues[-1] / eigenvalues[0]),
        reconstruction_error=float(np.linalg.norm(W - (U * s) @ right)) / norm if norm else None,
    )


def eora(delta: ArrayLike, second_moments: ArrayLike, rank: int) -> EoraFactors:
    """EoRA factors of the compression error ΔW (m, n) for inputs with second moments C (n, n).

    Raises ValueError for a rank outside 1..min(m, n), a C that does not fit or has a negative
    eigenvalue beyond rounding.
    """
    D, C = _weight_and_moments(delta, second_moments)
    check_rank(rank, *D.shape)
    eigenvalues, Q = np.linalg.eigh(C)
    floor = C.shape[0] * np.finfo(np.float64).eps * float(np.max(np.abs(eigenvalues)))
    if eigenvalues[0] < -floor:
        raise ValueError(
            f"second moments must be positive semidefinite, smallest eigenvalue "
            f"{eigenvalues[0]:.3g}, rounding {floor:.3g}"
        )
    seen = eigenvalues > floor
    root = np.where(seen, np.sqrt(np.where(seen, eigenvalues, 1.0)), 0.0)
    inverse_root = np.where(seen, 1.0 / np.where(seen, root, 1.0), 0.0)
    U, s, Vt = np.linalg.svd((D @ Q) * root, full_matrices=False)
    return EoraFactors(
        B=U[:, :rank] * s[:rank],
        A=(Vt[:rank] * inverse_root) @ Q.T,
        error=float(np.linalg.norm(s[rank:])),
        null_directions=int(np.count_nonzero(~seen)),
    )


def batch_mean_adequacy(rows: ArrayLike) -> float | None:
    """‖ā‖²/mean‖a‖² in [0, 1] of activations (N, n): the share of tr(XᵀX/N) in āāᵀ.

    MKOR (M. Mozaffari, S. Li, Z. Zhang & M. Mehri Dehnavi, arXiv 2306.01685, NeurIPS 2023) updates
    its inverse factors by the batch mean alone; near 0 the mean says little of the batch. None if
    all are zero.
    """
    X = as_matrix(rows)
    largest = float(np.max(np.abs(X)))
    if largest == 0.0:
        return None
    scaled = X / largest
    return min(1.0, float(np.sum(scaled.mean(axis=0) ** 2) / np.mean(np.sum(scaled**2, axis=1))))


def _weight_and_moments(weight: ArrayLike, second_moments: ArrayLike) -> tuple[Array, Array]:
    W, C = as_matrix(weight), as_matrix(second_moments)
    if C.shape != (W.shape[1], W.shape[1]):
        raise ValueError(
            f"second moments {C.shape} do not fit the {W.shape[1]} inputs of the weight"
        )
    if not np.allclose(C, C.T, rtol=1e-6, atol=1e-9 * float(np.max(np.abs(C)))):
        raise ValueError("second moments must be symmetric")
    return W, 0.5 * (C + C.T)
