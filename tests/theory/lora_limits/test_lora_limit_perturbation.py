"""Features of exp(ΔS) against dense softmax of the base and the adapted head."""

import math

import numpy as np
import pytest
from numpy.polynomial import Chebyshev

from theory.lora_limits.perturbation import (
    delta_logit,
    head_update,
    perturbation_rank,
    row_error,
    update_rank,
)
from theory.lora_limits.polynomial import certified_degree


def head(seed, length=96, width=16, rank=3, size=0.01, on_keys=False):
    """Base queries and keys, adapter updates of the given rank, β = 1/√d_h."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(length, 24))
    Q, K = X @ rng.normal(size=(24, width)) / 3, X @ rng.normal(size=(24, width)) / 3
    dQ, dK = (
        size * (X @ rng.normal(size=(24, rank))) @ rng.normal(size=(rank, width)) for _ in range(2)
    )
    return Q, K + 0.7, dQ, dK if on_keys else np.zeros_like(K), width**-0.5


def softmax(S, causal):
    S = np.where(np.tri(len(S), dtype=bool), S, -np.inf) if causal else S
    F = np.exp(S - S.max(axis=1, keepdims=True))
    return F / F.sum(axis=1, keepdims=True)


def dense_change(Q, K, dQ, dK, beta):
    """ΔS of centred keys."""
    adapted, base = (Q + dQ) @ (K + dK).T, Q @ K.T
    S = beta * (adapted - adapted.mean(axis=1, keepdims=True))
    return S - beta * (base - base.mean(axis=1, keepdims=True))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("on_keys", [False, True])
def test_delta_logit_and_rank(on_keys, causal):
    arrays = head(0, on_keys=on_keys)
    update = head_update(*arrays, causal=causal)
    change = dense_change(*arrays)
    visible = np.tri(96, dtype=bool) if causal else np.ones((96, 96), dtype=bool)
    assert delta_logit(update) == pytest.approx(np.abs(change[visible]).max(), rel=1e-12)
    assert update_rank(update) == np.linalg.matrix_rank(change, rtol=1e-9)
    assert update_rank(update) == (6 if on_keys else 3)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_measured_error_against_dense_softmax_and_certificate(seed, causal):
    # 300 rows: more than one block
    Q, K, dQ, dK, beta = arrays = head(seed, length=300, on_keys=seed % 2 == 1)
    update = head_update(*arrays, causal=causal)
    exact = softmax(beta * (Q + dQ) @ (K + dK).T, causal)
    base, change = softmax(beta * Q @ K.T, causal), dense_change(*arrays)
    bound = delta_logit(update)
    for degree in (2, 4):
        series = Chebyshev.interpolate(np.exp, 60, domain=[-bound, bound])
        factor = series.truncate(degree + 1)(change)
        approximate = base * factor
        approximate /= approximate.sum(axis=1, keepdims=True)
        error = np.abs(approximate - exact).sum(axis=1).max()
        assert row_error(update, degree) == pytest.approx(error, rel=1e-8)
    for eps in (1e-2, 1e-5):
        result = perturbation_rank(update, eps)
        assert result.degree == certified_degree(bound, eps, relative=True)
        assert result.k_delta == math.comb(result.rank + result.degree, result.degree)
        assert row_error(update, result.degree) <= result.row_error_bound
        assert result.row_error_bound == pytest.approx(2 * eps, rel=0.03)


def test_a_few_features_follow_a_rank_four_adapter():
    """max|ΔS| about 1 on logits of about 10: 35 features to a percent, 126 to 1e-4."""
    arrays = head(7, length=512, width=64, rank=4, size=0.011)
    update = head_update(*arrays)
    base = arrays[4] * np.abs(update.queries @ update.keys.T).max()
    size = delta_logit(update)
    assert 0.8 < size < 1.3 and base > 8.0
    assert update_rank(update) == 4
    assert math.comb(4 + 3, 3) == 35 and row_error(update, 3) < 1e-2
    assert math.comb(4 + 5, 5) == 126 and row_error(update, 5) < 2e-4


def test_rotary_embedding_raises_the_rank():
    Q, K, dQ, dK, beta = head(2, length=200, width=8, rank=1)
    angles = np.arange(200)[:, None] * np.array([1.0, 0.1, 0.01, 0.001])

    def rotate(Z):
        first, second = Z[:, :4], Z[:, 4:]
        return np.hstack(
            [
                first * np.cos(angles) - second * np.sin(angles),
                second * np.cos(angles) + first * np.sin(angles),
            ]
        )

    plain = head_update(Q, K, dQ, dK, beta)
    turned = head_update(rotate(Q), rotate(K), rotate(dQ), dK, beta)
    assert update_rank(plain) == 1 and update_rank(turned) == 8


def test_float32_rounding_does_not_count_as_rank():
    Q, K, dQ, dK, beta = head(4, width=32)
    update = head_update(Q, K, dQ.astype(np.float32), dK, beta)
    assert update_rank(update) == 3


def test_fresh_adapter_needs_one_feature():
    Q, K, dQ, dK, beta = head(3)
    update = head_update(Q, K, 0.0 * dQ, dK, beta, causal=True)
    result = perturbation_rank(update, 1e-6)
    assert (result.delta_logit, result.rank, result.degree, result.k_delta) == (0.0, 0, 0, 1)
    assert row_error(update, 0) <= 1e-15


def test_a_polynomial_that_turns_negative_is_not_attention():
    # degree 1 on |ΔS| ≤ 6: I_0(6) - 2 I_1(6) < 0, and every key sits at one of both ends
    q, k = np.array([[1.0], [-1.0]]), np.array([[1.0], [-1.0]])
    update = head_update(-50.0 * q, k, 6.0 * q, 0.0 * k, 1.0)
    assert row_error(update, 1) == math.inf
    assert row_error(update, 40) < 1e-9


def test_refusals():
    Q, K, dQ, dK, beta = head(5)
    with pytest.raises(ValueError, match=r"update \(95, 16\)"):
        head_update(Q, K, dQ[1:], dK, beta)
    with pytest.raises(ValueError, match="key update contains NaN"):
        head_update(Q, K, dQ, dK * np.nan, beta)
    with pytest.raises(ValueError, match="causal"):
        head_update(Q, K[1:], dQ, dK[1:], beta, causal=True)
    with pytest.raises(ValueError, match="softmax scale"):
        head_update(Q, K, dQ, dK, 0.0)
    with pytest.raises(ValueError, match=r"\(0, 1\)"):
        perturbation_rank(head_update(Q, K, dQ, dK, beta), 1.0)
