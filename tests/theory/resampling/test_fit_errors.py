"""Fit errors against direct computation, the bounds of Mirsky and Weyl, and a truncated SVD."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.resampling.fit_errors import fit_errors, svd_baseline, svd_rank_for


@given(n=st.integers(1, 8), m=st.integers(1, 8), noise=st.floats(0.0, 3.0), seed=st.integers(0, 99))
def test_errors_and_their_bounds(n, m, noise, seed):
    rng = np.random.default_rng(seed)
    W, change = rng.standard_normal((2, n, m))
    result = fit_errors(W, W + noise * change)
    assert result is not None
    s, fitted = (np.linalg.svd(X, compute_uv=False) for X in (W, W + noise * change))
    exact = noise * np.linalg.norm(change) / np.linalg.norm(W)
    assert result.rel_fro == pytest.approx(exact, abs=1e-12)
    assert result.sv_rel == pytest.approx(np.linalg.norm(s - fitted) / np.linalg.norm(s), abs=1e-12)
    assert result.s1_rel == pytest.approx(abs(s[0] - fitted[0]) / s[0], abs=1e-12)
    assert result.sv_rel <= result.rel_fro + 1e-12
    assert np.max(np.abs(s - fitted)) <= result.weyl_bound + 1e-12
    assert result.weyl_bound == pytest.approx(noise * np.linalg.norm(change, 2), abs=1e-12)


def test_baseline_is_the_truncated_svd_of_equal_size():
    W = np.random.default_rng(0).standard_normal((12, 8))
    U, s, Vt = np.linalg.svd(W, full_matrices=False)
    for stored in (0, 19, 20, 65, 1000):
        r = svd_rank_for(stored, W.shape)
        assert r * 20 <= stored and (r == 8 or (r + 1) * 20 > stored)
        exact = np.linalg.norm(W - (U[:, :r] * s[:r]) @ Vt[:r]) / np.linalg.norm(W)
        assert svd_baseline(s[::-1], W.shape, stored) == pytest.approx(exact, abs=1e-12)


def test_degenerate_input():
    assert fit_errors(np.zeros((3, 2)), np.ones((3, 2))) is None
    assert svd_baseline(np.zeros(2), (3, 2), 5) is None
    large = fit_errors(np.full((2, 2), 1e200), np.full((2, 2), 2e200))
    assert large is not None and large.rel_fro == pytest.approx(1.0)
    with pytest.raises(ValueError, match="one shape"):
        fit_errors(np.ones((3, 2)), np.ones((2, 3)))
