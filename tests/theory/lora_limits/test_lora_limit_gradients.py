"""Attention gradients against autograd; the factored form and its error bounds."""

import numpy as np
import pytest
import torch

from theory.lora_limits.feature_gradients import (
    factored_attention,
    factored_gradients,
    factored_output,
    logit_gradient_error,
    query_adapter_error,
)
from theory.lora_limits.features import feature_maps
from theory.lora_limits.gradients import (
    attention_gradients,
    attention_matrix,
    centred_keys,
    lora_gradients,
    squared_loss,
    weight_gradient,
)
from theory.lora_limits.polynomial import certified_degree, monomial_coefficients


def instance(seed, length=24, width=5, head=3, out=4, rank=2, scale=0.6):
    """X, three projections in torch order, adapter on the queries, target."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(length, width))
    Wq, Wk = scale * rng.normal(size=(2, head, width))
    Wv = scale * rng.normal(size=(out, width))
    A, B = scale * rng.normal(size=(rank, width)), scale * rng.normal(size=(head, rank))
    return X, Wq, Wk, Wv, A, B, rng.normal(size=(length, out))


def test_worked_case():
    X = np.array([[1, 0], [0, 1], [1, 1], [2, -1.0]])
    Wq, Wk = np.diag([0.5, -0.25]), np.array([[0.2, 0], [0.1, 0.3]])  # torch order
    A, B, s, beta = np.array([[1, 2.0]]), np.array([[0.5], [-1]]), 0.2, 2**-0.5
    Q, K = X @ Wq.T + s * (X @ A.T) @ B.T, X @ Wk.T
    loss, G = squared_loss(attention_matrix(Q, K, beta) @ X, np.zeros((4, 2)))
    assert loss == pytest.approx(2.36066416, abs=5e-9)
    d = attention_gradients(Q, K, X, G, beta)
    lora = lora_gradients(weight_gradient(d.queries, X), A, B, s)
    np.testing.assert_allclose(lora.lora_A, [[0.07300855, 0.02531189]], atol=5e-9)
    np.testing.assert_allclose(lora.lora_B, [[0.08299647], [-0.08213408]], atol=5e-9)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_gradients_equal_autograd(seed, causal):
    arrays = instance(seed)
    s, beta = 1.7, 0.8
    X, Wq, Wk, Wv, A, B, Y = (torch.tensor(a) for a in arrays)
    for leaf in (Wq, Wk, Wv, A, B):
        leaf.requires_grad_()
    Q, K, V = X @ Wq.T + s * (X @ A.T) @ B.T, X @ Wk.T, X @ Wv.T
    S = beta * Q @ K.T
    S.retain_grad()
    mask = torch.ones(S.shape, dtype=torch.bool).tril()
    F = torch.softmax(S.masked_fill(~mask, -torch.inf) if causal else S, dim=1)
    loss = 0.5 * ((F @ V - Y) ** 2).sum()
    loss.backward()

    q, k, v = (m.detach().numpy() for m in (Q, K, V))
    F_ours = attention_matrix(q, k, beta, causal=causal)
    np.testing.assert_allclose(F_ours, F.detach().numpy(), atol=1e-14)
    loss_ours, G = squared_loss(F_ours @ v, arrays[-1])
    assert loss_ours == pytest.approx(loss.item(), rel=1e-13)
    d = attention_gradients(q, k, v, G, beta, causal=causal)
    dWq = weight_gradient(d.queries, arrays[0])
    lora = lora_gradients(dWq, arrays[4], arrays[5], s)
    pairs = [
        (d.logits, S),
        (dWq, Wq),
        (weight_gradient(d.keys, arrays[0]), Wk),
        (weight_gradient(d.values, arrays[0]), Wv),
        (lora.lora_A, A),
        (lora.lora_B, B),
    ]
    for ours, tensor in pairs:
        np.testing.assert_allclose(ours, tensor.grad.numpy(), atol=2e-13)


def test_cross_attention_and_centring():
    rng = np.random.default_rng(0)
    Q, K, V, G = (rng.normal(size=s) for s in [(5, 3), (9, 3), (9, 2), (5, 2)])
    plain = attention_gradients(Q, K, V, G, 0.5)
    centred = attention_gradients(Q, centred_keys(K), V, G, 0.5)
    assert plain.keys.shape == (9, 3) and plain.values.shape == (9, 2)
    for name in ("logits", "queries", "keys", "values"):
        np.testing.assert_allclose(getattr(plain, name), getattr(centred, name), atol=1e-14)
    S = 0.5 * Q @ centred_keys(K).T
    assert np.all(np.exp(S).sum(axis=1) >= 9)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_factored_form_at_one_millionth(seed, causal):
    # 300 rows: several blocks of the masked product and a last one that is not full
    X, Wq, Wk, Wv, A, B, Y = instance(seed, length=300, scale=0.25)
    s, beta = 1.3, 0.7
    Q, K, V = X @ Wq.T + s * (X @ A.T) @ B.T, centred_keys(X @ Wk.T), X @ Wv.T
    bound = float(np.abs(beta * Q @ K.T).max())
    degree = certified_degree(bound, 1e-6, relative=causal)
    maps = feature_maps(Q, K, monomial_coefficients(bound, degree), beta)
    attention = factored_attention(*maps, causal=causal)

    F = attention_matrix(Q, K, beta, causal=causal)
    _, G = squared_loss(F @ V, Y)
    exact = attention_gradients(Q, K, V, G, beta, causal=causal)
    output = factored_output(attention, V)
    np.testing.assert_allclose(output, F @ V, atol=2e-6 * np.abs(V).max())
    _, G_hat = squared_loss(output, Y)
    approximate = factored_gradients(attention, Q, K, V, G_hat, beta)
    for name in ("queries", "keys", "values"):
        reference = getattr(exact, name)
        error = np.abs(getattr(approximate, name) - reference).max()
        assert error <= 1e-6 * np.abs(reference).max()

    E = logit_gradient_error(1e-6, G, V)
    bounds = query_adapter_error(E, X, K, A, B, s, beta)
    ours = lora_gradients(weight_gradient(approximate.queries, X), A, B, s)
    wanted = lora_gradients(weight_gradient(exact.queries, X), A, B, s)
    assert np.all(np.abs(ours.lora_A - wanted.lora_A) <= bounds.lora_A)
    assert np.all(np.abs(ours.lora_B - wanted.lora_B) <= bounds.lora_B)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("delta", [1e-8, 1e-4, 1e-2, 0.3])
@pytest.mark.parametrize("seed", range(8))
def test_bounds_hold_for_any_error_of_exp(seed, delta, causal):
    """exp(S) disturbed by ±δ at every entry, in random or in adverse directions."""
    X, Wq, Wk, Wv, A, B, Y = instance(seed, length=16)
    s, beta = -0.9, 1.1
    Q, K, V = X @ Wq.T + s * (X @ A.T) @ B.T, centred_keys(X @ Wk.T), X @ Wv.T
    F = attention_matrix(Q, K, beta, causal=causal)
    _, G = squared_loss(F @ V, Y)
    exact = attention_gradients(Q, K, V, G, beta, causal=causal)
    E = logit_gradient_error(delta, G, V)
    bounds = query_adapter_error(E, X, K, A, B, s, beta)
    wanted = lora_gradients(weight_gradient(exact.queries, X), A, B, s)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(16, 16))
    exponentials = np.exp(beta * Q @ K.T)
    for direction in (signs, np.sign(exact.logits)):
        size = delta * exponentials if causal else delta  # relative where rows are cut short
        attention = factored_attention(exponentials + size * direction, np.eye(16), causal=causal)
        _, G_hat = squared_loss(factored_output(attention, V), Y)
        factored = factored_gradients(attention, Q, K, V, G_hat, beta)
        triangle = attention.left @ attention.right.T
        F_hat = np.tril(triangle) if causal else triangle
        W = F_hat * (G_hat @ V.T)
        P_hat = W - W.sum(axis=1, keepdims=True) * F_hat
        assert np.abs(F_hat - F).sum(axis=1).max() <= 2 * delta / (1 - delta)
        row_error = np.abs(P_hat - exact.logits).sum(axis=1).max()
        assert row_error <= E
        assert row_error >= 1e-3 * E  # of the right order, not merely true
        ours = lora_gradients(weight_gradient(factored.queries, X), A, B, s)
        assert np.all(np.abs(ours.lora_A - wanted.lora_A) <= bounds.lora_A)
        assert np.all(np.abs(ours.lora_B - wanted.lora_B) <= bounds.lora_B)


def test_bounds_are_of_the_right_size():
    """Uniform attention, values ±1, keys aligned with the error: a sixth of the bounds."""
    length, delta, g = 16, 1e-4, 1e4
    v, t = np.tile([1.0, -1.0], 8), np.tile([1.0, 1.0, -1.0, -1.0], 4)
    Q, K, V = np.zeros((length, 1)), (v * t)[:, None], v[:, None]
    G = np.full((length, 1), g)  # far above the feedback of the output
    X, A, B, s, beta = np.ones((length, 1)), np.ones((1, 1)), np.ones((1, 1)), 0.5, 2.0
    attention = factored_attention(np.tile(1.0 + delta * t, (length, 1)), np.eye(length))
    exact = attention_gradients(Q, K, V, G, beta)
    off = factored_gradients(attention, Q, K, V, G, beta)
    bounds = query_adapter_error(logit_gradient_error(delta, G, V), X, K, A, B, s, beta)
    error = lora_gradients(weight_gradient(off.queries - exact.queries, X), A, B, s)
    assert error.lora_A.item() == pytest.approx(bounds.lora_A.item() / 6, rel=1e-2)
    assert error.lora_B.item() == pytest.approx(bounds.lora_B.item() / 6, rel=1e-2)


def test_fresh_adapter():
    X, Wq, Wk, Wv, A, B, Y = instance(1)
    F = attention_matrix(X @ Wq.T, X @ Wk.T, 1.0)
    _, G = squared_loss(F @ X @ Wv.T, Y)
    d = attention_gradients(X @ Wq.T, X @ Wk.T, X @ Wv.T, G, 1.0)
    lora = lora_gradients(weight_gradient(d.queries, X), A, np.zeros_like(B), 2.0)
    assert not lora.lora_A.any() and lora.lora_B.any()


def test_one_token():
    d = attention_gradients([[1.0, 2.0]], [[3.0, 1.0]], [[5.0]], [[7.0]], 1.0)
    assert not d.logits.any() and not d.queries.any()
    np.testing.assert_allclose(d.values, [[7.0]])


def test_huge_logits_do_not_overflow():
    F = attention_matrix([[1e3], [-1e3]], [[1e3], [-1e3]], 1.0)
    np.testing.assert_allclose(F, np.eye(2))


def test_refusals():
    Q, K, V = np.ones((3, 2)), np.ones((4, 2)), np.ones((4, 5))
    with pytest.raises(ValueError, match="causal mask needs as many"):
        attention_matrix(Q, K, 1.0, causal=True)
    with pytest.raises(ValueError, match=r"\(3, 2\) and keys \(4, 3\)"):
        attention_matrix(Q, np.ones((4, 3)), 1.0)
    with pytest.raises(ValueError, match="softmax scale"):
        attention_matrix(Q, K, -1.0)
    with pytest.raises(ValueError, match=r"output gradient \(3, 2\)"):
        attention_gradients(Q, K, V, np.ones((3, 2)), 1.0)
    with pytest.raises(ValueError, match="values contains NaN"):
        attention_gradients(Q, K, V * np.inf, np.ones((3, 5)), 1.0)
    with pytest.raises(ValueError, match=r"lora_A must be .*\(0, 2\)"):  # rank 0
        lora_gradients(np.ones((3, 2)), np.ones((0, 2)), np.ones((3, 0)), 1.0)
    with pytest.raises(ValueError, match=r"does not have shape \(3, 2\)"):
        lora_gradients(np.ones((3, 2)), np.ones((1, 4)), np.ones((3, 1)), 1.0)
    with pytest.raises(ValueError, match="raise the degree"):
        factored_attention([[1.0], [-1.0]], [[1.0], [1.0]])
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\)"):
        logit_gradient_error(1.0, V, V)
