"""Regression with a Matérn process in time linear in the number of indexes.

y_i = f(x_i) + ε_i, ε_i ~ N(0, σ²), f a Matérn process of the given variance. The posterior is that
of dense Gaussian-process regression (C. E. Rasmussen & C. K. I. Williams, Gaussian Processes for
Machine Learning, 2006, eqs. 2.23-2.24, 2.30), by the Kalman smoother of `theory.kalman_scan`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.kalman import Array, Chain, matern_chain, values_of, whiten
from theory.kalman_scan import smooth

# Indexes closer than this share of the span are one: shorter gaps carry only rounding.
SAME_INDEX = 1e-9


@dataclass(frozen=True, slots=True)
class Regression:
    """f at the new indexes, without the noise of an observation."""

    mean: Array  # (…, m)
    variance: Array  # (…, m)
    log_likelihood: Array  # ln p(y), (…)


def merge_indexes(
    indexes: ArrayLike, tolerance: float | None = None
) -> tuple[Array, NDArray[np.intp]]:
    """Ascending distinct indexes (n,) and the position (N,) of each given one among them.

    Neighbours at most `tolerance` apart (default `SAME_INDEX` of the span) are one index.
    """
    x, position = np.unique(np.asarray(indexes, dtype=np.float64), return_inverse=True)
    if x.size < 2:
        return x, position.ravel()
    limit = SAME_INDEX * (x[-1] - x[0]) if tolerance is None else tolerance
    starts = np.concatenate([[True], np.diff(x) > limit])
    return x[starts], (np.cumsum(starts) - 1)[position.ravel()]


def regress(
    kernel: str,
    indexes: ArrayLike,
    values: ArrayLike,
    new_indexes: ArrayLike,
    *,
    lengthscale: float,
    variance: float,
    noise_variance: float,
) -> Regression:
    """Posterior of many functions seen at the same indexes: values (…, N), indexes (N,) unsorted.

    NaN values are missing, repeated indexes are further observations. Raises ValueError for
    lengths that differ, infinite input, or a scale that is not positive.
    """
    x, y = np.asarray(indexes, dtype=np.float64), np.asarray(values, dtype=np.float64)
    new = np.asarray(new_indexes, dtype=np.float64)
    _check(x, y, new, variance, noise_variance)
    grid, rows = merge_indexes(np.concatenate([x, new]))
    seen = ~np.isnan(y)
    known = np.where(seen, y, 0.0)
    counts, sums = (_sums_by(part, rows[: x.size], grid.size) for part in (seen, known))
    # f = √variance · u with u of unit variance
    precision, scale = variance / noise_variance, np.sqrt(variance)
    observed = whiten(precision * counts[..., None, None], sums[..., None] * scale / noise_variance)
    chain = matern_chain(kernel, grid, lengthscale)
    copies = (*y.shape[:-1], *chain.transition.shape)
    spread = Chain(np.broadcast_to(chain.transition, copies), np.broadcast_to(chain.noise, copies))
    result = smooth(spread, observed)
    at_new = rows[x.size :]
    constant = 0.5 * (known**2).sum(-1) / noise_variance
    constant += 0.5 * seen.sum(-1) * np.log(2.0 * np.pi * noise_variance)
    return Regression(
        mean=scale * values_of(result.mean, 1)[..., at_new, 0],
        variance=variance * result.cov[..., at_new, 0, 0],
        log_likelihood=result.log_normaliser - constant,
    )


def _sums_by(values: NDArray[Any], rows: NDArray[np.intp], size: int) -> Array:
    """Sums (…, size) over the columns of values (…, N) that share a row number."""
    out = np.zeros((*values.shape[:-1], size))
    np.add.at(np.moveaxis(out, -1, 0), rows, np.moveaxis(values, -1, 0))
    return out


def _check(x: Array, y: Array, new: Array, variance: float, noise_variance: float) -> None:
    if x.ndim != 1 or new.ndim != 1 or y.shape[-1:] != x.shape or x.size == 0:
        raise ValueError(
            f"indexes {x.shape} and the last axis of values {y.shape} must have one length, "
            f"at least 1, and new indexes {new.shape} one axis"
        )
    if not (np.isfinite(x).all() and np.isfinite(new).all()) or np.isinf(y).any():
        raise ValueError("indexes must be finite; values may be NaN (missing), not infinite")
    for name, scale in (("variance", variance), ("noise variance", noise_variance)):
        if not (np.isfinite(scale) and scale > 0.0):
            raise ValueError(f"the {name} must be positive and finite, got {scale}")
