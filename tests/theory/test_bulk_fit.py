"""Random bulk, Tracy-Widom edge, storage noise and phase labels."""

import numpy as np
import pytest

from theory.bulk_fit import bulk_fit
from theory.phase import phase
from theory.random_matrix import mp_quantile
from theory.storage_noise import UNIT_ROUNDOFF, difference_floor, storage_floor
from theory.tracy_widom import QUANTILES, centre_and_scale, tw1_cdf, tw_edge


def eigenvalues(W):
    return np.linalg.svd(W, compute_uv=False) ** 2


def test_exact_quantiles_give_the_exact_level():
    spectrum = 400 * mp_quantile((np.arange(200) + 0.5) / 200, 0.5)
    fit = bulk_fit(spectrum, 200, 400)
    assert fit.sigma_bulk == pytest.approx(1.0, abs=1e-7) and fit.num_spikes == 0
    spiked = bulk_fit(np.append(spectrum, 400 * np.array([6, 9, 14])), 203, 400)
    assert spiked.num_spikes == 3 and spiked.is_random
    assert spiked.sigma_bulk == pytest.approx(1.00355879, abs=1e-8)


def test_gaussian_with_and_without_a_spike():
    plain = bulk_fit(
        eigenvalues(np.random.default_rng(0).standard_normal((128, 256)) / 16), 128, 256
    )
    assert plain.sigma_bulk == pytest.approx(0.06235817, abs=5.1e-9)
    assert plain.num_spikes == 0 and plain.is_random
    W = np.random.default_rng(5).standard_normal((128, 256)) / 16
    W += 3 * np.outer(np.ones(128) / np.sqrt(128), np.ones(256) / 16)
    one = bulk_fit(eigenvalues(W), 256, 128)
    assert one.sigma_bulk == pytest.approx(0.06245281, abs=5.1e-9) and one.num_spikes == 1


@pytest.mark.parametrize("shape", [(64, 64), (128, 512), (512, 256)])
@pytest.mark.parametrize("spikes", [0, 8, 20])
def test_noise_level_and_spike_count(shape, spikes):
    rng = np.random.default_rng(spikes)
    W = 0.3 * rng.standard_normal(shape)
    if spikes:
        left, right = (np.linalg.qr(rng.standard_normal((size, spikes)))[0] for size in shape)
        edge = 0.3 * (np.sqrt(shape[0]) + np.sqrt(shape[1]))
        W += 4 * edge * left @ right.T
    fit = bulk_fit(eigenvalues(W), *shape)
    assert fit.num_spikes == spikes and fit.is_random
    # a matrix of mn entries tells their spread to 1/√(2mn), its central eigenvalues to about 1/m
    assert fit.sigma_bulk == pytest.approx(0.3, rel=2.5 / min(shape))
    assert fit.bulk_max < fit.edge_tw99


def test_false_spikes_are_as_rare_as_the_edge_promises():
    rng = np.random.default_rng(2)
    found = [bulk_fit(eigenvalues(rng.standard_normal((40, 60))), 40, 60) for _ in range(300)]
    assert np.mean([fit.num_spikes > 0 for fit in found]) <= 0.04
    assert np.mean([fit.is_random for fit in found]) >= 0.98


def test_a_spectrum_without_bulk_is_not_random():
    fit = bulk_fit(np.arange(1, 129) ** -2.0, 128, 256)
    assert not fit.is_random
    with pytest.raises(ValueError, match="at least 8 positive"):
        bulk_fit(np.zeros(20), 20, 20)


@pytest.mark.parametrize(
    ("rows", "cols", "edge99", "edge95"),
    [
        (256, 512, 2.9825617289, 2.9452160371),
        (4096, 4096, 4.0194279863, 4.0091508643),
        (4096, 11008, 2.6009863314, 2.5962917382),
    ],
)
def test_tracy_widom_edges(rows, cols, edge99, edge95):
    n = max(rows, cols)
    assert tw_edge(rows, cols) / n == pytest.approx(edge99, abs=1e-9)
    assert tw_edge(cols, rows, level=0.95) / n == pytest.approx(edge95, abs=1e-9)
    assert tw_edge(rows, cols, variance=3.0) == pytest.approx(3 * tw_edge(rows, cols))


def test_quantiles_are_those_of_the_determinant():
    for level, s in QUANTILES.items():
        assert tw1_cdf(s, nodes=80) == pytest.approx(level, abs=2e-7)


def test_largest_eigenvalue_exceeds_the_edge_as_often_as_it_should():
    rng = np.random.default_rng(0)
    largest = np.array([eigenvalues(rng.standard_normal((20, 50)))[0] for _ in range(3000)])
    assert np.mean(largest > tw_edge(20, 50, level=0.95)) == pytest.approx(0.05, abs=0.012)
    centre, scale = centre_and_scale(20, 50)
    assert np.mean((largest - centre) / scale) == pytest.approx(-1.2065, abs=0.1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_storage_floor_is_the_norm_of_the_rounding(dtype):
    torch = pytest.importorskip("torch")
    W = 0.02 * np.random.default_rng(0).standard_normal((256, 512))
    stored = torch.from_numpy(W).to(getattr(torch, dtype)).to(torch.float64).numpy()
    floor = storage_floor(float(np.linalg.norm(W)), 256, 512, dtype)
    assert np.linalg.norm(stored - W, 2) == pytest.approx(floor, rel=0.05)
    update = np.random.default_rng(1).standard_normal
    tuned = W + 0.003 * update((256, 4)) @ update((4, 512))
    tuned_stored = torch.from_numpy(tuned).to(getattr(torch, dtype)).to(torch.float64).numpy()
    fifth = np.linalg.svd(tuned_stored - stored, compute_uv=False)[4]
    both = storage_floor(float(np.linalg.norm(tuned)), 256, 512, dtype)
    assert fifth == pytest.approx(difference_floor(floor, both), rel=0.06)
    assert storage_floor(0.0, 0, 5, dtype) == 0.0
    assert UNIT_ROUNDOFF[dtype] == torch.finfo(getattr(torch, dtype)).eps / 2


def label(**changes):
    usual = {
        "numerical_rank": 100, "full_rank": 100, "bulk_is_random": False, "num_spikes": 3,
        "xi_lo": 0.1, "gof_p": 0.5,
    }  # fmt: skip
    return phase(**(usual | changes))


def test_phase_labels():
    assert label(numerical_rank=49) == "rank_collapse"
    assert label(bulk_is_random=True, num_spikes=0) == "random_like"
    assert label(bulk_is_random=True) == "bulk_spikes"
    assert label() == "heavy_tailed"
    assert label(gof_p=0.09) == "bulk_decay" and label(xi_lo=-0.1, gof_p=None) == "bulk_decay"
    assert label(xi_lo=None) is None and label(gof_p=None) is None
