"""Visible spikes, optimal thresholds and correlation traps."""

import numpy as np
import pytest

from theory.shrinkage import (
    bbp,
    frobenius_shrinkage,
    hard_threshold_known_noise,
    hard_threshold_unknown_noise,
    planted_value,
)
from theory.shuffle_traps import shuffle_traps
from theory.tracy_widom import tw_edge


@pytest.mark.parametrize(
    ("beta", "theta", "value", "short", "long"),
    [
        (0.5, 1.2, 1.8130698337, 0.5632875143, 0.4478597450),
        (1.0, 2.0, 2.5, 0.75, 0.75),
        (0.25, 3.0, 3.2058973436, 0.9699699700, 0.8972222222),
    ],
)
def test_visible_spikes(beta, theta, value, short, long):
    spike = bbp(theta, beta)
    assert spike.visible
    found = (spike.singular_value, spike.overlap_short, spike.overlap_long)
    assert found == pytest.approx((value, short, long), abs=1e-10)
    assert planted_value(value, beta) == pytest.approx(theta, abs=1e-9)
    shrunk = theta * np.sqrt(short * long)  # the best rank-one multiple of û v̂ᵀ
    assert frobenius_shrinkage(value, beta) == pytest.approx(shrunk, rel=1e-9)


def test_hidden_spikes():
    spike = bbp(0.5**0.25, 0.5)
    assert not spike.visible and spike.overlap_short == spike.overlap_long == 0.0
    assert spike.singular_value == pytest.approx(1 + np.sqrt(0.5))
    assert planted_value([0.5, 1.7], 0.5).tolist() == [0.0, 0.0]
    assert frobenius_shrinkage([0.5, 1.7], 0.5).tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match="negative"):
        bbp(-1.0, 0.5)


def test_planted_spike_in_a_large_matrix():
    rng = np.random.default_rng(0)
    u, v = np.zeros(400), np.zeros(800)
    u[0] = v[0] = 1.0
    U, s, Vh = np.linalg.svd(2.0 * np.outer(u, v) + rng.standard_normal((400, 800)) / np.sqrt(800))
    spike = bbp(2.0, 0.5)
    assert s[0] == pytest.approx(spike.singular_value, rel=0.03)
    assert U[0, 0] ** 2 == pytest.approx(spike.overlap_short, abs=0.06)
    assert Vh[0, 0] ** 2 == pytest.approx(spike.overlap_long, abs=0.06)


@pytest.mark.parametrize(
    ("beta", "known", "unknown"),
    [
        (1, 2.309401, 2.858362),
        (0.75, 2.156094, 2.501430),
        (0.5, 1.978599, 2.171185),
        (0.25, 1.758029, 1.836866),
        (0.1, 1.581648, 1.608772),
    ],
)
def test_hard_thresholds(beta, known, unknown):
    assert hard_threshold_known_noise(beta) == pytest.approx(known, abs=5.1e-7)
    assert hard_threshold_unknown_noise(beta) == pytest.approx(unknown, abs=5.1e-7)
    cubic = 0.56 * beta**3 - 0.95 * beta**2 + 1.82 * beta + 1.43
    assert hard_threshold_unknown_noise(beta) == pytest.approx(cubic, rel=0.02)


def test_plain_noise_has_no_traps_and_shuffles_keep_the_entries():
    W = np.random.default_rng(0).standard_normal((96, 160))
    found = shuffle_traps(W, seed=1)
    assert found.rand_num_spikes == 0 and not (found.large_entry or found.large_mean)
    assert found.edge_tw99 == pytest.approx(tw_edge(96, 160, float(np.mean(W**2))))
    assert found == shuffle_traps(W, seed=1)
    assert shuffle_traps(W.T, seed=1).edge_tw99 == pytest.approx(found.edge_tw99)


@pytest.mark.parametrize("size", [(40, 60), (96, 160), (300, 200)])
def test_traps_are_counted_like_a_dense_decomposition_counts_them(size):
    W = np.random.default_rng(2).standard_normal(size)
    for position in range(10):
        W[position, 3 * position] = 30.0 + position
    found = shuffle_traps(W, seed=0, shuffles=1)
    shuffled = np.random.default_rng(0).permutation(W.ravel()).reshape(min(size), -1)
    dense = np.linalg.svd(shuffled, compute_uv=False) ** 2
    assert found.large_entry
    assert found.rand_num_spikes == np.sum(dense > found.edge_tw99) >= 2
    assert found.max_rand_eval == pytest.approx(dense[0], rel=1e-10)


def test_a_common_mean_is_a_trap():
    W = np.random.default_rng(3).standard_normal((80, 100)) + 1.0
    found = shuffle_traps(W, seed=0)
    assert found.large_mean and found.rand_num_spikes == 1
    with pytest.raises(ValueError, match="non-empty matrix"):
        shuffle_traps(np.ones(5), seed=0)
