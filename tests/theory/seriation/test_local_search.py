"""Orders by local search: planted ones, local optimality by brute force, determinism."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.seriation.distances import DenseDistances, RowDistances, distance_matrix, nearest
from theory.seriation.exact import shortest_path
from theory.seriation.local_search import nearest_neighbour, search
from theory.seriation.lower_bounds import held_karp, mst_weight
from theory.seriation.paths import short_path, short_path_of_rows
from theory.seriation.total_variation import path_length

PLACE = (5 * np.arange(32) + 3) % 32
WAVES = np.cos(np.pi * np.outer(np.arange(32) + 0.5, np.arange(1, 9)) / 32)[PLACE]


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_planted_order(scale):
    matrix = distance_matrix([scale * WAVES], 32)
    path = short_path(matrix)
    assert path_length(matrix, np.arange(32)) == pytest.approx(243.1275302556 * scale, rel=1e-12)
    assert path.length == pytest.approx(69.9765099625 * scale, rel=1e-11)
    assert mst_weight(matrix) == pytest.approx(path.length, rel=1e-12)
    assert held_karp(matrix) == pytest.approx(path.length, rel=1e-12)
    planted = np.argsort(PLACE)
    assert planted[:6].tolist() == [25, 6, 19, 0, 13, 26]
    assert np.array_equal(path.order, planted[::-1])  # 12 … 25: the smaller end first


@pytest.mark.parametrize("metric", ["l1", "l2"])
@pytest.mark.parametrize("n", [200, 500])
def test_planted_curve_under_noise(metric, n):
    rng = np.random.default_rng(n)
    place = rng.permutation(n)
    waves = np.cos(np.pi * np.outer((place + 0.5) / n, np.arange(1, 9)))
    path = short_path(distance_matrix([waves + 1e-3 * rng.standard_normal(waves.shape)], n, metric))
    planted = np.argsort(place)
    planted = planted[::-1] if planted[0] > planted[-1] else planted
    assert np.mean(path.order == planted) > 0.95


def moves_left(matrix, order, lists, least):
    """Whether any 2-opt or Or-opt move along the lists shortens the closed tour, one by one."""
    n = len(matrix)
    d = np.zeros((n + 1, n + 1))
    d[:n, :n] = matrix

    def length(tour):
        return d[tour, np.roll(tour, -1)].sum()

    tour = np.append(order, n)
    now, place = length(tour), np.argsort(tour)
    for x in range(n):
        for c in [*lists[x], n]:
            i, j = sorted((place[x], place[c]))
            for a, b in ((i + 1, j + 1), (i, j)):
                turned = np.concatenate([tour[:a], tour[a:b][::-1], tour[b:]])
                if length(turned) < now - least:
                    return True
            for count in (1, 2, 3):
                for walk in (1, -1):
                    segment = tour[(place[x] + walk * np.arange(count)) % (n + 1)]
                    if c in segment:
                        continue
                    rest = [node for node in tour if node not in segment]
                    at = rest.index(c)
                    for put in (
                        rest[: at + 1] + segment.tolist() + rest[at + 1 :],
                        rest[:at] + segment.tolist()[::-1] + rest[at:],
                    ):
                        if length(np.array(put)) < now - least:
                            return True
    return False


@pytest.mark.parametrize(("n", "d", "seed"), [(14, 3, 0), (30, 4, 1), (45, 2, 2), (40, 60, 3)])
def test_no_move_is_left(n, d, seed):
    matrix = distance_matrix([np.random.default_rng(seed).standard_normal((n, d))], n)
    lists = nearest(matrix, 6)
    order = search(DenseDistances(matrix), lists)
    assert not moves_left(matrix, order, lists, 1e-9)
    assert moves_left(matrix, np.arange(n), lists, 1e-9)  # that check can fail


@given(
    points=st.lists(st.tuples(*[st.integers(-3, 3)] * 2), min_size=5, max_size=12),
)
def test_few_points_with_ties(points):
    """Equal points and equal distances: still an order, between the best and the start's."""
    x = np.array(points, dtype=float)
    matrix = distance_matrix([x], len(x))
    lists = nearest(matrix, 10)
    order = search(DenseDistances(matrix), lists)
    assert sorted(order) == list(range(len(x))) and order[0] < order[-1]
    best = path_length(matrix, shortest_path(matrix))
    start = path_length(matrix, nearest_neighbour(DenseDistances(matrix), lists))
    assert best - 1e-9 <= path_length(matrix, order) <= start + 1e-9


def test_equal_points():
    assert sorted(short_path(np.zeros((20, 20))).order) == list(range(20))


def test_close_to_the_bound_and_repeatable():
    x = np.random.default_rng(5).standard_normal((300, 16))
    matrix = distance_matrix([x], 300)
    path = short_path(matrix)
    assert path.length < 1.04 * held_karp(matrix)
    assert np.array_equal(path.order, short_path(matrix).order)
    assert np.array_equal(path.order, short_path(1e-6 * matrix).order)


def test_nearest_neighbour_beyond_its_list():
    """Where a list is used up the nearest of all others is next."""
    matrix = distance_matrix([np.random.default_rng(6).standard_normal((60, 3))], 60)
    order, free = [0], set(range(1, 60))
    while free:
        order.append(min(sorted(free), key=lambda point: matrix[order[-1], point]))
        free.discard(order[-1])
    assert nearest_neighbour(DenseDistances(matrix), nearest(matrix, 2)).tolist() == order


@pytest.mark.parametrize(("metric", "weighted"), [("l1", False), ("l2", False), ("l2", True)])
def test_from_rows_as_from_the_matrix(metric, weighted):
    rng = np.random.default_rng(7)
    x, a = rng.standard_normal((120, 10)), rng.random(120) + 0.5
    weights = a if weighted else None
    matrix = distance_matrix([x], 120, metric, weights)
    path, mean = short_path_of_rows(x, metric, weights, k=10)
    assert np.array_equal(path.order, short_path(matrix, k=10).order)
    assert path.length == pytest.approx(path_length(matrix, path.order))
    assert mean == pytest.approx(matrix.sum() / 120)
    assert RowDistances(x).n == 120


def test_refusals():
    with pytest.raises(ValueError, match="square"):
        short_path(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="finite"):
        short_path(np.full((3, 3), np.nan))
    with pytest.raises(ValueError, match="4 points are too few"):
        search(DenseDistances(np.zeros((4, 4))), np.zeros((4, 1), dtype=int))
