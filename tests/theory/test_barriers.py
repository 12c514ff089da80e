"""Both barriers against worked curves and the inequalities between them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.barriers import barriers, default_grid


def test_worked_curves():
    t = default_grid()
    assert t.size == 25 and t[0] == 0.0 and t[-1] == 1.0
    hill = barriers(((2 * t - 1) ** 2 - 1) ** 2)
    assert (hill.linear, hill.mean) == (1.0, 1.0) and (hill.linear_t, hill.mean_t) == (0.5, 0.5)
    tilted = barriers(np.abs(np.sin(3 * t)) + t / 2)
    assert tilted.linear == pytest.approx(0.9269349826, abs=5e-11)
    assert tilted.mean == pytest.approx(0.9550926095, abs=5e-11)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12), st.integers(0, 99))
def test_bounds(losses, seed):
    gaps = np.random.default_rng(seed).uniform(0.1, 1.0, len(losses) - 1)
    t = np.concatenate([[0.0], np.cumsum(gaps) / gaps.sum()])
    t[-1] = 1.0
    result = barriers(losses, t)
    start, end = losses[0], losses[-1]
    assert result.linear >= 0.0
    assert result.mean >= abs(start - end) / 2 - 1e-9
    direct = max(value - ((1 - x) * start + x * end) for value, x in zip(losses, t, strict=True))
    assert result.linear == pytest.approx(max(direct, 0.0), abs=1e-9)
    assert result.mean == pytest.approx(max(losses) - (start + end) / 2, abs=1e-9)
    assert losses[int(np.flatnonzero(t == result.mean_t)[0])] == max(losses)
    if start == end:
        assert result.linear == pytest.approx(result.mean, abs=1e-9)


def test_drop_in_accuracy_and_bad_input():
    assert barriers(-np.array([0.9, 0.5, 0.7])).linear == pytest.approx(0.3)
    assert barriers([1.0, np.inf, 1.0]).linear == np.inf
    for losses, t in (
        ([1.0, 2.0], [0.0, 0.9]),
        ([1.0, 2.0, 3.0], [0.0, 0.0, 1.0]),
        ([1.0, 2.0], [0.0]),
    ):
        with pytest.raises(ValueError, match="ascending"):
            barriers(losses, t)
    for losses in ([1.0, np.nan, 1.0], [np.inf, 1.0]):
        with pytest.raises(ValueError, match="finite at both ends"):
            barriers(losses)
    with pytest.raises(ValueError, match="endpoints"):
        default_grid(1)
