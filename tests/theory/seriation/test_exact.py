"""The exact path against all orders."""

from itertools import permutations

import numpy as np
import pytest

from theory.seriation.distances import distance_matrix
from theory.seriation.exact import shortest_path
from theory.seriation.paths import short_path
from theory.seriation.total_variation import path_length


def test_points_on_a_line():
    matrix = distance_matrix([np.array([[3.0], [0], [7], [1], [4]])], 5)
    path = short_path(matrix)
    assert path.order.tolist() == [1, 3, 0, 4, 2] and path.length == 7.0
    assert path.solver == "exact"


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7])
def test_all_orders(n):
    for seed in range(5):
        matrix = distance_matrix([np.random.default_rng(seed).standard_normal((n, 3))], n)
        best = min(path_length(matrix, order) for order in permutations(range(n)))
        order = shortest_path(matrix)
        assert sorted(order) == list(range(n))
        assert path_length(matrix, order) == pytest.approx(best, rel=1e-12)


def test_planted_order_of_twelve_points():
    place = np.random.default_rng(0).permutation(12)
    path = short_path(distance_matrix([place[:, None].astype(float)], 12))
    assert path.length == 11.0
    assert path.order.tolist() in (np.argsort(place).tolist(), np.argsort(-place).tolist())
    assert path.order[0] < path.order[-1]


def test_limits():
    with pytest.raises(ValueError, match="13 points are more than 12"):
        shortest_path(np.zeros((13, 13)))
    assert shortest_path(np.zeros((0, 0))).size == 0
    assert sorted(shortest_path(np.zeros((6, 6)))) == list(range(6))
