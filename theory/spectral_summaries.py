"""Scalar summaries of a spectrum σ_1 ≥ … ≥ σ_m, λ_i = σ_i².

All are computed after division by σ_1, so that neither 1e-170 nor 1e170 under- or overflows.
Where a quantity does not exist (a zero matrix, a logarithm of zero) it is None.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import xlogy

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Summary:
    """Scale-free summaries; None where undefined, as all are for a zero matrix."""

    stable_rank: float | None  # Σλ/λ_1
    effective_rank: float | None  # exp(-Σ q ln q), q = σ/Σσ
    participation_ratio: float | None  # (Σλ)²/Σλ²
    nuc_fro_rank: float | None  # (Σσ)²/Σσ²
    entropy: float | None  # -Σ p ln p / ln m, p = λ/Σλ, m the number of positive values
    gini: float | None  # of σ
    knee: int | None  # 1-based index farthest below the chord of the scree plot


@dataclass(frozen=True, slots=True)
class Norms:
    """Summaries with a scale, as WeightWatcher names them: `norm` and `spectral_norm` are squares.

    C. H. Martin, T. S. Peng & M. W. Mahoney, Nature Communications 12, 2021.
    """

    norm: float  # Σλ
    log_norm: float | None
    spectral_norm: float  # λ_1
    log_spectral_norm: float | None
    sv_max: float
    sv_min: float


@dataclass(frozen=True, slots=True)
class TraceLogCrossing:
    """Smallest k with ∏_{i≤k} λ~_i < 1 and its eigenvalue; λ~ = λ·m/Σλ, descending."""

    num: int
    value: float  # λ~_k
    value_unrescaled: float  # λ_k


def summarise(singular_values: ArrayLike) -> Summary:
    """All scale-free summaries of singular values in any order.

    Sources: effective rank, O. Roy & M. Vetterli, EUSIPCO 2007; stable rank, M. Rudelson &
    R. Vershynin, J. ACM 54, 2007; entropy, C. H. Martin & M. W. Mahoney, arXiv 1810.01075.
    Raises ValueError for negative or non-finite values.
    """
    s = descending(singular_values)
    if s.size == 0 or s[0] == 0.0:
        return Summary(None, None, None, None, None, None, None)
    s = s / s[0]
    eigenvalues = s * s
    total, nuclear = float(eigenvalues.sum()), float(s.sum())
    return Summary(
        stable_rank=total,
        effective_rank=float(np.exp(_shannon(s))),
        participation_ratio=total**2 / float(eigenvalues @ eigenvalues),
        nuc_fro_rank=nuclear**2 / total,
        entropy=matrix_entropy(s, int(np.count_nonzero(s))),
        gini=_gini(s),
        knee=_knee(s),
    )


def descending(singular_values: ArrayLike) -> Array:
    """Sorted float64 copy. Raises ValueError for negative or non-finite values."""
    s = np.sort(np.asarray(singular_values, dtype=np.float64).ravel())[::-1]
    if s.size and (not np.isfinite(s[0]) or not s[-1] >= 0.0):
        raise ValueError("singular values must be finite and non-negative")
    return s


def matrix_entropy(singular_values: ArrayLike, rank: int) -> float | None:
    """-Σ p ln p / ln rank, p = λ/Σλ; None for a rank below 2 or a zero matrix."""
    s = descending(singular_values)
    if rank < 2 or s.size == 0 or s[0] == 0.0:
        return None
    return _shannon((s / s[0]) ** 2) / float(np.log(rank))


def _shannon(weights: Array) -> float:
    """-Σ p ln p of p = weights/Σ weights, in nats."""
    p = weights / weights.sum()
    return float(-xlogy(p, p).sum())


def effective_rank_energy(singular_values: ArrayLike) -> float | None:
    """exp(-Σ p ln p), p = λ/Σλ: the effective rank of energies instead of singular values.

    Smaller than Roy and Vetterli's; papers use both under one name. None for a zero matrix.
    """
    s = descending(singular_values)
    if s.size == 0 or s[0] == 0.0:
        return None
    return float(np.exp(_shannon((s / s[0]) ** 2)))


def rank_at_energy(singular_values: ArrayLike, energy: float) -> int | None:
    """min{r : Σ_{i≤r} λ_i ≥ energy·Σλ}, 0 < energy ≤ 1; None for a zero matrix.

    Raises ValueError for an energy outside (0, 1].
    """
    if not 0.0 < energy <= 1.0:
        raise ValueError(f"the energy must lie in (0, 1], got {energy}")
    s = descending(singular_values)
    if s.size == 0 or s[0] == 0.0:
        return None
    cumulative = np.cumsum((s / s[0]) ** 2)
    # A share of exactly `energy` may round to either side: forgive one part in 1e12.
    return int(np.argmax(cumulative >= energy * (1.0 - 1e-12) * cumulative[-1])) + 1


def _gini(s: Array) -> float:
    """2 Σ i σ_(i)/(m Σσ) - (m+1)/m with σ_(i) ascending."""
    m = s.size
    return float(2.0 * (np.arange(m, 0, -1) @ s) / (m * s.sum()) - (m + 1) / m)


def _knee(s: Array) -> int | None:
    """Index of the largest distance between scree plot and the chord of its ends."""
    if s.size < 3 or s[0] == s[-1]:
        return None
    chord = np.linspace(s[0], s[-1], s.size)
    return int(np.argmax(chord - s)) + 1


def spectral_norms(singular_values: ArrayLike) -> Norms:
    """Squared norms and their decimal logarithms. Raises ValueError like `summarise`."""
    s = descending(singular_values)
    top, low = (float(s[0]), float(s[-1])) if s.size else (0.0, 0.0)
    scaled = float(np.sum((s / top) ** 2)) if top > 0.0 else 0.0
    log_top = 2.0 * float(np.log10(top)) if top > 0.0 else None
    return Norms(
        norm=scaled * top * top,
        log_norm=None if log_top is None else log_top + float(np.log10(scaled)),
        spectral_norm=top * top,
        log_spectral_norm=log_top,
        sv_max=top,
        sv_min=low,
    )


def alpha_weighted(alpha: float, lambda_max: float) -> float:
    """α̂ = α log10 λ_max (Martin, Peng & Mahoney 2021, eq. 8)."""
    return alpha * float(np.log10(lambda_max))


def log_alpha_norm(eigenvalues: ArrayLike, alpha: float) -> float:
    """log10 Σ λ^α over positive eigenvalues, as log-sum-exp: λ^α alone overflows."""
    logs = alpha * np.log10(np.asarray(eigenvalues, dtype=np.float64))
    top = float(logs.max())
    return top + float(np.log10(np.sum(10.0 ** (logs - top))))


def schatten_norm(singular_values: ArrayLike, p: float) -> float:
    """(Σ σᵖ)^(1/p): p = 1 nuclear, 2 Frobenius, inf spectral. Raises ValueError for p ≤ 0."""
    if not p > 0.0:
        raise ValueError(f"a Schatten norm needs p > 0, got {p}")
    s = descending(singular_values)
    if s.size == 0 or s[0] == 0.0:
        return 0.0
    if np.isinf(p):
        return float(s[0])
    return float(s[0]) * float(np.sum((s / s[0]) ** p) ** (1.0 / p))


def numerical_rank(singular_values: ArrayLike, cols: int, floor: float = 0.0) -> int:
    """#{σ > max(n·ε·σ_1, 2·floor)}, n the long side, `floor` the storage noise of σ."""
    return int(
        np.count_nonzero(descending(singular_values) > rank_tolerance(singular_values, cols, floor))
    )


def rank_tolerance(singular_values: ArrayLike, cols: int, floor: float = 0.0) -> float:
    """max(n·ε·σ_1, 2·floor): below it a singular value carries no information."""
    largest = float(np.max(np.asarray(singular_values, dtype=np.float64), initial=0.0))
    return max(cols * float(np.finfo(np.float64).eps) * largest, 2.0 * floor)


def weak_rank_loss(eigenvalues: ArrayLike) -> int:
    """#{λ < 1e-6}, an absolute rule; kept for comparison with published tables."""
    return int(np.count_nonzero(np.asarray(eigenvalues) < 1e-6))


def spectral_gaps(singular_values: ArrayLike) -> Array:
    """σ_i/σ_{i+1} (m-1,); inf where σ_{i+1} = 0."""
    s = descending(singular_values)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(s[1:] > 0.0, s[:-1] / s[1:], np.inf)


def spectral_distance(first: ArrayLike, second: ArrayLike) -> float:
    """√ of the Jensen-Shannon divergence (nats) of two sorted λ/Σλ of one length.

    Between a matrix and its shuffled copy this is WeightWatcher's `rand_distance`.
    Raises ValueError for different lengths or a zero spectrum.
    """
    p, q = np.sort(np.asarray(first, float)), np.sort(np.asarray(second, float))
    if p.shape != q.shape or not (p.sum() > 0.0 and q.sum() > 0.0):
        raise ValueError("two non-zero spectra of one length are needed")
    p, q = p / p.sum(), q / q.sum()
    middle = 0.5 * (p + q)
    divergence = _shannon(middle) - 0.5 * (_shannon(p) + _shannon(q))
    return float(np.sqrt(max(divergence, 0.0)))


def trace_log_crossing(eigenvalues: ArrayLike) -> TraceLogCrossing | None:
    """`detX` of WeightWatcher: how many leading λ~ make up a product below 1.

    Summed as logarithms: the product of thousands of eigenvalues overflows. None where the product
    never falls below 1, or for a zero spectrum.
    """
    values = np.sort(np.asarray(eigenvalues, dtype=np.float64))[::-1]
    if values.size == 0 or not values[0] > 0.0:
        return None
    rescaled = (values / values[0]) * (values.size / np.sum(values / values[0]))
    with np.errstate(divide="ignore"):
        below = np.cumsum(np.log(rescaled)) < 0.0
    if not below.any():
        return None
    k = int(np.argmax(below)) + 1
    return TraceLogCrossing(k, float(rescaled[k - 1]), float(values[k - 1]))
