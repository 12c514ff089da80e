"""Prefixes of one pass against passes over each prefix; the crossover against its equation."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from theory.lora_limits.chain import chain
from theory.lora_limits.logits import row_logits
from theory.lora_limits.sweep import (
    gaussian_crossover,
    prefix_channel_norms,
    prefix_ratios,
    running_maximum,
)
from theory.lora_limits.thresholds import ratio

RNG = np.random.default_rng(3)
Q, K = RNG.normal(size=(20, 4)), RNG.normal(size=(20, 4))


def test_prefixes_equal_shorter_texts():
    rows = row_logits(Q, K, 0.5, mask="causal")
    logit = np.sqrt(running_maximum(rows.largest))
    spread = np.sqrt(running_maximum(rows.spread) / 2)
    channels = prefix_channel_norms(Q, K, 0.5)
    for n in range(2, 21):
        entries, logits = chain(Q[:n], K[:n], 0.5, mask="causal")
        c = entries.channels
        whole = (c.gamma_chansum, c.gamma_chan, c.gamma_bal, c.gamma_as)
        assert channels[:, n - 1] == pytest.approx(whole, rel=1e-12)
        assert logit[n - 1] == pytest.approx(logits.gamma_logit, rel=1e-12)
        assert spread[n - 1] == pytest.approx(logits.gamma_range, rel=1e-12)
        assert prefix_ratios(logit, [n])[0] == pytest.approx(ratio(logits.gamma_logit, n))


def test_a_fixed_norm_leaves_the_regime_as_the_length_shrinks():
    ratios = prefix_ratios(np.full(50, 1.3), range(2, 51))
    assert np.all(np.diff(ratios) < 0)
    np.testing.assert_allclose(prefix_ratios(np.full(50, 1.3), range(2, 51), c=2.0), ratios / 2)


def test_sweep_refusals():
    with pytest.raises(ValueError, match=r"lengths must lie in 2\.\.5, got \[1, 3\]"):
        prefix_ratios(np.ones(5), [1, 3])
    with pytest.raises(ValueError, match=r"2\.\.5"):
        prefix_ratios(np.ones(5), [6])
    with pytest.raises(ValueError, match="finite values"):
        running_maximum([1.0, math.nan])
    with pytest.raises(ValueError, match="finite values"):
        running_maximum(np.empty((0, 3)))
    with pytest.raises(ValueError, match="as many queries as keys"):
        prefix_channel_norms(Q, K[:4], 1.0)


def excess(log10_length: float, std: float, width: int) -> float:
    """σ z(1 - ln 2/(2 L d_h)) - √(ln L), as it stands."""
    length = 10.0**log10_length
    return std * norm.isf(math.log(2) / (2 * length * width)) - math.sqrt(math.log(length))


@pytest.mark.parametrize("std", [0.05, 0.3, 0.5, 0.6, 0.66])
@pytest.mark.parametrize("width", [1, 8, 64, 256])
def test_crossover_solves_its_equation(std, width):
    found = gaussian_crossover(std, width)
    assert found is not None and found > 0
    assert excess(found, std, width) == pytest.approx(0.0, abs=1e-7)
    assert excess(found * 0.99, std, width) > 0 > excess(found * 1.01, std, width)
    # no earlier crossing
    assert all(excess(x, std, width) > 0 for x in np.linspace(1e-6, found * 0.999, 200))


def test_crossover_near_and_above_the_limit_of_std():
    at_limit = gaussian_crossover(0.5**0.5, 64)
    assert at_limit is not None and 1000 < at_limit < math.inf  # a length of 10^1178
    assert gaussian_crossover(0.71, 64) is None and gaussian_crossover(3.0, 1) is None
    # a little above 1/√2 a narrow head still is below 1 over a bounded range of lengths
    first = gaussian_crossover(0.72, 1)
    assert first is not None and excess(first, 0.72, 1) == pytest.approx(0.0, abs=1e-9)
    assert excess(first + 0.05, 0.72, 1) < 0 < excess(300, 0.72, 1)


def test_crossover_is_monotone():
    found = [gaussian_crossover(s, 64) for s in np.linspace(1e-9, 0.7, 40)]
    values = [x for x in found if x is not None]
    assert len(values) == 40 and values == sorted(values)
    for width in range(1, 40):  # the excess at L = 1 may vanish in rounding
        least = gaussian_crossover(1e-9, width)
        assert least is not None and 0 <= least < 1e-15


def test_crossover_by_simulation():
    # with 20 tokens of 64 normal entries of σ = 0.5 the largest is above √(ln L) half of the time
    rng = np.random.default_rng(0)
    maxima = np.array([np.abs(rng.normal(0, 0.5, (20, 64))).max() for _ in range(4000)])
    assert np.mean(maxima > math.sqrt(math.log(19.85))) == pytest.approx(0.5, abs=0.03)


def test_crossover_refusals():
    with pytest.raises(ValueError, match="standard deviation"):
        gaussian_crossover(0.0, 64)
    with pytest.raises(ValueError, match="head width must be at least 1, got 0"):
        gaussian_crossover(0.5, 0)
