"""The residual process of every series against a dense one, and what it is for."""

import numpy as np
import pytest

from analyzer.models.funbat import BadInput, Variational, fit_funbat, fit_residuals
from theory.state_space import covariance


@pytest.fixture(scope="module")
def trajectories():
    """12 series over 15 times: a shared shape, and a wander of each series' own."""
    rng = np.random.default_rng(0)
    t = np.linspace(0, 3, 15)
    K = covariance("matern12", np.subtract.outer(t, t), 1.5)
    wander = 0.1 * np.linalg.cholesky(K + 1e-9 * np.eye(15)) @ rng.normal(size=(15, 12))
    y = np.outer(np.sin(t), 1 + rng.random(12)) + wander + 0.01 * rng.normal(size=(15, 12))
    x = np.stack(np.meshgrid(t, np.arange(12.0), indexing="ij"), -1).reshape(-1, 2)
    return x, y.ravel(), rng.random(180) < 0.6


def fitted(x, y, **kw):
    settings = Variational(max_sweeps=20, restarts=1)
    return fit_funbat(x, y, 1, ("matern32", "iid"), inference=settings, **kw)


def test_equals_dense_regression_of_each_series(trajectories):
    x, y, train = trajectories
    fit = fitted(x[train], y[train], noise_mode=1)
    both = fit_residuals(fit, x[train], y[train], along=0)
    base, found = fit.predict(x), both.predict(x)
    residual = y - base.mean
    for series in range(12):
        own = x[:, 1] == series
        seen = own & train
        k = lambda a, b: covariance("matern12", np.subtract.outer(a, b) / 3.0, 0.5)  # noqa: E731
        C = k(x[seen, 0], x[seen, 0]) + 0.02 * np.eye(seen.sum())
        cross = k(x[own, 0], x[seen, 0])
        s2 = residual[seen] @ np.linalg.solve(C, residual[seen]) / seen.sum()
        variance = s2 * (1 - np.einsum("ij,ji->i", cross, np.linalg.solve(C, cross.T)))
        expected = base.mean[own] + cross @ np.linalg.solve(C, residual[seen])
        np.testing.assert_allclose(found.mean[own], expected, atol=1e-9)
        total = base.sd_function[own] ** 2 + variance
        np.testing.assert_allclose(found.sd_function[own] ** 2, total, rtol=1e-7)
        np.testing.assert_allclose(found.sd[own] ** 2, total + 0.02 * s2, rtol=1e-7)


def test_improves_held_out_times_of_observed_series(trajectories):
    x, y, train = trajectories
    fit = fitted(x[train], y[train])
    both = fit_residuals(fit, x[train], y[train], along=0)
    errors = [np.sqrt(np.mean((p.predict(x[~train]).mean - y[~train]) ** 2)) for p in (fit, both)]
    assert errors[1] < 0.8 * errors[0]


def test_series_nobody_observed_keep_the_fit(trajectories):
    x, y, _ = trajectories
    known = x[:, 1] < 11
    fit = fitted(x[known], y[known])
    both = fit_residuals(fit, x[known], y[known], along=0)
    alone, found = fit.predict(x), both.predict(x)
    for name in ("mean", "sd", "sd_function"):
        np.testing.assert_array_equal(getattr(found, name)[~known], getattr(alone, name)[~known])
    assert (found.mean[known] != alone.mean[known]).all() and found.extrapolated[~known].all()
    assert (both.predict(x[~known]).mean == alone.mean[~known]).all()


def test_bad_mode(trajectories):
    x, y, _ = trajectories
    fit = fitted(x, y)
    for along in (1, 2, -1):
        with pytest.raises(BadInput, match=f"mode {along} is no continuous mode"):
            fit_residuals(fit, x, y, along=along)
