"""Permutations of tied axes: composition, nesting, and the functions they leave alone."""

import numpy as np
import pytest

from theory.tied_axes import (
    NestedGroup,
    NestedPermutation,
    apply,
    compose,
    group_shape,
    identity,
    permute,
)

HEADS = NestedGroup((("k", 0),), (("q", 0, 1),))


def nested(rng, G=4, H=3):
    return NestedPermutation(rng.permutation(G), np.array([rng.permutation(H) for _ in range(G)]))


def test_composition_is_application_in_turn():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 4, 5, 3))
    first, then = nested(rng), nested(rng)
    once = permute(permute(x, (1, 3), first), (1, 3), then)
    np.testing.assert_array_equal(permute(x, (1, 3), compose(first, then)), once)
    keys = rng.standard_normal((4, 2))
    once = permute(permute(keys, (0,), first), (0,), then)
    np.testing.assert_array_equal(permute(keys, (0,), compose(first, then)), once)
    p, q = rng.permutation(5), rng.permutation(5)
    np.testing.assert_array_equal(permute(x, (2,), compose(p, q)), x[:, :, p][:, :, q])
    with pytest.raises(ValueError, match="do not compose"):
        compose(first, p)


def test_nested_permutation_moves_heads_with_their_group():
    rng = np.random.default_rng(1)
    q, move = rng.standard_normal((4, 3, 2)), nested(rng)
    moved = permute(q, (0, 1), move)
    for g in range(4):
        for h in range(3):
            np.testing.assert_array_equal(moved[g, h], q[move.outer[g], move.inner[g, h]])
    np.testing.assert_array_equal(permute(q, (0, 1), identity((4, 3))), q)
    np.testing.assert_array_equal(permute(q, (0,), identity((4,))), q)


def test_function_of_an_mlp_is_kept():
    rng = np.random.default_rng(2)
    T = {
        "w": rng.standard_normal((6, 3)),
        "b": rng.standard_normal(6),
        "v": rng.standard_normal((2, 6)),
    }
    moved = apply(T, {"h": [("w", 0), ("b", 0), ("v", 1)]}, {"h": rng.permutation(6)})
    x = rng.standard_normal((5, 3))
    before, after = (np.tanh(x @ t["w"].T + t["b"]) @ t["v"].T for t in (T, moved))
    np.testing.assert_allclose(after, before, atol=1e-14)
    assert not np.array_equal(moved["w"], T["w"])


def test_shapes_of_groups():
    T = {"k": np.ones((4, 2)), "q": np.ones((4, 3, 2)), "odd": np.ones((5, 3))}
    assert group_shape(HEADS, T) == (4, 3)
    assert group_shape([("k", 0), ("q", 0)], T) == (4,)
    with pytest.raises(ValueError, match=r"length 4 \(k\) and 5 \(odd\)"):
        group_shape(NestedGroup((("k", 0),), (("odd", 0, 1),)), T)
    for empty in ([], NestedGroup((("k", 0),), ())):
        with pytest.raises(ValueError, match="at least one site"):
            group_shape(empty, T)
