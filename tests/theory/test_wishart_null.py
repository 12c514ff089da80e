"""The tridiagonal null against dense Gaussian matrices."""

import threading

import numpy as np
import pytest
from scipy.stats import ks_2samp

from theory import wishart_null
from theory.extreme_value import moment_index
from theory.power_law import fit_power_law, pl_alpha_hill
from theory.wishart_null import null_statistics, wishart_eigenvalues


@pytest.mark.parametrize(("rows", "cols"), [(32, 32), (64, 20)])
def test_statistics_have_the_law_of_dense_matrices(rows, cols):
    m = min(rows, cols)
    rng = np.random.default_rng(11)
    dense = [
        np.linalg.svd(rng.standard_normal((rows, cols)), compute_uv=False) ** 2 for _ in range(600)
    ]
    null = null_statistics(rows, cols, draws=600, seed=3)
    observed = {
        "alpha": [fit_power_law(e).alpha for e in dense],
        "ks_d": [fit_power_law(e).ks_d for e in dense],
        "hill": [pl_alpha_hill(e) for e in dense],
        "xi": [moment_index(e, m // 4) for e in dense],
    }
    for name, values in observed.items():
        assert ks_2samp(values, getattr(null, name)).pvalue > 0.003, name


def test_eigenvalues_have_the_moments_of_wishart():
    rng = np.random.default_rng(0)
    draws = np.array([wishart_eigenvalues(10, 25, rng) for _ in range(4000)])
    # E tr(WWᵀ) = mn, E tr((WWᵀ)²) = mn(m + n + 1)
    assert draws.sum(axis=1).mean() == pytest.approx(250, rel=0.01)
    assert (draws**2).sum(axis=1).mean() == pytest.approx(250 * 36, rel=0.02)
    assert np.all(draws > 0) and np.all(np.diff(draws, axis=1) >= 0)
    assert wishart_eigenvalues(1, 4, rng).shape == (1,)


def test_published_quantiles_of_alpha():
    null = null_statistics(128, 128, draws=400)
    quantiles = np.quantile(null.alpha, [0.05, 0.5])
    assert quantiles == pytest.approx([3.1, 5.3], rel=0.08)
    assert np.quantile(null.xi, 0.95) < 0.0
    assert null.share_below("alpha", np.inf) == 1.0 and null.share_below("alpha", 0.0) == 0.0
    assert null.share_below("alpha", float(np.median(null.alpha))) == pytest.approx(0.5, abs=0.01)


def test_one_computation_a_shape_whatever_the_order_and_thread(monkeypatch):
    drawn, found = [], []

    def counted(*arguments):
        drawn.append(arguments)
        return wishart_eigenvalues(*arguments)

    monkeypatch.setattr("theory.wishart_null.wishart_eigenvalues", counted)
    threads = [
        threading.Thread(target=lambda s=shape: found.append(null_statistics(*s, draws=21)))
        for shape in [(17, 40), (40, 17)] * 3
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(other is found[0] for other in found)
    assert len(found) == 6 and len(drawn) == 21


def test_tiny_shapes_are_refused():
    with pytest.raises(ValueError, match="at least 8"):
        null_statistics(7, 100)


def test_draws_are_the_same_however_many_are_fitted_together(monkeypatch):
    found = []
    for together in (1, 100, 1 << 20):
        monkeypatch.setattr(wishart_null, "_TOGETHER", together)
        found.append(wishart_null._statistics.__wrapped__(24, 40, 30, 5))
    for name in ("alpha", "ks_d", "hill", "xi"):
        for one in found[1:]:
            np.testing.assert_array_equal(getattr(one, name), getattr(found[0], name))
    assert found[0].alpha.size == 30
