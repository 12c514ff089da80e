"""The constant that is added to f, learned like a lengthscale: the ELBO's maximum over it.

Values of low rank are of a higher one once their sample mean is subtracted, and a fit of the lower
rank then misses part of f, which its intervals do not tell. So the sample mean is only where the
constant c starts. Functions can imitate a constant, and alternating between both would creep; c is
moved together with the last mode's functions U. With q(U)'s covariance C, the messages η of the
values and g of values that are all 1, the bound is highest in both at

    c = (Σ τ_n y_n - gᵀC η) / (Σ τ_n - gᵀC g).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from analyzer.models.funbat.factors import condition
from analyzer.models.funbat.messages import Sums, contract, sum_means
from analyzer.models.funbat.state import (
    Posterior,
    Problem,
    all_moments,
    shifted,
    weighted_sums,
)

_LEAST_SHARE = 1e-9  # of Σ τ that functions must leave: below it they hold the constant themselves


def learn_offset(problem: Problem, posterior: Posterior) -> tuple[Problem, Posterior, float]:
    """The problem for y - c, q with the last mode's functions for it, and c.

    That factor's `divergence` is not brought up to date: a sweep must follow.
    """
    k = problem.last
    mode, tau, factor = problem.modes[k], posterior.noise.precision, posterior.factors[k]
    known, entries = all_moments(problem, posterior), problem.entries[k]
    sums = weighted_sums(problem, known, k, posterior.noise)
    ones = sum_means(entries, k, known, None, problem.diagonal) * tau[:, None]
    Lam, eta = contract(sums, posterior.core, k, problem.ranks[k])
    _, g = contract(Sums(ones, sums.square), posterior.core, k, problem.ranks[k])
    of_values = condition(mode, Lam, eta, factor.lengthscale)
    of_ones = condition(mode, Lam, g, factor.lengthscale).mean
    counts = np.diff(entries.starts)
    sums_y = np.bincount(entries.rows[k], entries.values, minlength=counts.size)
    weight = float((tau * counts).sum())
    remaining = weight - float((g * of_ones).sum())
    if remaining < _LEAST_SHARE * weight:
        return problem, posterior, 0.0
    offset = (float((tau * sums_y).sum()) - float((g * of_values.mean).sum())) / remaining
    factors = list(posterior.factors)
    factors[k] = replace(of_values, mean=of_values.mean - offset * of_ones, linear=eta - offset * g)
    return shifted(problem, offset), replace(posterior, factors=tuple(factors)), offset
