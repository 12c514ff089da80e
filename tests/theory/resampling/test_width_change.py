"""Width changes keep the function where they must: MLP, SwiGLU, grouped-query attention."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.resampling.operators import area, dct, linear
from theory.resampling.width_change import along, duplicate, merge, prune, riemann


def mlp(x, W, b, V):
    return np.tanh(x @ W.T + b) @ V.T


def swiglu(x, gate, up, down):
    g = x @ gate.T
    return (g / (1 + np.exp(-g)) * (x @ up.T)) @ down.T


@given(n=st.integers(1, 12), extra=st.integers(0, 20), seed=st.integers(0, 50))
def test_duplication_keeps_the_function_and_merging_undoes_it(n, extra, seed):
    rng = np.random.default_rng(seed)
    W, b, V, U = (rng.standard_normal(s) for s in ((n, 5), (n,), (3, n), (n, 5)))
    x = rng.standard_normal((7, 5))
    change = duplicate(n, n + extra)
    wide = [along(change.producing, t, 0) for t in (W, b, U)]
    read = along(change.consuming, V, 1)
    assert wide[0].shape == (n + extra, 5) and wide[1].shape == (n + extra,)
    np.testing.assert_allclose(mlp(x, wide[0], wide[1], read), mlp(x, W, b, V), atol=1e-12)
    np.testing.assert_allclose(swiglu(x, wide[0], wide[2], read), swiglu(x, W, U, V), atol=1e-11)

    source = np.arange(n + extra) * n // (n + extra)
    back = merge(source, np.linalg.norm(read, axis=0))
    for before, after in ((W, wide[0]), (b, wide[1])):
        np.testing.assert_allclose(along(back.producing, after, 0), before, atol=1e-12)
    np.testing.assert_allclose(along(back.consuming, read, 1), V, atol=1e-12)


def attention(x, q, k, v, o, groups):
    """Grouped-query attention: q (H dh, d), k and v (groups dh, d), o (d, H dh)."""
    dh = k.shape[0] // groups
    per = q.shape[0] // dh // groups
    Q = (x @ q.T).reshape(len(x), groups, per, dh)
    K, V = ((x @ w.T).reshape(len(x), groups, dh) for w in (k, v))
    scores = np.einsum("tghc,sgc->ghts", Q, K)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("ghts,sgc->tghc", weights, V).reshape(len(x), -1) @ o.T


def test_key_value_groups_are_duplicated_as_blocks():
    rng = np.random.default_rng(3)
    groups, per, dh, d = 3, 2, 4, 6
    q, k, v = (rng.standard_normal((c * dh, d)) for c in (groups * per, groups, groups))
    o, x = rng.standard_normal((d, groups * per * dh)), rng.standard_normal((5, d))
    change = duplicate(groups, 4)
    wide_q = along(change.producing, q, 0, per * dh)
    wide_k, wide_v = (along(change.producing, w, 0, dh) for w in (k, v))
    wide_o = along(change.consuming, o, 1, per * dh)
    after = attention(x, wide_q, wide_k, wide_v, wide_o, 4)
    np.testing.assert_allclose(after, attention(x, q, k, v, o, groups), atol=1e-12)


@pytest.mark.parametrize("build", [area, linear, dct])
def test_riemann_rule_keeps_the_sum_over_a_constant(build):
    change = riemann(build(12, 5))
    V = np.ones((3, 12)) * np.array([[1.0], [2.0], [-1.0]])
    h = along(change.producing, np.full(12, 0.5), 0)
    np.testing.assert_allclose(along(change.consuming, V, 1) @ h, V @ np.full(12, 0.5), atol=1e-12)


def test_both_axes_are_one_two_sided_product():
    rng = np.random.default_rng(0)
    W = rng.standard_normal((6, 9, 3))
    out, into = riemann(dct(6, 4)), riemann(area(9, 5))
    both = along(into.consuming, along(out.producing, W, 0), 1)
    expected = np.einsum("ab,bct,dc->adt", dct(6, 4), W, area(9, 5).toarray()) * 9 / 5
    np.testing.assert_allclose(both, expected, atol=1e-12)


def test_area_equals_duplication_where_the_width_divides():
    change, exact = riemann(area(4, 12)), duplicate(4, 12)
    np.testing.assert_allclose(change.producing.toarray(), exact.producing.toarray(), atol=1e-15)
    np.testing.assert_allclose(change.consuming.toarray(), exact.consuming.toarray(), atol=1e-15)


def test_pruning_keeps_the_named_channels_and_bad_widths_are_refused():
    W = np.arange(12.0).reshape(4, 3)
    change = prune(np.array([0, 3]), 4)
    np.testing.assert_array_equal(along(change.producing, W, 0), W[[0, 3]])
    np.testing.assert_array_equal(along(change.consuming, W.T, -1), W.T[:, [0, 3]])
    with pytest.raises(ValueError, match="widens"):
        duplicate(4, 3)
    with pytest.raises(ValueError, match="2 entries"):
        along(change.producing, W, 1, 2)
