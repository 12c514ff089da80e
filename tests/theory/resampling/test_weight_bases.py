"""Cosine and knot fits against worked values, dense least squares and Parseval."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.resampling.bases import (
    INTERPOLATIONS,
    fit_cosines,
    fit_knots,
    hyperbolic,
    rectangle,
    sample_cosines,
    sample_knots,
)
from theory.resampling.operators import area, cosines, dct, linear


def surface(n, m):
    u, v = (np.arange(n)[:, None] + 0.5) / n, (np.arange(m) + 0.5) / m
    return np.sin(2 * np.pi * u) * np.cos(np.pi * v) + u * v / 2


def relative(approx, exact):
    return np.linalg.norm(approx - exact) / np.linalg.norm(exact)


@pytest.mark.parametrize(
    ("K", "expected"),
    [(2, 0.4639477546), (4, 0.1203249506), (6, 0.0595105465), (8, 0.0355103879)],
)
def test_truncated_surface(K, expected):
    W = surface(24, 16)
    assert np.linalg.norm(W) == pytest.approx(10.9110784983, abs=5e-11)
    fit = fit_cosines(W, (0, 1), rectangle((K, K), W.shape))
    assert fit.rel_fro == pytest.approx(expected, abs=5e-11)
    assert fit.stored == K * K and fit.coefficients.shape == (K, K)
    assert relative(sample_cosines(fit, W.shape), W) == pytest.approx(expected, abs=5e-11)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [((36, 20), (0.00633, 0.01515, 0.03533)), ((12, 8), (0.01857, 0.01197, 0.01197))],
)
def test_resampled_surface(sizes, expected):
    W, exact = surface(24, 16), surface(*sizes)
    for build, error in zip((dct, linear, area), expected, strict=True):
        resampled = build(24, sizes[0]) @ W @ build(16, sizes[1]).T
        assert relative(resampled, exact) == pytest.approx(error, abs=5e-6)
    full = fit_cosines(W, (0, 1), rectangle(W.shape, W.shape))
    through_fit = sample_cosines(full, sizes)
    np.testing.assert_allclose(through_fit, dct(24, sizes[0]) @ W @ dct(16, sizes[1]).T, atol=1e-13)


@given(
    n=st.integers(1, 12), m=st.integers(1, 12), budget=st.integers(1, 150), seed=st.integers(0, 20)
)
def test_hyperbolic_fit_is_least_squares_on_its_orders(n, m, budget, seed):
    W = np.random.default_rng(seed).standard_normal((n, m))
    keep = hyperbolic(budget, W.shape)
    assert 1 <= keep.sum() <= budget or keep.all()
    products = np.outer(np.arange(1, n + 1), np.arange(1, m + 1))
    assert keep.all() or products[keep].max() < products[~keep].min()
    fit = fit_cosines(W, (0, 1), keep)
    rows, columns = cosines(n, n), cosines(m, m)
    design = np.array([np.outer(rows[:, k], columns[:, j]).ravel() for k, j in np.argwhere(keep)])
    best, *_ = np.linalg.lstsq(design.T, W.ravel(), rcond=None)
    fitted = sample_cosines(fit, (n, m))
    np.testing.assert_allclose(fitted.ravel(), design.T @ best, atol=1e-9)
    assert fit.rel_fro == pytest.approx(relative(fitted, W), abs=1e-7)
    assert fit.stored == keep.sum()


def test_only_the_named_axes_are_smoothed():
    W = np.random.default_rng(1).standard_normal((8, 5, 3, 3))
    fit = fit_cosines(W, (0,), rectangle((4,), (8,)))
    assert fit.coefficients.shape == (4, 5, 3, 3) and fit.stored == 4 * 45
    for tap in np.ndindex(5, 3, 3):
        alone = fit_cosines(W[(slice(None), *tap)], (0,), rectangle((4,), (8,)))
        np.testing.assert_allclose(fit.coefficients[(slice(None), *tap)], alone.coefficients)
    both = fit_cosines(W, (0, 1), rectangle((8, 5), (8, 5)))
    np.testing.assert_allclose(sample_cosines(both, (8, 5)), W, atol=1e-13)
    assert both.rel_fro == pytest.approx(0.0, abs=1e-13)


@pytest.mark.parametrize("kind", sorted(INTERPOLATIONS))
def test_knots_are_the_least_squares_values(kind):
    W = np.random.default_rng(2).standard_normal((12, 9))
    fit = fit_knots(W, (0, 1), (5, 4), kind)
    build = INTERPOLATIONS[kind]
    design = np.kron(build(5, 12).toarray(), build(4, 9).toarray())
    best, *_ = np.linalg.lstsq(design, W.ravel(), rcond=None)
    np.testing.assert_allclose(fit.knots.ravel(), best, atol=1e-10)
    np.testing.assert_allclose(sample_knots(fit, (12, 9)).ravel(), design @ best, atol=1e-10)
    assert fit.stored == 20
    exact = fit_knots(W, (1,), (9,), kind)
    np.testing.assert_allclose(sample_knots(exact, (9,)), W, atol=1e-12)


def test_zero_tensor_and_bad_arguments():
    assert fit_cosines(np.zeros((4, 3)), (0,), rectangle((2,), (4,))).rel_fro is None
    with pytest.raises(ValueError, match="finite"):
        fit_cosines(np.array([1.0, np.nan]), (0,), rectangle((1,), (2,)))
    with pytest.raises(ValueError, match="mask"):
        fit_cosines(np.ones((4, 3)), (0, 1), rectangle((2,), (4,)))
    with pytest.raises(ValueError, match="ascending"):
        fit_cosines(np.ones((4, 3)), (1, 0), rectangle((2, 2), (3, 4)))
    with pytest.raises(ValueError, match="kept orders"):
        fit_knots(np.ones((4, 3)), (0,), (5,), "linear")
    with pytest.raises(ValueError, match="at least 1"):
        hyperbolic(0, (4, 4))
