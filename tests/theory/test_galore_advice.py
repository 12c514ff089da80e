"""Advice from measured curves, and measured curves from gradients with planted causes."""

import numpy as np
import pytest

from theory.galore_advice import (
    energy_by_rank,
    largest_gap,
    smallest_rank,
    staleness,
    subspace_motion,
    worth_projecting,
)
from theory.gradient_noise import batch_dots, cross_validated_energy
from theory.subspaces import overlap
from theory.welore import energy_kept

ROWS, COLS, RANK = 40, 60, 4


def leading(G, rank=RANK):
    return np.linalg.svd(G)[0][:, :rank]


@pytest.mark.parametrize("scale", [1e-20, 1e-170, 1.0, 1e15])
def test_energy_by_rank_in_sample_is_that_of_the_spectrum(scale):
    G = np.random.default_rng(0).standard_normal((6, 9))
    U, s, Vt = np.linalg.svd(G)
    expected = [energy_kept(s, r) for r in range(1, 7)]
    np.testing.assert_allclose(energy_by_rank(U, scale * G, "left"), expected)
    np.testing.assert_allclose(energy_by_rank(Vt[:6].T, scale * G, "right"), expected)
    other = np.random.default_rng(1).standard_normal((6, 9))
    found = energy_by_rank(U, other, "left")
    assert found[2] == pytest.approx(np.sum((U[:, :3].T @ other) ** 2) / np.sum(other**2))
    assert np.all(np.diff(found) >= 0) and found[-1] == pytest.approx(1.0)


def test_energy_of_nothing_and_of_a_mismatch():
    assert energy_by_rank(np.eye(3), np.zeros((3, 4)), "left") is None
    with pytest.raises(ValueError, match=r"right basis of shape \(3, 3\) does not fit \(3, 4\)"):
        energy_by_rank(np.eye(3), np.ones((3, 4)), "right")
    with pytest.raises(ValueError, match="finite"):
        energy_by_rank(np.eye(3), np.full((3, 4), np.inf), "left")


def test_smallest_rank():
    energies = {16: 0.91, 4: 0.5, 8: 0.9, 64: None, 2: 0.3}
    found = smallest_rank(energies)
    assert found.value == 8 and found.reason is None
    assert found.rests_on == ("out-of-sample energy at ranks 2, 4, 8, 16: 0.9 at rank 8, asked 0.9")
    never = smallest_rank(energies, 0.95)
    assert (never.value, never.reason) == (None, "not_reached")
    assert "at most 0.91, at rank 16" in never.rests_on
    assert "overstates" in smallest_rank(energies, sample="in_sample").rests_on
    assert smallest_rank({4: None}).reason == "zero_gradient"
    assert "ranks 1 … 9 (9 of them)" in smallest_rank({r: r / 10 for r in range(1, 10)}).rests_on
    with pytest.raises(ValueError, match="q must"):
        smallest_rank(energies, 1.5)


def test_published_small_run():
    """Captured 0.93 fresh, 0.72 at lag 1, 0.67 at lag 100; overlap 0.63 and 0.60."""
    curve = {0: 0.93, 1: 0.72, 10: 0.71, 100: 0.67}
    found = staleness(curve)
    assert (found.fresh, found.first, found.last, found.last_lag) == (0.93, 0.72, 0.67, 100)
    assert found.sampling_loss == pytest.approx(0.21) and found.drift_loss == pytest.approx(0.05)
    assert found.rests_on == "captured energy at lags 0, 1, 10, 100"
    motion = subspace_motion(0.63, 0.60, 100)
    assert motion.verdict == "sampling_noise"
    assert motion.drift_share == pytest.approx(0.03 / 0.40)
    # 0.67 is 6.9 % below 0.72
    gap = largest_gap(curve)
    assert (gap.value, gap.is_limit) == (10, False) and "0.67 at lag 100" in gap.rests_on
    open_ended = largest_gap(curve, tolerance=0.07)
    assert (open_ended.value, open_ended.is_limit) == (100, True)


def test_gap_stops_at_the_first_loss():
    assert largest_gap({1: 0.8, 5: 0.7, 10: 0.8}).value == 1
    assert largest_gap({1: 0.8, 5: 0.76, 10: 0.1}).value == 5  # exactly 5 %
    assert largest_gap({0: 0.9, 10: 0.8}).reason == "lag_one_missing"
    assert largest_gap({}).reason == "lag_one_missing"
    assert largest_gap({0: 0.9, 1: 0.8}).reason == "no_later_lag"
    assert largest_gap({1: None, 2: None}).reason == "zero_gradient"
    with pytest.raises(ValueError, match="tolerance"):
        largest_gap({1: 0.8}, 1.0)


def test_staleness_without_lags():
    found = staleness({0: 0.9})
    assert found.sampling_loss is None and found.drift_loss is None and found.last_lag is None
    assert staleness({}).rests_on == "captured energy at no lag"


def run(rng, noise, turn, steps=101):
    """Rank-4 gradients whose left subspace turns by `turn` radians a step, with batch noise."""
    basis = np.linalg.qr(rng.standard_normal((ROWS, 2 * RANK)))[0]
    core = 10 * np.linalg.qr(rng.standard_normal((COLS, RANK)))[0].T
    for t in range(steps):
        left = np.cos(turn * t) * basis[:, :RANK] + np.sin(turn * t) * basis[:, RANK:]
        yield left @ core + noise * rng.standard_normal((ROWS, COLS))


@pytest.mark.parametrize(
    ("noise", "turn", "verdict"),
    [(0.01, 0.0, "stable"), (0.9, 0.0, "sampling_noise"), (0.01, 0.01, "drift"),
     (0.7, 0.008, "both")],
)  # fmt: skip
def test_planted_causes_are_told_apart(noise, turn, verdict):
    bases = [leading(G) for G in run(np.random.default_rng(2), noise, turn)]
    first = float(np.mean([overlap(bases[t], bases[t + 1]) for t in range(100)]))
    late = overlap(bases[0], bases[100])
    assert subspace_motion(first, late, 100).verdict == verdict


def test_drift_bounds_the_gap_and_noise_does_not():
    turning = list(run(np.random.default_rng(3), 0.05, 0.01))
    still = list(run(np.random.default_rng(3), 0.6, 0.0))
    lags = (0, 1, 5, 10, 20, 40, 80)

    def curve(gradients):
        basis = leading(gradients[0])
        return {lag: float(energy_by_rank(basis, gradients[lag], "left")[-1]) for lag in lags}

    gap = largest_gap(curve(turning))
    assert gap.value == 20 and not gap.is_limit  # cos²(0.2) = 0.96, cos²(0.4) = 0.85
    assert largest_gap(curve(still)).is_limit
    assert staleness(curve(still)).sampling_loss > 0.05
    assert abs(staleness(curve(turning)).sampling_loss) < 0.01


def test_in_sample_energy_misleads_where_cross_validation_does_not():
    rng = np.random.default_rng(4)
    A, B, C = list(run(rng, 0.9, 0.0, steps=3))
    fitted = leading(A, 8)
    inside, outside = energy_by_rank(fitted, A, "left"), energy_by_rank(fitted, B, "left")
    assert np.all(inside > outside)
    dots = batch_dots(fitted, B, C, "left")
    assert cross_validated_energy(dots.captured, dots.total).value > outside[-1]


def test_motion_edges():
    assert subspace_motion(None, 0.5, 10).verdict is None
    assert subspace_motion(0.5, 0.6, 10).drift_share == 0.0
    assert subspace_motion(1.0, 1.0, 10).verdict == "stable"
    with pytest.raises(ValueError, match="at least 2"):
        subspace_motion(0.5, 0.5, 1)
    with pytest.raises(ValueError, match=r"got 1\.2"):
        subspace_motion(1.2, 0.5, 10)


def test_worth():
    good = worth_projecting(1024, 4096, 4096, 0.95)
    assert good.verdict is True and "2048" in good.rests_on
    assert worth_projecting(2048, 4096, 4096, 0.95).verdict is False  # breaks even, saves nothing
    assert worth_projecting(2984, 4096, 11008, 0.95).saves_parameters  # 2985.2 is the limit
    assert not worth_projecting(2986, 4096, 11008, 0.95).saves_parameters
    poor = worth_projecting(1024, 4096, 4096, 0.5)
    assert (poor.verdict, poor.holds_energy) == (False, False) and "0.5" in poor.rests_on
    assert worth_projecting(1024, 4096, 4096, None).verdict is None
    assert worth_projecting(2048, 4096, 4096, None).verdict is False
    with pytest.raises(ValueError, match=r"1\.\.3, got 4"):
        worth_projecting(4, 3, 5, 0.9)
