"""Cosine maps against worked cases and dense products; correlations against scipy."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import PermutationMethod, pearsonr, spearmanr

from theory.gradient_maps import (
    Correlation,
    Saturation,
    cosine_map,
    rank_correlation,
    saturation,
    sketch_error,
    within_groups,
)


def closed(m, n, a=1.0, b=0.37, c=0.0):
    i, j = np.arange(1, m + 1)[:, None], np.arange(1, n + 1)[None, :]
    return np.sin(a * i * np.sqrt(j) + b * j + c)


FOUR = [closed(6, 8, c=0.3 * t) for t in range(4)]


def test_four_gradients():
    C = cosine_map(FOUR)
    expected = [0.95853587, 0.8322434, 0.62397361, 0.95572655, 0.82079107, 0.9525394]
    np.testing.assert_allclose(C[np.triu_indices(4, 1)], expected, atol=5.1e-9)
    np.testing.assert_array_equal(C, C.T)
    assert np.all(np.diag(C) == 1.0)


def test_scales_and_precisions_do_not_matter():
    scaled = [FOUR[t] * 10.0**power for t, power in enumerate([-20, -160, 15, 160])]
    np.testing.assert_allclose(cosine_map(scaled), cosine_map(FOUR), atol=1e-14)
    single = [
        (g * s).astype(np.float32) for g, s in zip(FOUR, [1e-20, 1e-30, 1e15, 1e30], strict=True)
    ]
    np.testing.assert_allclose(cosine_map(single), cosine_map(FOUR), atol=1e-6)


def test_more_columns_than_a_block():
    X = np.random.default_rng(0).standard_normal((3, 140_001)).astype(np.float32)
    unit = X.astype(np.float64) / np.linalg.norm(X.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(cosine_map(list(X)), unit @ unit.T, atol=1e-13)


def test_zero_gradients_have_no_direction():
    C = cosine_map([FOUR[0], 0 * FOUR[0], FOUR[2]])
    assert np.all(np.isnan(C[1])) and np.all(np.isnan(C[:, 1]))
    assert C[0, 2] == pytest.approx(0.8322434, abs=5.1e-9)
    found = saturation(C)
    assert found.cos_adjacent is None and found.cos_late is None
    assert found.cos_all == pytest.approx(0.8322434, abs=5.1e-9) and found.saturation_step == 0


def test_bad_gradients():
    with pytest.raises(ValueError, match="one shape"):
        cosine_map([np.ones(3), np.ones(4)])
    with pytest.raises(ValueError, match="gradient 1 is not finite"):
        cosine_map([np.ones(3), np.array([1, np.nan, 0])])
    assert cosine_map([]).shape == (0, 0)


def test_count_sketch_error():
    """Two standard deviations and more of the cosines of real CountSketches."""
    rng, size, width = np.random.default_rng(1), 6000, 256
    a = rng.standard_normal((12, size))
    a[6:] += a[:6]
    bucket, sign = rng.integers(0, width, size), rng.choice([-1.0, 1.0], size)
    sketches = np.zeros((12, width))
    np.add.at(sketches, (slice(None), bucket), a * sign)
    error = (cosine_map(list(sketches)) - cosine_map(list(a)))[np.triu_indices(12, 1)]
    assert 0.3 * sketch_error(width) < np.sqrt(np.mean(error**2)) < 0.6 * sketch_error(width)
    assert np.mean(np.abs(error) < sketch_error(width)) > 0.9
    with pytest.raises(ValueError, match="at least 1"):
        sketch_error(0)


def test_saturation_of_a_known_map():
    C = np.eye(5)
    values = {(0, 1): 0.1, (0, 2): 0.0, (0, 3): 0.1, (0, 4): 0.0, (1, 2): 0.4, (1, 3): 0.4,
              (1, 4): 0.7, (2, 3): 0.8, (2, 4): 0.6, (3, 4): 0.9}  # fmt: skip
    for (a, b), value in values.items():
        C[a, b] = C[b, a] = value
    found = saturation(C, steps=[0, 100, 200, 300, 400])
    assert found.cos_adjacent == pytest.approx((0.1 + 0.4 + 0.8 + 0.9) / 4)
    assert found.cos_late == pytest.approx((0.8 + 0.6 + 0.9) / 3)  # rows 2, 3, 4
    assert found.cos_all == pytest.approx(sum(values.values()) / 10)
    assert found.saturation_step == 100  # (0.4 + 0.4 + 0.7)/3 = 0.5 is reached
    assert saturation(C, tau=0.51).saturation_step == 2
    assert saturation(C, tau=0.95).saturation_step is None


def test_few_steps():
    assert saturation(np.eye(1)) == Saturation(None, None, None, None)
    assert saturation(np.empty((0, 0))).cos_all is None
    two = saturation(np.full((2, 2), 0.7))
    assert (two.cos_adjacent, two.cos_late, two.cos_all) == (0.7, None, 0.7)
    assert two.saturation_step == 0
    assert saturation(np.full((3, 3), 0.7)).cos_late == pytest.approx(0.7)
    with pytest.raises(ValueError, match="square"):
        saturation(np.ones((2, 3)))
    with pytest.raises(ValueError, match="3 steps"):
        saturation(np.eye(2), steps=[1, 2, 3])


@given(seed=st.integers(0, 10**6), n=st.integers(4, 40), ties=st.booleans())
def test_correlations_against_scipy(seed, n, ties):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((2, n))
    if ties:
        x = np.round(x)
    if np.all(x == x[0]):
        return
    pearson = rank_correlation(x * 1e-200, y * 1e150, "pearson")
    assert (pearson.rho, pearson.p) == pytest.approx(tuple(pearsonr(x, y)), rel=1e-9)
    found, peer = rank_correlation(x, y), spearmanr(x, y)
    assert found.rho == pytest.approx(peer.statistic, abs=1e-12) and found.n == n
    if n > 8:
        assert found.p == pytest.approx(peer.pvalue)


@pytest.mark.parametrize("y", [[1, 2, 3, 4], [1, 3, 2, 4, 4, 0], [2, 1, 4, 3, 7, 5, 6]])
def test_few_pairs_have_an_exact_p(y):
    x = np.arange(len(y))
    exact = pearsonr(
        np.argsort(np.argsort(x)),
        [np.mean([sum(v < w for v in y) + 1, sum(v <= w for v in y)]) for w in y],
        method=PermutationMethod(n_resamples=10**6),
    ).pvalue
    assert rank_correlation(x, y).p == pytest.approx(exact, rel=1e-9)


def test_a_perfect_order_of_four_is_no_proof():
    assert rank_correlation([1, 2, 3, 4], [5, 6, 7, 9]).p == pytest.approx(2 / 24)


def test_no_correlation():
    assert rank_correlation([1, 2, 3], [1, 2, 3]) == Correlation(None, None, 3, "too_few_pairs")
    five = [1, 2, 3, 4, np.nan]
    assert rank_correlation(five, [1.0, 1, 1, 1, 2]) == Correlation(None, None, 4, "constant")
    assert rank_correlation([None, 2, 3, 4, 5], [1, 2, 3, 4, 5]).n == 4  # type: ignore[list-item]
    with pytest.raises(ValueError, match="5 and 4"):
        rank_correlation(five, [1, 2, 3, 4])


def test_a_correlation_between_types_vanishes_within_them():
    within = [(0, 0), (1, 0), (0, 1), (1, 1), (0.5, 0.5)]
    pairs = [(shift + a, shift + b) for shift, (a, b) in product([0, 10, 20], within)]
    x, y = np.array(pairs).T
    types = ["q"] * 5 + ["up"] * 5 + ["down"] * 5
    assert rank_correlation(x, y, "pearson").rho > 0.99
    found = within_groups(x, y, types, "pearson")
    assert list(found) == ["q", "up", "down"]
    assert all(abs(c.rho) < 1e-9 and c.n == 5 for c in found.values())
    with pytest.raises(ValueError, match="group"):
        within_groups(x, y, types[:3])
