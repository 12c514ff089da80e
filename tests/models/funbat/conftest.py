"""Scattered values in user units."""

import numpy as np
import pytest


@pytest.fixture
def smooth_data():
    """400 scattered values of a product plus an interaction, noise sd 0.1, in odd units."""
    rng = np.random.default_rng(0)
    x = rng.random((400, 3)) * [10.0, 2.0, 5.0] + [100.0, 0.0, -3.0]
    x[:, 2] = np.round(x[:, 2])
    f = 5 + np.sin(x[:, 0]) * x[:, 1] + 0.3 * x[:, 2]
    return x, f, f + 0.1 * rng.normal(size=400)
