"""Closed forms on the hypercube against dense spectra, and empirical ranks of attention."""

import math

import numpy as np
import pytest
from scipy.linalg import hadamard

from theory.lora_limits.hypercube import (
    effective_rank_exponent,
    eigenvalue_base,
    hypercube_point,
    hypercube_spectrum,
    truncation_error,
)
from theory.lora_limits.ranks import attention_ranks, sample_rows


def dense(m, rho):
    """Attention among the corners, straight from its definition."""
    signs = 1.0 - 2.0 * ((np.arange(2**m)[:, None] >> np.arange(m)) & 1)
    gamma = rho * math.sqrt(m * math.log(2.0))
    S = (gamma * signs) @ (gamma * signs).T / m
    F = np.exp(S - S.max())
    return F / F.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("rho", [0.0, 0.25, 0.5, 1.0, 1.6])
@pytest.mark.parametrize("m", [1, 2, 5, 8])
def test_closed_forms_equal_a_dense_decomposition(m, rho):
    F, point = dense(m, rho), hypercube_point(m, rho)
    values = np.sort(np.linalg.eigvalsh(F))[::-1]
    expected = [value for value, count in hypercube_spectrum(m, rho) for _ in range(count)]
    np.testing.assert_allclose(values, expected, atol=1e-13)
    positive = np.abs(values) / np.abs(values).sum()
    entropy = -sum(p * math.log(p) for p in positive if p > 0)
    assert point.tau == pytest.approx(eigenvalue_base(rho))
    assert point.stable_rank == pytest.approx(np.sum(values**2) / values[0] ** 2, rel=1e-11)
    assert point.effective_rank == pytest.approx(math.exp(entropy), rel=1e-9)
    assert point.ipr == pytest.approx(np.mean(np.sum(F**2, axis=1)), rel=1e-11)
    assert point.rank_tau == np.count_nonzero(values > 1e-3 * values[0])


@pytest.mark.parametrize("degree", [0, 1, 2, 4, 6])
def test_truncation_error_equals_dropping_characters(degree):
    m, rho = 6, 0.8
    characters = hadamard(2**m) / math.sqrt(2**m)
    F = dense(m, rho)
    transformed = characters @ F @ characters
    kept = np.array([i.bit_count() <= degree for i in range(2**m)])
    error = F - characters @ np.diag(np.diag(transformed) * kept) @ characters
    assert truncation_error(m, rho, degree) == pytest.approx(np.abs(error).max(), abs=1e-15)


def test_reference_values():
    point = hypercube_point(8, 0.5)
    assert point.tau == pytest.approx(0.17157288, abs=5e-9)
    assert point.stable_rank == pytest.approx(1.26124378, abs=5e-9)
    assert point.effective_rank == pytest.approx(27.99327340, abs=5e-9)
    assert point.ipr == pytest.approx(0.00492673, abs=5e-9)
    assert point.rank_tau == 93
    assert 256 * truncation_error(8, 0.5, 2) == pytest.approx(0.35257003, abs=5e-9)
    point = hypercube_point(10, 1.0)
    assert point.tau == pytest.approx(0.6, abs=1e-14)
    assert point.stable_rank == pytest.approx(21.64656968, abs=5e-9)
    assert point.effective_rank == pytest.approx(746.67676570, abs=5e-9)
    assert point.rank_tau == 1024


def test_exponents():
    got = [effective_rank_exponent(rho) for rho in (0.25, 0.5, 0.75, 1.0)]
    np.testing.assert_allclose(got, [0.249, 0.601, 0.843, 0.954], atol=5.1e-4)
    assert effective_rank_exponent(0.0) == 0.0
    assert effective_rank_exponent(10.0) == pytest.approx(1.0)
    assert hypercube_point(1000, 1.0).effective_rank < 2.0**1000
    assert truncation_error(1000, 1.0, 1000) == 0.0 < truncation_error(1000, 1.0, 300)


def test_hypercube_refusals():
    for rho in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="rho"):
            eigenvalue_base(rho)
    for m in (0, 1001):
        with pytest.raises(ValueError, match="dimension"):
            hypercube_point(m, 1.0)
    with pytest.raises(ValueError, match="threshold"):
        hypercube_point(3, 1.0, threshold=0.0)
    with pytest.raises(ValueError, match="degree"):
        truncation_error(3, 1.0, -1)


@pytest.mark.parametrize("rho", [0.25, 0.7])
def test_empirical_ranks_of_the_hypercube(rho):
    F, point = dense(8, rho), hypercube_point(8, rho)
    ranks = attention_ranks(F, sample_rows(256, seed=0))
    assert ranks.rank_tau == point.rank_tau
    assert ranks.stable_rank == pytest.approx(point.stable_rank, rel=1e-11)
    assert ranks.eff_rank == pytest.approx(point.effective_rank, rel=1e-9)
    # symmetric, so that columns are rows: L·‖F_:j‖² = L·ipr
    assert ranks.ha_alpha == pytest.approx(256 * point.ipr, rel=1e-11)
    assert ranks.label == "exact"


def test_extreme_attention():
    identity = attention_ranks(np.eye(12), sample_rows(12, 0))
    assert identity.rank_tau == 12 and identity.eff_rank == pytest.approx(12)
    assert identity.stable_rank == pytest.approx(12) and identity.ha_alpha == pytest.approx(12)
    uniform = attention_ranks(np.full((12, 12), 1 / 12), sample_rows(12, 0))
    assert uniform.rank_tau == 1 and uniform.stable_rank == pytest.approx(1)
    assert uniform.ha_alpha == pytest.approx(1) and uniform.eff_rank == pytest.approx(1, abs=1e-6)
    sink = np.zeros((12, 12))
    sink[:, 0] = 1.0
    assert attention_ranks(sink, sample_rows(12, 0)).ha_alpha == pytest.approx(144)
    assert attention_ranks([[1.0]], sample_rows(1, 0)).rank_tau == 1


def test_threshold_is_relative_to_the_largest_value():
    F = np.diag([0.5, 0.4, 5e-4, 4e-4])
    assert attention_ranks(F, sample_rows(4, 0)).rank_tau == 2
    assert attention_ranks(F, sample_rows(4, 0), tau=9e-4).rank_tau == 3


def test_row_samples():
    whole = sample_rows(2048, seed=5)
    assert whole.label == "exact" and whole.rows.size == 2048
    sample = sample_rows(5000, seed=5)
    assert sample.label == "sample of 2048 of 5000, seed 5"
    assert sample.rows.size == 2048 and np.all(np.diff(sample.rows) > 0)
    assert sample.rows[0] >= 0 and sample.rows[-1] < 5000
    np.testing.assert_array_equal(sample.rows, sample_rows(5000, seed=5).rows)
    assert not np.array_equal(sample.rows, sample_rows(5000, seed=6).rows)


def test_ranks_of_sampled_rows():
    F = dense(9, 0.25)
    sample = sample_rows(512, seed=1, limit=256)
    ranks = attention_ranks(F[sample.rows], sample)
    assert ranks.label == "sample of 256 of 512, seed 1"
    whole = attention_ranks(F, sample_rows(512, seed=1))
    assert ranks.rank_tau <= whole.rank_tau
    assert ranks.stable_rank == pytest.approx(whole.stable_rank, rel=0.05)
    # an unbiased estimate per column; the maximum over columns only adds to it
    column = 512 * 2 * np.sum(F[sample.rows] ** 2, axis=0)
    assert ranks.ha_alpha == pytest.approx(column.max())
    assert column.mean() == pytest.approx(whole.ha_alpha, rel=0.05)


def test_rank_refusals():
    with pytest.raises(ValueError, match="3 rows but the sample names 4"):
        attention_ranks(np.ones((3, 3)), sample_rows(4, 0))
    with pytest.raises(ValueError, match="not negative, got -1"):
        attention_ranks(-np.ones((3, 3)), sample_rows(3, 0))
    with pytest.raises(ValueError, match="attention contains NaN"):
        attention_ranks(np.full((3, 3), np.nan), sample_rows(3, 0))
    with pytest.raises(ValueError, match="tau"):
        attention_ranks(np.ones((3, 3)), sample_rows(3, 0), tau=1.0)
    with pytest.raises(ValueError, match="zero everywhere"):
        attention_ranks(np.zeros((3, 3)), sample_rows(3, 0))
    with pytest.raises(ValueError, match="length"):
        sample_rows(0, 0)
    with pytest.raises(ValueError, match="limit"):
        sample_rows(5, 0, limit=4096)
