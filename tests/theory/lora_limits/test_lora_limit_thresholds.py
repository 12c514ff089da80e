"""Threshold, bands and verdicts at their edges."""

import math

import numpy as np
import pytest

from theory.lora_limits.thresholds import (
    band,
    head_verdict,
    log10_L_star,
    ratio,
    threshold,
    width_over_log,
)


def test_threshold_and_ratio():
    assert threshold(4) == pytest.approx(1.17741002, abs=5e-9)
    assert threshold(12) == pytest.approx(1.57635867, abs=5e-9)
    assert threshold(4096, c=2.0) == pytest.approx(2.0 * math.sqrt(12 * math.log(2.0)))
    assert ratio(3.0, 4096, c=2.0) == pytest.approx(3.0 / threshold(4096, 2.0))
    assert width_over_log(64, 4096) == pytest.approx(64 / 8.317766, rel=1e-6)


@pytest.mark.parametrize("length", [1, 0, -3, math.nan, math.inf])
def test_no_threshold_without_a_length(length):
    with pytest.raises(ValueError, match="length"):
        threshold(length)


@pytest.mark.parametrize("c", [0.0, -1.0, math.nan])
def test_the_constant_is_positive(c):
    with pytest.raises(ValueError, match="constant c"):
        threshold(10, c)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (0.0, "below"),
        (np.nextafter(0.8, 0), "below"),
        (0.8, "near"),
        (1.0, "near"),
        (1.25, "near"),
        (np.nextafter(1.25, 2), "above"),
        (math.inf, "above"),
    ],
)
def test_bands(value, name):
    assert band(value) == name


def test_the_near_band_covers_the_other_logarithm():
    assert band(math.sqrt(math.log(2.0))) == "near" == band(1 / math.sqrt(math.log(2.0)))


def test_a_ratio_is_a_number():
    with pytest.raises(ValueError, match="ratio must be at least 0, got nan"):
        band(math.nan)
    with pytest.raises(ValueError, match="norm must be at least 0, got -1"):
        ratio(-1.0, 10)


@pytest.mark.parametrize(
    ("entries", "logits", "verdict"),
    [
        (0.7, 0.5, "certified"),
        (1.01, 0.45, "effective"),
        (9.0, 0.79, "effective"),
        (9.0, 0.8, "borderline"),
        (9.0, 1.25, "borderline"),
        (9.0, 1.26, "outside"),
    ],
)
def test_verdicts(entries, logits, verdict):
    assert head_verdict(entries, logits) == verdict


def test_length_at_which_a_fixed_norm_meets_the_threshold():
    for norm in (0.9, 1.5, 2.5):
        assert threshold(10 ** log10_L_star(norm)) == pytest.approx(norm)
    assert math.isfinite(log10_L_star(1e15))  # exp(x²) would overflow
