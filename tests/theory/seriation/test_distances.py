"""Distances in blocks against all of them at once."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from theory.seriation import distances
from theory.seriation.distances import (
    DenseDistances,
    RowDistances,
    distance_matrix,
    nearest,
    nearest_rows,
)

NAMES = {"l1": "cityblock", "l2": "euclidean"}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(distances, "_BLOCK", 16)
    monkeypatch.setattr(distances, "_PAIRED", 100)


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 12))
    x[7] = x[30]
    return x, rng.random(50) + 0.5


@pytest.mark.parametrize("metric", ["l1", "l2"])
@pytest.mark.parametrize("weighted", [False, True])
def test_all_pairs(rows, metric, weighted):
    x, a = rows
    weights = a if weighted else None
    expected = cdist(x, x, NAMES[metric])
    if weighted:
        expected = expected * (a[:, None] + a) / 2
    matrix = distance_matrix([x[:, :5], x[:, 5:6], x[:, 6:]], 50, metric, weights)
    assert np.allclose(matrix, expected, rtol=1e-12)
    assert np.array_equal(matrix, matrix.T) and matrix[7, 30] == 0.0
    i, j = np.divmod(np.arange(51 * 51), 51)
    padded = np.zeros((51, 51))
    padded[:50, :50] = expected
    for source in (DenseDistances(matrix), RowDistances(x, metric, weights)):
        assert np.allclose(source.pairs(i, j), padded.ravel(), rtol=1e-12)
        assert source.pairs(i[:, None], np.arange(3)).shape == (51 * 51, 3)
    found, total = nearest_rows(x, 6, metric, weights)
    assert np.array_equal(found, nearest(matrix, 6))
    assert total == pytest.approx(expected.sum())
    np.fill_diagonal(expected, np.inf)
    assert np.array_equal(found, np.argsort(expected, axis=1, kind="stable")[:, :6])


def test_close_rows_far_from_the_origin():
    """The Gram matrix alone would leave a distance of 1e-6 to rounding."""
    x = np.random.default_rng(1).standard_normal((20, 8)) * 1e-6 + 1e3
    x[5] = x[6]
    matrix = distance_matrix([x], 20, "l2")
    assert np.allclose(matrix, cdist(x, x), rtol=1e-9) and matrix[5, 6] == 0.0


def test_close_rows_in_float32():
    rng = np.random.default_rng(4)
    x = (rng.standard_normal((30, 8)) * 1e-3 + rng.standard_normal(8)).astype(np.float32)
    expected = cdist(x.astype(float), x.astype(float))
    found, total = nearest_rows(x, 5, "l2")
    assert total == pytest.approx(expected.sum(), rel=1e-4)
    np.fill_diagonal(expected, np.inf)
    assert np.mean(found == np.argsort(expected, axis=1)[:, :5]) > 0.95


def test_many_points_take_half_the_memory(monkeypatch):
    monkeypatch.undo()
    x = np.random.default_rng(2).standard_normal((4100, 3))
    matrix = distance_matrix([x], 4100)
    assert matrix.dtype == np.float32
    assert np.allclose(matrix[:50], cdist(x[:50], x, "cityblock"), rtol=1e-6, atol=1e-6)


def test_refusals():
    with pytest.raises(ValueError, match="8193 points are more than 8192"):
        distance_matrix([], 8193)
    with pytest.raises(ValueError, match="3 rows, not 4"):
        distance_matrix([np.zeros((3, 2))], 4)


def test_more_neighbours_than_points():
    assert nearest(np.array([[0.0, 2, 1], [2, 0, 3], [1, 3, 0]]), 10).tolist() == [
        [2, 1],
        [0, 2],
        [0, 1],
    ]
