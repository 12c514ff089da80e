"""Projections and literal norms against dense products, in the paper's order of factors."""

import dataclasses

import numpy as np
import pytest

from theory.lora_limits.norms import LiteralNorms, literal_norms, token_quantiles
from theory.lora_limits.projections import (
    DenseUpdate,
    LowRankUpdate,
    adapter_scaling,
    merged_weight,
    project,
)

RNG = np.random.default_rng(5)
L, D, N, R = 9, 6, 4, 2
X, XK = RNG.normal(size=(L, D)), RNG.normal(size=(7, D))
WQ, WK = RNG.normal(size=(N, D)), RNG.normal(size=(N, D))
BQ, BK = RNG.normal(size=N), RNG.normal(size=N)
QUERY = LowRankUpdate(RNG.normal(size=(R, D)), RNG.normal(size=(N, R)), 1.7)
KEY = LowRankUpdate(RNG.normal(size=(R, D)), RNG.normal(size=(N, R)), -0.3)


def test_paper_and_stored_order_are_the_same_matrix():
    paper_B, paper_A = np.transpose(QUERY.lora_A), np.transpose(QUERY.lora_B)
    dense = X @ (WQ.T + 1.7 * paper_B @ paper_A) + BQ
    np.testing.assert_allclose(project(X, WQ, BQ, QUERY).adapted, dense, rtol=1e-12)
    np.testing.assert_allclose(X @ merged_weight(WQ, QUERY).T + BQ, dense, rtol=1e-12)


def test_factored_and_merged_agree_in_single_precision():
    factors = (np.asarray(f, dtype=np.float32) for f in (QUERY.lora_A, QUERY.lora_B))
    single = LowRankUpdate(*factors, QUERY.scaling)
    W, x = WQ.astype(np.float32), X.astype(np.float32)
    merged = (x @ merged_weight(W, single).astype(np.float32).T).astype(np.float32)
    np.testing.assert_allclose(project(x, W, None, single).adapted, merged, rtol=1e-5, atol=1e-5)


def test_norms_of_an_adapter_on_queries_and_keys():
    q, k = project(X, WQ, BQ, QUERY), project(X, WK, BK, KEY)
    n = literal_norms(X, q, k, key_weight=merged_weight(WK, KEY), scaling=-1.7)
    dWQ = 1.7 * np.asarray(QUERY.lora_B) @ np.asarray(QUERY.lora_A)
    dWK = -0.3 * np.asarray(KEY.lora_B) @ np.asarray(KEY.lora_A)
    Q = X @ (WQ + dWQ).T + BQ
    expected = {
        "gamma_x": np.abs(X).max(),
        "gamma_x_keys": np.abs(X).max(),
        "gamma_q_base": np.abs(X @ WQ.T + BQ).max(),
        "gamma_dq": np.abs(X @ dWQ.T).max(),
        "gamma_q": np.abs(Q).max(),
        "gamma_k_base": np.abs(X @ WK.T + BK).max(),
        "gamma_dk": np.abs(X @ dWK.T).max(),
        "gamma_k": np.abs(X @ (WK + dWK).T + BK).max(),
        "gamma_qkt": np.abs(Q @ (WK + dWK)).max(),
        "c1": 1.7 * np.abs(X).max(),
    }
    for name, value in expected.items():
        assert getattr(n, name) == pytest.approx(value), name
    assert n.touches_qk and n.gamma_v is None and n.c3 is None


def test_which_norms_a_theorem_takes():
    names = ("gamma_x", "gamma_x_keys", "gamma_q_base", "gamma_dq", "gamma_q", "gamma_k_base")
    names += ("gamma_dk", "gamma_k", "gamma_qkt")
    zero = LiteralNorms(
        **dict.fromkeys(names, 0.0), gamma_v_base=9.0, gamma_v=9.0, c1=9.0, touches_qk=True
    )
    taken = {
        "gamma_partial": {"gamma_q", "gamma_k_base"},
        "gamma_full": {"gamma_q", "gamma_k", "gamma_qkt", "gamma_x_keys"},
        "gamma_hard": {"gamma_k_base", "gamma_dq"},
    }
    for theorem, members in taken.items():
        seen = {x for x in names if getattr(dataclasses.replace(zero, **{x: 1.0}), theorem) == 1.0}
        assert seen == members, theorem


def test_full_fine_tune_is_the_difference():
    tuned, tuned_bias = WQ + RNG.normal(size=(N, D)), BQ + 0.5
    q = project(X, WQ, BQ, DenseUpdate(tuned - WQ, tuned_bias - BQ))
    np.testing.assert_allclose(q.adapted, X @ tuned.T + tuned_bias, rtol=1e-12)
    np.testing.assert_allclose(merged_weight(WQ, DenseUpdate(tuned - WQ)), tuned, rtol=1e-12)
    n = literal_norms(X, project(X, WQ, None, DenseUpdate(tuned - WQ)), project(X, WK))
    assert n.gamma_dq == pytest.approx(np.abs(X @ (tuned - WQ).T).max())


@pytest.mark.parametrize("t", [0.0, 0.5, -3.0])
def test_scaling_lora_B_scales_the_update(t):
    scaled = LowRankUpdate(QUERY.lora_A, t * np.asarray(QUERY.lora_B), QUERY.scaling)
    k = project(X, WK)
    once = literal_norms(X, project(X, WQ, None, QUERY), k)
    n = literal_norms(X, project(X, WQ, None, scaled), k)
    assert n.gamma_dq == pytest.approx(abs(t) * once.gamma_dq)
    if t == 0.0:  # a fresh adapter changes nothing
        assert n.gamma_q == n.gamma_q_base and n.touches_qk


def test_adapter_elsewhere_leaves_base_values():
    values = LowRankUpdate(QUERY.lora_A, QUERY.lora_B, 1.0)
    n = literal_norms(X, project(X, WQ), project(X, WK), project(X, WK, None, values))
    assert not n.touches_qk and n.gamma_dq == 0.0 == n.gamma_dk
    assert n.gamma_q == n.gamma_q_base and n.gamma_k == n.gamma_k_base
    assert n.c3 is not None and n.gamma_v != n.c3 and n.c1 is None
    assert n.gamma_qkt is None and n.gamma_full is None


def test_cross_attention_takes_the_keys_from_elsewhere():
    q, k = project(X, WQ), project(XK, WK)
    n = literal_norms(X, q, k, key_weight=WK, key_input=XK)
    assert n.gamma_x_keys == np.abs(XK).max() and n.gamma_x == np.abs(X).max()
    assert n.gamma_full == max(n.gamma_q, n.gamma_k, np.abs(X @ WQ.T @ WK).max(), n.gamma_x_keys)
    with pytest.raises(ValueError, match=r"K of shape \(7, 4\) does not fit X with 9 tokens"):
        literal_norms(X, q, k)


def test_permuting_tokens_changes_nothing():
    order = RNG.permutation(L)
    pair = [
        literal_norms(x, project(x, WQ, BQ, QUERY), project(x, WK), key_weight=WK)
        for x in (X, X[order])
    ]
    for name in ("gamma_x", "gamma_q", "gamma_dq", "gamma_k", "gamma_qkt"):
        assert getattr(pair[0], name) == pytest.approx(getattr(pair[1], name), rel=1e-12)
    assert token_quantiles(X) == token_quantiles(X[order])


def test_token_quantiles():
    q = token_quantiles(np.array([[1.0, -5.0], [2.0, 0.0], [0.0, 3.0]]))
    assert q.q50 == 3.0 and q.q99 == pytest.approx(3.0 + 0.98 * 2.0)


def test_scalings():
    assert adapter_scaling(16, 4) == 4.0 and adapter_scaling(16, 4, rank_stabilised=True) == 8.0
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        adapter_scaling(16, 0)
    with pytest.raises(ValueError, match="alpha must be a finite number, got None"):
        adapter_scaling(None, 4)


def test_refusals_name_the_tensors():
    with pytest.raises(ValueError, match=r"X of shape \(9, 6\) does not fit W of shape \(4, 5\)"):
        project(X, WQ[:, :5])
    with pytest.raises(ValueError, match=r"lora_B of shape \(4, 2\) and lora_A of shape \(1, 6\)"):
        project(X, WQ, None, LowRankUpdate(np.ones((1, D)), QUERY.lora_B, 1.0))
    with pytest.raises(ValueError, match="lora_A must be a non-empty matrix"):
        project(X, WQ, None, LowRankUpdate(np.ones((0, D)), np.ones((N, 0)), 1.0))
    with pytest.raises(ValueError, match="lora_B contains NaN"):
        project(X, WQ, None, LowRankUpdate(QUERY.lora_A, np.full((N, R), np.nan), 1.0))
    with pytest.raises(ValueError, match="scaling must be finite"):
        project(X, WQ, None, LowRankUpdate(QUERY.lora_A, QUERY.lora_B, np.inf))
    with pytest.raises(ValueError, match=r"the update of shape \(4, 5\)"):
        merged_weight(WQ, DenseUpdate(WQ[:, :5]))
    with pytest.raises(ValueError, match=r"the bias must be of shape \(4,\)"):
        project(X, WQ, np.ones(3))
    with pytest.raises(ValueError, match="X contains NaN or infinity"):
        project(np.where(np.arange(D) == 2, np.inf, X), WQ)
    with pytest.raises(ValueError, match="W_K of shape"):
        literal_norms(X, project(X, WQ), project(X, WK), key_weight=WK.T)
    with pytest.raises(ValueError, match=r"Q of shape \(9, 3\) does not fit K"):
        literal_norms(X, project(X, WQ[:3]), project(X, WK))
