"""How much of a minibatch gradient is signal, and how much of its subspace.

G = μ + noise with independent batches A, B, C at one checkpoint. E⟨G_B, G_C⟩ = ‖μ‖² without bias,
whereas ‖G_B‖² contains the noise; likewise tr(PᵀG_B G_CᵀP) estimates ‖Pᵀμ‖² of a subspace P taken
from G_A, whereas ‖PᵀG_A‖²/‖G_A‖² rewards P for fitting the noise of A. Every estimate here is a
ratio of means over draws (or matrices), never a mean of ratios, whose denominators may be near 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

MIN_SIGNAL_FRACTION = 0.1  # below it a cosine is divided by little more than noise


@dataclass(frozen=True, slots=True)
class BatchDots:
    """Inner products of two gradients, in units of a gradient squared."""

    captured: float  # tr(PᵀG_B G_CᵀP)
    total: float  # ⟨G_B, G_C⟩
    norm_b: float  # ‖G_B‖_F
    norm_c: float  # ‖G_C‖_F


@dataclass(frozen=True, slots=True)
class Estimate:
    """A ratio of means over n draws; `reason` says why there is none.

    `stderr` is that of independent draws by the delta method, None for a single one. Draws that
    share a batch are not independent: their error is larger.
    """

    value: float | None
    stderr: float | None
    n: int
    reason: str | None  # zero_gradient, noise_dominated


@dataclass(frozen=True, slots=True)
class DisattenuatedCosine:
    """Cosine of two expected gradients; `reason` says why there is none."""

    value: float | None
    reason: str | None  # noise_dominated


def batch_dots(
    basis: ArrayLike, G_b: ArrayLike, G_c: ArrayLike, side: Literal["left", "right"]
) -> BatchDots:
    """The dots of two gradients (m, n) and an orthonormal basis P (m, r), or (n, r) on the right.

    P must come from a third batch. Raises ValueError for shapes that do not match, NaN or Inf.
    """
    P, B, C = (np.asarray(x, dtype=np.float64) for x in (basis, G_b, G_c))
    if B.shape != C.shape or B.ndim != 2:
        raise ValueError(f"two gradients of one shape are needed, got {B.shape} and {C.shape}")
    if side == "right":
        B, C = B.T, C.T
    if P.ndim != 2 or P.shape[0] != B.shape[0]:
        raise ValueError(f"a {side} basis needs shape ({B.shape[0]}, r), got {P.shape}")
    if not all(np.all(np.isfinite(x)) for x in (P, B, C)):
        raise ValueError("basis and gradients must be finite")
    unit_b, unit_c = (float(np.max(np.abs(x), initial=0.0)) or 1.0 for x in (B, C))
    B, C = B / unit_b, C / unit_c
    return BatchDots(
        captured=float(np.sum((P.T @ B) * (P.T @ C))) * unit_b * unit_c,
        total=float(np.sum(B * C)) * unit_b * unit_c,
        norm_b=float(np.linalg.norm(B)) * unit_b,
        norm_c=float(np.linalg.norm(C)) * unit_c,
    )


def signal_fraction(dots: ArrayLike, norms_b: ArrayLike, norms_c: ArrayLike) -> Estimate:
    """ρ = ⟨G_B, G_C⟩/(‖G_B‖‖G_C‖) → ‖μ‖²/(‖μ‖² + noise), over draws (n,) of independent batches.

    Not clipped: pure noise gives values on both sides of 0.
    """
    products = _draws(norms_b) * _draws(norms_c)
    return _ratio(_draws(dots), products)


def cross_validated_energy(captured: ArrayLike, total: ArrayLike) -> Estimate:
    """E_r^cv = tr(PᵀG_B G_CᵀP)/⟨G_B, G_C⟩ → ‖Pᵀμ‖²/‖μ‖², over draws (n,).

    Not clipped to [0, 1]. None, noise_dominated, where the mean ⟨G_B, G_C⟩ is not positive: no
    signal was seen whose share could be measured.
    """
    return _ratio(_draws(captured), _draws(total))


def disattenuated_cosine(cosine: float, rho_a: float, rho_b: float) -> DisattenuatedCosine:
    """C[a, b]/√(ρ_a ρ_b), the cosine of the two expected gradients (C. Spearman, 1904).

    Needs gradients of independent batches at a and b: with one fixed batch their noise is common
    and C is not attenuated by it. Noise may push the result past 1; it is not clipped. None unless
    both signal fractions exceed 0.1.
    """
    if not (rho_a > MIN_SIGNAL_FRACTION and rho_b > MIN_SIGNAL_FRACTION):
        return DisattenuatedCosine(None, "noise_dominated")
    return DisattenuatedCosine(cosine / float(np.sqrt(rho_a * rho_b)), None)


def _draws(values: ArrayLike) -> Array:
    x = np.atleast_1d(np.asarray(values, dtype=np.float64))
    if x.ndim != 1 or x.size == 0 or not np.all(np.isfinite(x)):
        raise ValueError("one finite value a draw is needed")
    return x


def _ratio(numerators: Array, denominators: Array) -> Estimate:
    """Σa/Σb with standard error √(Σ(a - rb)²/(n(n - 1)))/b̄ (W. G. Cochran, Sampling, §6.3)."""
    n = numerators.size
    if denominators.size != n:
        raise ValueError(f"{n} numerators for {denominators.size} denominators")
    unit = float(np.max(np.abs(denominators)))
    if unit == 0.0:
        return Estimate(None, None, n, "zero_gradient")
    a, b = numerators / unit, denominators / unit
    mean = float(b.mean())
    if mean <= 0.0:
        return Estimate(None, None, n, "noise_dominated")
    value = float(a.mean()) / mean
    spread = np.sqrt(np.sum((a - value * b) ** 2) / (n * (n - 1))) if n > 1 else None
    return Estimate(value, None if spread is None else float(spread) / mean, n, None)
