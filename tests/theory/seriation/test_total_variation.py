"""Total variation and path lengths against hand values and all orders of a few points."""

from itertools import permutations

import numpy as np
import pytest

from theory.seriation.distances import distance_matrix
from theory.seriation.total_variation import (
    mean_path_length,
    path_length,
    shuffle_columns,
    smoothness,
    total_variation,
)


def test_matrix_vector_and_kernel():
    assert total_variation([[0, 1], [2, 5], [4, 4]]) == 13
    assert total_variation([3, 0, 7]) == 10
    assert total_variation(5.0) == 0
    kernel = np.zeros((2, 1, 3, 3))
    kernel[0, 0, 1, 1] = 2.0
    assert total_variation(kernel) == 2.0  # taps are not differenced


def test_mean_over_all_orders():
    matrix = distance_matrix([np.random.default_rng(0).standard_normal((6, 3))], 6)
    lengths = [path_length(matrix, order) for order in permutations(range(6))]
    assert mean_path_length(matrix) == pytest.approx(np.mean(lengths))
    assert mean_path_length(np.zeros((1, 1))) == 0.0 == path_length(np.zeros((1, 1)), [0])


def test_path_length_in_l1_is_the_total_variation_along_axis_0():
    x = np.random.default_rng(1).standard_normal((9, 4))
    order = np.random.default_rng(2).permutation(9)
    expected = np.abs(np.diff(x[order], axis=0)).sum()
    assert path_length(distance_matrix([x], 9), order) == pytest.approx(expected)


def test_shuffled_columns_keep_their_values():
    x = np.random.default_rng(3).standard_normal((50, 20))
    mixed = shuffle_columns(x, 7)
    assert np.array_equal(np.sort(mixed, axis=0), np.sort(x, axis=0))
    assert np.array_equal(mixed, shuffle_columns(x, 7))
    assert not np.array_equal(mixed, shuffle_columns(x, 8))
    rows = {tuple(np.flatnonzero(mixed[:, c] == x[i, c])) for i, c in np.ndindex(50, 20)}
    assert len(rows) > 40  # columns move independently


def test_smoothness_is_relative_to_chance():
    assert smoothness(0.6, 0.8) == pytest.approx(0.25)
    assert smoothness(None, 0.8) is None and smoothness(0.5, None) is None
    assert smoothness(0.5, 0.0) is None
