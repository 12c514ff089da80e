"""WeLore ranks against the worked case and properties of the exact threshold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.welore import (
    effective_rank_reduction,
    energy_kept,
    exact_threshold,
    is_low_rank_component,
    normalise,
    param_ratio,
    pruned_rank,
)

SPECTRA = (
    np.arange(10.0, 0.0, -1.0),
    [100, 10, 5, 4, 3, 2.5, 2, 1.5, 1.2, 1],
    8 * 0.5 ** np.arange(8.0),
)


@pytest.mark.parametrize(
    ("threshold", "pruned", "percent"),
    [
        (0.0225, (1, 6, 2), 32.142857),
        (0.084, (1, 8, 4), 46.428571),
        (0.115, (2, 9, 4), 53.571429),
        (0.145, (2, 9, 5), 57.142857),
        (0.26, (3, 9, 6), 64.285714),
        (0.5, (5, 9, 7), 75.0),
    ],
)
def test_worked_case(threshold, pruned, percent):
    assert tuple(pruned_rank(s, threshold) for s in SPECTRA) == pruned
    assert 100 * effective_rank_reduction(SPECTRA, threshold) == pytest.approx(percent, abs=5e-7)


@given(
    spectra=st.lists(
        st.lists(st.floats(0.0, 1e3), min_size=1, max_size=20), min_size=1, max_size=5
    ),
    target=st.floats(0.0, 1.0),
)
def test_threshold_is_the_smallest_that_reaches_the_target(spectra, target):
    k = exact_threshold(spectra, target)
    assert 0.0 <= k <= 1.0
    reached = effective_rank_reduction(spectra, k)
    pool = np.sort(np.concatenate([normalise(s) for s in spectra]))
    prunable = float(np.mean(pool < 1.0))
    if target > prunable:
        assert reached == pytest.approx(prunable)
        return
    assert reached >= target - 1e-9
    # every smaller reduction, at a threshold equal to one of the values, misses the target
    smaller = [np.mean(pool < z) for z in pool if np.mean(pool < z) < reached]
    assert all(share < target for share in smaller)


def test_degenerate_spectra():
    assert pruned_rank([3.0, 3.0, 3.0], 1.0) == 0  # constant: nothing to prune
    assert pruned_rank([0.0, 0.0], 0.5) == 0 and pruned_rank([], 0.5) == 0
    assert effective_rank_reduction([], 0.5) == 0.0
    assert pruned_rank([1e300, 5e299, 0.0], 0.2) == 1
    assert energy_kept([0.0, 0.0], 1) is None
    with pytest.raises(ValueError, match="must lie"):
        exact_threshold(SPECTRA, 1.5)


def test_factorisation_accounts():
    assert param_ratio(2985, 4096, 11008) < 1.0 < param_ratio(2986, 4096, 11008)
    assert energy_kept([4, 3, 2, 1, 0.5], 2) == pytest.approx(25 / 30.25)
    assert is_low_rank_component(50, 100) and not is_low_rank_component(49, 100)


def test_one_steep_and_one_flat_spectrum_at_one_threshold():
    steep, flat = [10, 6, 4, 2.5, 2, 1.5, 1.2, 1.1, 1.05, 1], np.arange(5.0, 0.0, -0.5)
    assert (pruned_rank(steep, 0.175), pruned_rank(flat, 0.175)) == (7, 2)
    assert effective_rank_reduction([steep, flat], 0.175) == pytest.approx(0.45)
    assert is_low_rank_component(7, 10) and not is_low_rank_component(2, 10)
