"""Noise estimates on planted signals whose truth is known."""

import numpy as np
import pytest

from theory.gradient_noise import (
    DisattenuatedCosine,
    Estimate,
    batch_dots,
    cross_validated_energy,
    disattenuated_cosine,
    signal_fraction,
)
from theory.spectral_summaries import summarise
from theory.welore import energy_kept

ROWS, COLS, NOISE = 96, 256, 0.05
S = np.sqrt([16.0, 8.0, 4.0, 2.0])  # stable rank 30/16 = 1.875


def planted(rng, s=S):
    left, right = (np.linalg.qr(rng.standard_normal((d, s.size)))[0] for d in (ROWS, COLS))
    return (left * s) @ right.T


def noisy(rng, signal, noise=NOISE):
    return signal + noise * rng.standard_normal(signal.shape)


def three_batches(rng, signal, side="left", rank=4, noise=NOISE):
    A, B, C = (noisy(rng, signal, noise) for _ in range(3))
    U, _, Vt = np.linalg.svd(A, full_matrices=False)
    return batch_dots(U[:, :rank] if side == "left" else Vt[:rank].T, B, C, side)


def energy_of(draws):
    return cross_validated_energy([d.captured for d in draws], [d.total for d in draws])


def test_planted_rank_four_signal():
    """In sample 0.37 of the energy and stable rank 5.5; the truth is 1 and 1.875."""
    rng = np.random.default_rng(0)
    signal = planted(rng)
    spectra = [np.linalg.svd(noisy(rng, signal), compute_uv=False) for _ in range(8)]
    assert np.mean([energy_kept(s, 4) for s in spectra]) == pytest.approx(0.37, abs=0.01)
    assert np.mean([summarise(s).stable_rank for s in spectra]) == pytest.approx(5.5, abs=0.15)
    draws = [three_batches(rng, signal) for _ in range(12)]
    found = energy_of(draws)
    assert found.value == pytest.approx(0.96, abs=0.01)
    assert found.n == 12 and 0 < found.stderr < 0.01


@pytest.mark.parametrize("side", ["left", "right"])
def test_estimates_the_share_that_the_subspace_really_holds(side):
    rng = np.random.default_rng(1)
    signal = planted(rng, np.sqrt([3.0, 2.0, 1.0, 0.5]))
    A = noisy(rng, signal)
    U, _, Vt = np.linalg.svd(A, full_matrices=False)
    P = U[:, :3] if side == "left" else Vt[:3].T
    projected = P.T @ signal if side == "left" else signal @ P
    truth = np.sum(projected**2) / np.sum(signal**2)
    draws = [batch_dots(P, noisy(rng, signal), noisy(rng, signal), side) for _ in range(200)]
    found = energy_of(draws)
    assert abs(found.value - truth) < 3 * found.stderr and found.stderr < 0.01
    assert truth < 0.95


def test_standard_error_is_that_of_repeated_studies():
    rng = np.random.default_rng(2)
    signal = planted(rng, np.array([1.0, 0.5]))
    P = np.linalg.svd(noisy(rng, signal))[0][:, :2]
    studies = [
        energy_of(
            [batch_dots(P, noisy(rng, signal), noisy(rng, signal), "left") for _ in range(20)]
        )
        for _ in range(80)
    ]
    spread = np.std([study.value for study in studies], ddof=1)
    assert np.mean([study.stderr for study in studies]) == pytest.approx(spread, rel=0.25)


def test_signal_fraction():
    rng = np.random.default_rng(3)
    signal = planted(rng)
    truth = 30 / (30 + ROWS * COLS * NOISE**2)
    draws = [three_batches(rng, signal) for _ in range(20)]
    columns = zip(*((d.total, d.norm_b, d.norm_c) for d in draws), strict=True)
    found = signal_fraction(*map(list, columns))
    assert found.value == pytest.approx(truth, abs=4 * found.stderr) and found.stderr < 0.005
    one = signal_fraction(draws[0].total, draws[0].norm_b, draws[0].norm_c)
    assert one.stderr is None and one.value == pytest.approx(truth, abs=0.03)


@pytest.mark.parametrize("scale", [1e-20, 1e-90, 1e15])
def test_ratios_are_free_of_scale(scale):
    rng = np.random.default_rng(4)
    A, B, C = (noisy(rng, planted(np.random.default_rng(5))) for _ in range(3))
    P = np.linalg.svd(A)[0][:, :4]
    plain, scaled = batch_dots(P, B, C, "left"), batch_dots(P, scale * B, scale * C, "left")
    expected = cross_validated_energy(plain.captured, plain.total).value
    assert cross_validated_energy(scaled.captured, scaled.total).value == pytest.approx(expected)
    assert scaled.norm_b == pytest.approx(scale * np.linalg.norm(B))
    assert plain.captured == pytest.approx(np.trace(P.T @ B @ C.T @ P))
    assert plain.total == pytest.approx(np.trace(B @ C.T))


def test_disattenuation_recovers_the_cosine_of_the_signals():
    rng = np.random.default_rng(6)
    first = planted(rng)
    second = first + 0.7 * planted(rng)
    truth = np.sum(first * second) / np.linalg.norm(first) / np.linalg.norm(second)

    def cosine(x, y):
        return float(np.sum(x * y) / np.linalg.norm(x) / np.linalg.norm(y))

    def fraction(mean):
        return cosine(noisy(rng, mean), noisy(rng, mean))

    found = [
        disattenuated_cosine(
            cosine(noisy(rng, first), noisy(rng, second)), fraction(first), fraction(second)
        ).value
        for _ in range(30)
    ]
    assert np.mean(found) == pytest.approx(truth, abs=0.01)
    assert cosine(noisy(rng, first), noisy(rng, second)) < 0.5 * truth


def test_nothing_is_said_about_noise():
    noise = DisattenuatedCosine(None, "noise_dominated")
    assert disattenuated_cosine(0.05, 0.1, 0.9) == noise
    assert disattenuated_cosine(0.05, 0.9, -0.2) == noise
    assert disattenuated_cosine(0.05, float("nan"), 0.9) == noise
    assert disattenuated_cosine(0.1, 0.25, 0.64).value == pytest.approx(0.25)
    assert cross_validated_energy([1.0, 2.0], [-3.0, 1.0]) == Estimate(
        None, None, 2, "noise_dominated"
    )
    zero = np.zeros((3, 4))
    dots = batch_dots(np.eye(3)[:, :1], zero, zero, "left")
    gone = Estimate(None, None, 1, "zero_gradient")
    assert signal_fraction(dots.total, dots.norm_b, dots.norm_c) == gone
    assert cross_validated_energy(dots.captured, dots.total) == gone


def test_bad_input():
    G = np.ones((3, 4))
    for arguments, match in [
        ((np.eye(3), G, G.T, "left"), "one shape"),
        ((np.eye(3), G, G, "right"), r"\(4, r\), got \(3, 3\)"),
        ((np.eye(3), G * np.nan, G, "left"), "finite"),
    ]:
        with pytest.raises(ValueError, match=match):
            batch_dots(*arguments)
    with pytest.raises(ValueError, match="2 numerators for 1"):
        cross_validated_energy([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="a draw"):
        cross_validated_energy([], [])
