"""Coordinates, encoding, losses and sizes of the implicit network against printed values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.implicit_weights import (
    enough_frequencies,
    fan_in,
    kernel_slice,
    norm_penalty,
    normalised,
    parameter_count,
    perturbed,
    positional_encoding,
    raw_coordinates,
    reconstruction_loss,
)


def test_worked_coordinate_and_encoding():
    v = normalised(raw_coordinates(2, (16, 8), 8), 16)[5, 3]
    np.testing.assert_allclose(v, [0.25, 0.3125, 0.375, 0.5, 1, 0.5], atol=1e-15)
    waves = [0.707107, 0.707107, 0.83147, 0.55557, 0.92388, 0.382683, 1, 0, 0, -1, 1, 0]
    np.testing.assert_allclose(positional_encoding(v, 1), [*v, *waves], atol=5e-7)


def test_vectors_have_one_column_and_kernels_one_coordinate_a_pair():
    bias = raw_coordinates(1, (5,), 3)
    assert bias.shape == (5, 1, 6) and fan_in((5,)) == 1
    np.testing.assert_array_equal(bias[4, 0], [1, 4, 0, 3, 5, 1])
    kernel = raw_coordinates(0, (4, 2, 3, 3), 3)
    assert kernel.shape == (4, 2, 6) and fan_in((4, 2, 3, 3)) == 2
    for shape, k in (((), 0), ((3, 0), 0), ((3,), 3)):
        with pytest.raises(ValueError, match="no coordinates"):
            raw_coordinates(k, shape, 3)


@given(numerator=st.integers(0, 2**20), i=st.integers(0, 40), first=st.integers(0, 3))
def test_phases_are_exact_at_high_frequency(numerator, i, first):
    # dyadic coordinates: 2^i v mod 2 is known in integers
    v = numerator / 2**20
    encoded = positional_encoding([v], i + 1, first)
    assert encoded.shape == (1 + 2 * (i + 1),)
    phase = np.pi * ((numerator * 2 ** (first + i)) % 2**21) / 2**20
    np.testing.assert_allclose(encoded[-2:], [np.sin(phase), np.cos(phase)], atol=1e-15)


def test_single_precision_phases_would_be_noise():
    v = np.random.default_rng(0).uniform(0.0, 1.0, 1000)
    single = v.astype(np.float32) * np.float32(2**24) * np.float32(np.pi)
    encoded = positional_encoding(v[:, None], 1, 24)[:, 1]
    assert np.abs(np.sin(single) - encoded).mean() > 0.1
    np.testing.assert_allclose(encoded, np.sin(np.pi * np.fmod(v * 2.0**24, 2.0)), atol=1e-12)


def test_noise_is_uniform_and_bounded():
    raw = np.broadcast_to(raw_coordinates(2, (16, 8), 8)[5, 3], (20000, 6))
    noise = perturbed(raw, 1.0, np.random.default_rng(1)) - raw
    assert np.abs(noise).max() <= 0.5
    np.testing.assert_allclose(noise.mean(axis=0), 0.0, atol=0.01)
    np.testing.assert_allclose(noise.var(axis=0), 1 / 12, atol=0.003)
    np.testing.assert_array_equal(perturbed(raw[:3], 0.0, np.random.default_rng(1)), raw[:3])
    with pytest.raises(ValueError, match="noise"):
        perturbed(raw, 2.0, np.random.default_rng(1))


def test_worked_reconstruction_loss():
    loss = reconstruction_loss([np.array([1.5, -1, 0])], [np.array([1, -2, 0.5])])
    assert loss == pytest.approx(0.3958333, abs=1e-6)
    twice = reconstruction_loss([[1.5, -1, 0], [3.0]], [[1, -2, 0.5], [1.0]])
    assert twice == pytest.approx((0.3958333 + 4.0) / 2, abs=1e-6)
    assert reconstruction_loss([np.zeros(3)], [np.zeros(3)]) == 0.0
    with pytest.raises(ValueError, match="target"):
        reconstruction_loss([np.ones(3)], [np.ones(2)])
    with pytest.raises(ValueError, match="no tensor"):
        reconstruction_loss([], [])
    assert norm_penalty([[3.0, 4.0], [[1.0]]]) == pytest.approx(6.0)


def test_sizes():
    assert parameter_count(16, 256, 4, 9) == 250_636
    assert parameter_count(16, 256, 4, 25) == 254_748
    # two coordinates, and residual scales that are fixed
    assert parameter_count(4, 64, 3, 1, coordinates=2) - 2 == 9601
    assert [enough_frequencies(n) for n in (1, 2, 64, 65)] == [1, 1, 6, 7]


def test_smaller_kernels_take_the_middle():
    assert kernel_slice(25, 9) == slice(8, 17)
    assert kernel_slice(9, 1) == slice(4, 5)
    assert kernel_slice(9, 9) == slice(0, 9)
    with pytest.raises(ValueError, match="do not fit"):
        kernel_slice(9, 25)
