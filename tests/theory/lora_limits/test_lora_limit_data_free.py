"""Bounds hold for tokens of a real norm layer, and are attained where they say so."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from theory.lora_limits.data_free import (
    entry_bounds,
    logit_bound,
    logit_bound_rope,
    qk_norm_entry_bounds,
    qk_norm_logit_bound,
    token_bound,
)
from theory.lora_limits.normed_rows import NormLayer, half_split_pairs, low_rank_rows, normed_rows
from theory.lora_limits.projections import LowRankUpdate, merged_weight, project

D, N = 12, 6
SLACK = 1 + 1e-12


def norm_output(tokens, norm):
    """What the layer computes, eps included."""
    z = tokens - tokens.mean(axis=1, keepdims=True) if norm.kind == "layernorm" else tokens
    z = z / np.sqrt(np.mean(z**2, axis=1, keepdims=True) + 1e-5)
    return z * norm.gain + (0.0 if norm.bias is None else norm.bias)


def rotate_half(x, rotary, positions):
    """RoPE over the first `rotary` channels of (L, n)."""
    half = rotary // 2
    angle = positions[:, None] * 10.0 ** -np.arange(half)
    a, b = x[:, :half], x[:, half:rotary]
    rotated = [a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)]
    return np.hstack([*rotated, x[:, rotary:]])


def setting(seed):
    rng = np.random.default_rng(seed)
    kind = "layernorm" if seed % 2 else "rmsnorm"
    bias = rng.normal(size=D) if seed % 3 else None
    norm = NormLayer(kind, rng.lognormal(0, 1, D), bias)
    tokens = rng.standard_t(2, size=(40, D)) * rng.lognormal(0, 2, D)
    WQ, WK = rng.normal(size=(2, N, D))
    biases = rng.normal(size=(2, N)) if seed % 5 else (None, None)
    update = LowRankUpdate(rng.normal(size=(2, D)), rng.normal(size=(N, 2)), rng.normal())
    return rng, norm, norm_output(tokens, norm), WQ, WK, biases, update


@given(seed=st.integers(0, 2**32 - 1), rotary=st.sampled_from([0, 2, 4, 6]))
@settings(max_examples=200, deadline=None)
def test_bounds_hold(seed, rotary):
    _, norm, X, WQ, WK, (bq, bk), update = setting(seed)
    q = normed_rows(merged_weight(WQ, update), norm, bq)
    k = normed_rows(WK, norm, bk)
    Q, K = project(X, WQ, bq, update).adapted, project(X, WK, bk).adapted
    pairs = half_split_pairs(rotary) if rotary else None
    if rotary:
        positions = np.arange(40) * 37.0
        Q, K = rotate_half(Q, rotary, positions), rotate_half(K, rotary, positions)
    assert np.all(np.abs(Q).max(axis=0) <= entry_bounds(q, pairs) * SLACK)
    assert np.all(np.abs(K).max(axis=0) <= entry_bounds(k, pairs) * SLACK)
    assert np.linalg.norm(Q, axis=1).max() <= token_bound(q) * SLACK
    largest = np.abs(0.4 * Q @ K.T).max()
    rotated = logit_bound_rope(token_bound(q), token_bound(k), 0.4)
    assert largest <= rotated * SLACK
    if not rotary:
        assert largest <= logit_bound(q, k, 0.4) * SLACK
    assert logit_bound(q, k, 0.4) <= rotated * SLACK
    base, moved = normed_rows(WQ, norm, bq), low_rank_rows(update, norm)
    triangle = entry_bounds(base, pairs) + entry_bounds(moved, pairs)
    assert np.all(entry_bounds(q, pairs) <= triangle * SLACK)
    assert token_bound(q) <= (token_bound(base) + token_bound(moved)) * SLACK


@pytest.mark.parametrize("seed", range(6))
def test_entry_bound_is_attained(seed):
    _, norm, _, WQ, _, (bq, _), _ = setting(seed)
    rows = normed_rows(WQ, norm, bq)
    sign = np.where(rows.a < 0, -1.0, 1.0)[:, None]
    z = sign * rows.A * np.sqrt(D) / np.linalg.norm(rows.A, axis=1, keepdims=True)
    if norm.kind == "layernorm":
        assert np.abs(z.sum(axis=1)).max() < 1e-12  # a token LayerNorm can put out
    q = project(z * norm.gain + (0.0 if norm.bias is None else norm.bias), WQ, bq).base
    np.testing.assert_allclose(np.abs(np.diag(q)), entry_bounds(rows), rtol=1e-12)


def test_rope_entry_bound_is_attained_at_some_position():
    rng = np.random.default_rng(1)
    rows = normed_rows(rng.normal(size=(2, D)), NormLayer("rmsnorm", np.ones(D)))
    z = np.sqrt(D) * np.linalg.svd(rows.A)[2][0]
    pair = rows.A @ z
    turned = max(abs(pair @ [np.cos(t), np.sin(t)]) for t in np.linspace(0, np.pi, 20001))
    assert turned == pytest.approx(entry_bounds(rows, [[0, 1]])[0], rel=1e-7)
    assert entry_bounds(rows, [[0, 1]])[0] > entry_bounds(rows).max()


def test_logit_bound_is_the_dense_one_and_attained():
    rng = np.random.default_rng(2)
    norm = NormLayer("layernorm", rng.lognormal(size=D))
    q, k = (normed_rows(rng.normal(size=(4, D)), norm) for _ in range(2))
    U, s, Vt = np.linalg.svd(q.A.T @ k.A)
    assert logit_bound(q, k, 0.5) == pytest.approx(0.5 * D * s[0], rel=1e-13)
    zq, zk = np.sqrt(D) * U[:, 0], np.sqrt(D) * Vt[0]
    assert abs(zq.sum()) < 1e-10 and abs(zk.sum()) < 1e-10
    assert 0.5 * (q.A @ zq) @ (k.A @ zk) == pytest.approx(logit_bound(q, k, 0.5), rel=1e-12)


def test_logit_bound_across_widths_and_degenerate_rows():
    rng = np.random.default_rng(4)
    q = normed_rows(rng.normal(size=(4, 3)), NormLayer("rmsnorm", np.ones(3)))  # rank 3 < 4
    k = normed_rows(rng.normal(size=(4, D)), NormLayer("rmsnorm", np.ones(D)))
    dense = np.sqrt(3 * D) * np.linalg.norm(q.A.T @ k.A, 2)
    assert logit_bound(q, k, 1.0) == pytest.approx(dense, rel=1e-12)
    none = normed_rows(np.zeros((4, D)), NormLayer("rmsnorm", np.ones(D)), np.arange(4.0))
    assert logit_bound(none, none, 1.0) == pytest.approx(14.0)
    for one, other in ((k, none), (none, k)):  # one side constant: |A z·a| ≤ √d‖Aᵀa‖
        mixed = np.sqrt(D) * np.linalg.norm(k.A.T @ none.a)
        assert logit_bound(one, other, 1.0) == pytest.approx(mixed, rel=1e-12)
    for row in rng.normal(size=(20, D)):  # rank 1: rounding makes eigenvalues negative
        same = normed_rows(np.outer(np.arange(4), row), NormLayer("rmsnorm", np.ones(D)))
        dense = D * np.linalg.norm(same.A.T @ k.A, 2)
        assert logit_bound(same, k, 1.0) == pytest.approx(dense, rel=1e-12)
    # the mean of a constant row is all of it: LayerNorm takes it out
    constant = normed_rows(np.ones((1, D)), NormLayer("layernorm", np.ones(D)))
    assert entry_bounds(constant) == pytest.approx([0.0])


@pytest.mark.parametrize("size", [1e-20, 1e15])
def test_range_of_bf16(size):
    rng = np.random.default_rng(8)
    W, gain, pairs = rng.normal(size=(4, D)), rng.lognormal(size=D), half_split_pairs(4)
    small = normed_rows(W, NormLayer("layernorm", gain))
    big = normed_rows(size * W, NormLayer("layernorm", size * gain))
    np.testing.assert_allclose(entry_bounds(big, pairs), size**2 * entry_bounds(small, pairs))
    assert token_bound(big) == pytest.approx(size**2 * token_bound(small))
    assert logit_bound(big, big, 0.1) == pytest.approx(size**4 * logit_bound(small, small, 0.1))


def test_low_rank_bounds_equal_those_of_the_formed_update():
    for seed in range(4):
        _, norm, _, _, WK, (_, bk), update = setting(seed)
        formed = normed_rows(merged_weight(np.zeros((N, D)), update), norm)
        rows, k = low_rank_rows(update, norm), normed_rows(WK, norm, bk)
        assert rows.A.shape == (N, 2)
        for pairs in (None, half_split_pairs(4)):
            np.testing.assert_allclose(
                entry_bounds(rows, pairs), entry_bounds(formed, pairs), rtol=1e-10
            )
        assert token_bound(rows) == pytest.approx(token_bound(formed))
        for one, other in ((rows, k), (k, rows)):
            whole = logit_bound(*(formed if x is rows else x for x in (one, other)), 0.5)
            assert logit_bound(one, other, 0.5) == pytest.approx(whole, rel=1e-10)
        head = rows.rows(slice(2, 5))
        np.testing.assert_allclose(entry_bounds(head), entry_bounds(rows)[2:5])
        fresh = LowRankUpdate(update.lora_A, np.zeros((N, 2)), 2.0)
        assert np.all(entry_bounds(low_rank_rows(fresh, norm)) == 0.0)


def test_low_rank_rows_keep_the_digits_of_a_nearly_vanishing_update():
    rng = np.random.default_rng(6)
    v, w = rng.normal(size=(2, D))
    update = LowRankUpdate([v, v + 1e-10 * w], [[1.0, -1.0]], 1.0)  # ΔW = -1e-10·w
    bound = entry_bounds(low_rank_rows(update, NormLayer("rmsnorm", np.ones(D))))
    assert bound == pytest.approx([1e-10 * np.sqrt(D) * np.linalg.norm(w)], rel=1e-4)


@given(seed=st.integers(0, 2**32 - 1), rotary=st.sampled_from([0, 4, 6]))
@settings(max_examples=100, deadline=None)
def test_qk_norm_bounds_hold_whatever_the_weights(seed, rotary):
    rng = np.random.default_rng(seed)
    gq, gk = rng.normal(size=(2, N)) * 3
    raw = rng.standard_t(1.5, size=(2, 60, N))
    q, k = (
        raw / np.sqrt(np.mean(raw**2, axis=2, keepdims=True) + 1e-6) * np.array([gq, gk])[:, None]
    )
    pairs = half_split_pairs(rotary) if rotary else None
    if rotary:
        positions = np.arange(60) * 11.0
        q, k = rotate_half(q, rotary, positions), rotate_half(k, rotary, positions)
    assert np.all(np.abs(q).max(axis=0) <= qk_norm_entry_bounds(gq, pairs) * SLACK)
    largest = np.abs(0.3 * q @ k.T).max()
    assert largest <= qk_norm_logit_bound(gq, gk, 0.3, pairs) * SLACK


def test_qk_norm_bounds_are_attained():
    gq, gk = np.array([0.5, -3.0, 1.0, 0.1]), np.array([4.0, 1.0, -1.0, 0.1])
    z = np.array([0.0, 2.0, 0.0, 0.0])  # ‖z‖₂ = √4
    assert abs(gq * z).max() == qk_norm_entry_bounds(gq)[1] == 6.0
    assert abs((gq * z) @ (gk * z)) == qk_norm_logit_bound(gq, gk, 1.0) == 12.0
    np.testing.assert_array_equal(
        qk_norm_entry_bounds(gq, half_split_pairs(4)), 2.0 * np.array([1.0, 3.0, 1.0, 3.0])
    )

    # with RoPE, by search over tokens and the angles of the relative position
    def negative(p):
        zq, zk = (2 * v / np.linalg.norm(v) for v in (p[:4], p[4:8]))
        a, c = gq * zq, gk * zk
        cos, sin = np.cos(p[8:]), np.sin(p[8:])
        turned = np.concatenate([c[:2] * cos - c[2:] * sin, c[2:] * cos + c[:2] * sin])
        return -(a @ turned)

    rng = np.random.default_rng(0)
    best = max(-minimize(negative, rng.normal(size=10)).fun for _ in range(20))
    assert best == pytest.approx(qk_norm_logit_bound(gq, gk, 1.0, half_split_pairs(4)), rel=1e-6)


def test_refusals():
    norm = NormLayer("rmsnorm", np.ones(D))
    rows = normed_rows(np.ones((4, D)), norm)
    with pytest.raises(ValueError, match="layernorm or rmsnorm, got 'batchnorm'"):
        normed_rows(np.ones((4, D)), NormLayer("batchnorm", np.ones(D)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"gain must be of shape \(12,\), got shape \(5,\)"):
        normed_rows(np.ones((4, D)), NormLayer("rmsnorm", np.ones(5)))
    with pytest.raises(ValueError, match="W contains NaN"):
        normed_rows(np.full((4, D), np.nan), norm)
    with pytest.raises(ValueError, match=r"pairs must lie in 0\.\.3, got 0\.\.4"):
        entry_bounds(rows, [[0, 4]])
    with pytest.raises(ValueError, match="two pairs"):
        entry_bounds(rows, [[0, 1], [1, 2]])
    with pytest.raises(ValueError, match="integers of shape"):
        entry_bounds(rows, [[0.0, 1.0]])
    with pytest.raises(ValueError, match="even and at least 2, got 3"):
        half_split_pairs(3)
    with pytest.raises(ValueError, match="q has 4 channels, k has 3"):
        logit_bound(rows, normed_rows(np.ones((3, D)), norm), 1.0)
    with pytest.raises(ValueError, match="gains of q and k differ in width: 4 and 3"):
        qk_norm_logit_bound(np.ones(4), np.ones(3), 1.0)
    with pytest.raises(ValueError, match="lora_B must be a non-empty matrix"):
        low_rank_rows(LowRankUpdate([[1.0]], 1.0, 1.0), norm)
    with pytest.raises(ValueError, match="beta"):
        logit_bound_rope(1.0, 1.0, -1.0)
