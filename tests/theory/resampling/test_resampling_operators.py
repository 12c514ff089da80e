"""Resampling operators against printed cases, overlaps of cells, and torch's resamplers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from theory.resampling.operators import (
    area,
    cosines,
    cubic,
    dct,
    linear,
    merge,
    selection,
    subsample,
)

WIDTHS = st.integers(1, 40)
GRID_OPERATORS = [area, linear, cubic, dct, subsample]


def dense(operator):
    return operator if isinstance(operator, np.ndarray) else operator.toarray()


def test_worked_cases():
    np.testing.assert_allclose(
        dense(area(3, 2)), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]], atol=1e-15
    )
    np.testing.assert_allclose(dense(linear(3, 2)), [[0.75, 0.25, 0], [0, 0.25, 0.75]], atol=1e-15)
    row = [0.5766407412, 0.385299025, 0.114700975, -0.0766407412]
    np.testing.assert_allclose(dct(4, 2)[0], row, atol=5e-11)


@pytest.mark.parametrize("build", GRID_OPERATORS)
@given(n=WIDTHS, m=WIDTHS)
def test_constants_are_kept_and_equal_widths_change_nothing(build, n, m):
    E = dense(build(n, m))
    assert E.shape == (m, n)
    np.testing.assert_allclose(E.sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(dense(build(n, n)), np.eye(n), atol=1e-12)


@given(n=WIDTHS, m=WIDTHS)
def test_area_is_the_overlap_of_cells(n, m):
    j, i = np.arange(m)[:, None], np.arange(n)
    overlap = np.minimum((j + 1) / m, (i + 1) / n) - np.maximum(j / m, i / n)
    np.testing.assert_allclose(dense(area(n, m)), m * np.maximum(overlap, 0.0), atol=1e-12)


@given(n=st.integers(4, 40), m=WIDTHS, seed=st.integers(0, 9))
def test_interpolation_agrees_with_torch(n, m, seed):
    x = np.random.default_rng(seed).standard_normal(n)
    image = torch.from_numpy(x).reshape(1, 1, n, 1)
    for build, mode in ((linear, "bilinear"), (cubic, "bicubic")):
        peer = torch.nn.functional.interpolate(image, size=(m, 1), mode=mode, align_corners=False)
        np.testing.assert_allclose(build(n, m) @ x, peer.numpy().ravel(), atol=1e-12)


@given(n=WIDTHS, m=WIDTHS)
def test_dct_maps_cosines_to_cosines(n, m):
    for k in range(min(n, m)):
        before = np.cos(np.pi * k * (np.arange(n) + 0.5) / n)
        after = np.cos(np.pi * k * (np.arange(m) + 0.5) / m)
        np.testing.assert_allclose(dct(n, m) @ before, after, atol=1e-13)


def test_cosines_stay_orthonormal_at_high_order():
    basis = cosines(512, 512)
    np.testing.assert_allclose(basis.T @ basis / 512, np.eye(512), atol=1e-13)


def test_subsample_takes_the_cell_under_the_new_centre():
    for n, m in ((7, 3), (3, 7), (10, 4)):
        nearest = np.floor((np.arange(m) + 0.5) / m * n).astype(int)
        np.testing.assert_array_equal(dense(subsample(n, m)).argmax(axis=1), nearest)


def test_merge_is_a_weighted_mean():
    E = dense(merge(np.array([0, 1, 0, 2, 2]), np.array([1.0, 5.0, 3.0, 0.0, 0.0])))
    expected = [[0.25, 0, 0.75, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0.5, 0.5]]
    np.testing.assert_allclose(E, expected)


def test_bad_arguments():
    for build in GRID_OPERATORS:
        with pytest.raises(ValueError, match="at least 1"):
            build(3, 0)
    with pytest.raises(ValueError, match="use every value"):
        merge(np.array([0, 2]), np.ones(2))
    with pytest.raises(ValueError, match="not negative"):
        merge(np.array([0, 1]), np.array([1.0, -1.0]))
    with pytest.raises(ValueError, match="one weight"):
        merge(np.array([0, 1]), np.ones(3))
    with pytest.raises(ValueError, match=r"0\.\.2"):
        selection(np.array([3]), 3)
