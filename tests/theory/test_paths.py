"""Paths and means: norms, angles, and the optimality of the mean on the sphere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.paths import karcher_mean, karcher_weights, lerp, slerp, slerp_weights


def angle(a, b):
    return np.arccos(np.clip(np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))


@given(seed=st.integers(0, 500), t=st.floats(0.0, 1.0), ratio=st.floats(0.1, 10.0))
def test_spherical_interpolation_turns_evenly_and_averages_norms(seed, t, ratio):
    a, b = np.random.default_rng(seed).standard_normal((2, 3, 2))
    b = ratio * b
    point = slerp(a, b, t)
    norm = (1 - t) * np.linalg.norm(a) + t * np.linalg.norm(b)
    assert np.linalg.norm(point) == pytest.approx(norm, rel=1e-9)
    assert angle(a, point) == pytest.approx(t * angle(a, b), abs=1e-6)
    assert angle(point, b) == pytest.approx((1 - t) * angle(a, b), abs=1e-6)


def test_small_angles_and_zero_vectors_fall_back_to_the_chord():
    a = np.array([1.0, 0.0])
    for b in (np.array([2.0, 1e-5]), np.zeros(2), a):
        np.testing.assert_array_equal(slerp(a, b, 0.3), lerp(a, b, 0.3))
    near = np.array([np.cos(2e-4), np.sin(2e-4)])
    np.testing.assert_allclose(slerp(a, near, 0.3), lerp(a, near, 0.3), atol=1e-8)
    np.testing.assert_array_equal(lerp(a, near, 1.0), near)
    with pytest.raises(ValueError, match="opposite"):
        slerp(a, -a, 0.5)


@pytest.mark.parametrize("seed", range(5))
def test_karcher_mean_minimises_squared_angles(seed):
    rng = np.random.default_rng(seed)
    X = (rng.standard_normal((5, 8)) + 1.0) * rng.uniform(0.5, 2.0, (5, 1))
    mean = karcher_mean(X)
    assert np.linalg.norm(mean) == pytest.approx(np.linalg.norm(X, axis=1).mean(), rel=1e-12)
    total = sum(angle(mean, x) ** 2 for x in X)
    for _ in range(50):
        other = mean + 0.05 * rng.standard_normal(8)
        assert sum(angle(other, x) ** 2 for x in X) > total
    # the first-order condition, directly in the ambient space
    mu = mean / np.linalg.norm(mean)
    units = X / np.linalg.norm(X, axis=1, keepdims=True)
    tangents = [
        angle(mu, u) * (u - (u @ mu) * mu) / np.linalg.norm(u - (u @ mu) * mu) for u in units
    ]
    np.testing.assert_allclose(np.sum(tangents, axis=0), 0.0, atol=1e-9)


def test_karcher_mean_of_two_is_the_middle_of_the_arc():
    a, b = np.random.default_rng(9).standard_normal((2, 4))
    np.testing.assert_allclose(karcher_mean([a, b]), slerp(a, b, 0.5), atol=1e-12)
    np.testing.assert_allclose(karcher_mean([a, a, a]), a, atol=1e-12)
    pair = np.stack([a, b])
    np.testing.assert_allclose(karcher_weights(pair @ pair.T), slerp_weights(pair @ pair.T, 0.5))


def test_means_that_do_not_exist():
    a, b = np.eye(2)
    with pytest.raises(ValueError, match="cancel"):
        karcher_mean([a, -a])
    with pytest.raises(ValueError, match="zero vector"):
        karcher_mean([a, np.zeros(2)])
    with pytest.raises(ValueError, match="opposite to the mean"):
        karcher_mean([a, a, -a])
    assert np.all(np.isfinite(karcher_mean([a, b])))
