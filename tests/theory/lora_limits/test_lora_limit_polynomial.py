"""Certified degrees, monomials and feature maps against dense grids, mpmath and closed cases."""

import math
from itertools import product

import mpmath
import numpy as np
import pytest
from numpy.polynomial import chebyshev, polynomial

from theory.lora_limits.features import feature_maps
from theory.lora_limits.polynomial import (
    break_even_lengths,
    certified_degree,
    chebyshev_coefficients,
    feature_count,
    log_feature_count,
    log_feature_count_loose,
    log_truncation_error,
    monomial_coefficients,
    rank_exponent,
)

BOUNDS = [0.05, 0.5, 1.0, 2.0, 3.7, 4.0, 8.0, 11.3, 16.0]
ACCURACIES = [0.3, 1e-1, 1e-2, 1e-3, 1e-6]


def dense_errors(bound, count=80):
    """max |exp - truncation| and the same over exp, by degree; coefficients from a cosine sum."""
    nodes = (np.arange(256) + 0.5) * np.pi / 256
    values = np.exp(bound * np.cos(nodes))
    series = np.array([np.mean(values * np.cos(k * nodes)) for k in range(count)]) * 2.0
    series[0] /= 2.0
    x = np.linspace(-1.0, 1.0, 4001)
    exact = np.exp(bound * x)
    errors = [np.abs(chebyshev.chebval(x, series[: g + 1]) - exact) for g in range(count)]
    return np.array([e.max() for e in errors]), np.array([(e / exact).max() for e in errors])


@pytest.mark.parametrize("bound", BOUNDS)
def test_certified_degree_is_the_least_that_meets_the_accuracy(bound):
    absolute, relative = dense_errors(bound)
    for eps in ACCURACIES:
        assert certified_degree(bound, eps) == int(np.argmax(absolute <= eps))
        if bound > 8.0:
            continue  # float64 cannot resolve exp(-B) against exp(B) on the grid
        # the relative one is an upper bound, by no more than two degrees
        g = certified_degree(bound, eps, relative=True)
        least = int(np.argmax(relative <= eps))
        assert relative[g] <= eps and least <= g <= least + 2


@pytest.mark.parametrize(
    ("bound", "eps", "degree", "tail"),
    [
        (0.5, 1e-3, 3, 3.467669e-4),
        (1, 1e-3, 4, 5.913129e-4),
        (2, 1e-3, 6, 5.114281e-4),
        (4, 1e-3, 9, None),
        (4, 1e-6, 13, 5.628561e-7),
        (8, 1e-3, 16, None),
        (16, 1e-3, 28, None),
    ],
)
def test_reference_degrees(bound, eps, degree, tail):
    assert certified_degree(bound, eps) == degree
    if tail is not None:
        assert math.exp(log_truncation_error(bound, degree)) == pytest.approx(tail, rel=1e-6)


def test_relative_error_of_a_plain_truncation():
    _, relative = dense_errors(4.0)
    assert relative[8] == pytest.approx(0.19, abs=0.005)
    bound = math.exp(log_truncation_error(4, 8, relative=True))
    assert relative[8] < bound == pytest.approx(0.2816, abs=5e-5)  # an upper bound, not attained


@pytest.mark.parametrize(
    ("bound", "degree"), [(1e-3, 5), (30, 10), (300, 500), (700, 2000), (3e3, 9)]
)
def test_tail_without_overflow(bound, degree):
    with mpmath.workdps(30):
        top = 2 * max(degree, int(1.2 * bound)) + 60
        if bound >= 3e3:  # nearly all of exp(B): subtract the head instead
            head = mpmath.fsum(mpmath.besseli(k, bound) for k in range(1, degree + 1))
            tail = mpmath.exp(bound) - mpmath.besseli(0, bound) - 2 * head
        else:
            terms = range(degree + 1, min(top, degree + 400))
            tail = 2 * mpmath.fsum(mpmath.besseli(k, bound) for k in terms)
        expected = float(mpmath.log(tail))
    assert log_truncation_error(bound, degree) == pytest.approx(expected, abs=1e-9)


def test_degree_for_large_bounds():
    for bound, relative in product([200.0, 500.0, 900.0], [False, True]):
        g = certified_degree(bound, 1e-6, relative=relative)
        errors = [log_truncation_error(bound, d, relative=relative) for d in (g - 1, g)]
        assert errors[0] > math.log(1e-6) >= errors[1]


def test_zero_bound():
    assert certified_degree(0.0, 1e-9) == 0 and log_truncation_error(0.0, 0) == -math.inf
    assert rank_exponent(64, 4096, 0.0) == 0.0


@pytest.mark.parametrize(
    ("bound", "degree"), [(0.5, 3), (1.0, 0), (4.0, 13), (8.0, 24), (13.0, 24)]
)
def test_monomials_equal_the_chebyshev_sum(bound, degree):
    x = np.linspace(-bound, bound, 501)
    expected = chebyshev.chebval(x / bound, chebyshev_coefficients(bound, degree))
    got = polynomial.polyval(x, monomial_coefficients(bound, degree))
    np.testing.assert_allclose(got, expected, atol=1e-15 * math.exp(1.5 * bound), rtol=0)


def test_monomials_of_a_vanishing_interval_are_taylor():
    expected = [1 / math.factorial(k) for k in range(11)]
    for bound in (0.0, 1e-200, 1e-9):
        np.testing.assert_allclose(monomial_coefficients(bound, 10), expected, rtol=1e-14)


@pytest.mark.parametrize(
    ("width", "degree", "count"), [(4, 4, 70), (64, 3, 47905), (64, 4, 814385), (8, 3, 165)]
)
def test_feature_counts(width, degree, count):
    assert feature_count(width, degree) == count
    assert log_feature_count(width, degree) == pytest.approx(math.log(count), rel=1e-12)
    loose = math.comb(2 * (degree + width), 2 * degree)
    assert log_feature_count_loose(width, degree) == pytest.approx(math.log(loose), rel=1e-12)


@pytest.mark.parametrize(("width", "degree"), [(1, 0), (1, 5), (2, 4), (3, 3), (5, 2)])
def test_features_reproduce_the_polynomial(width, degree):
    rng = np.random.default_rng(width * 10 + degree)
    Q, K = rng.uniform(-1, 1, (7, width)), rng.uniform(-1, 1, (5, width))
    c = rng.normal(size=degree + 1)  # both signs
    phi_q, phi_k = feature_maps(Q, K, c, 0.7)
    assert phi_q.shape == (7, feature_count(width, degree))
    assert phi_k.shape == (5, feature_count(width, degree))
    expected = polynomial.polyval(0.7 * Q @ K.T, c)
    np.testing.assert_allclose(phi_q @ phi_k.T, expected, rtol=0, atol=1e-13)


def test_features_written_out():
    (q,), (k,) = feature_maps([[2.0, 3.0]], [[5.0, 7.0]], [1.0, 1.0, -0.5], 1.0)
    root = math.sqrt(0.5)
    expected_q = [1, 2, 3, -root * 4, -6, -root * 9]
    expected_k = [1, 5, 7, root * 25, 35, root * 49]
    np.testing.assert_allclose(q, expected_q, rtol=1e-15)
    np.testing.assert_allclose(k, expected_k, rtol=1e-15)


def test_features_approximate_exp_within_the_certified_error():
    rng = np.random.default_rng(3)
    Q, K = rng.uniform(-1, 1, (40, 4)), rng.uniform(-1, 1, (40, 4))
    S = 0.5 * Q @ K.T
    bound = float(np.abs(S).max())
    g = certified_degree(bound, 1e-6)
    phi_q, phi_k = feature_maps(Q, K, monomial_coefficients(bound, g), 0.5)
    assert np.abs(phi_q @ phi_k.T - np.exp(S)).max() <= 1e-6


@pytest.mark.parametrize(
    ("logits", "exponents"), [(1.0, (0.86, 1.95, 2.35)), (10.0, (1.80, 5.27, 6.76))]
)
def test_rank_exponents_at_4096_tokens(logits, exponents):
    got = [rank_exponent(width, 4096, logits) for width in (8, 64, 128)]
    np.testing.assert_allclose(got, exponents, atol=0.0051)
    assert rank_exponent(64, 4096, 0.15) < 1.0 < rank_exponent(64, 4096, 0.2)


def row_error(S, approximate, mask):
    exact, approximate = np.exp(S) * mask, approximate * mask
    difference = approximate / approximate.sum(1, keepdims=True) - exact / exact.sum(
        1, keepdims=True
    )
    return np.abs(difference).sum(axis=1).max()


@pytest.mark.parametrize("seed", range(5))
def test_accuracy_that_the_exponent_stands_for(seed):
    rng = np.random.default_rng(seed)
    length = 200
    q, k = rng.normal(size=length), rng.exponential(size=length)  # skewed keys
    S = 0.8 * np.outer(q, k - k.mean())
    low, high = S.min(axis=1), S.max(axis=1)
    half_range, largest = float((high - low).max() / 2), float(np.abs(S).max())
    # centred keys do not keep |S| within half the range
    assert 1.2 * half_range < largest <= 2 * half_range
    limit, everything = 2 / (length - 1), np.ones((length, length))

    g = certified_degree(largest, 1 / length)
    p = chebyshev.chebval(S / largest, chebyshev_coefficients(largest, g))
    assert row_error(S, p, everything) <= limit
    assert rank_exponent(1, length, largest) == pytest.approx(math.log(g + 1) / math.log(length))

    g = certified_degree(half_range, 1 / length, relative=True)
    shifted = S - (0.5 * (low + high))[:, None]
    p = chebyshev.chebval(shifted / half_range, chebyshev_coefficients(half_range, g))
    assert row_error(S, p, everything) <= limit
    assert row_error(S, p, np.tri(length)) <= limit
    assert np.linalg.matrix_rank(p, rtol=1e-11) <= feature_count(1, g)  # no more features
    exponent = rank_exponent(1, length, half_range, relative=True)
    assert exponent == pytest.approx(math.log(g + 1) / math.log(length))


def test_break_even():
    lengths = break_even_lengths(8, 3)
    assert lengths.forward == 165 and lengths.backward == pytest.approx(880)


def test_refusals():
    with pytest.raises(ValueError, match="at least 2, got 1"):
        rank_exponent(8, 1, 1.0)
    with pytest.raises(ValueError, match="degree 25 exceeds 24"):
        monomial_coefficients(16.0, 25)
    with pytest.raises(ValueError, match="limit is near 710"):
        chebyshev_coefficients(800.0, 3)
    for bound in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="bound on"):
            certified_degree(bound, 1e-3)
    with pytest.raises(ValueError, match="accuracy"):
        certified_degree(1.0, 0.0)
    with pytest.raises(ValueError, match="width"):
        feature_count(0, 2)


def test_memory_refusal_names_the_numbers():
    # C(64 + 4, 4) = 814385 features, 200 rows, 8 bytes: 1.303 GB
    X = np.zeros((100, 64))
    message = r"10\^5\.91 features of width 64 and degree 4 for 200 rows need 10\^9\.11 bytes"
    with pytest.raises(ValueError, match=message + ".*1000000000 bytes"):
        feature_maps(X, X, np.ones(5), 1.0, max_bytes=1_000_000_000)


def test_bad_arrays_are_named():
    good, bad = np.ones((3, 2)), np.array([[1.0, np.nan]])
    with pytest.raises(ValueError, match="keys"):
        feature_maps(good, bad, [1.0], 1.0)
    with pytest.raises(ValueError, match=r"\(3, 2\) and keys \(3, 4\)"):
        feature_maps(good, np.ones((3, 4)), [1.0], 1.0)
    with pytest.raises(ValueError, match="softmax scale"):
        feature_maps(good, good, [1.0], 0.0)
