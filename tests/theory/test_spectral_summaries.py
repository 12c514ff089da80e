"""Scalar summaries against worked cases and Marchenko-Pastur limits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from theory.random_matrix import mp_quantile
from theory.spectral_summaries import (
    Summary,
    alpha_weighted,
    effective_rank_energy,
    log_alpha_norm,
    matrix_entropy,
    numerical_rank,
    rank_at_energy,
    schatten_norm,
    spectral_distance,
    spectral_gaps,
    spectral_norms,
    summarise,
    trace_log_crossing,
    weak_rank_loss,
)

FIVE = [4, 3, 2, 1, 0.5]


def test_five_values():
    found, norms = summarise(FIVE), spectral_norms(FIVE)
    assert (norms.norm, norms.spectral_norm, norms.sv_max, norms.sv_min) == (30.25, 16, 4, 0.5)
    assert norms.log_norm == pytest.approx(np.log10(30.25))
    assert norms.log_spectral_norm == pytest.approx(np.log10(16))
    assert found.stable_rank == pytest.approx(1.890625, abs=1e-12)
    assert found.nuc_fro_rank == pytest.approx(3.64462810, abs=5.1e-9)
    assert found.entropy == pytest.approx(0.694297422, abs=5.1e-10)
    assert found.effective_rank == pytest.approx(4.09740099, abs=5.1e-9)
    assert found.participation_ratio == pytest.approx(2.58446602, abs=5.1e-9)
    assert found.gini == pytest.approx(0.342857143, abs=5.1e-10)
    assert schatten_norm(FIVE, 1) == pytest.approx(10.5)
    assert schatten_norm(FIVE, 2) == pytest.approx(np.sqrt(30.25))
    assert schatten_norm(FIVE, 3) == pytest.approx(4.64352202, abs=5.1e-9)
    assert schatten_norm(FIVE, np.inf) == 4.0
    np.testing.assert_allclose(spectral_gaps(FIVE), [4 / 3, 1.5, 2, 2])


def test_gaussian_matrix():
    W = np.random.default_rng(0).standard_normal((128, 256)) / 16
    s = np.linalg.svd(W, compute_uv=False)
    found = summarise(s)
    assert found.stable_rank == pytest.approx(45.72367112, rel=1e-9)
    assert found.entropy == pytest.approx(0.9471052602, rel=1e-9)
    assert found.effective_rank == pytest.approx(118.2471418, rel=1e-9)
    crossing = trace_log_crossing(s**2)
    assert crossing.num == 104
    rescaled = s**2 * 128 / np.sum(s**2)
    assert np.prod(rescaled[:103]) >= 1 > np.prod(rescaled[:104])
    assert crossing.value == pytest.approx(rescaled[103])
    assert crossing.value_unrescaled == pytest.approx(s[103] ** 2)
    assert log_alpha_norm(s**2, 4.205868721) == pytest.approx(2.931502283, rel=1e-9)
    assert alpha_weighted(4.205868721, s[0] ** 2) == pytest.approx(1.872174766, rel=1e-9)


@pytest.mark.parametrize(("beta", "share"), [(1.0, 0.8050), (0.5, 0.9261), (0.25, 0.9662)])
def test_limits_for_random_matrices(beta, share):
    m = 20000
    s = np.sqrt(mp_quantile((np.arange(m) + 0.5) / m, beta))
    found = summarise(s)
    assert found.stable_rank == pytest.approx(m / (1 + np.sqrt(beta)) ** 2, rel=2e-3)
    assert found.participation_ratio == pytest.approx(m / (1 + beta), rel=1e-3)
    assert found.entropy * np.log(m) == pytest.approx(np.log(m) - beta / 2, abs=1e-4)
    assert found.effective_rank / m == pytest.approx(share, abs=1e-4)


def test_thousands_of_eigenvalues_do_not_overflow_the_product():
    values = np.exp(2 * np.random.default_rng(0).standard_normal(8192))
    crossing = trace_log_crossing(values)
    logs = np.cumsum(np.log(np.sort(values)[::-1] * 8192 / values.sum()))
    assert logs[crossing.num - 2] >= 0 > logs[crossing.num - 1]
    assert trace_log_crossing(np.ones(5)) is None and trace_log_crossing(np.zeros(5)) is None


@given(
    s=st.lists(st.floats(0, 1e6), min_size=1, max_size=30),
    scale=st.sampled_from([1e-170, 1e-12, 1e150]),
)
def test_bounds_and_scale_invariance(s, scale):
    found = summarise(s)
    if max(s) == 0.0:
        assert found == Summary(*[None] * 7)
        return
    m, slack = len(s), 1 + 1e-12
    for value in (found.stable_rank, found.effective_rank, found.participation_ratio,
                  found.nuc_fro_rank):  # fmt: skip
        assert 1 / slack <= value <= m * slack
    assert found.entropy is None or 0 <= found.entropy <= slack
    assert -1e-12 <= found.gini < 1
    if min(value for value in s if value > 0) > 1e-100:
        again = summarise(np.array(s) * scale)
        assert again.effective_rank == pytest.approx(found.effective_rank, rel=1e-9)
        assert again.stable_rank == pytest.approx(found.stable_rank, rel=1e-9)


def test_undefined_is_none_and_ranks_respect_the_floor():
    zero = spectral_norms([0.0, 0.0])
    assert (zero.norm, zero.log_norm, zero.log_spectral_norm) == (0.0, None, None)
    assert summarise([]).stable_rank is None and spectral_norms([]).norm == 0.0
    assert matrix_entropy([1.0], 1) is None
    assert summarise([1.0, 0.0]).entropy is None  # rank 1
    assert numerical_rank([1.0, 1e-3, 1e-20], 100) == 2
    assert numerical_rank([1.0, 1e-3, 1e-20], 100, floor=1e-3) == 1
    assert weak_rank_loss([1.0, 1e-7]) == 1
    assert summarise([5, 5, 5]).knee is None and summarise([100, 10, 5, 4, 3]).knee == 2
    with pytest.raises(ValueError, match="non-negative"):
        summarise([1.0, -1.0])
    with pytest.raises(ValueError, match="finite"):
        summarise([1.0, np.nan])
    with pytest.raises(ValueError, match="p > 0"):
        schatten_norm([1.0], 0.0)


def test_jensen_shannon_distance():
    rng = np.random.default_rng(0)
    p, q = np.sort(rng.random(40)), np.sort(rng.random(40) ** 2)
    assert spectral_distance(q, p) == pytest.approx(jensenshannon(p / p.sum(), q / q.sum()))
    assert spectral_distance(p, 3 * p) == pytest.approx(0.0, abs=1e-7)
    with pytest.raises(ValueError, match="one length"):
        spectral_distance(p, p[1:])


def closed(m, n, a=1.0, b=0.37, c=0.0):
    i, j = np.arange(1, m + 1)[:, None], np.arange(1, n + 1)[None, :]
    return np.sin(a * i * np.sqrt(j) + b * j + c)


def test_ranks_of_energies():
    assert effective_rank_energy([4, 2, 1]) == pytest.approx(1.95036750, abs=5.1e-9)
    assert [rank_at_energy([4, 2, 1], q) for q in (0.7, 0.9, 0.99, 1.0)] == [1, 2, 3, 3]
    s = np.linalg.svd(closed(6, 8), compute_uv=False)
    np.testing.assert_allclose(
        s, [2.6377563, 2.59546516, 2.32199712, 2.0026864, 1.41573562, 0.30144021], atol=5.1e-9
    )
    found = summarise(s)
    assert found.stable_rank == pytest.approx(3.62067689, abs=5.1e-9)
    assert found.effective_rank == pytest.approx(5.29993799, abs=5.1e-9)
    assert found.participation_ratio == pytest.approx(4.43882393, abs=5.1e-9)
    assert rank_at_energy(s, 0.75762242 - 1e-7) == 3 and rank_at_energy(s, 0.7577) == 4


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e15])
def test_an_energy_met_exactly_counts(scale):
    assert rank_at_energy(scale * np.array([3.0, 1.0]), 0.9) == 1
    assert rank_at_energy(scale * np.ones(10), 0.3) == 3  # 0.3·10 rounds to above 3
    assert effective_rank_energy(scale * np.ones(7)) == pytest.approx(7)


def test_no_energy_has_no_rank():
    assert effective_rank_energy([0.0]) is None and rank_at_energy([0.0, 0.0], 0.9) is None
    for energy in (0.0, 1.1, np.nan):
        with pytest.raises(ValueError, match=r"\(0, 1\]"):
            rank_at_energy([1.0], energy)


def test_summary_of_a_worked_spectrum() -> None:
    found = summarise([4.0, 2.0, 1.0])
    assert found.stable_rank == pytest.approx(21 / 16)
    assert found.participation_ratio == pytest.approx(21**2 / 273)
    # exp of the entropy of (4/7, 2/7, 1/7)
    assert found.effective_rank == pytest.approx(2.60049001, abs=5e-9)
