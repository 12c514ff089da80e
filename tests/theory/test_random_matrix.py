"""Marchenko-Pastur law against quadrature, published medians and its own inverse."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from theory.random_matrix import (
    hill_null,
    mp_cdf,
    mp_density,
    mp_edges,
    mp_median,
    mp_quantile,
)


@pytest.mark.parametrize(
    ("beta", "median"),
    [
        (1, 0.652775942),
        (0.75, 0.742948487),
        (0.5, 0.830465882),
        (0.25, 0.916004071),
        (0.1, 0.966565147),
    ],
)
def test_medians_to_all_published_digits(beta, median):
    assert mp_median(beta) == pytest.approx(median, abs=5.1e-10)


@pytest.mark.parametrize(("beta", "variance"), [(0.1, 1.0), (0.5, 2.5), (0.9, 0.01), (1.0, 1.0)])
def test_cdf_is_the_integral_of_the_density(beta, variance):
    lower, upper = mp_edges(beta, variance)
    for fraction in (0.1, 0.4, 0.9):
        x = lower + fraction * (upper - lower)
        area = 1.0 - quad(lambda t: float(mp_density(t, beta, variance)), x, upper)[0]
        # quad's own accuracy at the square-root edge
        assert float(mp_cdf(x, beta, variance)) == pytest.approx(area, abs=1e-7)


@given(beta=st.floats(1e-3, 1.0), q=st.floats(1e-4, 1 - 1e-4))
def test_quantile_inverts_cdf(beta, q):
    # near β = 0 the law's width is 4√β: cancellation loses up to 1e-16/β of the distribution
    assert float(mp_cdf(mp_quantile(q, beta), beta)) == pytest.approx(q, abs=1e-10)


@pytest.mark.parametrize(
    ("beta", "value"),
    [(1, 2.12168), (0.75, 2.35073), (0.5, 2.70584), (0.375, 2.99099), (0.25, 3.45459),
     (0.125, 4.46992), (0.0625, 5.87750)],
)  # fmt: skip
def test_hill_null_published(beta, value):
    assert hill_null(beta) == pytest.approx(value, abs=6e-6)


@pytest.mark.parametrize("beta", [0.0, -0.5, 1.5])
def test_aspect_ratio_is_checked(beta):
    with pytest.raises(ValueError, match="aspect ratio"):
        mp_edges(beta)
