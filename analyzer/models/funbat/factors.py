"""q(U^k): the functions of one mode given Λ and η at its indexes.

q(U^k) ∝ GP prior · Π_s exp(-½ u_sᵀΛ_s u_s + η_sᵀ u_s) is the posterior of r independent Matérn
processes seen through correlated noise: by the banded precision for Matérn-1/2, else by a dense
solve where n·r is small and by two scans where it is not. At indexes nobody observed, Λ = 0 there
and the same smoother runs over the merged indexes; that is exact before, between and after the
observed ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from analyzer.models.funbat.entries import Mode
from theory import dense_gp, kalman_scan, ornstein_uhlenbeck
from theory.gp_regression import merge_indexes
from theory.kalman import Smoothed, matern_chain, values_of, whiten
from theory.state_space import covariance

Array = NDArray[np.float64]

# Below this n·r a dense solve takes less time than two scans.
DENSE_SIZE = 150


@dataclass(frozen=True, slots=True)
class Factor:
    """q(U^k) at the observed indexes, and the messages it was computed from.

    Scaled units: the lengthscale is a share of the mode's span; the kernel's variance is 1.
    """

    mean: Array  # (n, r)
    cov: Array  # (n, r, r)
    precision: Array  # Λ (n, r, r)
    linear: Array  # η (n, r)
    lengthscale: float  # nan for iid
    divergence: float  # KL(q ‖ prior)


def condition(mode: Mode, precision: Array, linear: Array, lengthscale: float) -> Factor:
    """q(U^k) from messages Λ (n, r, r) and η (n, r)."""
    posterior = _smoothed(mode, precision, linear, lengthscale)
    mean, cov = posterior.mean, posterior.cov
    second = cov + mean[:, :, None] * mean[:, None, :]
    expected = (linear * mean).sum() - 0.5 * (precision * second).sum()
    return Factor(
        mean=mean,
        cov=cov,
        precision=precision,
        linear=linear,
        lengthscale=lengthscale,
        divergence=float(expected - posterior.log_normaliser),
    )


def without_constant(precision: Array, linear: Array) -> tuple[Array, Array]:
    """Messages to the functions proper, when the first entry of u is 1: η - Λ[1:, 0]."""
    return precision[:, 1:, 1:], linear[:, 1:] - precision[:, 1:, 0]


def evidence(mode: Mode, precision: Array, linear: Array) -> Callable[[float], float]:
    """ln Z of fixed messages by lengthscale: the part of the ELBO that a lengthscale changes."""
    seen, gaps = whiten(precision, linear), np.diff(mode.grid)

    def log_z(lengthscale: float) -> float:
        if _is_banded(mode, lengthscale):
            return ornstein_uhlenbeck.log_normaliser(gaps / lengthscale, precision, linear)
        if linear.size <= DENSE_SIZE:
            return float(_smoothed(mode, precision, linear, lengthscale).log_normaliser)
        chain = matern_chain(mode.kernel, mode.grid, lengthscale, mode.rank)
        return float(kalman_scan.log_normaliser(chain, seen))

    return log_z


def posterior_at(mode: Mode, factor: Factor, scaled: Array) -> tuple[Array, Array]:
    """Means (m, r) and covariances (m, r, r) at any indexes (m,) in scaled units."""
    if mode.kernel == "iid":
        return _labels_at(mode, factor, scaled)
    precision, linear = factor.precision, factor.linear
    if linear.size <= DENSE_SIZE:
        there = _dense(mode, scaled, precision, linear, factor.lengthscale)
        return there.mean, there.cov
    grid, rows = merge_indexes(np.concatenate([mode.grid, scaled]), tolerance=0.0)
    old, new = rows[: mode.grid.size], rows[mode.grid.size :]
    wide = np.zeros((grid.size, *precision.shape[1:])), np.zeros((grid.size, linear.shape[1]))
    wide[0][old], wide[1][old] = precision, linear
    there = _smoothed(replace(mode, grid=grid), *wide, factor.lengthscale)
    return there.mean[new], there.cov[new]


def _smoothed(mode: Mode, precision: Array, linear: Array, lengthscale: float) -> Smoothed:
    """Of the functions, not the states, at the mode's own indexes."""
    if mode.kernel == "iid":
        return dense_gp.smooth_iid(whiten(precision, linear))
    if _is_banded(mode, lengthscale):
        return ornstein_uhlenbeck.smooth(np.diff(mode.grid) / lengthscale, precision, linear)
    if linear.size <= DENSE_SIZE:
        return _dense(mode, mode.grid, precision, linear, lengthscale)
    r = mode.rank
    chain = matern_chain(mode.kernel, mode.grid, lengthscale, r)
    states = kalman_scan.smooth(chain, whiten(precision, linear))
    p = states.mean.shape[-1] // r
    cov = np.ascontiguousarray(states.cov[:, ::p, ::p])
    return Smoothed(values_of(states.mean, r), cov, states.log_normaliser)


def _is_banded(mode: Mode, lengthscale: float) -> bool:
    gaps = np.diff(mode.grid)
    shortest = float(gaps.min()) / lengthscale if gaps.size else 1.0
    return mode.kernel == "matern12" and shortest >= ornstein_uhlenbeck.SHORTEST_GAP


def _dense(mode: Mode, at: Array, precision: Array, linear: Array, lengthscale: float) -> Smoothed:
    K = covariance(mode.kernel, np.subtract.outer(mode.grid, mode.grid), lengthscale)
    cross = covariance(mode.kernel, np.subtract.outer(at, mode.grid), lengthscale)
    return dense_gp.smooth(K, cross, np.ones(at.size), whiten(precision, linear))


def _labels_at(mode: Mode, factor: Factor, at: Array) -> tuple[Array, Array]:
    """A label that was never observed keeps the prior N(0, I)."""
    rows = np.searchsorted(mode.grid, at).clip(max=mode.grid.size - 1)
    found = mode.grid[rows] == at
    mean = np.where(found[:, None], factor.mean[rows], 0.0)
    return mean, np.where(found[:, None, None], factor.cov[rows], np.eye(mode.rank))
