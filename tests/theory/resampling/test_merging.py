"""Merging against brute force over all cuts, scipy's k-means, and planted duplicates."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster.vq import kmeans2

from theory.resampling.merging import kmeans_labels, merge_error
from theory.resampling.segmentation import path_segments, segment_costs


def direct_error(X, w, labels):
    error = 0.0
    for part in np.unique(labels):
        own = labels == part
        mean = np.average(X[own], axis=0, weights=w[own]) if w[own].sum() else X[own].mean(axis=0)
        error += w[own] @ np.sum((X[own] - mean) ** 2, axis=1)
    return error


@given(n=st.integers(1, 8), parts=st.integers(1, 8), seed=st.integers(0, 200))
def test_segments_are_the_best_of_all_contiguous_cuts(n, parts, seed):
    parts = min(parts, n)
    rng = np.random.default_rng(seed)
    X, w = rng.standard_normal((n, 3)) + 5.0, rng.uniform(0.1, 2.0, n)
    found = path_segments(X, w, parts)
    assert np.all(np.isin(np.diff(found), (0, 1))) and found[0] == 0 and found[-1] == parts - 1
    best = min(
        direct_error(X, w, np.isin(np.arange(n), cuts).cumsum())
        for cuts in itertools.combinations(range(1, n), parts - 1)
    )
    assert direct_error(X, w, found) == pytest.approx(best, abs=1e-10)
    assert merge_error(X, w, found) == pytest.approx(best, abs=1e-10)


def test_costs_of_segments_do_not_cancel():
    rng = np.random.default_rng(0)
    X = np.repeat(rng.standard_normal((3, 4)), 5, axis=0) + 1e4
    X, w = X - X.mean(axis=0), rng.uniform(0.5, 1.0, 15)
    cost = segment_costs(X, w)
    for start, end in ((0, 5), (5, 10), (10, 15)):
        assert cost[start, end] < 1e-12
    for start, end in ((0, 7), (3, 15), (2, 3)):
        own = np.zeros(end - start, dtype=int)
        exact = direct_error(X[start:end], w[start:end], own)
        assert cost[start, end] == pytest.approx(exact, rel=1e-9, abs=1e-12)
    assert np.all(np.isinf(cost[np.tril_indices(15)]))


@pytest.mark.parametrize("method", [path_segments, kmeans_labels])
def test_planted_duplicates_are_found(method):
    rng = np.random.default_rng(1)
    expected = np.repeat(np.arange(6), [1, 4, 2, 3, 1, 5])
    X, w = rng.standard_normal((6, 10))[expected], rng.uniform(0.1, 1.0, 16)
    np.testing.assert_array_equal(method(X, w, 6), expected)


def test_kmeans_is_a_local_optimum_and_reproducible():
    rng = np.random.default_rng(2)
    X, w = rng.standard_normal((120, 5)), rng.uniform(0.1, 2.0, 120)
    labels = kmeans_labels(X, w, 20, seed=0)
    np.testing.assert_array_equal(labels, kmeans_labels(X, w, 20, seed=0))
    assert np.all(np.bincount(labels) > 0) and labels[0] == 0
    firsts = [np.flatnonzero(labels == c)[0] for c in range(20)]
    assert firsts == sorted(firsts)
    centres = np.array(
        [np.average(X[labels == c], axis=0, weights=w[labels == c]) for c in range(20)]
    )
    nearest = ((X[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
    np.testing.assert_array_equal(nearest, labels)


def test_kmeans_is_as_good_as_its_peer():
    ratios = []
    for seed in range(8):
        X, w = np.random.default_rng(seed).standard_normal((120, 5)), np.ones(120)
        peers = [kmeans2(X, 20, minit="++", rng=10 * seed + run)[1] for run in range(4)]
        best = min(direct_error(X, w, labels) for labels in peers)
        ratios.append(direct_error(X, w, kmeans_labels(X, w, 20, seed=seed)) / best)
    assert np.mean(ratios) < 1.02 and max(ratios) < 1.1


def test_extremes_and_bad_arguments():
    X, w = np.arange(12.0).reshape(6, 2), np.zeros(6)
    for method in (path_segments, kmeans_labels):
        np.testing.assert_array_equal(method(X, np.ones(6), 6), np.arange(6))
        np.testing.assert_array_equal(method(X, np.ones(6), 1), np.zeros(6))
        assert np.bincount(method(X, w, 3), minlength=3).min() > 0  # dead channels weigh nothing
        assert np.bincount(method(np.ones((6, 2)), np.ones(6), 4), minlength=4).min() > 0
        with pytest.raises(ValueError, match=r"1\.\.6"):
            method(X, w, 7)
        with pytest.raises(ValueError, match="finite"):
            method(np.full((6, 2), np.nan), w, 2)
        with pytest.raises(ValueError, match="weights"):
            method(X, np.ones(5), 2)
