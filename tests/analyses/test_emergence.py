"""`gradient_emergence` on worked examples, on noise of known size, and on bad input."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from analyzer.analyses.emergence import gradient_emergence
from analyzer.analyses.emergence_rows import Place, emergence_rows
from analyzer.analyses.rows_emergence import EmergenceRow, GradCosineRow, GradSpectrumRow
from analyzer.errors import ShapeMismatch, UsageError


def closed(m: int, n: int, a: float = 1.0, b: float = 0.37, c: float = 0.0) -> np.ndarray:
    i, j = np.arange(m)[:, None], np.arange(n)[None, :]
    return np.sin(a * (i + 1) * np.sqrt(j + 1) + b * (j + 1) + c)


@pytest.fixture(scope="module")
def turning() -> list[np.ndarray]:
    """Four gradients that turn slowly."""
    return [closed(6, 8, c=0.3 * t) for t in range(4)]


def test_spectrum_of_a_closed_form() -> None:
    found = gradient_emergence([closed(6, 8)], rank=3)
    s = [2.6377563, 2.59546516, 2.32199712, 2.0026864, 1.41573562, 0.30144021]
    np.testing.assert_allclose(found.series.observations[0].sigma, s, atol=5e-8)
    (one,) = found.metrics
    assert one.stable_rank == pytest.approx(3.62067689, abs=5e-9)
    assert one.effective_rank == pytest.approx(5.29993799, abs=5e-9)
    assert one.participation_ratio == pytest.approx(4.43882393, abs=5e-9)
    assert one.energy_r == pytest.approx(0.75762242, abs=5e-9)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_cosines_overlaps_and_angles(turning: list[np.ndarray], dtype) -> None:
    found = gradient_emergence([G.astype(dtype) for G in turning], rank=2)
    printed = 5.1e-9 if dtype == np.float64 else 2e-6
    C = found.series.cosines
    assert C is not None and C.steps == (0, 1, 2, 3)
    want = {
        (0, 1): 0.95853587, (0, 2): 0.8322434, (0, 3): 0.62397361,
        (1, 2): 0.95572655, (1, 3): 0.82079107, (2, 3): 0.9525394,
    }  # fmt: skip
    for pair, value in want.items():
        assert C.values[pair] == pytest.approx(value, abs=max(printed, 5e-8))
    phi = {(p.step_a, p.step_b): p.overlap for p in found.overlaps}
    consecutive = [phi[0, 1], phi[1, 2], phi[2, 3]]
    np.testing.assert_allclose(consecutive, [0.97294099, 0.94671715, 0.97440247], atol=printed)
    np.testing.assert_allclose(
        [phi[0, 2], phi[0, 3]], [0.86356074, 0.77332434], atol=printed
    )  # fmt: skip
    (first,) = [p for p in found.overlaps if (p.step_a, p.step_b) == (0, 1)]
    assert np.degrees(first.theta_max) == pytest.approx(13.15659869, abs=100 * printed)
    cosines = np.cos(np.radians([2.75495843, 13.15659869]))
    assert first.overlap == pytest.approx(np.mean(cosines**2), abs=printed)
    assert found.overlap_adjacent == pytest.approx(np.mean(consecutive))
    assert found.overlap_late == pytest.approx(phi[2, 3])
    assert found.saturation.cos_adjacent == pytest.approx(
        np.mean([want[0, 1], want[1, 2], want[2, 3]]), abs=5e-8
    )
    assert found.saturation.cos_late == pytest.approx(want[2, 3], abs=5e-8)
    assert found.saturation.cos_all == pytest.approx(np.mean(list(want.values())), abs=5e-8)
    assert found.saturation.saturation_step == 0


def test_the_right_side_is_the_left_of_the_transpose(turning: list[np.ndarray]) -> None:
    left = gradient_emergence(turning, rank=2)
    right = gradient_emergence([G.T for G in turning], rank=2)
    assert right.series.observations[0].side == "right"
    for a, b in zip(left.overlaps, right.overlaps, strict=True):
        assert a.overlap == pytest.approx(b.overlap, abs=1e-12)


def draws(seed: int) -> tuple[list[np.ndarray], list[tuple[np.ndarray, np.ndarray]]]:
    """Twelve steps of one rank-4 signal (96, 256), three batches each, noise of sd 0.05."""
    rng = np.random.default_rng(seed)
    U = np.linalg.qr(rng.standard_normal((96, 4)))[0]
    V = np.linalg.qr(rng.standard_normal((256, 4)))[0]
    mean = U @ np.diag([4.0, 3.0, 2.0, 1.0]) @ V.T
    batches = [[mean + 0.05 * rng.standard_normal(mean.shape) for _ in range(3)] for _ in range(12)]
    return [b[0] for b in batches], [(b[1], b[2]) for b in batches]


@pytest.mark.parametrize("seed", range(3))
def test_the_noise_ceiling_tells_signal_from_noise(seed: int) -> None:
    """Σσ² = 30 of the signal, 61 of the noise; stable rank of the signal 30/16 = 1.875."""
    own, others = draws(seed)
    found = gradient_emergence(own, independent=others, rank=4)
    assert found.ceiling is not None
    late = found.metrics[6:]
    assert np.mean([m.energy_r for m in late]) == pytest.approx(0.37, abs=0.03)
    assert np.mean([m.stable_rank for m in late]) == pytest.approx(5.5, abs=0.4)
    assert found.ceiling.energy_in == pytest.approx(0.37, abs=0.03)
    energy, fraction = found.ceiling.energy_cv, found.ceiling.signal_fraction
    assert energy.value == pytest.approx(0.96, abs=0.03)
    assert energy.stderr is not None and abs(energy.value - 0.96) < 5 * energy.stderr + 0.01
    assert fraction.value == pytest.approx(30 / (30 + 0.05**2 * 96 * 256), abs=0.02)
    assert found.ceiling.energy_out is not None
    # Of another batch the subspace holds its signal, and of its noise the share 4/96.
    want = (0.96 * 30 + 61.4 * 4 / 96) / 91.4
    assert found.ceiling.energy_out == pytest.approx(want, abs=0.02)
    assert found.advice_rank.value is None and found.advice_rank.reason == "not_reached"
    assert "out-of-sample" in found.advice_rank.rests_on


def test_noise_by_its_definition_on_both_sides() -> None:
    rng = np.random.default_rng(1)
    for shape in ((6, 9), (9, 6)):
        mean = rng.standard_normal(shape)
        A, B, C = (mean + 0.3 * rng.standard_normal(shape) for _ in range(3))
        found = gradient_emergence([A], independent=[(B, C)], rank=3)
        U, s, Vh = np.linalg.svd(A)
        P = U[:, :3] @ U[:, :3].T if shape == (6, 9) else Vh[:3].T @ Vh[:3]
        PB, PC = (P @ B, P @ C) if shape == (6, 9) else (B @ P, C @ P)
        assert found.ceiling is not None
        assert found.ceiling.signal_fraction.value == pytest.approx(
            np.sum(B * C) / np.linalg.norm(B) / np.linalg.norm(C)
        )
        assert found.ceiling.energy_cv.value == pytest.approx(np.sum(PB * PC) / np.sum(B * C))
        assert found.ceiling.energy_out == pytest.approx(np.sum(PB**2) / np.sum(B**2))
        assert found.ceiling.energy_in == pytest.approx(np.sum(s[:3] ** 2) / np.sum(s**2))


def test_gaps_and_what_they_do_not_touch(turning: list[np.ndarray]) -> None:
    bad = turning[1].copy()
    bad[0, 0], bad[2, 3] = np.nan, np.inf
    found = gradient_emergence([turning[0], bad, np.zeros((6, 8)), turning[3]], rank=2)
    flags = [o.flags for o in found.series.observations]
    assert flags == [(), ("non_finite: 1 NaN, 1 infinite",), ("zero_gradient",), ()]
    assert [m.stable_rank is None for m in found.metrics] == [False, True, True, False]
    assert [m.fro for m in found.metrics][1:3] == [None, 0.0]
    assert [(p.step_a, p.step_b) for p in found.overlaps] == [(0, 3)]
    assert found.saturation.cos_all == pytest.approx(0.62397361, abs=5e-8)
    assert found.series.cosines is not None and found.series.cosines.steps == (0, 2, 3)
    rows = list(emergence_rows(Place("run", 1, "w", "other", None, {}), found))
    for row in rows:
        values = [getattr(row, name) for name in row.__slots__]
        assert not any(isinstance(v, float) and not np.isfinite(v) for v in values)
    (summary,) = [row for row in rows if isinstance(row, EmergenceRow)]
    assert summary.flags == "no finite non-zero matrix at steps 1, 2" and summary.n_steps == 2
    cosines = {(r.step_a, r.step_b): r.cosine for r in rows if isinstance(r, GradCosineRow)}
    assert cosines[0, 2] is None and cosines[0, 3] == pytest.approx(0.62397361, abs=5e-8)


def test_nothing_finite_at_all() -> None:
    nothing = [np.full((3, 4), np.nan), np.zeros((3, 4))]
    for gradients in (nothing, nothing[:1], nothing[1:]):
        found = gradient_emergence(gradients, independent=[(g, g) for g in gradients])
        assert found.measured == () and found.overlaps == () and found.ceiling is None
        assert found.saturation.cos_all is None and found.advice_rank.value is None
        assert list(emergence_rows(Place("run", 1, "w", "other", None, {}), found))


def test_an_independent_batch_that_is_not_finite_is_left_out(turning: list[np.ndarray]) -> None:
    bad = np.full((6, 8), np.inf)
    others = [(turning[1], turning[2]), (turning[0], bad)]
    found = gradient_emergence(turning[:2], independent=others, rank=2)
    assert [n.step for n in found.series.noise] == [0]
    assert found.series.flags == ("an independent batch of step 1 is not finite",)


def test_one_gradient_has_a_spectrum_only(turning: list[np.ndarray]) -> None:
    found = gradient_emergence(turning[:1], rank=2)
    assert found.overlaps == () and found.overlap_adjacent is None
    assert (found.saturation.cos_all, found.saturation.saturation_step) == (None, None)
    rows = list(emergence_rows(Place("run", 1, "w", "other", None, {}), found))
    assert not any(isinstance(row, GradCosineRow) for row in rows)
    assert rows[-1].flags == "one step: no maps and overlaps"  # type: ignore[union-attr]


def test_the_rank_is_bounded_by_the_matrix(turning: list[np.ndarray]) -> None:
    assert gradient_emergence(turning).rank == 6
    whole = gradient_emergence(turning, rank=6)
    assert all(m.energy_r == pytest.approx(1.0) for m in whole.metrics)
    assert all(p.overlap == pytest.approx(1.0) and p.corrected is None for p in whole.overlaps)
    for rank in (0, 7):
        with pytest.raises(UsageError, match=rf"1\.\.6 .* got {rank}"):
            gradient_emergence(turning, rank=rank)


def test_steps_in_any_order(turning: list[np.ndarray]) -> None:
    order = [2, 0, 3, 1]
    steps = [10 * t for t in range(4)]
    want = gradient_emergence(turning, steps=steps, rank=2)
    others = [(G, G) for G in turning]
    found = gradient_emergence(
        [turning[t] for t in order], steps=[steps[t] for t in order], rank=2,
        independent=[others[t] for t in order],
    )  # fmt: skip
    assert found.overlaps == want.overlaps and found.saturation == want.saturation
    assert [n.step for n in found.series.noise] == steps
    assert found.series.flags == ("steps were not ascending: sorted",) and not want.series.flags


@pytest.mark.parametrize(
    ("steps", "why"),
    [([0, 1, 1, 2], "a step may be given once"), ([0, 1], "2 steps for 4 gradients")],
)
def test_steps_that_make_no_sense(turning, steps: list[int], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        gradient_emergence(turning, steps=steps)


def test_shapes_that_do_not_fit(turning: list[np.ndarray]) -> None:
    with pytest.raises(ShapeMismatch, match=r"one shape .*\(6, 8\), \(8, 6\)"):
        gradient_emergence([turning[0], turning[1].T])
    with pytest.raises(ShapeMismatch, match="one shape"):
        gradient_emergence(turning[:1], independent=[(turning[0], turning[1][:5])])
    with pytest.raises(ShapeMismatch, match=r"shape \(m, n\)"):
        gradient_emergence([np.ones(5)])
    with pytest.raises(UsageError, match="at least one gradient"):
        gradient_emergence([])
    with pytest.raises(UsageError, match="1 pairs of batches for 2"):
        gradient_emergence(turning[:2], independent=[(turning[0], turning[1])])


@pytest.mark.parametrize("scale", [1e-20, 1e15])
def test_scale_does_not_matter(turning: list[np.ndarray], scale: float) -> None:
    plain = [G.astype(np.float32) for G in turning]
    one = gradient_emergence(plain, rank=2, independent=[(G, G) for G in plain])
    scaled = [(scale * G).astype(np.float32) for G in turning]
    other = gradient_emergence(scaled, rank=2, independent=[(G, G) for G in scaled])
    for a, b in zip(one.metrics, other.metrics, strict=True):
        for name in ("stable_rank", "effective_rank", "energy_r", "participation_ratio"):
            assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-6)
    assert one.series.cosines is not None and other.series.cosines is not None
    np.testing.assert_allclose(one.series.cosines.values, other.series.cosines.values, atol=1e-6)
    assert one.ceiling is not None and other.ceiling is not None
    assert other.ceiling.signal_fraction.value == pytest.approx(1.0, abs=1e-12)
    assert other.ceiling.energy_cv.value == pytest.approx(one.ceiling.energy_cv.value, rel=1e-6)
    assert other.ceiling.energy_out == pytest.approx(one.ceiling.energy_out, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_tensors_of_half_precision_are_read_and_flagged(dtype: torch.dtype) -> None:
    """Rounding moves the effective rank of a rank-8 matrix, and not its stable rank."""
    rng = np.random.default_rng(2)
    low = rng.standard_normal((64, 8)) * 0.5 ** np.arange(8) @ rng.standard_normal((8, 96))
    stored = [torch.from_numpy(low * (1 + t)).to(dtype).requires_grad_() for t in range(2)]
    found = gradient_emergence(stored, independent=[(stored[0], stored[1])] * 2)
    exact = gradient_emergence([low]).metrics[0]
    half = dtype != torch.float32
    for observation, numbers in zip(found.series.observations, found.metrics, strict=True):
        assert observation.warnings == (("rounded_tail",) if half else ())
        assert numbers.stable_rank == pytest.approx(exact.stable_rank, rel=1e-3)
        assert numbers.effective_rank is not None and exact.effective_rank is not None
        assert (numbers.effective_rank > 1.01 * exact.effective_rank) == (dtype == torch.bfloat16)
    rows = emergence_rows(Place("run", 1, "w", "other", None, {}), found)
    flags = {row.flags for row in rows if isinstance(row, GradSpectrumRow)}
    assert flags == ({"rounded_tail"} if half else {""})


def test_sources_other_than_gradients_give_no_advice(turning: list[np.ndarray]) -> None:
    found = gradient_emergence(turning, source="exp_avg", rank=2)
    assert (found.advice_rank.value, found.advice_gap.value, found.motion.verdict) == (None,) * 3
    assert found.worth is None and "gradients" in found.advice_rank.rests_on
    own = gradient_emergence(turning, rank=2)
    squares = np.array([np.linalg.svd(G, compute_uv=False) ** 2 for G in turning[2:]])
    shares = np.mean(np.cumsum(squares, axis=1) / squares.sum(axis=1, keepdims=True), axis=0)
    assert own.advice_rank.value == int(np.argmax(shares >= 0.9)) + 1
    assert "no independent batches" in own.advice_rank.rests_on


def test_late_means_are_of_the_second_half(turning: list[np.ndarray]) -> None:
    G = [closed(6, 8, c=0.5 * t) for t in range(7)]
    found = gradient_emergence(G, rank=2)
    units = np.array([g.ravel() / np.linalg.norm(g) for g in G])
    C = units @ units.T
    late = list(itertools.combinations(range(3, 7), 2))
    assert found.saturation.cos_late == pytest.approx(np.mean([C[p] for p in late]))
    after = [np.mean(C[t, t + 1 :]) for t in range(6)]
    assert found.saturation.saturation_step == int(np.argmax(np.array(after) >= 0.5))
    phi = {(p.step_a, p.step_b): p.overlap for p in found.overlaps}
    assert found.overlap_late == pytest.approx(np.mean([phi[p] for p in late]))
