"""Rotations and norms of queries and keys against complex multiplication and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from theory.lora_limits.rotary import head_normalised, rotary_pairs, rotated

LAYOUTS = ("half", "adjacent")


def as_complex(heads, width, layout):
    if layout == "half":
        return heads[:, : width // 2] + 1j * heads[:, width // 2 : width]
    return heads[:, 0:width:2] + 1j * heads[:, 1:width:2]


@given(
    half=st.integers(1, 4),
    rest=st.integers(0, 3),
    layout=st.sampled_from(LAYOUTS),
    factor=st.floats(0.5, 2.0),
    seed=st.integers(0, 100),
)
def test_pairs_turn_like_complex_numbers(half, rest, layout, factor, seed):
    rng = np.random.default_rng(seed)
    width, length = 2 * half, 5
    heads = rng.standard_normal((length, width + rest))
    before = heads.copy()
    positions, frequencies = rng.uniform(0, 100, length), rng.uniform(0, 1, half)
    turned = rotated(heads, positions, frequencies, layout, factor)
    expected = as_complex(heads, width, layout) * factor
    expected = expected * np.exp(1j * np.outer(positions, frequencies))
    np.testing.assert_allclose(as_complex(turned, width, layout), expected, atol=1e-12)
    np.testing.assert_array_equal(turned[:, width:], heads[:, width:])
    np.testing.assert_array_equal(heads, before)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_products_depend_on_distances_only(layout):
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 6, 8))
    frequencies = 100.0 ** -np.arange(0, 1, 0.25)

    def products(shift):
        at = np.arange(6) + shift
        return rotated(q, at, frequencies, layout) @ rotated(k, at, frequencies, layout).T

    np.testing.assert_allclose(products(1000), products(0), atol=1e-10)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pairs_are_those_that_turn(layout):
    """A unit channel stays within its pair."""
    pairs = rotary_pairs(6, layout)
    assert sorted(pairs.ravel()) == list(range(6))
    for channel in range(6):
        turned = rotated(np.eye(8)[[channel]], [1.0], [0.3, 0.5, 0.7], layout)
        touched = set(np.flatnonzero(turned[0]))
        assert touched == set(next(pair for pair in pairs if channel in pair))


@pytest.mark.parametrize("kind", ["layernorm", "rmsnorm"])
def test_norms_are_those_of_torch(kind):
    generator = torch.Generator().manual_seed(0)
    x, gain, bias = (
        torch.randn(size, generator=generator, dtype=torch.float64) for size in ((7, 10), 10, 10)
    )
    if kind == "layernorm":
        expected = torch.nn.functional.layer_norm(x, (10,), gain, bias, 1e-3)
    else:
        expected = torch.nn.functional.rms_norm(x, (10,), gain, 1e-3) + bias
    found = head_normalised(x.numpy(), gain.numpy(), kind, 1e-3, bias.numpy())
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-13)
    plain = head_normalised(x.numpy(), None, kind, 0.0)
    np.testing.assert_allclose((plain**2).mean(axis=1), 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rotary_pairs(3, "half"), "even"),
        (lambda: rotary_pairs(0, "adjacent"), "even"),
        (lambda: rotary_pairs(4, "other"), "'other'"),
        (lambda: rotated(np.ones((2, 4)), [0, 1], np.ones(3), "half"), "turn 6 channels"),
        (lambda: rotated(np.ones((2, 4)), [0, 1, 2], np.ones(2), "half"), "positions"),
        (lambda: rotated(np.ones((2, 4)), [0, 1], np.ones(2), "half", 0.0), "factor"),
        (lambda: rotated(np.full((2, 4), np.nan), [0, 1], np.ones(2), "half"), "NaN"),
        (lambda: head_normalised(np.ones((2, 4)), np.ones(3), "rmsnorm", 0.0), "the gain"),
        (lambda: head_normalised(np.ones((2, 4)), None, "other", 0.0), "'other'"),
        (lambda: head_normalised(np.ones((2, 4)), None, "rmsnorm", -1.0), "eps"),
        (lambda: head_normalised(np.ones((2, 4)), None, "layernorm", 0.0), "zero"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
