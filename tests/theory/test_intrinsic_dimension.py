"""Intrinsic dimension against worked estimates, direct formulas, and sets of known dimension."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from theory.intrinsic_dimension import neighbour_mle, two_nn


def congruential_points(count, dimension, state=12345):
    numbers = []
    for _ in range(count * dimension):
        state = (1103515245 * state + 12345) % 2**31
        numbers.append(state / 2**31)
    return np.reshape(numbers, (count, dimension))


POINTS = congruential_points(40, 2)


def test_worked_points():
    np.testing.assert_allclose(POINTS[0], [0.65515405, 0.30481432], atol=5e-9)
    D = cdist(POINTS, POINTS)
    found = two_nn(D)
    assert found.n == 40 and found.refused is None
    assert found.ml == pytest.approx(2.2507699877, abs=5e-11)
    assert found.unbiased == pytest.approx(2.1945007380, abs=5e-11)
    assert found.linear_fit == pytest.approx(2.1020299661, abs=5e-11)
    assert (found.low, found.high) == pytest.approx((1.60798308, 2.99995475), abs=5e-9)
    mle = neighbour_mle(D, 5)
    assert mle.mean == pytest.approx(2.4296107249, abs=5e-11)
    assert mle.harmonic == pytest.approx(1.7688682080, abs=5e-11)


@pytest.mark.parametrize("dimension", [1, 3, 6])
def test_known_dimension_in_a_larger_space(dimension):
    rng = np.random.default_rng(dimension)
    flat = (
        rng.standard_normal((1500, dimension))
        @ np.linalg.qr(rng.standard_normal((40, 40)))[0][:dimension]
    )
    D = cdist(flat, flat)
    found, mle = two_nn(D), neighbour_mle(D, 10)
    assert found.warnings == () and found.low < dimension < found.high
    assert found.linear_fit == pytest.approx(dimension, rel=0.1)
    assert mle.harmonic == pytest.approx(dimension, rel=0.1)


@pytest.mark.parametrize("discard", [0.0, 0.1, 0.4])
def test_linear_fit_is_least_squares_through_the_origin(discard):
    D = cdist(POINTS, POINTS)
    ordered = np.sort(D, axis=1)
    logs = np.sort(np.log(ordered[:, 2] / ordered[:, 1]))
    kept = min(int(40 * (1 - discard)), 39)
    y = -np.log(1 - np.arange(1, kept + 1) / 40)
    slope, *_ = np.linalg.lstsq(logs[:kept, None], y, rcond=None)
    assert two_nn(D, discard).linear_fit == pytest.approx(slope[0], rel=1e-12)


def test_scale_does_not_matter_and_duplicates_count_once():
    D = cdist(POINTS, POINTS)
    assert two_nn(1e-30 * D).ml == pytest.approx(two_nn(D).ml, rel=1e-12)
    repeated = POINTS[[*range(40), 0, 0, 7]]
    found = two_nn(cdist(repeated, repeated))
    assert found.ml == pytest.approx(two_nn(D).ml, rel=1e-12) and found.n == 40
    assert any("3 duplicates" in warning for warning in found.warnings)


def test_refusals_and_warnings():
    few = two_nn(cdist(POINTS[:7], POINTS[:7]))
    assert (
        few.ml is None and few.low is None and few.refused == "7 distinct points, at least 8 needed"
    )
    assert neighbour_mle(cdist(POINTS[:9], POINTS[:9]), 9).harmonic is None
    assert any("rough" in warning for warning in two_nn(cdist(POINTS, POINTS)).warnings)
    line = np.arange(60.0)[:, None]
    regular = two_nn(cdist(line, line))
    assert regular.ml is not None and any("evenly spaced" in w for w in regular.warnings)
    corners = 1.0 - np.eye(10)  # a simplex: all distances equal
    assert "at one distance" in (two_nn(corners).refused or "")
    assert "equal distances" in (neighbour_mle(corners).refused or "")
    assert neighbour_mle(cdist(line, line), 2).mean is None
    same = two_nn(np.zeros((20, 20)))
    assert same.refused is not None and same.n == 1


def test_bad_arguments():
    for D in (np.ones((3, 2)), np.full((9, 9), np.nan), np.ones((0, 0))):
        with pytest.raises(ValueError, match="square"):
            two_nn(D)
    with pytest.raises(ValueError, match="at least 2 neighbours"):
        neighbour_mle(np.ones((9, 9)), 1)
