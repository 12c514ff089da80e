"""Matérn Gaussian processes as linear stochastic differential equations in companion form.

A Matérn process of half-integer smoothness ν is the first component of the p = ν + 1/2 states

    x = (f, f', …),   dx = F x dt + L dW,   f = H x,   λ = √(2ν)/ℓ

(J. Hartikainen & S. Särkkä, "Kalman filtering and smoothing solutions to temporal Gaussian process
regression models", MLSP 2010). The states here are scaled to (f, f'/λ, f''/λ²) and the variance to
1, so that everything depends on u = λ·gap alone: a transition is A(u), the noise it adds Q(u), the
stationary covariance P∞. `state_scale` leads back to derivatives in the units of the index.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial, sqrt
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammainc

Array = NDArray[np.float64]
Matern = Literal["matern12", "matern32", "matern52"]
MATERN: tuple[Matern, ...] = get_args(Matern)

_STATES: dict[str, int] = {"matern12": 1, "matern32": 2, "matern52": 3}
# Spectral density of dW for unit variance and λ = 1: Qc = 2, 4, 16/3.
_DIFFUSION: dict[str, float] = {"matern12": 2.0, "matern32": 4.0, "matern52": 16.0 / 3.0}


@dataclass(frozen=True, slots=True)
class Discretised:
    """x_{s+1} | x_s ~ N(A_s x_s, Q_s) over each gap; the first state is N(0, P∞)."""

    transition: Array  # A (…, p, p)
    noise: Array  # Q (…, p, p)
    stationary: Array  # P∞ (p, p)


def n_states(kernel: str) -> int:
    """p = ν + 1/2. Raises ValueError for a kernel that is not one of `MATERN`."""
    if kernel not in _STATES:
        raise ValueError(f"unknown kernel {kernel!r}: one of {', '.join(MATERN)}")
    return _STATES[kernel]


def decay(kernel: str, lengthscale: float) -> float:
    """λ = √(2ν)/ℓ, in inverse units of the index. Raises ValueError unless ℓ is positive."""
    if not (np.isfinite(lengthscale) and lengthscale > 0.0):
        raise ValueError(f"the lengthscale must be positive and finite, got {lengthscale}")
    return sqrt(2 * n_states(kernel) - 1) / lengthscale


def covariance(kernel: str, distances: ArrayLike, lengthscale: float) -> Array:
    """κ(d) of unit variance, elementwise: e^{-λd} times 1, 1 + λd, or 1 + λd + (λd)²/3."""
    u = decay(kernel, lengthscale) * np.abs(np.asarray(distances, dtype=np.float64))
    polynomial = (1.0, 1.0 + u, 1.0 + u + u * u / 3.0)[n_states(kernel) - 1]
    return np.asarray(polynomial * np.exp(-u), dtype=np.float64)


def companion(kernel: str) -> Array:
    """F (p, p) for λ = 1: the last row holds minus the coefficients of (s + 1)^p."""
    p = n_states(kernel)
    F = np.diag(np.ones(p - 1), 1)
    F[-1] = [-factorial(p) / (factorial(j) * factorial(p - j)) for j in range(p)]
    return F


def stationary_covariance(kernel: str) -> Array:
    """P∞ (p, p) of the scaled states: what the noise adds up to over an endless gap."""
    return _noise(kernel, np.array(np.inf))


def discretise(kernel: str, gaps: ArrayLike, lengthscale: float) -> Discretised:
    """Exact A and Q over gaps (…) ≥ 0 in the units of the lengthscale.

    F + I is nilpotent, so that A = e^{-u} Σ_{j<p} ((F + I)u)^j/j! has p terms; Q is the integral of
    those terms, every entry an incomplete gamma function. Q = P∞ - A P∞ Aᵀ would say the same, and
    lose all digits of Q_11 at short gaps. Raises ValueError for a negative gap or a bad kernel.
    """
    u = decay(kernel, lengthscale) * np.asarray(gaps, dtype=np.float64)
    if not np.all(u >= 0.0):
        raise ValueError("gaps must not be negative: sort the indexes first")
    powers = _nilpotent_powers(kernel)
    A = np.zeros((*u.shape, *powers[0].shape))
    for j, power in enumerate(powers):
        A += (u**j * np.exp(-u))[..., None, None] * power
    return Discretised(A, _noise(kernel, u), stationary_covariance(kernel))


def state_scale(kernel: str, lengthscale: float) -> Array:
    """(p,) factors λ^j that turn scaled states into f, f', f'' in the units of the index."""
    return np.power(decay(kernel, lengthscale), np.arange(n_states(kernel)), dtype=np.float64)


def _nilpotent_powers(kernel: str) -> list[Array]:
    """(F + I)^j / j! for j < p."""
    N = companion(kernel) + np.eye(n_states(kernel))
    powers = [np.eye(N.shape[0])]
    for j in range(1, N.shape[0]):
        powers.append(powers[-1] @ N / j)
    return powers


def _noise(kernel: str, u: Array) -> Array:
    """Q(u) = Qc ∫₀^u e^{-2t} (Σ_a c_a t^a)(Σ_b c_b t^b)ᵀ dt (…, p, p), c_j = (F+I)^j e_p / j!."""
    columns = [power[:, -1] for power in _nilpotent_powers(kernel)]
    p = len(columns)
    Q = np.zeros((*u.shape, p, p))
    for a in range(p):
        for b in range(p):
            order = a + b + 1
            whole = _DIFFUSION[kernel] * factorial(a + b) / 2.0**order
            part = whole * gammainc(order, 2.0 * u)
            Q += part[..., None, None] * np.outer(columns[a], columns[b])
    return Q
