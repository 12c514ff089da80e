"""LoRA-GA: start A and B where the first LoRA step is closest to a full fine-tuning step.

S. Wang, L. Yu & J. Li, "LoRA-GA: Low-Rank Adaptation with Gradient Approximation", arXiv
2407.05000, NeurIPS 2024, Theorems 3.1 and 3.2. For a gradient G (d_out, d_in) with singular values
s_i, the first step moves W by -lr·η²(BBᵀG + GAᵀA), a matrix of rank ≤ 2r, so that

    ‖η²(BBᵀG + GAᵀA) - ζG‖_F ≥ ζ √Σ_{i>2r} s_i²   for every A, B, ζ,

attained by A = c V_{1..r}ᵀ, B = c U_{r+1..2r}, c = d_out^(1/4)/√γ, η = α/√r, ζ = η²√d_out/γ. The
base weight becomes W0 - ηBA, so that the model starts unchanged.

Hugging Face PEFT's ``lora_ga`` uses A = V_{1..r}ᵀ and B = c U_{r+1..2r} diag(s_{r+1..2r}), which
weighs the directions by s or s³ and does not attain the bound; it is here for comparison.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.galore_projection import as_matrix, check_rank
from theory.welore import energy_kept

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LoraGaInit:
    """Factors of an adapter η·BA and how close its first step comes to the full one."""

    A: Array  # (r, d_in)
    B: Array  # (d_out, r)
    eta: float  # factor of BA in the forward pass
    zeta: float  # η²√d_out/γ, the part of the full step that LoRA-GA aims at
    error: float  # ‖η²(BBᵀG + GAᵀA) - ζG‖_F
    optimum: float  # ζ√Σ_{i>2r} s_i², the least error at this ζ
    relative_error: float | None  # min over c of ‖c(BBᵀG + GAᵀA) - G‖_F/‖G‖_F; None if G is 0
    relative_optimum: float | None  # √(1 - E_2r), the least relative error


def lora_ga_init(
    gradient: ArrayLike, rank: int, *, alpha: float = 16.0, gamma: float = 16.0
) -> LoraGaInit:
    """The paper's initialisation ("ArB2r" order) of rank r with η = α/√r.

    Raises ValueError unless 1 ≤ 2r ≤ min(d_out, d_in), α > 0, γ > 0, and all of G is finite.
    """
    G, U, s, Vt = _svd(gradient, rank, alpha, gamma)
    c = _stable_scale(G, gamma)
    return _rated(
        G, s, c * Vt[:rank], c * U[:, rank : 2 * rank], alpha / np.sqrt(rank), rank, gamma
    )


def peft_lora_ga_init(
    gradient: ArrayLike,
    rank: int,
    *,
    alpha: float = 16.0,
    gamma: float = 16.0,
    rank_stabilised: bool = False,
) -> LoraGaInit:
    """Hugging Face PEFT's variant (direction "ArB2r", scale "stable") at its own η.

    η = α/r, or α/√r if `rank_stabilised`. `error` and `optimum` are at ζ = η²√d_out/γ, an aim the
    variant does not share: compare `relative_error`, which does not depend on ζ. Raises as
    `lora_ga_init`.
    """
    G, U, s, Vt = _svd(gradient, rank, alpha, gamma)
    B = _stable_scale(G, gamma) * U[:, rank : 2 * rank] * s[rank : 2 * rank]
    eta = alpha / (np.sqrt(rank) if rank_stabilised else rank)
    return _rated(G, s, Vt[:rank], B, eta, rank, gamma)


def start_weight(weight: ArrayLike, init: LoraGaInit) -> Array:
    """W0 - ηBA (d_out, d_in)."""
    return as_matrix(weight) - init.eta * init.B @ init.A


def explained_energy(singular_values: ArrayLike, rank: int) -> float | None:
    """E_2r = Σ_{i≤2r} s_i²/Σ s_i², what one LoRA-GA step of rank r can follow; None if all are 0.

    Raises ValueError for a rank outside 1..len(s).
    """
    s = np.asarray(singular_values, dtype=np.float64)
    if not 1 <= rank <= s.size:
        raise ValueError(f"rank must lie in 1..{s.size}, got {rank}")
    return energy_kept(s, 2 * rank)


def first_step(gradient: ArrayLike, A: ArrayLike, B: ArrayLike) -> Array:
    """BBᵀG + GAᵀA (d_out, d_in): minus the first change of W over lr·η²."""
    G, A_, B_ = as_matrix(gradient), as_matrix(A), as_matrix(B)
    return B_ @ (B_.T @ G) + (G @ A_.T) @ A_


def _svd(
    gradient: ArrayLike, rank: int, alpha: float, gamma: float
) -> tuple[Array, Array, Array, Array]:
    G = as_matrix(gradient)
    check_rank(rank, *G.shape)
    if 2 * rank > min(G.shape):
        raise ValueError(
            f"rank must be at most {min(G.shape) // 2}, half of the short side of a "
            f"{G.shape[0]} x {G.shape[1]} gradient, got {rank}"
        )
    if not (alpha > 0.0 and gamma > 0.0):
        raise ValueError(f"alpha and gamma must be positive, got {alpha} and {gamma}")
    U, s, Vt = np.linalg.svd(G, full_matrices=False)
    return G, U, s, Vt


def _stable_scale(G: Array, gamma: float) -> float:
    return G.shape[0] ** 0.25 / gamma**0.5


def _rated(
    G: Array, s: Array, A: Array, B: Array, eta: float, rank: int, gamma: float
) -> LoraGaInit:
    zeta = eta**2 * G.shape[0] ** 0.5 / gamma
    move = first_step(G, A, B)
    norm = float(np.linalg.norm(G))
    tail = float(np.linalg.norm(s[2 * rank :]))
    return LoraGaInit(
        A=A,
        B=B,
        eta=float(eta),
        zeta=float(zeta),
        error=float(np.linalg.norm(eta**2 * move - zeta * G)),
        optimum=float(zeta * tail),
        relative_error=_angle_sine(move, G) if norm > 0.0 else None,
        relative_optimum=tail / norm if norm > 0.0 else None,
    )


def _angle_sine(X: Array, Y: Array) -> float:
    """min over c of ‖cX - Y‖/‖Y‖, formed from the residual so that small angles keep digits."""
    x, y = X / np.max(np.abs(X)), Y / np.max(np.abs(Y))
    return float(np.linalg.norm(np.sum(x * y) / np.sum(x * x) * x - y) / np.linalg.norm(y))
