"""Intruder dimensions: worked reference cases and dense computations."""

import gc
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzer.analyses.critical import DenseUpdate, critical_multipliers
from analyzer.analyses.intruders import intruder_dimensions, judge, tuned_vectors
from analyzer.analyses.judging import intruder_rows, leading_vectors, thresholds
from analyzer.analyses.rows_intruders import IntruderRow
from analyzer.errors import ShapeMismatch, UsageError
from analyzer.spectral import BaseSVD, low_rank_svd

LADDER = np.diag(np.arange(10.0, 0, -1))


def unit(n: int, i: int) -> np.ndarray:
    """e_i, 1-based."""
    return np.eye(n)[i - 1]


def both_ways(W0, P, Q, **options):
    """The same question asked of the low-rank core and of the dense tuned matrix."""
    svd = BaseSVD.compute(W0)
    yield intruder_dimensions(svd, svd.update(P, Q), **options)
    yield intruder_dimensions(W0, W0 + P @ Q.T, **options)


def test_an_amplified_leading_vector_is_none() -> None:
    for found in both_ways(LADDER, 5 * unit(10, 3)[:, None], unit(10, 3)[:, None]):
        np.testing.assert_allclose(found.singular_values, [13, 10, 9, 7, 6, 5, 4, 3, 2, 1])
        np.testing.assert_allclose(found.maxcos, np.ones(10), atol=1e-12)
        assert found.n_intruders == 0
        assert found.argmax_base.tolist()[:4] == [3, 1, 2, 4]


def test_an_amplified_minor_vector_is_none() -> None:
    for found in both_ways(LADDER, 20 * unit(10, 9)[:, None], unit(10, 9)[:, None]):
        assert found.singular_values[0] == pytest.approx(22)
        assert (found.maxcos[0], found.argmax_base[0]) == (pytest.approx(1), 9)
        assert found.n_intruders == 0


def test_mass_outside_the_span_of_a_tall_base() -> None:
    W0 = np.zeros((8, 5))
    W0[:5] = np.diag([5.0, 4, 3, 2, 1])
    update = 7 * unit(8, 7)[:, None], unit(5, 2)[:, None]
    for found in both_ways(W0, *update, k=5):
        np.testing.assert_allclose(found.singular_values, [np.sqrt(65), 5, 3, 2, 1], atol=1e-12)
        assert found.maxcos[0] == pytest.approx(4 / np.sqrt(65), abs=1e-12)
        assert found.n_intruders == 1
        assert found.outside[0] == pytest.approx(49 / 65, abs=1e-12)
    for found in both_ways(W0, *update, k=5, epsilon=0.49):
        assert found.n_intruders == 0
    for found in both_ways(W0, *update, k=5, side="right"):
        np.testing.assert_allclose(found.maxcos, np.ones(5), atol=1e-12)


@pytest.mark.parametrize(
    ("strength", "counts"), [(2, (0, 0, 0, 1)), (5, (0, 0, 1, 6)), (10, (0, 1, 3, 7)),
                             (20, (0, 1, 2, 7))]
)  # fmt: skip
def test_spread_direction(strength: float, counts: tuple[int, ...]) -> None:
    W0, v = np.diag(np.arange(8.0, 0, -1)), np.full((8, 1), 8**-0.5)
    for epsilon, count in zip((0.3, 0.5, 0.7, 0.9), counts, strict=True):
        for found in both_ways(W0, strength * v, v, k=8, epsilon=epsilon):
            assert found.n_intruders == count
            assert found.n_uncertain == 0
            assert found.certified
    if strength == 10:
        for found in both_ways(W0, strength * v, v, k=8):
            assert found.singular_values[0] == pytest.approx(15.018504, abs=1e-6)
            np.testing.assert_allclose(
                found.maxcos,
                [0.490844, 0.822934, 0.6996, 0.694313, 0.755871, 0.810018, 0.863092, 0.927733],
                atol=1e-6,
            )


def test_repeated_base_values_have_no_robust_intruders() -> None:
    v = np.full((4, 1), 0.5)
    for found in both_ways(np.eye(4), 3 * v, v, k=4):
        np.testing.assert_allclose(found.singular_values, [4, 1, 1, 1], atol=1e-12)
        np.testing.assert_allclose(found.cluster_cos, np.ones(4), atol=1e-12)
        assert found.n_robust == 0
    assert BaseSVD.compute(np.eye(4)).update(3 * v, v).count_above(1 - 1e-9) == 4


@pytest.fixture(scope="module")
def waves() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """W0 (40, 30), P = scale·B, Q = Aᵀ of rank 3 with lora_alpha 1.2."""
    i, j = np.arange(1, 41)[:, None], np.arange(1, 31)[None, :]
    a = np.arange(1, 4)
    W0 = np.cos(0.37 * i * j + 0.11 * i**2) / (1 + 0.05 * i)
    B = np.sin(0.9 * i * a + 0.2 * a)
    A = np.cos(0.53 * j * (a[:, None] + 1))
    return W0, 0.4 * B, A.T


def test_wave_matrices_are_the_reference_ones(waves) -> None:
    W0, P, Q = waves
    delta = low_rank_svd(P, Q)
    assert (W0[0, 0], W0[39, 29]) == pytest.approx((0.844757069, -0.149339906), abs=1e-9)
    assert np.linalg.norm(W0) == pytest.approx(13.872796, abs=1e-6)
    assert (delta.fro_norm, delta.S[0]) == pytest.approx((11.964696, 7.389526), abs=1e-6)


def test_waves_left_and_right(waves) -> None:
    left = [0.338991, 0.441747, 0.350168, 0.940771, 0.876305,
            0.759691, 0.711407, 0.806756, 0.746332, 0.686411]  # fmt: skip
    right = [0.503354, 0.503193, 0.518985, 0.952876, 0.905582,
             0.784883, 0.680103, 0.832446, 0.803184, 0.553478]  # fmt: skip
    sigma = [8.260590, 7.636482, 5.939935, 4.792346, 4.607978,
             4.283175, 4.186539, 4.004349, 3.679197, 2.949249]  # fmt: skip
    for found in both_ways(*waves):
        np.testing.assert_allclose(found.singular_values, sigma, atol=1e-6)
        np.testing.assert_allclose(found.maxcos, left, atol=1e-6)
        assert found.argmax_base.tolist() == [14, 24, 11, 1, 2, 4, 3, 5, 6, 7]
        np.testing.assert_allclose(found.outside[:3], [0.102846, 0.137254, 0.243195], atol=1e-6)
        assert found.energy_share == pytest.approx(0.577618, abs=1e-6)
        assert found.top_intruder_rank == 1
    for found in both_ways(*waves, side="right"):
        np.testing.assert_allclose(found.maxcos, right, atol=1e-6)


@pytest.mark.parametrize(
    ("side", "epsilon", "count"),
    [("left", 0.3, 0), ("left", 0.4, 2), ("left", 0.5, 3), ("left", 0.7, 4), ("left", 0.9, 9),
     ("right", 0.3, 0), ("right", 0.5, 0), ("right", 0.7, 5), ("right", 0.9, 8)],
)  # fmt: skip
def test_waves_counts_by_epsilon(waves, side, epsilon, count) -> None:
    for found in both_ways(*waves, side=side, epsilon=epsilon):
        assert found.n_intruders == count


def test_waves_counts_by_k(waves) -> None:
    for k, count in zip((1, 2, 3, 10, 20, 30), (1, 2, 3, 3, 4, 5), strict=True):
        for found in both_ways(*waves, k=k):
            assert found.n_intruders == count


def test_waves_critical_multiplier(waves) -> None:
    W0, P, Q = waves
    svd = BaseSVD.compute(W0)
    update = svd.update(P, Q)
    for asked, width in ((update, 2e-6), (DenseUpdate(W0, W0 + P @ Q.T), 5e-4)):
        found = critical_multipliers(svd, asked, {"left": 0.3}, k=10, epsilon=0.5)
        assert found["left"].multiplier == pytest.approx(0.346717, abs=width)
    counts = [
        judge(svd, tuned_vectors(svd, update.scaled(s), 10), 0.5, "left").n_intruders
        for s in (0.25, 0.5, 0.75, 1, 1.25)
    ]
    assert counts == [0, 2, 2, 3, 3]


@pytest.mark.parametrize("side", ["left", "right"])
def test_critical_multiplier_against_a_fine_scan(waves, side) -> None:
    """No step of a scan 16 times as fine has an intruder below what both routes find."""
    W0, P, Q = waves
    svd = BaseSVD.compute(W0)
    U0, _, Vh0 = np.linalg.svd(W0, full_matrices=False)

    def has_intruder(s: float) -> bool:
        U, _, Vh = np.linalg.svd(W0 + s * P @ Q.T, full_matrices=False)
        cosines = np.abs(U0.T @ U) if side == "left" else np.abs(Vh0 @ Vh.T)
        return bool(np.any(cosines.max(axis=0)[:10] < 0.5))

    first = next(s for s in 2.0 ** np.arange(-4, 1, 1 / 64) if has_intruder(s))
    for update in (svd.update(P, Q), DenseUpdate(W0, W0 + P @ Q.T)):
        found = critical_multipliers(svd, update, {side: 0.3}, k=10, epsilon=0.5)[side]
        assert found.multiplier == pytest.approx(first, rel=0.011)


def test_an_intruder_at_one_bounds_the_critical_multiplier() -> None:
    """k = p: the law has no θ*, the search goes around s = 1."""
    W0, v = np.diag(np.arange(8.0, 0, -1)), np.full((8, 1), 8**-0.5)
    svd = BaseSVD.compute(W0)
    update, sigma = svd.update(10 * v, v), np.array([10.0])
    rows = [
        row
        for row in intruder_rows(
            1, svd, update, leading_vectors(svd, update, sigma, 8), sigma,
            thresholds(svd, 8, 0.5), k=8, epsilon=0.5,
        )
        if isinstance(row, IntruderRow)
    ]  # fmt: skip
    for row in rows:
        assert row.n_intruders == 1
        assert row.critical_multiplier is not None
        assert row.critical_multiplier < 1


def test_equal_matrices_have_no_intruders_whatever_the_basis() -> None:
    """An orthogonal base: every choice of singular vectors is as good as another."""
    W0 = np.linalg.qr(np.random.default_rng(4).standard_normal((64, 64)))[0]
    svd = BaseSVD.compute(W0)
    update, sigma = DenseUpdate(W0, W0.copy()), np.zeros(64)
    rows = list(
        intruder_rows(
            1, svd, update, leading_vectors(svd, update, sigma, 10), sigma,
            thresholds(svd, 10, 0.5), k=10, epsilon=0.5,
        )
    )  # fmt: skip
    for row in rows:
        if isinstance(row, IntruderRow):
            assert (row.n_intruders, row.status) == (0, "zero_delta")


def test_a_decision_that_depends_on_the_basis_of_a_cluster_is_uncertain() -> None:
    """Isolated cosine .47, a repeated pair .36/.36: the pair's rotation decides."""
    values = np.array([9.0, 5.0, 5.0, 3.0, 2.0, 1.0])
    u = np.array([0.47, 0.36, 0.36, 0.0, 0.0, 0.0])
    u[3:] = np.sqrt((1 - u @ u) / 3)
    rng = np.random.default_rng(0)
    raw = set()
    for _ in range(30):
        Q, V = (np.linalg.qr(rng.standard_normal((6, 6)))[0] for _ in range(2))
        base = (Q * values) @ V.T
        found = intruder_dimensions(base, base + 1e6 * np.outer(Q @ u, V[:, 5]), k=1)
        raw.add(found.n_intruders)
        assert (found.n_uncertain, found.n_robust) == (1, 0)
    assert raw == {0, 1}


def test_full_rank_perturbation(waves) -> None:
    W0 = waves[0]
    i, j = np.arange(1, 41)[:, None], np.arange(1, 31)[None, :]
    delta = 0.02 * np.sin(1.7 * i + 2.3 * j + 0.01 * i * j)
    assert np.linalg.norm(delta) == pytest.approx(0.490027, abs=1e-6)
    found = intruder_dimensions(W0, W0 + delta, epsilon=0.9)
    np.testing.assert_allclose(
        found.maxcos,
        [0.998529, 0.999122, 0.999166, 0.999076, 0.996388, 0.993643, 0.998837, 0.998139, 0.998766,
         0.999562],
        atol=1e-6,
    )  # fmt: skip
    assert found.n_intruders == 0


@given(st.integers(2, 25), st.integers(2, 25), st.integers(1, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_cosines_lie_within_their_bound(m: int, n: int, r: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    W0, P, Q = (rng.standard_normal(shape) for shape in ((m, n), (m, r), (n, r)))
    U0, _, Vh0 = np.linalg.svd(W0, full_matrices=False)
    U, s, Vh = np.linalg.svd(W0 + P @ Q.T, full_matrices=False)
    for side, want in (("left", np.abs(U0.T @ U)), ("right", np.abs(Vh0 @ Vh.T))):
        for found in both_ways(W0, P, Q, side=side):
            maxcos = want[:, : found.k].max(axis=0)
            defined = s[: found.k] > 1e-9 * s[0]
            # The dense reference itself is good to 1e-9 or so at small gaps.
            wrong = np.abs(found.maxcos - maxcos) > found.maxcos_err + 1e-8
            assert not np.any(wrong & defined)


def test_degenerate_inputs() -> None:
    zero = intruder_dimensions(LADDER, LADDER)
    assert zero.n_intruders == 0
    assert zero.k == 10
    assert intruder_dimensions(LADDER, np.zeros((10, 10))).n_intruders == 0
    assert intruder_dimensions(LADDER, LADDER, k=99).k == 10
    rank_one = np.outer(unit(10, 1), unit(10, 1))
    assert intruder_dimensions(LADDER, rank_one, k=5).n_intruders == 0
    for k, epsilon in ((0, 0.5), (3, 0.0), (3, 1.5)):
        with pytest.raises(UsageError):
            intruder_dimensions(LADDER, LADDER, k=k, epsilon=epsilon)
    with pytest.raises(UsageError, match="middle"):
        intruder_dimensions(LADDER, LADDER, side="middle")  # type: ignore[arg-type]
    with pytest.raises(ShapeMismatch):
        intruder_dimensions(LADDER, np.ones((3, 10)))


def test_the_search_for_a_multiplier_keeps_no_matrix_alive(waves) -> None:
    """Without the cycle collector, which may come late, a base would stay beside the next one."""
    W0, P, Q = waves
    svd = BaseSVD.compute(W0)
    tuned = torch.from_numpy(W0 + P @ Q.T)
    alive = weakref.ref(tuned)
    update = DenseUpdate(W0, tuned)
    gc.collect()
    gc.disable()
    try:
        critical_multipliers(svd, update, {"left": 0.3}, k=10, epsilon=0.5)
        del update, tuned
        assert alive() is None
    finally:
        gc.enable()
