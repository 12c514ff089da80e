"""An attention matrix with a closed spectrum: queries and keys at the corners of a cube.

Q = K = Γ·(all 2^m sign vectors), L = 2^m tokens, logits QKᵀ/m, ρ = Γ/√ln L. The softmax is an
m-fold Kronecker product of [[e^a, e^-a], [e^-a, e^a]]/(2 cosh a), a = Γ²/m, so that its eigenvalues
are τ^i with multiplicity C(m, i), τ = tanh(Γ²/m) = tanh(ρ² ln 2).

One instance with head width log₂ L, to draw beside measured heads: it shows where entries of size
√ln L begin to matter, and proves nothing about other inputs at the same ρ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import entr

_MAX_DIMENSION = 1000  # 2^m must be a float64


@dataclass(frozen=True, slots=True)
class HypercubePoint:
    """Spectrum of one instance; ranks count or weigh the L = 2^m singular values."""

    dimension: int  # m
    rho: float
    tau: float
    stable_rank: float  # (1 + τ²)^m
    effective_rank: float  # exp(m h(τ/(1+τ))) = L^exponent, h the entropy in nats
    exponent: float  # e(ρ), the same for every m
    ipr: float  # mean Σ_j F_ij² = ((1 + τ²)/2)^m
    rank_tau: int  # #{τ^i > threshold}


def eigenvalue_base(rho: float) -> float:
    """τ = tanh(ρ² ln 2). Raises ValueError for a negative or non-finite ρ."""
    if not 0.0 <= rho < math.inf:
        raise ValueError(f"rho must be finite and not negative, got {rho}")
    return math.tanh(rho * rho * math.log(2.0))


def effective_rank_exponent(rho: float) -> float:
    """e(ρ) = h(τ/(1+τ))/ln 2 with effective rank L^e: 0 at ρ = 0, towards 1 as ρ → ∞."""
    tau = eigenvalue_base(rho)
    share = tau / (1.0 + tau)
    return float(entr(share) + entr(1.0 - share)) / math.log(2.0)


def hypercube_spectrum(dimension: int, rho: float) -> list[tuple[float, int]]:
    """(τ^i, C(m, i)) for i = 0 … m: eigenvalues, which are the singular values too."""
    _check_dimension(dimension)
    tau = eigenvalue_base(rho)
    return [(tau**i, math.comb(dimension, i)) for i in range(dimension + 1)]


def hypercube_point(dimension: int, rho: float, threshold: float = 1e-3) -> HypercubePoint:
    """All summaries at one ρ; `threshold` in (0, 1) is relative to the largest value, 1.

    Raises ValueError for m outside 1 … 1000, a negative ρ, or a threshold outside (0, 1).
    """
    if not 0.0 < threshold < 1.0:
        raise ValueError(f"the threshold must lie in (0, 1), got {threshold}")
    spectrum = hypercube_spectrum(dimension, rho)
    tau, exponent = eigenvalue_base(rho), effective_rank_exponent(rho)
    return HypercubePoint(
        dimension=dimension,
        rho=rho,
        tau=tau,
        stable_rank=(1.0 + tau * tau) ** dimension,
        effective_rank=2.0 ** (dimension * exponent),
        exponent=exponent,
        ipr=(0.5 * (1.0 + tau * tau)) ** dimension,
        rank_tau=sum(count for value, count in spectrum if value > threshold),
    )


def truncation_error(dimension: int, rho: float, degree: int) -> float:
    """Largest entry error of F when characters above `degree` are dropped.

    (1/L) Σ_{i>M} C(m, i) τ^i, reached on the diagonal; 0 for M ≥ m. Multiply by L to compare with
    the uniform entry 1/L. Raises ValueError for a negative degree.
    """
    if degree < 0:
        raise ValueError(f"the degree must not be negative, got {degree}")
    dropped = hypercube_spectrum(dimension, rho)[degree + 1 :]
    return math.fsum(value * (count / 2**dimension) for value, count in dropped)


def _check_dimension(dimension: int) -> None:
    if not 1 <= dimension <= _MAX_DIMENSION:
        raise ValueError(f"the dimension must lie in 1 … {_MAX_DIMENSION}, got {dimension}")
