"""The projection against full singular bases and a worked step; scaling against its definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.opcm import project, start, step

D1, D2 = np.diag([3, 2.9, 1, 0.5]), np.arange(1.0, 17.0).reshape(4, 4)


def with_full_bases(merged, new, alpha):
    U, s, Vt = np.linalg.svd(merged, full_matrices=True)
    r = next(i for i, share in enumerate(np.cumsum(s) / s.sum()) if share > alpha)
    G = U.T @ new @ Vt.T
    for i in range(min(G.shape)):
        G[i, i] = 0.0
    G[:r, :r] = 0.0
    return U @ G @ Vt, r


def test_worked_step():
    first = start({"w": D1})
    assert first.mean_norm == pytest.approx(4.3197222133, abs=5e-11)
    after = step(first, {"w": D2}, 0.9)
    assert project(D1, D2, 0.9).rank == 2 and after.degenerate == ()
    assert after.scale == pytest.approx(1.5226898345, abs=5e-11)
    expected = [[3, 0, 3, 4], [0, 2.9, 7, 8], [9, 10, 1, 12], [13, 14, 15, 0.5]]
    np.testing.assert_allclose(after.merged["w"] * after.scale, expected, atol=1e-12)
    assert np.linalg.norm(after.merged["w"]) == pytest.approx(21.4989407125, abs=5e-11)
    assert np.linalg.norm(D2) == pytest.approx(38.6781592116, abs=5e-11)


@given(
    m=st.integers(1, 8), n=st.integers(1, 8), alpha=st.floats(0.0, 0.99), seed=st.integers(0, 200)
)
def test_thin_form_equals_full_bases(m, n, alpha, seed):
    merged, new = np.random.default_rng(seed).standard_normal((2, m, n))
    update, rank = with_full_bases(merged, new, alpha)
    found = project(merged, new, alpha)
    assert found.rank == rank and not found.degenerate
    np.testing.assert_allclose(found.update, update, atol=1e-12)


def test_merged_norm_is_the_mean_over_a_sequence():
    rng = np.random.default_rng(0)
    updates = [
        {
            "w": rng.standard_normal((6, 4)),
            "b": rng.standard_normal(5),
            "k": rng.standard_normal((2, 2, 3)),
        }
        for _ in range(4)
    ]
    state, scale = start(updates[0]), 1.0
    norms = [np.sqrt(sum(np.sum(v**2) for v in update.values())) for update in updates]
    for count, update in enumerate(updates[1:], start=2):
        summed = {name: scale * state.merged[name] + update[name] for name in ("b", "k")}
        summed["w"] = (
            scale * state.merged["w"] + with_full_bases(state.merged["w"], update["w"], 0.5)[0]
        )
        state = step(state, update)
        scale = np.sqrt(sum(np.sum(v**2) for v in summed.values())) / np.mean(norms[:count])
        assert state.scale == pytest.approx(scale, rel=1e-12) and state.count == count
        for name, value in summed.items():
            np.testing.assert_allclose(state.merged[name], value / scale, atol=1e-12)
        total = np.sqrt(sum(np.sum(v**2) for v in state.merged.values()))
        assert total == pytest.approx(np.mean(norms[:count]), rel=1e-12)


def test_equal_singular_values_are_flagged_only_where_they_matter():
    new = np.random.default_rng(1).standard_normal((4, 4))
    assert project(np.diag([3.0, 2.0, 1.0, 1.0]), new, 0.5).degenerate
    assert project(np.diag([3.0, 1.0, 1.0, 1e-9]), new, 0.7).degenerate  # r = 1 < 2
    assert project(np.diag([3.0, 2.0, 0.0, 0.0]), new, 0.5).degenerate  # null space
    # both values inside the removed block: any basis of their plane gives the same result
    inside = np.diag([3.0, 3.0, 0.2, 0.1])
    rotation = np.linalg.qr(new[:2, :2])[0]
    turned = np.eye(4)
    turned[:2, :2] = rotation
    result = project(inside, new, 0.96)
    assert result.rank == 2 and not result.degenerate
    G = turned.T @ new @ turned
    G[:2, :2] = 0.0
    np.fill_diagonal(G, 0.0)
    np.testing.assert_allclose(result.update, turned @ G @ turned.T, atol=1e-12)


@pytest.mark.parametrize(
    ("m", "n", "rank", "flagged"),
    [
        (6, 6, 6, False),
        (6, 6, 5, False),  # one null direction on either side: determined up to sign
        (6, 6, 4, True),
        (6, 6, 1, True),
        (7, 4, 4, False),
        (7, 4, 3, True),  # four null directions on the left, of which the thin basis holds one
        (4, 7, 3, True),
    ],
)
def test_sums_of_low_rank_are_flagged_where_the_null_space_may_turn(m, n, rank, flagged):
    """Rounding gives null singular values that are neither zero nor equal."""
    rng = np.random.default_rng(2)
    low = sum(np.outer(rng.standard_normal(m), rng.standard_normal(n)) for _ in range(rank))
    new = rng.standard_normal((m, n))
    found = project(low, new, 0.5)
    assert found.degenerate == flagged

    U, s, Vt = np.linalg.svd(low)
    turns = [np.linalg.qr(rng.standard_normal((k - rank, k - rank)))[0] for k in (m, n)]
    U[:, rank:], Vt[rank:] = U[:, rank:] @ turns[0], turns[1] @ Vt[rank:]
    S = np.zeros((m, n))
    np.fill_diagonal(S, s)
    np.testing.assert_allclose(U @ S @ Vt, low, atol=1e-12)  # another decomposition of the same
    r = found.rank
    G = U.T @ new @ Vt.T
    np.fill_diagonal(G, 0.0)
    G[:r, :r] = 0.0
    assert np.allclose(U @ G @ Vt, found.update, atol=1e-10) != flagged


def test_flags_of_a_step_are_those_of_its_projections():
    rng = np.random.default_rng(3)
    update = rng.standard_normal((5, 5))
    low = np.outer(update[0], update[1])
    flagged = step(start({"low": low, "full": update}), {"low": update, "full": low})
    assert flagged.degenerate == ("low",)
    nothing = {"low": np.zeros((5, 5)), "full": low}
    assert step(start({"low": low, "full": update}), nothing).degenerate == ()


def test_extremes_and_bad_input():
    np.testing.assert_array_equal(
        project(np.zeros((3, 2)), np.ones((3, 2))).update, np.ones((3, 2))
    )
    state = start({"w": np.eye(2)})
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        step(state, {"w": np.eye(2)}, 1.0)
    with pytest.raises(ValueError, match="other tensors"):
        step(state, {"v": np.eye(2)})
    with pytest.raises(ValueError, match=r"w has shape \(3, 3\)"):
        step(state, {"w": np.eye(3)})
    with pytest.raises(ValueError, match="cancel"):
        step(start({"b": np.ones(2)}), {"b": -np.ones(2)})
