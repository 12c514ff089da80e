"""The certificate bounds the measured change of a hidden layer, and is 0 where nothing changes."""

import numpy as np
import pytest

from theory.resampling.certificate import certificate
from theory.resampling.merging import kmeans_labels
from theory.resampling.operators import area, dct, linear, subsample
from theory.resampling.width_change import along, duplicate, merge, prune, riemann


def layer(seed, n=16, d=4, out=3):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d + 1)), rng.standard_normal((out, n))


def changes(w, a):
    weights = np.linalg.norm(a, axis=0)
    for build in (area, linear, dct, subsample):
        yield riemann(build(16, 11))
        yield riemann(build(16, 23))
    yield merge(kmeans_labels(w, weights, 9), weights)
    yield prune(np.arange(0, 16, 2), 16)


@pytest.mark.parametrize("seed", range(4))
def test_change_of_the_layer_stays_below_the_bound(seed):
    w, a = layer(seed)
    x = np.random.default_rng(seed + 100).standard_normal((500, 4)) * 3.0
    extended = np.hstack([x, np.ones((500, 1))])
    for change in changes(w, a):
        new_w, new_a = along(change.producing, w, 0), along(change.consuming, a, 1)
        before = np.maximum(extended @ w.T, 0.0) @ a.T
        after = np.maximum(extended @ new_w.T, 0.0) @ new_a.T
        measured = np.linalg.norm(before - after, axis=1) / np.linalg.norm(extended, axis=1)
        assert measured.max() <= certificate(w, a, change) * (1.0 + 1e-12)


def test_merge_bound_is_the_weighted_distance_to_the_means():
    w, a = layer(7)
    weights = np.linalg.norm(a, axis=0)
    labels = kmeans_labels(w, weights, 5)
    means = np.array(
        [np.average(w[labels == c], axis=0, weights=weights[labels == c]) for c in range(5)]
    )
    exact = float(weights @ np.linalg.norm(w - means[labels], axis=1))
    assert certificate(w, a, merge(labels, weights)) == pytest.approx(exact, rel=1e-12)


def test_nothing_lost_nothing_certified():
    w, a = layer(8)
    assert certificate(w, a, duplicate(16, 37)) == 0.0
    assert certificate(w, a, riemann(area(16, 48))) == pytest.approx(0.0, abs=1e-12)
    dropped = prune(np.arange(1, 16), 16)
    exact = np.linalg.norm(a[:, 0]) * np.linalg.norm(w[0])
    assert certificate(w, a, dropped) == pytest.approx(exact, rel=1e-12)
    with pytest.raises(ValueError, match="16 channels"):
        certificate(w[:5], a, dropped)
