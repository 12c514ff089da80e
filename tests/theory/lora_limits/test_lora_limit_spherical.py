"""The typical maximum against simulation."""

import numpy as np
import pytest

from theory.lora_limits.spherical import spherical_median


@pytest.mark.parametrize("kind", ["rmsnorm", "layernorm"])
def test_median_of_simulated_maxima(kind):
    rng = np.random.default_rng(7)
    width, tokens, trials = 24, 64, 1500
    rows = rng.normal(size=(5, width)) * rng.lognormal(0, 0.3, (5, 1))
    z = rng.normal(size=(trials, tokens, width))
    if kind == "layernorm":
        rows -= rows.mean(axis=1, keepdims=True)
        z -= z.mean(axis=2, keepdims=True)
    z *= np.sqrt(width) / np.linalg.norm(z, axis=2, keepdims=True)
    maxima = np.abs(z @ rows.T).max(axis=(1, 2))
    found = spherical_median(np.linalg.norm(rows, axis=1), width, tokens, kind)
    # four standard errors of a share of 1500 trials
    assert np.mean(maxima > found) == pytest.approx(0.5, abs=0.052)


def test_scale_bound_and_length():
    norms = [0.3, 1.0, 0.0]
    base = spherical_median(norms, 32, 100, "rmsnorm")
    assert spherical_median(np.multiply(norms, 1e15), 32, 100, "rmsnorm") == pytest.approx(
        1e15 * base
    )
    assert spherical_median(np.multiply(norms, 1e-20), 32, 100, "rmsnorm") == pytest.approx(
        1e-20 * base
    )
    medians = [spherical_median(norms, 32, 10**p, "rmsnorm") for p in range(0, 13, 3)]
    assert medians == sorted(medians) and medians[-1] < np.sqrt(32)
    assert spherical_median([1.0], 2, 10**6, "rmsnorm") == pytest.approx(np.sqrt(2), rel=1e-9)
    assert spherical_median([0.0, 0.0], 32, 100, "rmsnorm") == 0.0


def test_refusals():
    with pytest.raises(ValueError, match="at least 2 dimensions, got 1"):
        spherical_median([1.0], 2, 10, "layernorm")
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        spherical_median([1.0], 8, 0, "rmsnorm")
    with pytest.raises(ValueError, match="cannot be negative, got -1"):
        spherical_median([-1.0], 8, 10, "rmsnorm")
    with pytest.raises(ValueError, match="layernorm or rmsnorm"):
        spherical_median([1.0], 8, 10, "none")  # type: ignore[arg-type]
