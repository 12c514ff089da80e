"""The certificate against dense singular values: no interval may exclude the truth."""

from itertools import pairwise

import numpy as np
import pytest

from theory.ritz_certificate import certify, orthonormality_defect, ritz_certificate


def closed(m, n, a=1.0, b=0.37, c=0.0):
    i, j = np.arange(1, m + 1)[:, None], np.arange(1, n + 1)[None, :]
    return np.sin(a * i * np.sqrt(j) + b * j + c)


def random_matrix(rng):
    """Any shape, decay and rank from 1 to full, at a scale from 1e-20 to 1e15."""
    m, n = rng.integers(1, 41, 2)
    k = min(m, n)
    rank = int(rng.integers(1, k + 1))
    s = rng.uniform(0.1, 1, rank) * 10.0 ** (-rng.uniform(0, 12) * np.arange(rank) / rank)
    if rng.random() < 0.3:
        s[:] = 1.0  # no gap at all
    left = np.linalg.qr(rng.standard_normal((m, rank)))[0]
    G = (left * s) @ np.linalg.qr(rng.standard_normal((n, rank)))[0].T
    if rng.random() < 0.2 and m > rank:
        G[rng.integers(m)] = 0.0
    return G * 10.0 ** rng.uniform(-20, 15), rank


def random_basis(rng, G, rank, dtype=np.float64):
    """Random, randomised range finder or exact, of as many columns as the rank, fewer or more."""
    m, k = G.shape[0], min(G.shape)
    count = int(rng.choice([rng.integers(1, k + 1), min(rank, k), min(rank + 1, k)]))
    start = rng.standard_normal((m, count))
    kind = rng.integers(3)
    if kind == 1 and np.any(G):
        start = (G / np.max(np.abs(G))) @ rng.standard_normal((G.shape[1], count))
        start += 1e-12 * rng.standard_normal(start.shape)
    if kind == 2:
        start = np.linalg.svd(G)[0][:, :count]
    return np.linalg.qr(start.astype(dtype))[0]


def truth(G):
    G = np.asarray(G, dtype=np.float64)
    s = np.linalg.svd(G, compute_uv=False)
    scaled = (s / s[0]) ** 2
    return s, np.minimum(np.cumsum(scaled) / scaled.sum(), 1.0), scaled.sum()


def assert_contains(found, G):
    s, energy, stable_rank = truth(G)
    count = found.sigma_lo.size
    assert np.all(found.sigma_lo <= s[:count]) and np.all(s[:count] <= found.sigma_hi)
    assert np.all(s[count:] ** 2 <= found.residual_energy)
    assert np.all(found.energy_lo <= energy[:count]) and np.all(energy[:count] <= found.energy_hi)
    assert found.stable_rank_lo <= stable_rank * (1 + 1e-15)
    assert stable_rank * (1 - 1e-15) <= found.stable_rank_hi


def test_worked_case():
    G = closed(6, 8)
    Q = np.linalg.qr(G @ closed(8, 3, 0.7, 0.2))[0]
    ritz = np.linalg.svd(Q.T @ G, compute_uv=False)
    np.testing.assert_allclose(ritz, [2.61178138, 2.57200114, 2.09578515], atol=5.1e-9)
    found = certify(G, Q)
    assert found.residual_energy == pytest.approx(7.3628875, abs=1e-7)
    assert (found.energy_lo[1], found.energy_hi[1]) == pytest.approx(
        (0.533372, 0.825645), abs=5.1e-7
    )
    assert (found.stable_rank_lo, found.stable_rank_hi) == pytest.approx(
        (1.776035, 3.693052), abs=5.1e-7
    )
    np.testing.assert_allclose(found.sigma_lo, ritz, rtol=1e-12)
    # i s_i² ≤ ‖G‖² is tighter than ŝ_i² + ε for the second and third value
    fro = np.linalg.norm(G)
    np.testing.assert_allclose(
        found.sigma_hi[:2], [np.sqrt(ritz[0] ** 2 + 7.3628875), fro / np.sqrt(2)], rtol=1e-7
    )
    assert_contains(found, G)


def test_never_excludes_the_truth_in_float64():
    rng = np.random.default_rng(0)
    without_rounding = 0
    for _ in range(1500):
        G, rank = random_matrix(rng)
        Q = random_basis(rng, G, rank)
        assert_contains(certify(G, Q), G)
        ritz = np.linalg.svd(Q.T @ G, compute_uv=False)
        s = truth(G)[0][: ritz.size]
        epsilon = max(np.sum(G * G) - np.sum(ritz**2), 0.0)
        without_rounding += bool(np.any(s < ritz) or np.any(s**2 > ritz**2 + epsilon))
    assert without_rounding > 100  # the bare inequalities do fail as computed


@pytest.mark.parametrize("product", [np.float32, np.float64])
def test_never_excludes_the_truth_with_a_float32_basis(product):
    rng = np.random.default_rng(1)
    for _ in range(1500):
        G, rank = random_matrix(rng)
        G = (G / np.max(np.abs(G))).astype(np.float32)
        Q = random_basis(rng, G, rank, np.float32)
        B = (Q.astype(product).T @ G.astype(product)).astype(np.float64)
        total = float(np.sum(G.astype(np.float64) ** 2))
        measured = orthonormality_defect(Q) if product == np.float64 else None
        found = ritz_certificate(
            np.linalg.svd(B, compute_uv=False),
            total,
            total - float(np.sum(B * B)),
            rows=G.shape[0],
            cols=G.shape[1],
            unit_roundoff=2.0**-24 if product == np.float32 else 2.0**-53,
            defect=measured,
        )
        assert_contains(found, G)


def test_measured_defect_bounds_the_true_one_and_is_tight():
    rng = np.random.default_rng(2)
    for _ in range(50):
        Q = np.linalg.qr(rng.standard_normal((300, 12)))[0].astype(np.float32)
        exact = Q.astype(np.longdouble)
        defect = np.linalg.norm((exact.T @ exact - np.eye(12)).astype(np.float64), 2)
        assert defect <= orthonormality_defect(Q) < 12 * defect
        assert orthonormality_defect(Q) < 2 * 12**1.5 * 300 * 2.0**-24


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e15])
def test_tight_for_an_exact_basis_at_any_scale(scale):
    rng = np.random.default_rng(3)
    left, right = (np.linalg.qr(rng.standard_normal((d, 4)))[0] for d in (96, 256))
    G = scale * (left * [4, 2, 1, 0.5]) @ right.T
    found = certify(G, left)
    assert_contains(found, G)
    np.testing.assert_allclose(found.sigma_hi, found.sigma_lo, rtol=1e-9)
    assert found.stable_rank_hi - found.stable_rank_lo < 1e-10
    assert found.energy_lo[-1] > 1 - 1e-10 and found.energy_hi[-1] == 1.0
    assert found.residual_energy / scale**2 < 1e-10


def test_more_columns_never_widen_much_and_full_basis_is_exact():
    G = closed(12, 20)
    U = np.linalg.qr(np.random.default_rng(4).standard_normal((12, 12)))[0]
    widths = [
        (c := certify(G, U[:, :count])).stable_rank_hi - c.stable_rank_lo for count in range(1, 13)
    ]
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(widths))
    assert widths[-1] < 1e-10


def test_zero_gradient_and_bad_input():
    found = certify(np.zeros((3, 4)), np.eye(3)[:, :2])
    assert found.flag == "zero_gradient" and found.stable_rank_lo is None
    assert found.energy_lo is None and np.all(found.sigma_hi == 0)
    with pytest.raises(ValueError, match="may be 8"):
        certify(closed(4, 5), 3 * np.eye(4)[:, :1])
    with pytest.raises(ValueError, match="not orthonormal"):
        ritz_certificate([2.0], 3.0, -1.0, rows=4, cols=6)
    with pytest.raises(ValueError, match=r"1\.\.4 Ritz values, got 5"):
        ritz_certificate(np.ones(5), 5.0, 0.0, rows=4, cols=6)
    with pytest.raises(ValueError, match="finite"):
        ritz_certificate([1.0], np.inf, 0.0, rows=4, cols=6)
    with pytest.raises(ValueError, match="finite"):
        certify(np.full((2, 2), np.nan), np.eye(2))
    with pytest.raises(ValueError, match="does not fit"):
        certify(np.ones((3, 2)), np.eye(2))


def test_nothing_is_claimed_where_rounding_could_explain_everything():
    found = ritz_certificate([1.0], 2.0, 1.0, rows=10**6, cols=10**6, unit_roundoff=2.0**-8)
    assert (found.sigma_lo[0], found.energy_lo[0], found.energy_hi[0]) == (0.0, 0.0, 1.0)
    assert (found.stable_rank_lo, found.stable_rank_hi) == (1.0, 10**6)
