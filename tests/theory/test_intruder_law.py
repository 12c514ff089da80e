"""The intruder law: reference values, the sum rule, and simulated rank-one updates."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.intruder_law import (
    intruder_probability,
    intruder_threshold,
    law_point,
    median_maxcos,
)

S = np.arange(1, 51) ** -0.5
ROWS, COLS = 60, 50


def test_outlier_far_above_the_bulk() -> None:
    point = law_point(S, ROWS, COLS, 1.2)
    assert point is not None
    assert point.theta == pytest.approx(1.097430, abs=1e-6)
    assert point.align_left == pytest.approx(0.796690, abs=1e-6)
    assert point.align_right == pytest.approx(0.809172, abs=1e-6)
    np.testing.assert_allclose(point.rms_cosines[:3], [0.468968, 0.193206, 0.155950], atol=1e-6)
    assert point.null_mass == pytest.approx(0.112793, abs=1e-6)
    assert median_maxcos(point.rms_cosines) == pytest.approx(0.371328, abs=1e-6)


def test_stronger_outlier() -> None:
    point = law_point(S, ROWS, COLS, 2.0)
    assert point is not None
    assert (point.theta, point.align_left, point.align_right) == pytest.approx(
        (1.955172, 0.971796, 0.975765), abs=1e-6
    )
    assert point.rms_cosines[0] == pytest.approx(0.189434, abs=1e-6)


def test_inside_a_gap() -> None:
    point = law_point(S, ROWS, COLS, 0.85)
    assert point is not None
    assert (point.theta, point.align_left, point.align_right) == pytest.approx(
        (0.794107, 0.590056, 0.597155), abs=1e-6
    )
    np.testing.assert_allclose(point.rms_cosines[:2], [0.394366, 0.408357], atol=1e-6)
    assert median_maxcos(point.rms_cosines) == pytest.approx(0.440566, abs=1e-6)


@given(st.floats(1.001, 50.0), st.integers(-3, 3), st.sampled_from(["left", "right"]))
def test_mass_sums_to_one(factor: float, taller: int, side: str) -> None:
    s = np.linspace(3.0, 0.1, 20)
    point = law_point(s, 20 + max(taller, 0), 20 - min(taller, 0), 3.0 * factor, side)  # type: ignore[arg-type]
    assert point is not None
    assert float(np.sum(point.rms_cosines**2)) + point.null_mass == pytest.approx(1.0, abs=1e-9)


def test_sides_are_mirror_images() -> None:
    left = law_point(S, ROWS, COLS, 1.3, "left")
    right = law_point(S, COLS, ROWS, 1.3, "right")
    assert left is not None and right is not None
    np.testing.assert_allclose(left.rms_cosines, right.rms_cosines, rtol=1e-12)


def test_predicted_outlier_against_simulation() -> None:
    """ρ of simulated rank-one updates lies at the law's θ(ρ), within sampling error."""
    rng = np.random.default_rng(0)
    rows, cols = 300, 240
    W0 = rng.standard_normal((rows, cols)) / np.sqrt(cols)
    s = np.linalg.svd(W0, compute_uv=False)
    point = law_point(s, rows, cols, 1.3 * s[0])
    assert point is not None
    seen = []
    for _ in range(12):
        a, b = rng.standard_normal(rows), rng.standard_normal(cols)
        update = np.outer(a / np.linalg.norm(a), b / np.linalg.norm(b))
        seen.append(np.linalg.svd(W0 + point.theta * update, compute_uv=False)[0])
    assert np.mean(seen) == pytest.approx(point.rho, rel=0.02)


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_threshold_against_simulation(decay: float) -> None:
    """The median strength at which growing random updates first show an intruder lies near θ*."""
    rng = np.random.default_rng(1)
    n = 120
    s = np.arange(1, n + 1) ** -decay
    if decay == 0.0:
        s = np.linalg.svd(rng.standard_normal((n, n)) / np.sqrt(n), compute_uv=False)
    theta = intruder_threshold(s, n, n, k=10, epsilon=0.5)
    assert theta is not None
    first = []
    for _ in range(15):
        a, b = rng.standard_normal(n), rng.standard_normal(n)
        update = np.outer(a / np.linalg.norm(a), b / np.linalg.norm(b))
        for factor in np.geomspace(0.25, 8, 26):
            U = np.linalg.svd(np.diag(s) + factor * theta * update)[0]
            if np.any(np.abs(U[:, :10]).max(axis=0) < 0.5):
                first.append(factor)
                break
    assert len(first) > 12
    # The law averages over updates; Xie 2026 (arXiv 2607.23711) finds it within a factor of 2.
    assert 0.5 < np.median(first) < 2.0


def test_probability_and_median_agree() -> None:
    c = np.array([0.3, 0.2, 0.05])
    assert intruder_probability(c, median_maxcos(c)) == pytest.approx(0.5, abs=1e-9)
    draws = np.abs(np.random.default_rng(2).standard_normal((20000, 3)) * c).max(axis=1)
    assert median_maxcos(c) == pytest.approx(float(np.median(draws)), abs=5e-3)


def test_no_threshold_where_the_gaussian_law_fails() -> None:
    s = np.linspace(3.0, 0.1, 20)
    assert intruder_threshold(s, 20, 20, k=5, epsilon=0.67) is not None
    for epsilon in (0.68, 0.7, 0.9, 1.0):
        assert intruder_threshold(s, 20, 20, k=5, epsilon=epsilon) is None


def test_no_threshold_without_a_spectrum() -> None:
    assert intruder_threshold(np.zeros(4), 4, 4, k=2, epsilon=0.5) is None
    with pytest.raises(ValueError, match="singular values"):
        intruder_threshold(np.ones(3), 4, 4, k=2, epsilon=0.5)
    with pytest.raises(ValueError, match="rho"):
        law_point(S, ROWS, COLS, 1.0)
