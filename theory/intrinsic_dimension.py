"""Intrinsic dimension of a set of points from the distances to their nearest neighbours.

TwoNN: E. Facco, M. d'Errico, A. Rodriguez & A. Laio, Sci. Rep. 7, 2017: μ = r_2/r_1 has the Pareto
law 1 - μ^(-d) wherever the density is constant over two neighbours. MLE: E. Levina & P. Bickel,
NIPS 2004; its harmonic average over points: D. MacKay & Z. Ghahramani, comments on it, 2005. Both
measure sampling at the scale of neighbours: evenly spaced checkpoints of one run have μ ≈ 1 and
no dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2

Array = NDArray[np.float64]

FEWEST, FEW = 8, 50
_REGULAR = 1.001


@dataclass(frozen=True, slots=True)
class TwoNN:
    """Estimates of one set of points; None throughout where `refused` says why."""

    n: int  # distinct points
    ml: float | None  # N/Σ ln μ
    unbiased: float | None  # (N - 1)/Σ ln μ
    linear_fit: (
        float | None
    )  # slope of -ln(1 - F) on ln μ, through the origin, without the top 10 %
    low: float | None  # 95 % interval of ml; covers about 90 %, neighbours being dependent
    high: float | None
    warnings: tuple[str, ...]
    refused: str | None


@dataclass(frozen=True, slots=True)
class NeighbourMLE:
    """Maximum likelihood on k neighbours; None where `refused` says why."""

    n: int
    k: int
    mean: float | None  # of the points' estimates (Levina-Bickel): biased up for small k
    harmonic: float | None  # 1/mean of the inverses (MacKay-Ghahramani), to be preferred
    warnings: tuple[str, ...]
    refused: str | None


def two_nn(distance: ArrayLike, discard: float = 0.1) -> TwoNN:
    """TwoNN dimension from distances (N, N).

    Points at distance 0 count once. `discard`: share of the largest μ left out of the linear fit,
    where F_i = i/N, i from 1; the last, F = 1, always is. The interval is that of N independent
    exponentials, χ²_{2N}/(2 Σ ln μ). Raises ValueError for distances that are not a square matrix
    of finite numbers.
    """
    neighbours, n, warnings, refused = _neighbours(distance, 2)
    logs = np.sort(np.log(neighbours[:, 1] / neighbours[:, 0]))
    total = float(logs.sum())
    if refused is None and total == 0.0:
        refused = "every point has two neighbours at one distance"
    if refused is not None:
        return TwoNN(n, None, None, None, None, None, warnings, refused)
    if np.median(logs) < np.log(_REGULAR):
        warnings += (
            f"median ratio of the two nearest distances is below {_REGULAR}: evenly spaced points, "
            "the estimate means nothing",
        )
    kept = min(int(n * (1.0 - discard)), n - 1)
    x, y = logs[:kept], -np.log1p(-np.arange(1, kept + 1) / n)
    low, high = chi2.ppf([0.025, 0.975], 2 * n) / (2.0 * total)
    return TwoNN(
        n=n,
        ml=n / total,
        unbiased=(n - 1) / total,
        linear_fit=float(x @ y / (x @ x)) if x @ x > 0.0 else None,
        low=float(low),
        high=float(high),
        warnings=warnings,
        refused=None,
    )


def neighbour_mle(distance: ArrayLike, k: int = 5) -> NeighbourMLE:
    """d_i = [mean_{j<k} ln(T_k/T_j)]⁻¹ from the distances T_1 ≤ … ≤ T_k of each point.

    Duplicates count once, as in `two_nn`. Points with k neighbours at one distance have an infinite
    estimate: they leave the mean without a value. Raises ValueError for k below 2 and as `two_nn`.
    """
    if k < 2:
        raise ValueError(f"the likelihood needs at least 2 neighbours, got {k}")
    neighbours, n, warnings, refused = _neighbours(distance, k)
    if refused is not None:
        return NeighbourMLE(n, k, None, None, warnings, refused)
    inverse = np.mean(np.log(neighbours[:, -1:] / neighbours[:, :-1]), axis=1)
    if not np.any(inverse > 0.0):
        return NeighbourMLE(n, k, None, None, warnings, f"every point has {k} equal distances")
    mean = float(np.mean(1.0 / inverse)) if np.all(inverse > 0.0) else None
    return NeighbourMLE(n, k, mean, 1.0 / float(inverse.mean()), warnings, None)


def _neighbours(distance: ArrayLike, k: int) -> tuple[Array, int, tuple[str, ...], str | None]:
    """Distances to the k nearest (N, k) of distinct points, N, warnings, and a refusal."""
    D = np.array(distance, dtype=np.float64)
    if D.ndim != 2 or D.size == 0 or D.shape[0] != D.shape[1] or not np.all(np.isfinite(D)):
        raise ValueError(f"distances must be a finite square matrix, got {D.shape}")
    equal = D <= 0.0
    np.fill_diagonal(equal, True)
    distinct = np.flatnonzero(np.argmax(equal, axis=1) == np.arange(len(D)))
    warnings: list[str] = []
    if distinct.size < len(D):
        warnings.append(f"{len(D) - distinct.size} duplicates of other points dropped")
    n, needed = distinct.size, max(FEWEST, k + 1)
    if n < needed:
        return (
            np.empty((0, k)),
            n,
            tuple(warnings),
            f"{n} distinct points, at least {needed} needed",
        )
    if n < FEW:
        warnings.append(f"{n} points: the estimate is rough below {FEW}")
    D = D[np.ix_(distinct, distinct)]
    np.fill_diagonal(D, np.inf)
    return np.sort(np.partition(D, k - 1, axis=1)[:, :k], axis=1), n, tuple(warnings), None
