"""Theorem 3.8 of GaLore: how fast the projected gradient shrinks under fixed projections and SGD.

J. Zhao et al., arXiv 2403.03507. R_t = P'G_tQ with G_t = (1/N) Σ (A_i - B_i W_t C_i), the factors
PSD and Lipschitz in W (L_A, L_B, L_C; Frobenius norm of W), ‖W_t‖₂ ≤ D, B̂_i = P'B_iP,
Ĉ_i = Q'C_iQ, κ = (1/N) Σ λ_min(B̂_i) λ_min(Ĉ_i), Ŝ(X) = (1/N) Σ B̂_i X Ĉ_i.
A rate bounds ‖R_t‖_F/‖R_{t-1}‖_F:

    main text  1 - η(κ - L_A - L_B L_C D²)
    appendix   1 - η(κ - L_A - 2 L_B L_C D²)
    safe       1 - η(κ - L_A - D(L_B c_C + L_C c_B)),   c_B ≥ ‖B_i‖₂, c_C ≥ ‖C_i‖₂

All need η ≤ 2/(λ_max(Ŝ) + κ), which the paper does not state. Its appendix replaces c_B by L_B D
and c_C by L_C D, true only of factors that vanish at W = 0; the main text then loses the factor 2.
The safe form follows from ‖ΔW‖_F = η‖R_{t-1}‖_F and

    G_t - G_{t-1} = (1/N) Σ [ΔA - ΔB W_t C_t - B_{t-1} W_t ΔC - B_{t-1} ΔW C_{t-1}].

With constant factors the rate is 1 - ηλ_min(Ŝ) ≤ 1 - ηκ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.galore_modes import operator_matrix, symmetric_stack
from theory.galore_projection import as_matrix
from theory.verdicts import Conditional, Verdict, at_most, exceeds, first_failure

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ProjectedFactors:
    """One step's spectrum: r_P·r_Q eigenvalues of Ŝ, κ, and the largest norms of B_i and C_i."""

    kappa: float
    lambda_min: float  # of Ŝ
    lambda_max: float
    lowest: float  # smallest eigenvalue among the B̂_i and Ĉ_i: negative if one is not PSD
    norm_left: float  # max ‖B_i‖₂
    norm_right: float  # max ‖C_i‖₂


@dataclass(frozen=True, slots=True)
class Smoothness:
    """Lipschitz constants of A, B and C, the radius D, and norms c_B, c_C over both steps."""

    lipschitz_a: float
    lipschitz_b: float
    lipschitz_c: float
    radius: float
    norm_left: float
    norm_right: float

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not (np.isfinite(value) and value >= 0.0):
                raise ValueError(f"{name} must be finite and at least 0, got {value}")


@dataclass(frozen=True, slots=True)
class ContractionRates:
    """‖R_t‖_F ≤ rate·‖R_{t-1}‖_F; a rate of 1 or more says nothing about convergence."""

    eta: float
    eta_limit: float | None  # 2/(λ_max(Ŝ) + κ)
    main_text: Conditional[float]
    appendix: Conditional[float]
    safe: Conditional[float]
    constant: Conditional[float]  # 1 - ηλ_min(Ŝ)


def projected_factors(
    left: ArrayLike, right: ArrayLike, P: ArrayLike, Q: ArrayLike
) -> ProjectedFactors:
    """Spectra for B (N, m, m), C (N, n, n), orthonormal P (m, r) and Q (n, s).

    Raises ValueError for shapes that do not fit, asymmetric factors, or columns not orthonormal.
    """
    B, C = symmetric_stack(left, "B"), symmetric_stack(right, "C")
    if B.shape[0] != C.shape[0]:
        raise ValueError(f"as many B as C are needed, got {B.shape[0]} and {C.shape[0]}")
    P_, Q_ = _orthonormal(P, B.shape[1], "P"), _orthonormal(Q, C.shape[1], "Q")
    B_hat, C_hat = P_.T @ B @ P_, Q_.T @ C @ Q_
    low_b, low_c = np.linalg.eigvalsh(B_hat)[:, 0], np.linalg.eigvalsh(C_hat)[:, 0]
    spectrum = np.linalg.eigvalsh(operator_matrix(B_hat, C_hat))
    return ProjectedFactors(
        kappa=float(np.mean(low_b * low_c)),
        lambda_min=float(spectrum[0]),
        lambda_max=float(spectrum[-1]),
        lowest=float(min(low_b.min(), low_c.min())),
        norm_left=float(np.max(np.linalg.norm(B, 2, axis=(1, 2)))),
        norm_right=float(np.max(np.linalg.norm(C, 2, axis=(1, 2)))),
    )


def contraction_rates(
    factors: ProjectedFactors, smoothness: Smoothness, eta: float
) -> ContractionRates:
    """All forms of the rate from step t-1, whose factors are given, to step t.

    Raises ValueError for an η that is not finite.
    """
    if not np.isfinite(eta):
        raise ValueError(f"eta must be finite, got {eta}")
    L_A, L_B, L_C = smoothness.lipschitz_a, smoothness.lipschitz_b, smoothness.lipschitz_c
    D, c_B, c_C = smoothness.radius, smoothness.norm_left, smoothness.norm_right
    kappa, product = factors.kappa, L_B * L_C * D**2
    step = _step(factors, eta, kappa, "eta <= 2/(lambda_max + kappa)")
    norms = first_failure(
        at_most("max norm of B_i <= c_B", factors.norm_left, c_B),
        at_most("max norm of C_i <= c_C", factors.norm_right, c_C),
    )
    if L_B == 0.0 and L_C == 0.0:  # nothing is replaced: all forms are one
        hidden = norms
    else:
        hidden = first_failure(
            norms,
            at_most("c_B <= L_B*D", c_B, L_B * D),
            at_most("c_C <= L_C*D", c_C, L_C * D),
        )
    steady = at_most("L_A + L_B + L_C = 0", L_A + L_B + L_C, 0.0)
    lost = at_most("L_B*L_C*D^2 = 0", product, 0.0)
    tight = _step(factors, eta, factors.lambda_min, "eta <= 2/(lambda_max + lambda_min)")
    total = factors.lambda_max + kappa
    return ContractionRates(
        eta=float(eta),
        eta_limit=2.0 / total if total > 0.0 else None,
        main_text=Conditional(
            first_failure(hidden, lost, step), 1.0 - eta * (kappa - L_A - product)
        ),
        appendix=Conditional(
            first_failure(hidden, step), 1.0 - eta * (kappa - L_A - 2.0 * product)
        ),
        safe=Conditional(
            first_failure(norms, step),
            1.0 - eta * (kappa - L_A - D * (L_B * c_C + L_C * c_B)),
        ),
        constant=Conditional(first_failure(steady, tight), 1.0 - eta * factors.lambda_min),
    )


def _step(factors: ProjectedFactors, eta: float, decay: float, condition: str) -> Verdict:
    """‖I - ηŜ‖ ≤ 1 - η·decay for 0 ≤ decay ≤ λ_min(Ŝ) iff η ≤ 2/(λ_max + decay)."""
    scale = max(factors.norm_left, factors.norm_right)
    if factors.lowest < -1e-10 * scale:
        return Verdict(
            "condition_violated", "B and C are positive semidefinite", factors.lowest, 0.0
        )
    positive = exceeds("eta > 0", float(eta), 0.0)
    total = factors.lambda_max + decay
    if not positive.ok:
        return positive
    return at_most(condition, float(eta), 2.0 / total if total > 0.0 else np.inf)


def _orthonormal(columns: ArrayLike, rows: int, name: str) -> Array:
    X = as_matrix(columns)
    if X.shape[0] != rows or X.shape[1] > rows:
        raise ValueError(f"{name} must have shape ({rows}, r <= {rows}), got {X.shape}")
    error = float(np.max(np.abs(X.T @ X - np.eye(X.shape[1]))))
    if error > 1e-6:
        raise ValueError(f"{name} must have orthonormal columns: error {error:.3g} exceeds 1e-06")
    return X
