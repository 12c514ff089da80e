"""Vectors followed between steps, against dense singular value decompositions of every step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzer.analyses.critical import DenseUpdate
from analyzer.analyses.intruder_tracks import (
    SidesVectors,
    StepVectors,
    link,
    step_vectors,
    track_rows,
)
from analyzer.analyses.intruders import SIDES, tuned_vectors
from analyzer.analyses.judging import intruder_rows, leading_vectors, thresholds
from analyzer.analyses.rows_intruders import IntruderCosineRow, IntruderTrackRow
from analyzer.spectral import BaseSVD
from analyzer.store.columns import columns

SHAPES = [(60, 25), (25, 60), (30, 30), (160, 90), (90, 160)]


def followed(svd: BaseSVD, P: np.ndarray, Q: np.ndarray, k: int) -> SidesVectors:
    """Of W0 + P Qᵀ as a low-rank update."""
    update = svd.update(P, Q)
    return step_vectors(tuned_vectors(svd, update, k), update, (P, Q))


def followed_dense(svd: BaseSVD, W: np.ndarray, k: int) -> SidesVectors:
    return step_vectors(tuned_vectors(svd, W, k))


def dense_vectors(W: np.ndarray, k: int) -> dict[str, np.ndarray]:
    U, _, Vh = np.linalg.svd(W, full_matrices=False)
    return {"left": U[:, :k], "right": Vh[:k].T}


def trajectory(shape: tuple[int, int], r: int, steps: int, rng: np.random.Generator):
    """A base with a decaying spectrum, and factors that grow and turn as they are trained."""
    m, n = shape
    U, V = (np.linalg.qr(rng.standard_normal((size, min(shape))))[0] for size in shape)
    W0 = (U * (np.arange(min(shape)) + 1.0) ** -0.7) @ V.T
    P, Q = rng.standard_normal((m, r)) / np.sqrt(m), rng.standard_normal((n, r)) / np.sqrt(n)
    at = []
    for step in range(1, steps + 1):
        P = P + 0.3 * rng.standard_normal((m, r)) / np.sqrt(m)
        at.append((0.4 * step * P, Q))
    return W0, at


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_links_between_steps(shape, kind) -> None:
    k = 7
    rng = np.random.default_rng(0)
    W0, at = trajectory(shape, 3, 4, rng)
    svd = BaseSVD.compute(W0)
    weights = [W0 + P @ Q.T for P, Q in at]
    if kind == "lora":
        found = [followed(svd, P, Q, k) for P, Q in at]
    else:
        weights = [W + 0.01 * rng.standard_normal(shape) for W in weights]
        found = [followed_dense(svd, W, k) for W in weights]
    for t in range(1, len(weights)):
        now, before = dense_vectors(weights[t], k), dense_vectors(weights[t - 1], k)
        for side in SIDES:
            want = np.abs(now[side].T @ before[side])
            got = link(found[t][side], found[t - 1][side])
            np.testing.assert_allclose(got.cosine, want.max(axis=1), atol=1e-9)
            assert got.previous_j.tolist() == (want.argmax(axis=1) + 1).tolist()
            assert np.all(got.cosine_err < 1e-6)


def test_most_of_a_tall_intruder_lies_outside_and_is_followed() -> None:
    """At two steps the same direction without any part in the base's span: cosine 1, not 0."""
    rng = np.random.default_rng(1)
    W0 = np.zeros((50, 20))
    W0[:20] = np.diag(np.arange(20.0, 0, -1))
    a, b = np.eye(50)[:, [40]], rng.standard_normal((20, 1))
    svd = BaseSVD.compute(W0)
    early, late = (followed(svd, c * a, b, 5) for c in (50.0, 80.0))
    assert np.sum(late["left"].inside[:, 0] ** 2) < 0.01
    assert link(late["left"], early["left"]).cosine[0] > 0.999


def test_a_vector_is_followed_as_its_rank_changes() -> None:
    ladder = np.diag(np.arange(10.0, 0, -1))
    e = np.eye(10)
    svd = BaseSVD.compute(ladder)
    v = (e[:, [8]] + e[:, [9]]) / np.sqrt(2)
    early, late = (followed(svd, s * v, v, 10) for s in (3.0, 30.0))
    strongest = np.linalg.svd(ladder + 30 * v @ v.T)[0][:, 0]
    before = np.linalg.svd(ladder + 3 * v @ v.T)[0]
    links = link(late["left"], early["left"])
    assert links.previous_j[0] == int(np.argmax(np.abs(strongest @ before))) + 1 != 1
    # the base's leading vectors move down by one
    assert links.previous_j[1:4].tolist() == [1, 2, 3]


def test_a_low_rank_step_against_a_dense_one() -> None:
    """A run may go from an adapter to whole weights: both forms say the same."""
    for shape in SHAPES:
        W0, ((P, Q), (P2, Q2)) = trajectory(shape, 2, 2, np.random.default_rng(2))
        svd = BaseSVD.compute(W0)
        early, late = followed(svd, P, Q, 6), followed(svd, P2, Q2, 6)
        whole = followed_dense(svd, W0 + P @ Q.T, 6)
        for side in SIDES:
            want, got = link(late[side], early[side]), link(late[side], whole[side])
            np.testing.assert_allclose(got.cosine, want.cosine, atol=1e-9)
            back = link(whole[side], early[side])
            np.testing.assert_allclose(back.cosine, np.ones(6), atol=1e-9)


@given(
    st.integers(2, 30), st.integers(2, 30), st.integers(1, 4), st.floats(-3, 3),
    st.booleans(), st.integers(0, 2**32 - 1),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_the_largest_cosine_lies_within_its_bound(m, n, r, size, is_dense, seed) -> None:
    rng = np.random.default_rng(seed)
    W0, P, Q, P2 = (rng.standard_normal(s) for s in ((m, n), (m, r), (n, r), (m, r)))
    P, P2 = 10.0**size * P, 10.0**size * (P + 0.3 * P2)
    svd = BaseSVD.compute(W0)
    k = min(5, m, n)
    if is_dense:
        before, now = (followed_dense(svd, W0 + X @ Q.T, k) for X in (P, P2))
    else:
        before, now = (followed(svd, X, Q, k) for X in (P, P2))
    early, late = (dense_vectors(W0 + X @ Q.T, k) for X in (P, P2))
    for side in SIDES:
        want = np.abs(late[side].T @ early[side]).max(axis=1)
        got = link(now[side], before[side])
        assert np.all(np.abs(got.cosine - want) <= got.cosine_err + 1e-8)
        assert np.all((got.cosine >= 0) & (got.cosine <= 1))
        assert np.all(got.cosine_err <= 1)


def test_the_bound_holds_for_every_pair_of_vectors_within_it() -> None:
    """Vectors turned by as much as their errors allow never leave the interval."""
    rng = np.random.default_rng(3)
    for _ in range(200):
        d, k = int(rng.integers(3, 9)), 3
        angles = rng.uniform(0, 0.4, (2, k))
        exact = [np.linalg.qr(rng.standard_normal((d, k)))[0] for _ in range(2)]
        seen = []
        for vectors, angle in zip(exact, angles, strict=True):
            sideways = rng.standard_normal((d, k))
            sideways -= vectors * np.sum(vectors * sideways, axis=0)
            sideways /= np.linalg.norm(sideways, axis=0)
            turned = np.cos(angle) * vectors + np.sin(angle) * sideways
            none = np.zeros((0, k))
            seen.append(StepVectors(turned, none, none, np.sin(angle)))
        got = link(*seen)
        want = np.abs(exact[0].T @ exact[1]).max(axis=1)
        assert np.all(np.abs(got.cosine - want) <= got.cosine_err + 1e-12)


def test_an_undetermined_vector_before_does_not_blur_a_sure_link() -> None:
    """Orthonormal vectors: what is like the first cannot be like the unknown third."""
    none = np.zeros((0, 3))
    now = StepVectors(np.eye(6, 3), none, none, np.full(3, 1e-9))
    before = StepVectors(np.eye(6, 3), none, none, np.array([1e-9, 1e-9, 1.0]))
    got = link(now, before)
    assert got.previous_j.tolist() == [1, 2, 3]
    assert np.all(got.cosine_err[:2] < 1e-8)
    assert got.cosine_err[2] == 1.0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("k", [4, 10, 200])
def test_map_of_leading_vectors(shape, k) -> None:
    W0, ((P, Q),) = trajectory(shape, 3, 1, np.random.default_rng(4))
    svd, W = BaseSVD.compute(W0), W0 + P @ Q.T
    kept = min(k, *shape)
    base, tuned = dense_vectors(W0, kept), dense_vectors(W, kept)
    sigma = np.linalg.svd(P @ Q.T, compute_uv=False)[:3]
    for update in (svd.update(P, Q), DenseUpdate(W0, W)):
        top = leading_vectors(svd, update, sigma, k)
        found = list(
            intruder_rows(9, svd, update, top, sigma, thresholds(svd, k, 0.5), k=k, epsilon=0.5)
        )
        for side in SIDES:
            cells = [r for r in found if isinstance(r, IntruderCosineRow) and r.side == side]
            assert {r.matrix_id for r in cells} == {9}
            C = np.full((kept, kept), np.nan)
            for r in cells:
                C[r.i - 1, r.j - 1] = r.cosine
            assert len(cells) == kept**2
            # the last vectors of a full basis have gaps of 1e-3 and their own error
            np.testing.assert_allclose(C, np.abs(base[side].T @ tuned[side]), atol=1e-7)


def test_map_of_a_matrix_equal_to_its_base_is_the_identity() -> None:
    W0 = np.linalg.qr(np.random.default_rng(5).standard_normal((40, 40)))[0]
    svd = BaseSVD.compute(W0)
    update, sigma = DenseUpdate(W0, W0.copy()), np.zeros(40)
    top = leading_vectors(svd, update, sigma, 6)
    found = intruder_rows(1, svd, update, top, sigma, thresholds(svd, 6, 0.5), k=6, epsilon=0.5)
    for row in found:
        if isinstance(row, IntruderCosineRow):
            assert row.cosine == (row.i == row.j)


def test_rows_of_a_track() -> None:
    W0, ((P, Q), (P2, Q2)) = trajectory((40, 20), 2, 2, np.random.default_rng(6))
    svd = BaseSVD.compute(W0)
    early, late = followed(svd, P, Q, 4), followed(svd, P2, Q2, 4)
    rows = list(track_rows(8, late, 3, early))
    assert [(r.side, r.j) for r in rows] == [(side, j) for side in SIDES for j in range(1, 5)]
    for r in rows:
        links = link(late[r.side], early[r.side])  # type: ignore[index]
        assert (r.matrix_id, r.previous_matrix_id) == (8, 3)
        assert r.previous_j == links.previous_j[r.j - 1]
        assert (r.cosine, r.cosine_err) == (links.cosine[r.j - 1], links.cosine_err[r.j - 1])


def test_every_column_carries_its_definition() -> None:
    for table in (IntruderCosineRow, IntruderTrackRow):
        assert all(column.description for column in columns(table))
        assert any("Shuttleworth" in column.source for column in columns(table))
