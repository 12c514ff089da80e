"""Linear-time regression equals the dense formulas, and worked numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from theory.gp_regression import merge_indexes, regress
from theory.state_space import MATERN, covariance

WORKED = {
    "matern12": (
        [0.1455104832608769, 0.11443977815499067, -0.3763591984687144, 0.0340493247053737],
        [0.49161468529823155, 0.3835360647932892, 0.32596482388499814, 0.8660000010607759],
        -5.15184382619,
    ),
    "matern32": (
        [0.02911543420745158, 0.15499195721070022, -0.41845585811822755, 0.23662215971633443],
        [0.18285265241557458, 0.09352567621511021, 0.07054492792982, 0.7472859127108181],
        -4.1735032333,
    ),
    "matern52": (
        [-0.02290381553143339, 0.20362565490524215, -0.4221773952605703, 0.3571425537490228],
        [0.1084351441964188, 0.043221123463542205, 0.03245976659760784, 0.6787010274251242],
        -3.96481775258,
    ),
}


@pytest.mark.parametrize("kernel", MATERN)
def test_worked_case(kernel):
    found = regress(
        kernel, [0, 0.1, 0.15, 0.4, 0.8, 1], [0.2, 0.5, 0.4, -0.3, -0.9, 0.1],
        [-0.1, 0.25, 0.9, 1.3], lengthscale=0.3, variance=1.0, noise_variance=0.01,
    )  # fmt: skip
    mean, variance, log_likelihood = WORKED[kernel]
    np.testing.assert_allclose(found.mean, mean, atol=1e-12)
    np.testing.assert_allclose(found.variance, variance, atol=1e-12)
    assert found.log_likelihood == pytest.approx(log_likelihood, abs=1e-10)


def dense(kernel, x, y, new, ell, variance, noise):
    """Textbook regression, one observation a row."""
    k = lambda a, b: variance * covariance(kernel, np.subtract.outer(a, b), ell)  # noqa: E731
    K = k(x, x) + noise * np.eye(x.size)
    cross = k(new, x)
    variances = variance - np.einsum("ij,ji->i", cross, np.linalg.solve(K, cross.T))
    return cross @ np.linalg.solve(K, y), variances, multivariate_normal(cov=K).logpdf(y)


@settings(deadline=None, max_examples=60)
@given(
    kernel=st.sampled_from(MATERN),
    n=st.integers(1, 40),
    seed=st.integers(0, 2**32 - 1),
    ell=st.floats(0.02, 50.0),
    variance=st.floats(0.1, 10.0),
    noise=st.floats(1e-3, 1.0),
)
def test_equals_dense_regression(kernel, n, seed, ell, variance, noise):
    """Unsorted, repeated and missing; new indexes before, between, on and after the data."""
    rng = np.random.default_rng(seed)
    x = np.round(rng.uniform(-5, 5, n), rng.integers(0, 4))
    y = rng.normal(size=(3, n))
    y[rng.random((3, n)) < 0.3] = np.nan
    y[:, 0] = 1.0
    new = np.concatenate([rng.uniform(-9, 9, 7), x[:2]])
    found = regress(kernel, x, y, new, lengthscale=ell, variance=variance, noise_variance=noise)
    for i in range(3):
        seen = ~np.isnan(y[i])
        mean, var, log_likelihood = dense(kernel, x[seen], y[i, seen], new, ell, variance, noise)
        np.testing.assert_allclose(found.mean[i], mean, atol=1e-8)
        np.testing.assert_allclose(found.variance[i], var, atol=1e-8 * variance)
        assert found.log_likelihood[i] == pytest.approx(log_likelihood, rel=1e-8, abs=1e-8)


def test_merging():
    x, position = merge_indexes([3.0, 1.0, 1.0 + 1e-12, 3.0, 2.0])
    assert x.tolist() == [1.0, 2.0, 3.0] and position.tolist() == [2, 0, 0, 2, 1]
    assert merge_indexes([4.0, 4.0])[0].tolist() == [4.0]


def test_bad_input():
    scales = {"lengthscale": 1.0, "variance": 1.0, "noise_variance": 1.0}
    with pytest.raises(ValueError, match="must have one length"):
        regress("matern12", [0, 1], [1.0], [0.5], **scales)
    with pytest.raises(ValueError, match="finite"):
        regress("matern12", [0, np.nan], [1.0, 2.0], [0.5], **scales)
    with pytest.raises(ValueError, match="noise variance must be positive"):
        regress("matern12", [0, 1], [1.0, 2.0], [0.5], **scales | {"noise_variance": 0.0})
