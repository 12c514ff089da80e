"""The interval of scalings against a dense scan, and every way it can fail to be one."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory.lora_limits.scaling import alpha_room, scaling_interval, weight_scale


def largest(base, direction, s):
    return np.max(np.abs(base + s * direction))


@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.3, 4.0), zeros=st.booleans())
@settings(max_examples=80, deadline=None)
def test_interval_is_exact(seed, share, zeros):
    rng = np.random.default_rng(seed)
    base, direction = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    if zeros:
        direction[rng.random((5, 3)) < 0.3] = 0.0
        direction[0, 0] = 1.0
    limit = share * float(np.abs(base).max())
    found = scaling_interval(base, direction, limit)
    scan = np.linspace(-8, 8, 1001)
    passes = np.array([largest(base, direction, s) <= limit for s in scan])
    if found.low is None or found.high is None:
        assert not passes.any()
        return
    inside = (scan >= found.low) & (scan <= found.high)
    assert np.array_equal(inside, passes)
    for end, outward in ((found.low, -1), (found.high, 1)):
        assert largest(base, direction, end) == pytest.approx(limit, rel=1e-12)
        assert largest(base, direction, end + outward * 1e-6 * max(1, abs(end))) > limit
    assert found.reason == "bounded" and not found.empty and not found.unbounded
    assert found.base_passes == (found.low <= 0 <= found.high) == (np.abs(base).max() <= limit)


def test_fresh_adapter():
    base = np.array([[1.0, -2.0]])
    found = scaling_interval(base, np.zeros((1, 2)), 2.0)
    assert (found.reason, found.low, found.high) == ("no_update", -math.inf, math.inf)
    room = alpha_room(found, 16.0, 8)
    assert (room.alpha_max, room.headroom, room.unbounded) == (None, None, True)
    failing = scaling_interval(base, np.zeros((1, 2)), 1.9)
    assert failing.reason == "fixed_entry_above" and failing.empty and not failing.base_passes
    room = alpha_room(failing, 16.0, 8)
    assert (room.alpha_max, room.headroom, room.unbounded) == (None, None, False)


def test_entries_in_conflict():
    found = scaling_interval([[3.0, -3.0]], [[1.0, 1.0]], 1.0)  # needs s ≤ -2 and s ≥ 2
    assert found.reason == "entries_conflict" and (found.low, found.high) == (None, None)
    touching = scaling_interval([[3.0, -3.0]], [[1.0, 1.0]], 3.0)
    assert (touching.low, touching.high) == (0.0, 0.0)
    assert alpha_room(touching, 4.0, 2).alpha_max == 0.0


def test_an_update_that_repairs_the_base():
    found = scaling_interval([[3.0]], [[-1.0]], 1.0)  # 2 ≤ s ≤ 4, but not s = 0
    assert (found.low, found.high, found.base_passes) == (2.0, 4.0, False)
    room = alpha_room(found, 4.0, 2)
    assert (room.alpha_max, room.headroom, room.unbounded) == (None, None, False)


@pytest.mark.parametrize(("rank_stabilised", "alpha_max"), [(False, 8.0), (True, 4.0)])
def test_alpha_max_reaches_the_limit(rank_stabilised, alpha_max):
    found = scaling_interval([[1.0]], [[0.5]], 2.0)  # s ≤ 2
    room = alpha_room(found, 16.0, 4, rank_stabilised=rank_stabilised)
    assert room.alpha_max == alpha_max and room.headroom == alpha_max / 16.0


def test_extreme_sizes():
    assert scaling_interval([[0.0]], [[5e-324]], 1.0).unbounded  # the quotient overflows
    assert scaling_interval([[2.0]], [[5e-324]], 1.0).empty  # no finite s repairs it
    huge = scaling_interval([[1e15]], [[1e-20]], 2e15)
    assert huge.high == pytest.approx(1e35) and huge.low == pytest.approx(-3e35)


def test_weight_scale():
    s = weight_scale(4.0, 1.5)
    assert s is not None and s * 4.0 == 1.5
    assert weight_scale(0.0, 1.5) is None
    with pytest.raises(ValueError, match="gamma_q"):
        weight_scale(math.nan, 1.0)


def test_refusals():
    with pytest.raises(ValueError, match="differ in shape"):
        scaling_interval([[1.0]], [[1.0, 2.0]], 1.0)
    with pytest.raises(ValueError, match="the update contains NaN"):
        scaling_interval([[1.0]], [[math.nan]], 1.0)
    with pytest.raises(ValueError, match="limit must be finite and positive, got 0"):
        scaling_interval([[1.0]], [[1.0]], 0.0)
    bounded = scaling_interval([[1.0]], [[1.0]], 2.0)
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        alpha_room(bounded, 1.0, 0)
    with pytest.raises(ValueError, match="alpha must be finite and positive, got 0"):
        alpha_room(bounded, 0.0, 1)
