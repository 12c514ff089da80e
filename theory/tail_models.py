"""Alternatives to a power-law tail, fitted by maximum likelihood on x ≥ xmin, and their comparison.

A. Clauset, C. R. Shalizi & M. E. J. Newman, arXiv 0706.1062, sections 2 and 5, table 2.1. Written
in y = x/xmin and v = ln y. The truncated power law and the lognormal are exponential families:
their likelihoods are concave, so a maximum is found once and for all, and the data say exactly
when there is none. With r = mean(v²)/mean(v)²: for r ≥ 2 a truncated normal law of v runs off to
an exponential one (J. del Castillo, Ann. Inst. Stat. Math. 46, 1994), and a stretched exponential
to exponent 0. Both limits are the power law: models at or near them are marked degenerate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import erfcx, log_ndtr

from theory.exponential_integral import moments
from theory.power_law import ascending

Array = NDArray[np.float64]

_SHAPE_BOUNDS = (-5.0, 10.0)  # exponents of the truncated power law
_SMALLEST_RATE = 1e-12
_LOWEST_T = -50.0  # m/s where a truncated normal is an exponential to 1e-3
_STRETCH_BOUNDS = (1e-3, 60.0)
# Beyond these a model differs from the power law by less than any tail of thousands can tell.
_DEGENERATE_T = -5.0
_DEGENERATE_STRETCH = 0.05


@dataclass(frozen=True, slots=True)
class TailModel:
    """One fitted model; `parameters` in the units of x. Degenerate: its maximum is the power law's.

    power_law (alpha), exponential (Lambda), lognormal (mu, sigma of ln x), truncated_power_law
    (alpha, Lambda), stretched_exponential (Lambda, beta).
    """

    name: str
    parameters: tuple[float, ...]
    pointwise: Array  # (n,) ln p(x_i)
    degenerate: bool = False

    @property
    def log_likelihood(self) -> float:
        return float(self.pointwise.sum())

    @property
    def aic(self) -> float:
        """2k - 2 ln L (H. Akaike, IEEE Trans. Autom. Control 19, 1974)."""
        return 2.0 * len(self.parameters) - 2.0 * self.log_likelihood

    @property
    def bic(self) -> float:
        """k ln n - 2 ln L (G. Schwarz, Ann. Statist. 6, 1978)."""
        return float(np.log(self.pointwise.size)) * len(self.parameters) - 2 * self.log_likelihood


def fit_models(values: ArrayLike, xmin: float) -> dict[str, TailModel]:
    """All five models on the values ≥ xmin, by name.

    Raises ValueError for a tail without spread, or non-positive values.
    """
    data = ascending(values)
    v = np.log(data[data >= xmin] / xmin)
    if v.size < 2 or not v[-1] > 0.0:
        raise ValueError(f"fewer than two different values at or above xmin = {xmin}")
    models = (power_law, exponential, lognormal, truncated_power_law, stretched_exponential)
    return {model.__name__: model(v, xmin) for model in models}


def power_law(v: Array, xmin: float) -> TailModel:
    """ln(α-1) - α v - ln xmin, α = 1 + n/Σv; v = ln(x/xmin) (n,), as for all models."""
    slope = v.size / float(v.sum())
    pointwise = np.log(slope) - (slope + 1.0) * v - np.log(xmin)
    return TailModel("power_law", (1.0 + slope,), pointwise)


def exponential(v: Array, xmin: float) -> TailModel:
    """ln Λ - Λ(x - xmin), Λ = 1/(mean x - xmin)."""
    excess = np.expm1(v)
    rate = 1.0 / float(excess.mean())
    pointwise = np.log(rate) - rate * excess - np.log(xmin)
    return TailModel("exponential", (rate / xmin,), pointwise)


def lognormal(v: Array, xmin: float) -> TailModel:
    """-v - ln s - ½ ln 2π - (v-m)²/2s² - ln Φ(m/s) - ln xmin: v normal (m, s), truncated to v ≥ 0.

    Moments fix t = m/s: mean(v²)/mean(v)² = (1 + t² + t h)/(t + h)², h = φ(t)/Φ(t).
    """
    ratio = float(np.mean(v**2) / np.mean(v) ** 2)
    runs_off = ratio >= _truncated_ratio(_LOWEST_T)
    t = _LOWEST_T if runs_off else _root(lambda t: _truncated_ratio(t) - ratio, _LOWEST_T, 1e6)
    s = float(v.mean()) / (t + _inverse_mills(t))
    pointwise = (
        -v - np.log(s) - 0.5 * np.log(2.0 * np.pi) - 0.5 * (v / s - t) ** 2
    ) - (log_ndtr(t) + np.log(xmin))  # fmt: skip
    return TailModel("lognormal", (t * s + float(np.log(xmin)), s), pointwise, t < _DEGENERATE_T)


def _inverse_mills(t: float) -> float:
    """φ(t)/Φ(t)."""
    return float(np.sqrt(2.0 / np.pi) / erfcx(-t / np.sqrt(2.0)))


def _truncated_ratio(t: float) -> float:
    h = _inverse_mills(t)
    return (1.0 + t * (t + h)) / (t + h) ** 2


def truncated_power_law(v: Array, xmin: float) -> TailModel:
    """-a v - z y - ln E_a(z) - ln xmin, z = Λ xmin (CSN table 2.1, power law with cutoff).

    Newton's method on a concave likelihood, a in [-5, 10]. z = 0 is the power law, and is the
    maximum where mean y is at least the power law's own (α-1)/(α-2).
    """
    y = np.exp(v)
    observed = np.array([v.mean(), y.mean()])
    alpha = 1.0 + 1.0 / observed[0]
    degenerate = alpha > 2.0 and observed[1] >= (alpha - 1.0) / (alpha - 2.0)
    if degenerate:
        plain = power_law(v, xmin)
        return TailModel("truncated_power_law", (alpha, 0.0), plain.pointwise, True)
    start = np.array([np.clip(alpha, *_SHAPE_BOUNDS), 1.0 / float(y[-1])])
    a, z = _maximise(observed, start)
    pointwise = -a * v - z * y - moments(a, z).log_integral - np.log(xmin)
    return TailModel("truncated_power_law", (a, z / xmin), pointwise)


def _maximise(observed: Array, point: Array) -> tuple[float, float]:
    """Projected Newton steps on ℓ(θ) = -θ·mean(ln y, y) - ln E_θ, θ = (a, z)."""
    lower = np.array([_SHAPE_BOUNDS[0], _SMALLEST_RATE])
    upper = np.array([_SHAPE_BOUNDS[1], np.inf])
    state = moments(*point)
    value = -point @ observed - state.log_integral
    for _ in range(100):
        gradient = state.mean - observed
        held = ((point <= lower) & (gradient < 0.0)) | ((point >= upper) & (gradient > 0.0))
        free = np.flatnonzero(~held)
        if free.size == 0:
            break
        step = np.zeros(2)
        # on a tail far shorter than 1 the statistics ln y and y are one and the same
        step[free] = np.linalg.lstsq(state.covariance[np.ix_(free, free)], gradient[free])[0]
        if gradient @ step < 1e-15:
            break
        for _ in range(60):
            trial = np.clip(point + step, lower, upper)
            trial[1] = max(trial[1], 0.1 * point[1])  # a rate falls by a tenth at most
            trial_state = moments(*trial)
            trial_value = -trial @ observed - trial_state.log_integral
            if trial_value > value:
                break
            step *= 0.5
        else:
            break
        point, state, value = trial, trial_state, trial_value
    return float(point[0]), float(point[1])


def stretched_exponential(v: Array, xmin: float) -> TailModel:
    """ln b + ln θ + (b-1) v - θ(yᵇ - 1) - ln xmin, Λ = θ^(1/b)/xmin; θ = n/Σ(yᵇ - 1) given b."""
    low, high = _STRETCH_BOUNDS

    def slope(b: float) -> float:
        weights = np.exp(b * (v - v[-1]))
        lifted = float(np.sum(weights - np.exp(-b * v[-1])))
        return 1.0 / b + float(v.mean()) - float(weights @ v) / lifted

    b = low if slope(low) <= 0.0 else high if slope(high) >= 0.0 else _root(slope, low, high)
    lifted = np.expm1(b * v)
    theta = 1.0 / float(lifted.mean())
    pointwise = np.log(b * theta) + (b - 1.0) * v - theta * lifted - np.log(xmin)
    with np.errstate(over="ignore"):  # Λ → ∞ as b → 0
        rate = float(np.exp(np.log(theta) / b)) / xmin
    return TailModel("stretched_exponential", (rate, b), pointwise, b < _DEGENERATE_STRETCH)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    return float(brentq(function, low, high, xtol=1e-13, rtol=1e-13))  # pyright: ignore
