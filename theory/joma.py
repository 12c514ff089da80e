"""Growth of feed-forward weights under JoMA dynamics, and the bracket that GaLore proves for it.

J. Zhao et al., arXiv 2403.03507, Lemma B.6 (after Y. Tian et al., "JoMA", arXiv 2310.00535): linear
activation, fixed orthonormal embedding, stationary backpropagated gradient. Its statement and its
derivation are two different laws for V, Δ (n_rows, n):

    row_sum    (stated)   V̇ = (1/A) diag(exp(V∘V/2) 1) Δ: one factor a row
    entrywise  (derived)  V̇ = (1/A) Δ ∘ exp(V∘V/2)

The bracket that follows is for a third, the row sum without the ½: with V = diag(α) μ,

    α̇_l = (1/A) Σ_j exp(α_l² μ_lj²),  α_l(0) = 0,
    erf⁻¹(2μ̄t/(A√π))/μ̄ ≤ α_l(t) ≤ erf⁻¹(2nμ̄t/(A√π))/μ̄,  μ̄ = max_j |μ_lj|.

Both ends and α itself reach infinity in finite time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import erfinv

from theory.galore_projection import as_matrix
from theory.verdicts import Verdict, exceeds

Array = NDArray[np.float64]
Form = Literal["row_sum", "entrywise"]

_FURTHEST = 8.0  # of α·max|μ|: the integral beyond is below erfc(8) = 1e-29


@dataclass(frozen=True, slots=True)
class RowGrowth:
    """α_l(t) and its bracket (n_rows,), of the law named in `law`; inf after the blow-up."""

    alpha: Array
    lower: Array
    upper: Array
    law: str = "row_sum, exponent without 1/2"


def velocity(V: ArrayLike, delta: ArrayLike, scale: float, form: Form) -> Array:
    """V̇ (n_rows, n) in one of the two printed forms; `scale` is A > 0.

    Raises ValueError for unequal shapes, another form, or A ≤ 0.
    """
    X, D = as_matrix(V), as_matrix(delta)
    if X.shape != D.shape:
        raise ValueError(f"V {X.shape} and delta {D.shape} must have one shape")
    _check_scale(scale)
    growth = np.exp(0.5 * X**2)
    if form == "row_sum":
        return growth.sum(axis=1, keepdims=True) * D / scale
    if form == "entrywise":
        return growth * D / scale
    raise ValueError(f"form must be 'row_sum' or 'entrywise', got {form!r}")


def entrywise_solution(delta: ArrayLike, scale: float, time: float) -> Array:
    """V(t) of the entrywise form from V(0) = 0: √2 erf⁻¹(√(2/π) Δt/A); ±inf after the blow-up."""
    _check_scale(scale)
    _check_time(time)
    argument = np.sqrt(2.0 / np.pi) * as_matrix(delta) * time / scale
    return np.sqrt(2.0) * erfinv(np.clip(argument, -1.0, 1.0))


def row_growth(mu: ArrayLike, scale: float, time: float) -> RowGrowth:
    """α(t) of the law of the bracket, and the bracket, for μ (n_rows, n), A > 0, t ≥ 0.

    Raises ValueError for A ≤ 0, t < 0, NaN or Inf.
    """
    rows = np.abs(as_matrix(mu))
    _check_scale(scale)
    _check_time(time)
    tau, n = time / scale, rows.shape[1]
    peaks = rows.max(axis=1)
    return RowGrowth(
        alpha=np.array([_alpha(row, tau) for row in rows]),
        lower=_bracket_end(peaks, tau),
        upper=_bracket_end(peaks, n * tau),
    )


def dominates(mu: ArrayLike, row: int) -> Verdict:
    """Does `row` outgrow every other: μ̄_row > n·μ̄_l for all l ≠ row? Needs two rows or more."""
    peaks = np.abs(as_matrix(mu)).max(axis=1)
    if peaks.size < 2 or not 0 <= row < peaks.size:
        raise ValueError(f"row must be one of at least two, got row {row} of {peaks.size}")
    limit = np.shape(mu)[1] * float(np.delete(peaks, row).max())
    condition = "largest |mu| of the row > n times that of any other"
    return exceeds(condition, float(peaks[row]), limit)


def _bracket_end(peaks: Array, tau: float) -> Array:
    """erf⁻¹(2μ̄τ/√π)/μ̄, its limit τ at μ̄ = 0, inf where the argument reaches 1."""
    argument = np.minimum(2.0 * peaks * tau / np.sqrt(np.pi), 1.0)
    end = np.full(peaks.shape, float(tau))
    np.divide(erfinv(argument), peaks, out=end, where=peaks > 0.0)
    return end


def _alpha(row: Array, tau: float) -> float:
    """The α with ∫_0^α da/Σ_j exp(a²μ_j²) = τ; inf if the integral never gets there."""
    peak, n = float(row.max()), row.size
    goal = tau * peak
    if goal == 0.0:
        return n * tau
    ratios = (row / peak) ** 2

    def excess(a: float) -> float:  # a in units of 1/peak
        elapsed = quad(
            lambda s: 1.0 / np.exp(s * s * ratios).sum(), 0.0, a, epsabs=0.0, epsrel=1e-12
        )[0]
        return float(elapsed) - goal

    if excess(_FURTHEST) <= 0.0:
        return float("inf")
    # a ≥ goal, because the integrand is at most 1: the tolerance is relative
    root: Any = brentq(excess, 0.0, _FURTHEST, xtol=1e-13 * goal)
    return float(root) / peak


def _check_scale(scale: float) -> None:
    if not (np.isfinite(scale) and scale > 0.0):
        raise ValueError(f"scale A must be positive and finite, got {scale}")


def _check_time(time: float) -> None:
    if not (np.isfinite(time) and time >= 0.0):
        raise ValueError(f"time must be finite and at least 0, got {time}")
