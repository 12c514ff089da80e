"""Extreme-value index and dragon kings against worked cases, known laws and simulation."""

import numpy as np
import pytest

from theory.extreme_value import dragon_kings, moment_index, moment_interval
from theory.random_matrix import mp_quantile

TAIL = (1 - (np.arange(100) + 0.5) / 100) ** -0.5
BODY_AND_TAIL = np.concatenate([(np.arange(300) + 0.5) / 300, TAIL])


def test_worked_cases():
    assert moment_index(BODY_AND_TAIL, 50) == pytest.approx(0.460187573, abs=5.1e-10)
    # from 30-digit arithmetic
    assert moment_index(BODY_AND_TAIL, 100) == pytest.approx(0.4791527473459287, rel=1e-12)
    spectrum = mp_quantile((np.arange(200) + 0.5) / 200, 0.5)
    assert moment_index(spectrum, 50) == pytest.approx(-0.58865855, abs=5.1e-9)
    W = np.random.default_rng(0).standard_normal((128, 256)) / 16
    assert moment_index(np.linalg.svd(W, compute_uv=False) ** 2, 32) == pytest.approx(
        -0.6317352, abs=5.1e-8
    )


def test_edge_of_a_random_matrix_tends_to_minus_two_thirds():
    spectrum = mp_quantile((np.arange(20000) + 0.5) / 20000, 0.5)
    assert moment_index(spectrum, 100) == pytest.approx(-2 / 3, abs=0.02)


def test_interval_against_resampling_values():
    x = np.random.default_rng(1).pareto(1.5, 400) + 1
    rng = np.random.default_rng(2)
    resampled = [moment_index(rng.choice(x, 400), 100) for _ in range(2000)]
    expected = np.quantile(resampled, [0.025, 0.975])
    assert moment_interval(x, 100, replicates=4000, seed=0) == pytest.approx(expected, abs=0.03)
    assert moment_interval(x, 100, seed=0) == moment_interval(x, 100, seed=0)


def test_undefined_where_the_top_is_constant():
    x = np.append(np.linspace(1, 2, 30), np.full(20, 3.0))
    assert moment_index(x, 10) is None
    assert moment_interval(np.ones(40), 10, seed=0) is None
    with pytest.raises(ValueError, match="k must lie"):
        moment_index(x, 50)


def test_dragon_kings():
    plain = dragon_kings(TAIL, 3)
    assert (plain.statistic, plain.p) == pytest.approx((1.04297786, 0.398808), rel=1e-5)
    kings = dragon_kings(np.append(TAIL, [100, 120, 150]), 3)
    assert (kings.statistic, kings.p) == pytest.approx((3.70403308, 0.00163831), rel=1e-5)
    with pytest.raises(ValueError, match="r must lie"):
        dragon_kings(TAIL[:4], 3)


def test_dragon_king_test_has_its_level():
    rng = np.random.default_rng(0)
    rejected = [dragon_kings(rng.pareto(1.5, 60) + 1, 3).p < 0.05 for _ in range(4000)]
    assert np.mean(rejected) == pytest.approx(0.05, abs=0.011)
