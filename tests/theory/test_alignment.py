"""Matching recovers planted permutations, never loses ground, and agrees with brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from theory.alignment import (
    correlations,
    cosine_and_distance,
    match_units,
    weight_matching,
)
from theory.tied_axes import NestedGroup, NestedPermutation, apply

MLP = {"h1": [("w1", 0), ("b1", 0), ("w2", 1)], "h2": [("w2", 0), ("b2", 0), ("w3", 1)]}


def mlp(rng, n1=24, n2=20):
    shapes = {"w1": (n1, 9), "b1": (n1,), "w2": (n2, n1), "b2": (n2,), "w3": (7, n2)}
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


def block(rng, d=12, hidden=30, groups=3, per=2, dh=4):
    """One transformer block: residual stream, MLP and grouped-query attention, heads as axes."""
    shapes = {
        "embed": (50, d),
        "q": (groups, per, dh, d),
        "k": (groups, dh, d),
        "v": (groups, dh, d),
        "o": (d, groups, per, dh),
        "up": (hidden, d),
        "down": (d, hidden),
        "norm": (d,),
    }
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


BLOCK = {
    "residual": [
        *[("embed", 1), ("q", 3), ("k", 2), ("v", 2), ("o", 0)],
        *[("up", 1), ("down", 0), ("norm", 0)],
    ],
    "hidden": [("up", 0), ("down", 1)],
    "heads": NestedGroup((("k", 0), ("v", 0)), (("q", 0, 1), ("o", 1, 2))),
}


def objective(A, B):
    return sum(np.vdot(A[name], B[name]) for name in A)


def test_worked_case():
    A = np.array([[1.0, 0], [0, 2], [3, 1]])
    B = A[[2, 0, 1]]
    np.testing.assert_array_equal(A @ B.T, [[3, 1, 0], [2, 0, 4], [10, 3, 2]])
    np.testing.assert_array_equal(match_units(A @ B.T), [1, 2, 0])
    found = weight_matching({"w": A}, {"w": B}, {"g": [("w", 0)]})
    np.testing.assert_array_equal(found.permutations["g"], [1, 2, 0])
    np.testing.assert_array_equal(B[found.permutations["g"]], A)


@pytest.mark.parametrize(("noise", "seed"), [(0.0, 0), (0.0, 1), (0.5, 2), (0.5, 3)])
def test_planted_mlp_symmetry_is_recovered(noise, seed):
    rng = np.random.default_rng(seed)
    A = mlp(rng)
    planted = {"h1": rng.permutation(24), "h2": rng.permutation(20)}
    noisy = {name: value + noise * rng.standard_normal(value.shape) for name, value in A.items()}
    found = weight_matching(A, apply(noisy, MLP, planted), MLP, seed=seed)
    assert found.converged
    for name, permutation in planted.items():
        np.testing.assert_array_equal(
            permutation[found.permutations[name]], np.arange(len(permutation))
        )


@pytest.mark.parametrize(("noise", "seed"), [(0.0, 0), (0.5, 1), (0.5, 2)])
def test_planted_residual_mlp_and_head_symmetry_is_recovered(noise, seed):
    rng = np.random.default_rng(seed)
    A = block(rng)
    planted = {
        "residual": rng.permutation(12),
        "hidden": rng.permutation(30),
        "heads": NestedPermutation(
            rng.permutation(3), np.array([rng.permutation(2) for _ in "abc"])
        ),
    }
    noisy = {name: value + noise * rng.standard_normal(value.shape) for name, value in A.items()}
    B = apply(noisy, BLOCK, planted)
    found = weight_matching(A, B, BLOCK, seed=seed)
    aligned = apply(B, BLOCK, found.permutations)
    for name, value in noisy.items():
        np.testing.assert_array_equal(aligned[name], value)


@settings(max_examples=30)
@given(seed=st.integers(0, 1000))
def test_objective_ascends_and_is_that_of_the_permutations(seed):
    rng = np.random.default_rng(seed)
    A, B = mlp(rng, 6, 5), mlp(rng, 6, 5)
    found = weight_matching(A, B, MLP, seed=seed)
    assert found.converged
    assert np.all(np.diff(found.objective) >= 0.0)
    assert found.objective[0] == pytest.approx(objective(A, B), abs=1e-10)
    aligned = apply(B, MLP, found.permutations)
    assert found.objective[-1] == pytest.approx(objective(A, aligned), abs=1e-10)
    # no single group can be improved any further
    for name, size in (("h1", 6), ("h2", 5)):
        for order in itertools.islice(itertools.permutations(range(size)), 0, None, 7):
            other = apply(aligned, MLP, {name: np.array(order)})
            assert objective(A, other) <= found.objective[-1] + 1e-9


def test_nested_assignment_is_the_best_of_all():
    rng = np.random.default_rng(5)
    A, B = block(rng), block(rng)
    group = {"heads": BLOCK["heads"]}
    found = weight_matching(A, B, group)
    best = max(
        objective(
            A, apply(B, group, {"heads": NestedPermutation(np.array(outer), np.array(inner))})
        )
        for outer in itertools.permutations(range(3))
        for inner in itertools.product([(0, 1), (1, 0)], repeat=3)
    )
    assert len(found.objective) == 3  # one pass finds it, the next has nothing to add
    assert objective(A, apply(B, group, found.permutations)) == pytest.approx(best, abs=1e-10)


@pytest.mark.parametrize("seed", range(8))
def test_group_on_both_axes_of_a_tensor_still_ascends(seed):
    rng = np.random.default_rng(seed)
    group = {"state": [("recurrent", 0), ("recurrent", 1), ("input", 0)]}
    A, B = (
        {"recurrent": rng.standard_normal((9, 9)), "input": rng.standard_normal((9, 2))}
        for _ in "ab"
    )
    found = weight_matching(A, B, group)
    assert np.all(np.diff(found.objective) >= 0.0)
    aligned = apply(B, group, found.permutations)
    assert objective(A, aligned) == pytest.approx(found.objective[-1], abs=1e-10)
    planted = rng.permutation(9)
    near = apply(A, group, {"state": planted})
    start = {"state": [("input", 0), ("recurrent", 0), ("recurrent", 1)]}
    near["input"] = near["input"] * 10.0
    found = weight_matching({**A, "input": A["input"] * 10.0}, near, start)
    np.testing.assert_array_equal(planted[found.permutations["state"]], np.arange(9))


def test_correlation_matching():
    rng = np.random.default_rng(6)
    za = rng.standard_normal((400, 10)) * rng.uniform(0.1, 50.0, 10) + 3.0
    order = rng.permutation(10)
    zb = 2.0 * za[:, order] - 1.0 + 0.1 * za.std(axis=0)[order] * rng.standard_normal((400, 10))
    corr = correlations(za, zb)
    exact = np.corrcoef(za.T, zb.T)[:10, 10:]
    np.testing.assert_allclose(corr, exact, atol=1e-12)
    np.testing.assert_array_equal(order[match_units(corr)], np.arange(10))
    za[:, 3] = 1 / 3  # a constant unit, whose mean is rounded
    assert np.all(correlations(za, zb)[3] == 0.0) and np.isfinite(correlations(za, zb)).all()


def test_distances():
    rng = np.random.default_rng(7)
    A, B = mlp(rng), mlp(rng)
    a, b = (np.concatenate([value.ravel() for value in T.values()]) for T in (A, B))
    cosine, distance = cosine_and_distance(A, B)
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    assert cosine == pytest.approx(a @ b / norms, abs=1e-12)
    assert distance == pytest.approx(np.linalg.norm(a - b) / np.sqrt(norms), rel=1e-12)
    assert cosine_and_distance({"w": np.zeros(3)}, {"w": np.ones(3)}) == (None, None)


def test_bad_input_is_named():
    rng = np.random.default_rng(8)
    A, B = mlp(rng), mlp(rng)
    with pytest.raises(ValueError, match=r"w2 \(20, 24\) and \(3, 24\)"):
        weight_matching(A, {**B, "w2": np.ones((3, 24))}, MLP)
    with pytest.raises(ValueError, match="b1 has values"):
        weight_matching(A, {**B, "b1": np.full(24, np.nan)}, MLP)
    with pytest.raises(ValueError, match="axis 1 of w2 is in two groups"):
        weight_matching(A, B, {**MLP, "more": [("w2", -1)]})
    with pytest.raises(ValueError, match=r"24 \(w1\) and 20 \(b2\)"):
        weight_matching(A, B, {"g": [("w1", 0), ("b2", 0)]})
    with pytest.raises(ValueError, match="square"):
        match_units(np.ones((2, 3)))
    with pytest.raises(ValueError, match="one shape"):
        correlations(np.ones((3, 2)), np.ones((3, 3)))
