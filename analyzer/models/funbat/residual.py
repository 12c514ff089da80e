"""What a Tucker fit leaves over, as one more Gaussian process for every series along one mode.

    y = f(i) + g_series(i_along) + ε,   g ~ GP(0, s² κ),   ε ~ N(0, ρ s²)

A series is all entries that share the indexes of the other modes, e.g. one quantile of one matrix
over training time. A fit of low rank smooths over what is particular to a series; where its
neighbours in time were observed, this brings it back. s² is pooled over series, or over those of
one noise group where the fit has groups.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyzer.models.funbat.checks import BadInput, observed
from analyzer.models.funbat.entries import Array
from analyzer.models.funbat.model import FunbatFit
from analyzer.models.funbat.prediction import Prediction
from theory.gp_regression import Regression, merge_indexes, regress

KERNEL, LENGTHSCALE, NUGGET = "matern12", 0.5, 0.02  # ℓ as a share of the mode's span


@dataclass(frozen=True, slots=True)
class ResidualFit:
    """A fit and the residual process of every series it was observed in."""

    fit: FunbatFit
    along: int
    keys: Array  # (S, K - 1) indexes of the other modes, user units
    times: Array  # (n,) indexes along the mode, scaled
    residuals: Array  # (S, n), NaN where a series was not observed
    variance: Array  # s² (S,)

    def predict(self, indexes: ArrayLike) -> Prediction:
        """As `FunbatFit.predict`, with the residual process in mean and sd of observed series."""
        base = self.fit.predict(indexes)
        x = np.asarray(indexes, dtype=np.float64)
        series = _series_of(self.keys, np.delete(x, self.along, axis=1))
        known = series >= 0
        if not known.any():
            return base
        times, at = np.unique(
            self.fit.modes[self.along].scaled(x[known, self.along]), return_inverse=True
        )
        g = _regress(self.times, self.residuals, times)
        mean, sd, sd_function = base.mean.copy(), base.sd.copy(), base.sd_function.copy()
        rows, s2 = series[known], self.variance[series[known]]
        mean[known] += g.mean[rows, at]
        variance = sd_function[known] ** 2 + s2 * g.variance[rows, at]
        sd_function[known] = np.sqrt(variance)
        sd[known] = np.sqrt(variance + NUGGET * s2)
        return replace(base, mean=mean, sd=sd, sd_function=sd_function)


def fit_residuals(fit: FunbatFit, indexes: ArrayLike, values: ArrayLike, along: int) -> ResidualFit:
    """The residual process of the entries (N, K), (N,) that `fit` was fitted to.

    Entries of one series at one index are averaged. Raises BadInput like `fit_funbat`, or for a
    mode whose indexes are labels.
    """
    if not 0 <= along < len(fit.modes) or fit.modes[along].kernel == "iid":
        raise BadInput(f"along: mode {along} is no continuous mode of the fit")
    data = observed(indexes, values)
    residuals = data.values - fit.predict(data.indexes).mean
    times, column = merge_indexes(fit.modes[along].scaled(data.indexes[:, along]))
    keys, row = np.unique(np.delete(data.indexes, along, axis=1), axis=0, return_inverse=True)
    cell = np.ravel_multi_index((row.ravel(), column), (len(keys), times.size))
    counts = np.bincount(cell, minlength=len(keys) * times.size)
    sums = np.bincount(cell, residuals, minlength=counts.size)
    table = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    table = table.reshape(len(keys), times.size)
    groups = np.zeros(len(keys), dtype=np.intp)
    if fit.noise_mode is not None and fit.noise_mode != along:
        other = fit.noise_mode - (fit.noise_mode > along)
        groups = np.unique(keys[:, other], return_inverse=True)[1].ravel()
    return ResidualFit(fit, along, keys, times, table, _scale(times, table, groups))


def _scale(times: Array, table: Array, groups: NDArray[np.intp]) -> Array:
    """s² (S,) of the highest likelihood: mean of rᵀC⁻¹r over the entries of a group."""
    zeros = np.where(np.isnan(table), np.nan, 0.0)
    likelihoods = [_regress(times, rows, times[:1]).log_likelihood for rows in (zeros, table)]
    squares = 2.0 * (likelihoods[0] - likelihoods[1])
    total = np.bincount(groups, squares)
    return (total / np.bincount(groups, np.isfinite(table).sum(1)))[groups]


def _regress(times: Array, table: Array, new: Array) -> Regression:
    return regress(
        KERNEL, times, table, new, lengthscale=LENGTHSCALE, variance=1.0, noise_variance=NUGGET
    )


def _series_of(keys: Array, wanted: Array) -> NDArray[np.intp]:
    """Row of every wanted key among the sorted `keys`, -1 for one that is not there."""
    both, inverse = np.unique(np.concatenate([keys, wanted]), axis=0, return_inverse=True)
    inverse = inverse.ravel()
    place = np.full(len(both), -1, dtype=np.intp)
    place[inverse[: len(keys)]] = np.arange(len(keys))
    return place[inverse[len(keys) :]]
