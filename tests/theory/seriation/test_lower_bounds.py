"""Bounds against scipy's spanning tree and against exact paths."""

import numpy as np
import pytest
from scipy.sparse.csgraph import minimum_spanning_tree

from theory.seriation.distances import distance_matrix
from theory.seriation.exact import shortest_path
from theory.seriation.lower_bounds import held_karp, mst_weight
from theory.seriation.total_variation import path_length


def random_distances(n, seed, d=4):
    return distance_matrix([np.random.default_rng(seed).standard_normal((n, d))], n)


@pytest.mark.parametrize("n", [2, 5, 40, 150])
def test_spanning_tree(n):
    matrix = random_distances(n, n)
    matrix[1], matrix[:, 1] = matrix[0], matrix[:, 0]  # two equal points
    matrix[0, 1] = matrix[1, 0] = matrix[1, 1] = 0.0
    offset = 1.0 + matrix.max()  # scipy takes a zero for no edge
    expected = minimum_spanning_tree(np.triu(matrix + offset, 1)).sum() - (n - 1) * offset
    assert mst_weight(matrix) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_below_the_shortest_path_and_above_the_tree(seed):
    matrix = random_distances(11, seed)
    best = path_length(matrix, shortest_path(matrix))
    bound = held_karp(matrix)
    assert mst_weight(matrix) <= bound <= best * (1 + 1e-12)
    assert bound > 0.95 * best


def test_tight_where_the_tree_is_a_path():
    matrix = distance_matrix([np.random.default_rng(0).permutation(30)[:, None].astype(float)], 30)
    assert held_karp(matrix) == pytest.approx(29.0)


def test_degenerate():
    assert held_karp(np.zeros((1, 1))) == 0.0 == mst_weight(np.zeros((1, 1)))
    assert held_karp(np.zeros((6, 6))) == 0.0
    assert held_karp(np.array([[0.0, 3.0], [3.0, 0.0]])) == pytest.approx(3.0)
