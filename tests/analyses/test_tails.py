"""Tail rows: worked cases end to end, the edge cases, and invariances."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzer.analyses.rows_tails import TailRow
from analyzer.analyses.tails import fit_tail, tail_row
from theory.power_law import bootstrap_alpha, fit_power_law
from theory.wishart_null import null_statistics

GAUSSIAN = np.random.default_rng(0).standard_normal((128, 256)) / 16
HEAVY = np.random.default_rng(4).standard_normal((128, 256)) * np.arange(1, 129)[:, None] ** -0.25
NUMBERS = ("alpha", "ks_d", "xi", "d_mp", "entropy", "pl_alpha_hill", "mp_softrank", "gof_p")


def row_of(W, *, floor=0.0, full=False, null=False, seed=0):
    s = np.linalg.svd(np.asarray(W, dtype=np.float64), compute_uv=False)
    return tail_row(
        s, rows=W.shape[0], cols=W.shape[1], storage_floor=floor, matrix_id=7, kind="weight",
        full=full, seed=seed,
        null=null_statistics(*W.shape, seed=seed) if null and min(W.shape) >= 8 else None,
    )  # fmt: skip


def assert_no_numbers_in_disguise(row):
    """What could not be computed is None: never NaN, infinity or -1."""
    for field in dataclasses.fields(row):
        value = getattr(row, field.name)
        if isinstance(value, float):
            assert np.isfinite(value), field.name
            assert value != -1.0, field.name


def test_gaussian_matrix_is_random_although_alpha_looks_healthy():
    row = row_of(GAUSSIAN, null=True)
    assert row.alpha == pytest.approx(4.205868721, rel=1e-9)
    assert row.xmin == pytest.approx(1.423075978, rel=1e-9)
    assert row.ks_d == pytest.approx(0.1452596451, rel=1e-9)
    assert row.n_tail == 35
    assert row.alpha_weighted == pytest.approx(1.872174766, rel=1e-9)
    assert row.log_alpha_norm == pytest.approx(2.931502283, rel=1e-9)
    assert row.entropy == pytest.approx(0.9471052602, rel=1e-9)
    assert row.pl_alpha_hill == pytest.approx(2.724091947, rel=1e-9)
    assert row.hill_null == pytest.approx(2.70584, abs=6e-6)
    assert (row.detx_num, row.erg_gap) == (104, 69)
    assert row.xi == pytest.approx(-0.6317352, abs=5.1e-8)
    assert row.sigma_bulk == pytest.approx(0.06235817, abs=5.1e-9)
    assert (row.num_spikes, row.phase, row.status) == (0, "random_like", "ok")
    assert row.xi_lo < row.xi < row.xi_hi < 0
    for share in (row.null_q, row.hill_null_q, row.xi_null_q, row.ks_null_q):
        assert 0.0 < share < 1.0
    assert row.null_draws == 200
    assert "the tail starts inside a random bulk" in row.warnings
    assert_no_numbers_in_disguise(row)


def test_heavy_covariance():
    row = row_of(HEAVY / 16, null=True)
    assert row.alpha == pytest.approx(3.13990867, rel=1e-8)
    assert row.xmin == pytest.approx(0.2172952339, rel=1e-9)
    assert row.ks_d == pytest.approx(0.05775400271, rel=1e-9)
    assert row.n_tail == 34
    assert row.xi == pytest.approx(0.25836230, abs=5.1e-8)
    assert row.pl_alpha_hill == pytest.approx(2.36722121, abs=5.1e-9)
    assert row.d_mp > 4 / 128 and row.phase in ("heavy_tailed", "bulk_decay")
    assert row.xi_null_q == 1.0 and row.hill_null_q == 0.0


def test_spike_in_noise():
    W = np.random.default_rng(5).standard_normal((128, 256)) / 16
    W += 3 * np.outer(np.ones(128) / np.sqrt(128), np.ones(256) / 16)
    row = row_of(W)
    assert row.alpha == pytest.approx(4.845495019, rel=1e-9)
    assert (row.n_tail, row.num_spikes, row.phase) == (25, 1, "bulk_spikes")
    assert row.sigma_bulk == pytest.approx(0.06245281, abs=5.1e-9)


def test_strong_covariance_is_heavy_tailed():
    W = np.random.default_rng(1).standard_normal((256, 512)) * np.arange(1, 257)[:, None] ** -0.5
    row = row_of(W)
    assert row.phase == "heavy_tailed" and row.xi_lo > 0.5
    assert row.alpha_lo < 2.0 + 0.3 and row.alpha_hi > 2.0 - 0.1  # α = 1 + 1/γ, γ = 1


def test_weak_rank_collapses():
    rng = np.random.default_rng(0)
    W = rng.standard_normal((64, 20)) @ rng.standard_normal((20, 64))
    row = row_of(W)
    assert (row.phase, row.n_evals) == ("rank_collapse", 20)


@pytest.mark.parametrize(
    ("W", "status"),
    [
        (np.zeros((32, 32)), "zero"),
        (np.zeros((0, 32)), "zero"),
        (np.eye(64), "degenerate"),
        (np.linalg.qr(np.random.default_rng(0).standard_normal((64, 64)))[0], "degenerate"),
        (np.outer(np.arange(1, 33), np.ones(32)), "too_few_evals"),
        (np.random.default_rng(0).standard_normal((7, 100)), "too_few_evals"),
        (np.random.default_rng(0).standard_normal((1, 1)), "too_few_evals"),
        (np.random.default_rng(0).standard_normal((12, 30)), "low_n"),
    ],
)
@pytest.mark.parametrize("full", [False, True])
def test_degenerate_matrices(W, status, full):
    row = row_of(W, null=True, full=full)
    assert row.status == status
    assert (row.alpha is None) == (status != "low_n")
    assert (row.log_alpha_norm is None) == (status != "low_n")
    assert_no_numbers_in_disguise(row)


def test_an_orthogonal_matrix_rounded_to_bfloat16_is_degenerate_too():
    torch = pytest.importorskip("torch")
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((64, 64)))[0]
    stored = torch.from_numpy(Q).to(torch.bfloat16).to(torch.float64).numpy()
    from theory.storage_noise import storage_floor

    floor = storage_floor(float(np.linalg.norm(stored)), 64, 64, "bfloat16")
    assert row_of(stored, floor=floor).status == "degenerate"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nonfinite_values_give_a_row(bad):
    row = tail_row(
        [1.0, bad, 2.0], rows=3, cols=3, storage_floor=0.0, matrix_id=1, kind="weight",
        full=False, seed=0,
    )  # fmt: skip
    assert row.status == "nonfinite" and row.alpha is None


def test_low_rank_update_has_no_random_matrix_to_compare_with():
    s = np.sort(np.random.default_rng(0).pareto(2.0, 32) + 1)[::-1]
    row = tail_row(
        s, rows=768, cols=768, storage_floor=0.0, matrix_id=1, kind="delta", full=False, seed=0
    )
    assert row.status == "ok" and row.alpha > 1
    for name in ("null_q", "hill_null", "sigma_bulk", "num_spikes", "edge_tw99", "d_mp", "phase"):
        assert getattr(row, name) is None
    assert "low-rank" in row.warnings


@settings(max_examples=300, deadline=None)
@given(
    s=st.lists(
        st.sampled_from([0.0, 1.0, 1.0 + 1e-9, 2.0, 3.5, 1e3, 1e9])
        | st.floats(0.0, 10.0)
        | st.floats(1e-6, 1e6).map(lambda x: x**0.1),
        max_size=60,
    ),
    missing=st.integers(0, 3),
    scale=st.sampled_from([1.0, 1e-200, 1e-12, 1e140]),
    floor=st.sampled_from([0.0, 1e-3]),
)
def test_never_raises_and_never_invents_numbers(s, missing, scale, floor):
    rows = len(s) + missing
    row = tail_row(
        np.array(s) * scale, rows=rows, cols=2 * rows, storage_floor=floor * scale, matrix_id=1,
        kind="weight", full=False, seed=0,
    )  # fmt: skip
    assert row.status in (
        "ok", "low_n", "too_few_evals", "degenerate", "zero", "below_floor",
    )  # fmt: skip
    assert (row.status == "zero") == (not np.any(np.array(s) * scale))
    assert (row.alpha is not None) == (row.status in ("ok", "low_n"))
    assert_no_numbers_in_disguise(row)
    if row.alpha is not None:
        assert 1.0 < row.alpha_lo < row.alpha < row.alpha_hi
        assert 0.0 < row.gof_p <= 1.0 and row.n_tail >= 2


@pytest.mark.parametrize("scale", [1e-170, 1e-12, 1e150, 1e300])
def test_scale_changes_nothing_but_units(scale):
    s = np.linalg.svd(HEAVY, compute_uv=False)
    plain, scaled = (
        tail_row(
            s * factor, rows=128, cols=256, storage_floor=1e-9 * factor, matrix_id=1,
            kind="weight", full=False, seed=0,
        )
        for factor in (1.0, scale)
    )  # fmt: skip
    for name in NUMBERS:
        assert getattr(scaled, name) == pytest.approx(getattr(plain, name), rel=1e-9), name
    assert (scaled.phase, scaled.num_spikes, scaled.n_tail) == (
        plain.phase, plain.num_spikes, plain.n_tail,
    )  # fmt: skip
    assert scaled.sigma_bulk == pytest.approx(plain.sigma_bulk * scale)
    if scale in (1e-12, 1e150):
        assert scaled.xmin == pytest.approx(plain.xmin * scale**2)
    else:
        assert scaled.xmin is None  # λ itself is outside float64
    shift = 2 * np.log10(scale)
    assert scaled.alpha_weighted == pytest.approx(plain.alpha_weighted + plain.alpha * shift)
    assert scaled.log_alpha_norm == pytest.approx(plain.log_alpha_norm + plain.alpha * shift)
    assert_no_numbers_in_disguise(scaled)


def test_orientation_rotation_and_row_order_change_nothing():
    rng = np.random.default_rng(9)
    Q = np.linalg.qr(rng.standard_normal((128, 128)))[0]
    plain = row_of(HEAVY)
    for other in (HEAVY.T, Q @ HEAVY, HEAVY[rng.permutation(128)]):
        row = row_of(other)
        for name in NUMBERS:
            assert getattr(row, name) == pytest.approx(getattr(plain, name), rel=1e-9), name


def test_values_below_the_storage_floor_do_not_enter():
    s = np.linalg.svd(HEAVY, compute_uv=False)
    floor = float(s[100] * 0.5)
    noisy = row_of(HEAVY, floor=floor)
    assert noisy.n_evals == np.sum(s > 2 * floor)
    assert noisy.alpha == pytest.approx(fit_power_law(s[s > 2 * floor] ** 2).alpha)


def test_full_widens_the_interval_and_refines_the_p_value():
    quick, full = row_of(HEAVY), row_of(HEAVY, full=True)
    assert (quick.alpha_interval, full.alpha_interval) == ("chi2", "bootstrap")
    assert full.alpha_lo <= quick.alpha_lo and full.alpha_hi >= quick.alpha_hi
    eigenvalues = np.linalg.svd(HEAVY, compute_uv=False) ** 2
    wide = bootstrap_alpha(eigenvalues, replicates=1000, seed=0)
    assert (full.alpha_lo, full.alpha_hi) == pytest.approx(
        (min(wide[0], quick.alpha_lo), max(wide[1], quick.alpha_hi)), rel=1e-6
    )
    assert full.gof_replicates == 2500 and quick.gof_replicates <= 199
    assert quick.gof_p == pytest.approx(full.gof_p, abs=0.5)


def test_rows_are_deterministic_and_seeds_matter():
    assert row_of(HEAVY) == row_of(HEAVY)
    assert row_of(HEAVY, seed=1).xi_lo != row_of(HEAVY).xi_lo
    assert row_of(HEAVY, seed=1).seed == 1


def test_null_shares_are_uniform_for_noise():
    rng = np.random.default_rng(3)
    null = null_statistics(24, 48, draws=400)
    shares = [
        null.share_below("alpha", fit_power_law(e).alpha)
        for e in np.linalg.svd(rng.standard_normal((300, 24, 48)), compute_uv=False) ** 2
    ]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.07)
    assert np.mean(np.array(shares) < 0.1) == pytest.approx(0.1, abs=0.06)


def test_fit_tail_agrees_with_the_row_and_brings_curves():
    eigenvalues = np.linalg.svd(HEAVY, compute_uv=False) ** 2
    fit, row = fit_tail(eigenvalues), row_of(HEAVY)
    for name in ("alpha", "alpha_lo", "alpha_hi", "alpha_unbiased", "ks_d", "sigma", "n_tail",
                 "gof_p", "gof_replicates", "best_model", "verdict", "xmin"):  # fmt: skip
        expected = getattr(row, name)
        value = getattr(fit, name)
        assert value == (
            pytest.approx(expected, rel=1e-9) if isinstance(expected, float) else expected
        )
    assert fit.xmins.shape == fit.alphas.shape == fit.ks_ds.shape == (127,)
    best = int(np.argmin(fit.ks_ds))
    assert (fit.alphas[best], fit.ks_ds[best]) == pytest.approx((fit.alpha, fit.ks_d))
    assert fit.xmins[best] == pytest.approx(fit.xmin)


def test_fit_tail_options():
    eigenvalues = np.linalg.svd(HEAVY, compute_uv=False) ** 2
    fixed = fit_tail(eigenvalues, xmin=float(np.median(eigenvalues)))
    assert fixed.xmin == pytest.approx(np.median(eigenvalues)) and fixed.n_tail == 64
    assert fixed.gof_p is None and fixed.alpha_lo < fixed.alpha < fixed.alpha_hi
    ranged = fit_tail(eigenvalues, xmin=(1.0, 20.0))
    assert 1.0 <= ranged.xmin <= 20.0
    assert fit_tail(eigenvalues, drop_largest=3).n_values == 125
    assert fit_tail(eigenvalues, floor=1.0).n_values == np.sum(eigenvalues > 1.0)
    assert fit_tail(eigenvalues, ks="two-sided").ks_d >= fit_tail(eigenvalues).ks_d


@pytest.mark.parametrize(
    ("values", "status"),
    [([], "zero"), (np.zeros(9), "zero"), (np.ones(30), "degenerate"), ([1, 2, 3], "too_few_evals"),
     (np.arange(1, 13), "low_n")],
)  # fmt: skip
def test_fit_tail_statuses(values, status):
    fit = fit_tail(values)
    assert fit.status == status and (fit.alpha is None) == (status != "low_n")
    with pytest.raises(ValueError, match="finite"):
        fit_tail([*values, np.nan])


@pytest.mark.filterwarnings("ignore")
def test_weightwatcher_agrees_on_a_layer():
    weightwatcher = pytest.importorskip("weightwatcher")
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(256, 128, bias=False)
    layer.weight.data = torch.from_numpy(HEAVY.astype(np.float32))
    details = weightwatcher.WeightWatcher(model=torch.nn.Sequential(layer)).analyze(
        plot=False, mp_fit=False, detX=True
    )
    s = np.linalg.svd(HEAVY.astype(np.float32).astype(np.float64), compute_uv=False)
    fit = fit_tail(s**2, floor=1e-5)
    row = row_of(HEAVY.astype(np.float32))
    theirs = details.iloc[0]
    assert fit.alpha == pytest.approx(theirs.alpha, rel=1e-8)
    assert fit.ks_d == pytest.approx(theirs.D, rel=1e-8)
    assert fit.xmin == pytest.approx(theirs.xmin, rel=1e-8)
    assert fit.n_tail == theirs.num_pl_spikes
    assert row.alpha_weighted == pytest.approx(theirs.alpha_weighted, rel=1e-8)
    assert row.log_alpha_norm == pytest.approx(theirs.log_alpha_norm, rel=1e-8)
    assert row.entropy == pytest.approx(theirs.entropy, rel=1e-7)
    assert row.detx_num == theirs.detX_num


def test_every_column_is_described():
    for field in dataclasses.fields(TailRow):
        assert field.metadata["description"]
