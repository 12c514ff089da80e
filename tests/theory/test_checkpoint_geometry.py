"""Geometry from inner products against direct computation on the points, and walk eigenvalues."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from theory.checkpoint_geometry import (
    centred_gram,
    classical_scaling,
    displacement_shares,
    distances,
    principal_components,
    random_walk_ratios,
    trajectory,
)

CORNERS = np.array([[0.0, 0], [1, 0], [1, 1], [2, 1]])


def test_worked_trajectory():
    gram = centred_gram([CORNERS])
    path = trajectory(gram)
    assert path.path_length == pytest.approx(3.0)
    assert path.displacement == pytest.approx(np.sqrt(5.0))
    assert path.tortuosity == pytest.approx(1.3416407865, abs=5e-11)
    explained = principal_components(gram).explained
    np.testing.assert_allclose(explained, [0.872678, 0.127322], atol=5e-7)


@given(N=st.integers(2, 8), P=st.integers(1, 12), seed=st.integers(0, 99))
def test_streamed_components_distances_and_scaling_agree(N, P, seed):
    X = np.random.default_rng(seed).standard_normal((N, P)) + 7.0
    blocks = np.split(X, [P // 3, P // 2], axis=1)
    gram = centred_gram(blocks)
    np.testing.assert_allclose(distances(gram), cdist(X, X), atol=1e-6)
    U, s, _ = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)
    found = principal_components(gram)
    k = min(N - 1, P)
    assert found.scores.shape == (N, k)
    np.testing.assert_allclose(found.explained, (s**2 / np.sum(s**2))[:k], atol=1e-10)
    signs = np.sign(np.sum(found.scores * U[:, :k], axis=0))
    np.testing.assert_allclose(
        found.scores, (signs * U * s if k == s.size else (U * s)[:, :k] * signs), atol=1e-6
    )
    scaled = classical_scaling(cdist(X, X))
    np.testing.assert_allclose(scaled.scores[:, :k], found.scores, atol=1e-6)
    rebuilt = cdist(found.scores, found.scores)
    np.testing.assert_allclose(rebuilt, cdist(X, X), atol=1e-6)


def test_small_differences_on_large_weights_survive():
    rng = np.random.default_rng(0)
    base, moves = 10.0 * rng.standard_normal(500), rng.standard_normal((6, 500))
    small = centred_gram([base + 1e-6 * moves])
    np.testing.assert_allclose(small, 1e-12 * centred_gram([moves]), rtol=1e-6, atol=1e-14 * 1e-6)


def test_equal_checkpoints_are_at_distance_zero():
    X = np.random.default_rng(2).standard_normal((6, 3000))[[0, 1, 2, 1, 4, 5, 0]]
    D = distances(centred_gram(np.array_split(X, 7, axis=1)))
    np.testing.assert_array_equal(D == 0.0, cdist(X, X) == 0.0)
    np.testing.assert_allclose(distances(X @ X.T), cdist(X, X), rtol=1e-12)


@pytest.mark.parametrize("N", [2, 5, 40])
def test_walk_ratios_are_the_eigenvalues_of_its_covariance(N):
    t = np.arange(N)
    centring = np.eye(N) - 1.0 / N
    values = np.linalg.eigvalsh(centring @ np.minimum(t[:, None], t) @ centring)[::-1]
    exact = np.append(values[: N - 1] / values.sum(), [0.0, 0.0])
    np.testing.assert_allclose(random_walk_ratios(N + 1, N), exact, atol=1e-12)


def test_long_and_simulated_walks():
    limit = random_walk_ratios(5)
    np.testing.assert_allclose(limit, [0.608, 0.152, 0.068, 0.038, 0.024], atol=5e-4)
    np.testing.assert_allclose(random_walk_ratios(5, 3000), limit, rtol=1e-5)
    walk = np.cumsum(np.random.default_rng(1).standard_normal((60, 20000)), axis=0)
    simulated = principal_components(centred_gram([walk])).explained[:4]
    np.testing.assert_allclose(simulated, random_walk_ratios(4, 60), rtol=0.03)


@pytest.mark.parametrize("seed", range(3))
def test_trajectory_measures(seed):
    X = np.random.default_rng(seed).standard_normal((7, 30)).cumsum(axis=0)
    path = trajectory(centred_gram([X]))
    d, net = np.diff(X, axis=0), X[-1] - X[0]
    lengths = np.linalg.norm(d, axis=1)
    np.testing.assert_allclose(path.step_lengths, lengths)
    np.testing.assert_allclose(
        path.turn_cosines, np.sum(d[1:] * d[:-1], axis=1) / lengths[1:] / lengths[:-1]
    )
    np.testing.assert_allclose(path.final_cosines, d @ net / lengths / np.linalg.norm(net))
    np.testing.assert_allclose(path.from_start, np.linalg.norm(X - X[0], axis=1), atol=1e-7)
    assert path.tortuosity == pytest.approx(lengths.sum() / np.linalg.norm(net))
    shares = displacement_shares({"a": centred_gram([X[:, :10]]), "b": centred_gram([X[:, 10:]])})
    assert shares is not None
    assert shares["a"] == pytest.approx(net[:10] @ net[:10] / (net @ net))
    assert sum(shares.values()) == pytest.approx(1.0)


def test_paths_that_stand_still_or_close():
    square = CORNERS[[0, 1, 2, 1, 0]]
    closed = trajectory(centred_gram([square]))
    assert closed.tortuosity is None and closed.path_length == pytest.approx(4.0)
    still = trajectory(centred_gram([np.ones((3, 4))]))
    assert still.path_length == 0.0 and np.all(np.isnan(still.turn_cosines))
    assert principal_components(np.zeros((3, 3))).scores.shape == (3, 0)
    assert displacement_shares({"a": np.zeros((2, 2))}) is None


def test_bad_input():
    for blocks, message in (
        ([], "no weights"),
        ([np.ones((3, 2)), np.ones((4, 2))], "4 checkpoints"),
        ([np.array([[1.0], [np.inf]])], "finite"),
    ):
        with pytest.raises(ValueError, match=message):
            centred_gram(blocks)
    with pytest.raises(ValueError, match="at least 2"):
        trajectory(np.zeros((1, 1)))
    with pytest.raises(ValueError, match="at least 2"):
        random_walk_ratios(3, 1)
