"""Goodness of fit: uniform under the null, small for what is no power law, sequential unbiased."""

import numpy as np
import pytest

from theory.goodness_of_fit import goodness_of_fit
from theory.power_law import fit_power_law


def plain_p(x, fit, replicates, rng):
    """The bootstrap as CSN's section 4 states it, one sample at a time."""
    body, worse = x[x < fit.xmin], 0
    for _ in range(replicates):
        n = rng.binomial(x.size, fit.n_tail / x.size)
        tail = fit.xmin * (1 - rng.random(n)) ** (-1 / (fit.alpha - 1))
        worse += fit_power_law(np.append(tail, rng.choice(body, x.size - n))).ks_d >= fit.ks_d
    return (1 + worse) / (1 + replicates)


def test_agrees_with_a_plain_bootstrap():
    x = np.random.default_rng(5).lognormal(0, 1.2, 250)
    fit = fit_power_law(x)
    expected = plain_p(x, fit, 400, np.random.default_rng(0))
    found = goodness_of_fit(x, fit, replicates=2000, seed=1)
    assert found.p == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / 400))
    assert found.replicates == 2000
    assert found.p == pytest.approx((1 + found.exceedances) / 2001)


def test_small_where_the_tail_is_exponential_and_not_for_pareto():
    rng = np.random.default_rng(0)
    exponential = 5.0 + rng.exponential(1.0, 2000)
    assert goodness_of_fit(exponential, fit_power_law(exponential), replicates=200, seed=0).p < 0.1
    p = [
        goodness_of_fit(x, fit_power_law(x), replicates=99, seed=0, stop_at=10).p
        for x in rng.pareto(1.5, (40, 200)) + 1
    ]
    assert np.mean(np.array(p) < 0.1) <= 0.2 and 0.3 < np.mean(p) < 0.75


def test_sequential_stop_takes_the_prefix_of_the_same_samples():
    x = np.random.default_rng(2).pareto(1.5, 200) + 1
    fit = fit_power_law(x)
    full = goodness_of_fit(x, fit, replicates=400, seed=3)
    early = goodness_of_fit(x, fit, replicates=400, seed=3, stop_at=10)
    assert early.p == early.exceedances / early.replicates and early.exceedances == 10
    assert early.replicates < 400
    assert early.p == pytest.approx(full.p, abs=4 * early.p / np.sqrt(10))


def test_deterministic():
    x = np.random.default_rng(2).pareto(1.5, 100) + 1
    fit = fit_power_law(x)
    assert goodness_of_fit(x, fit, replicates=50, seed=9) == goodness_of_fit(
        x, fit, replicates=50, seed=9
    )
