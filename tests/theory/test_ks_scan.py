"""The pruned scan against a brute-force O(N²) evaluation of every start."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory.ks_scan import all_distances, beats, best_starts, near_best, samples


def brute_distances(x, ks):
    """D of every admissible start, written from the definition."""
    logs = np.log(np.sort(x))
    size, distances = logs.size, np.full(logs.size, np.inf)
    for i in range(size):
        if (i and logs[i] == logs[i - 1]) or logs[i] == logs[-1]:
            continue
        tail = logs[i:] - logs[i]
        model = 1.0 - np.exp(-tail.size / tail.sum() * tail)
        below = np.searchsorted(tail, tail, side="left") / tail.size
        distances[i] = np.max(np.abs(model - below))
        if ks == "two-sided":
            upto = np.searchsorted(tail, tail, side="right") / tail.size
            distances[i] = max(distances[i], np.max(np.abs(upto - model)))
    return distances


def draw(kind, size, seed, scale):
    rng = np.random.default_rng(seed)
    x = {
        "pareto": lambda: rng.pareto(1.5, size) + 1.0,
        "lognormal": lambda: np.exp(rng.standard_normal(size)),
        "gamma": lambda: rng.gamma(2.0, 1.0, size) + 1e-3,
        "ties": lambda: np.round(rng.pareto(1.0, size) + 1.0, 1),
        "few values": lambda: rng.integers(1, 4, size).astype(float),
        "flat and spikes": lambda: np.append(rng.uniform(0.9, 1.0, size - 2), [5.0, 9.0]),
    }[kind]()
    return np.sort(x * scale)


inputs = given(
    kind=st.sampled_from(["pareto", "lognormal", "gamma", "ties", "few values", "flat and spikes"]),
    size=st.integers(3, 260),
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([1.0, 1e-300, 1e-12, 1e200]),
)


@pytest.mark.parametrize("ks", ["csn", "two-sided"])
@settings(max_examples=120, deadline=None)
@inputs
def test_pruned_minimum_is_the_minimum(ks, kind, size, seed, scale):
    x = draw(kind, size, seed, scale)
    expected = brute_distances(x, ks)
    sample = samples(np.log(x)[None, :])
    index, distance = best_starts(sample, ks)
    if np.isinf(expected).all():
        assert np.isinf(distance[0])
        return
    assert distance[0] == pytest.approx(expected.min(), rel=1e-9, abs=1e-12)
    # another start may tie to the last digits; it must then be as good
    assert expected[index[0]] <= expected.min() + 1e-12
    np.testing.assert_allclose(all_distances(sample, ks), expected, rtol=1e-9, atol=1e-12)


@settings(max_examples=60, deadline=None)
@inputs
def test_near_best_finds_all_and_only_near_starts(kind, size, seed, scale):
    x = draw(kind, size, seed, scale)
    expected = brute_distances(x, "csn")
    if np.isinf(expected).all():
        return
    chosen, distances = near_best(samples(np.log(x)[None, :]), 0.1)
    np.testing.assert_allclose(distances, expected[chosen], rtol=1e-9, atol=1e-12)
    limit = 1.1 * expected.min()
    assert set(np.flatnonzero(expected < limit * (1 - 1e-9) - 1e-12)) <= set(chosen)
    assert np.all(expected[chosen] <= limit * (1 + 1e-9) + 1e-12)


def test_rows_are_independent_and_beats_agrees_with_the_minimum():
    rng = np.random.default_rng(0)
    x = np.sort(np.exp(rng.standard_normal((40, 150))), axis=1)
    sample = samples(np.log(x))
    index, distance = best_starts(sample)
    for row in range(40):
        expected = brute_distances(x[row], "csn")
        assert index[row] == expected.argmin()
        assert distance[row] == pytest.approx(expected.min(), abs=1e-13)
    for ceiling in np.quantile(distance, [0.0, 0.3, 0.9]) + 1e-9:
        for near in (0, 75, 149):
            assert np.array_equal(beats(sample, ceiling, near), distance < ceiling)


def test_starts_can_be_restricted():
    x = np.sort(np.random.default_rng(1).pareto(1.5, 300) + 1.0)
    allowed = (x > 1.2) & (x < 1.6)
    index, distance = best_starts(samples(np.log(x)[None, :], allowed[None, :]))
    expected = np.where(allowed, brute_distances(x, "csn"), np.inf)
    assert index[0] == expected.argmin() and distance[0] == pytest.approx(expected.min())
