"""Overlap and principal angles against worked cases, scipy and projectors; bounds against truth."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import subspace_angles

from theory.subspaces import (
    chance_corrected,
    chance_overlap,
    chordal_distance,
    davis_kahan,
    gap_distance,
    geodesic_distance,
    overlap,
    pairwise,
    principal_angles,
    q_galore_monitor,
    ritz_residual,
)


def closed(m, n, a=1.0, b=0.37, c=0.0):
    i, j = np.arange(1, m + 1)[:, None], np.arange(1, n + 1)[None, :]
    return np.sin(a * i * np.sqrt(j) + b * j + c)


def random_basis(rng, d, p):
    return np.linalg.qr(rng.standard_normal((d, p)))[0]


def plane(angle):
    """span(e1, cos·e2 + sin·e3)."""
    return np.array([[1, 0], [0, np.cos(angle)], [0, np.sin(angle)]])


def test_two_planes():
    assert overlap(plane(0), plane(np.pi / 6)) == pytest.approx(0.875, abs=1e-15)
    np.testing.assert_allclose(
        np.degrees(principal_angles(plane(0), plane(np.pi / 6))), [0, 30], atol=1e-12
    )


@pytest.mark.parametrize("angle", [1e-9, 1e-7, 1e-6, 1e-3, 0.7, 0.8, np.pi / 2 - 1e-9, np.pi / 2])
def test_small_and_right_angles_are_kept(angle):
    assert principal_angles(plane(0), plane(angle))[1] == pytest.approx(angle, rel=1e-6)


def test_gradients_of_successive_steps():
    U = [np.linalg.svd(closed(6, 8, c=0.3 * t))[0][:, :2] for t in range(4)]
    consecutive = [overlap(a, b) for a, b in itertools.pairwise(U)]
    np.testing.assert_allclose(consecutive, [0.97294099, 0.94671715, 0.97440247], atol=5.1e-9)
    np.testing.assert_allclose(
        [overlap(U[0], U[t]) for t in (2, 3)], [0.86356074, 0.77332434], atol=5.1e-9
    )
    np.testing.assert_allclose(
        np.degrees(principal_angles(U[0], U[1])), [2.75495843, 13.15659869], atol=5.1e-9
    )


@given(seed=st.integers(0, 10**6), d=st.integers(2, 30), data=st.data())
def test_angles_against_scipy_and_projectors(seed, d, data):
    p, q = data.draw(st.integers(1, d)), data.draw(st.integers(1, d))
    rng = np.random.default_rng(seed)
    U, V = random_basis(rng, d, p), random_basis(rng, d, q)
    angles = principal_angles(U, V)
    assert angles.shape == (min(p, q),)
    np.testing.assert_allclose(angles, np.sort(subspace_angles(U, V)), atol=1e-7)
    np.testing.assert_allclose(angles, principal_angles(V, U), atol=1e-7)
    assert np.mean(np.cos(angles) ** 2) == pytest.approx(overlap(U, V), abs=1e-12)
    if p == q:
        difference = U @ U.T - V @ V.T
        assert chordal_distance(angles) == pytest.approx(
            np.linalg.norm(difference) / np.sqrt(2), abs=1e-9
        )
        assert gap_distance(angles) == pytest.approx(np.linalg.norm(difference, 2), abs=1e-9)
    assert geodesic_distance(angles) == pytest.approx(np.sqrt(np.sum(angles**2)))
    rotated = V @ np.linalg.qr(rng.standard_normal((q, q)))[0]
    assert overlap(U, rotated) == pytest.approx(overlap(U, V), abs=1e-12)


def test_chance_level():
    rng = np.random.default_rng(0)
    found = [overlap(random_basis(rng, 24, 6), random_basis(rng, 24, 3)) for _ in range(600)]
    assert np.mean(found) == pytest.approx(chance_overlap(6, 24), abs=0.01)
    assert chance_corrected(0.25, 6, 24) == 0.0 and chance_corrected(1.0, 6, 24) == 1.0
    assert chance_corrected(1.0, 4, 4) is None
    with pytest.raises(ValueError, match=r"1\.\.24, got 25"):
        chance_overlap(25, 24)


def test_bases_stored_in_low_precision_give_the_angles_of_what_is_stored():
    rng = np.random.default_rng(1)
    U = random_basis(rng, 200, 12)
    half = U.astype(np.float16)
    assert principal_angles(U.astype(np.float32), U)[-1] < 1e-6
    assert principal_angles(half, half.astype(np.float64) @ np.eye(12))[-1] < 1e-14
    assert 1 - 1e-6 < overlap(half, U) <= 1.0


def test_what_is_no_basis_is_refused():
    U = np.eye(4)[:, :2]
    for bad, match in [
        (np.ones((4, 2)), "orthonormal"),
        (2 * U, "orthonormal"),
        (np.eye(4)[:, [0, 0]], "orthonormal"),
        (np.eye(3)[:, :2], "dimension 4 and 3"),
        (U.T, "p ≤ d"),
        (np.full((4, 2), np.nan), "finite"),
    ]:
        with pytest.raises(ValueError, match=match):
            overlap(U, bad)


def ritz_vectors(G, basis):
    W, s, _ = np.linalg.svd(basis.T @ G, full_matrices=False)
    return basis @ W, s


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e15])
def test_davis_kahan_holds_and_is_not_vacuous(scale):
    rng = np.random.default_rng(2)
    bounds = []
    for _ in range(300):
        d, n = int(rng.integers(4, 30)), int(rng.integers(4, 40))
        k = min(d, n)
        rank = int(rng.integers(1, k))
        s = np.sort(rng.uniform(0, 1, k))[::-1] * 10.0 ** -(np.arange(k) >= rank).astype(float)
        left = random_basis(rng, d, k)
        G = scale * (left * s) @ random_basis(rng, n, k).T
        start = left[:, :rank] + 10.0 ** rng.uniform(-12, -1) * rng.standard_normal((d, rank))
        U, ritz = ritz_vectors(G, np.linalg.qr(start)[0])
        energy = np.sum(G**2) - np.sum(ritz**2)
        bound = davis_kahan(ritz_residual(G, U, ritz), ritz, energy, rank)
        if bound is not None:
            truth = gap_distance(principal_angles(left[:, :rank], U))
            assert truth <= bound + 1e-14
            bounds.append((truth, bound))
    assert len(bounds) > 150
    truth, bound = np.array(bounds).T
    resolved = truth > 1e-8
    assert np.median(bound[resolved] / truth[resolved]) < 10


def test_no_gap_no_bound():
    assert davis_kahan(0.0, [2.0, 2.0], 0.0, 1) is None
    assert davis_kahan(0.1, [2.0, 1.0], 4.0, 2) is None
    assert davis_kahan(0.0, [0.0], 0.0, 1) is None
    assert ritz_residual(np.zeros((2, 2)), np.eye(2), [0, 0]) == 0.0
    assert davis_kahan(50.0, [2.0, 1.0], 0.0, 1) == 1.0
    assert davis_kahan(0.3, [2.0, 1.0], 0.5, 1) == pytest.approx(0.3 / 2.5)
    assert davis_kahan(0.3, [2.0], 0.5, 1) == pytest.approx(0.3 / 3.5)
    with pytest.raises(ValueError, match=r"1\.\.2, got 3"):
        davis_kahan(0.0, [2.0, 1.0], 0.0, 3)


def test_q_galore_rule_ignores_signs_and_slides():
    e1, e2 = np.array([1.0, 0.0]), np.array([0.0, 3.0])
    found = q_galore_monitor([e1, -e1, e1, -e1, e1, -2 * e1, e2, e2])
    np.testing.assert_allclose(found.cosines, [1, 1, 1, 1, 1, 0, 1])
    np.testing.assert_allclose(found.queue_means, [1, 0.8, 0.8])
    assert found.lengthened == (5, 6, 7)
    assert q_galore_monitor([e1, e2] * 6).lengthened == ()
    assert q_galore_monitor([e1]).cosines.size == 0 and q_galore_monitor([]).lengthened == ()
    exact = q_galore_monitor([e1, np.array([0.4, np.sqrt(0.84)])], queue_size=1, cos_threshold=0.4)
    assert exact.lengthened == (1,)
    for bad, match in [([e1, 0 * e1], "vector 1"), ([e1, np.ones(3)], "one length")]:
        with pytest.raises(ValueError, match=match):
            q_galore_monitor(bad)
    with pytest.raises(ValueError, match="queue_size"):
        q_galore_monitor([e1], queue_size=0)


@pytest.mark.parametrize(("d", "r"), [(12, 3), (5, 5), (7, 1)])
def test_pairs_are_compared_as_one_by_one(d: int, r: int) -> None:
    """Random subspaces, equal ones, and ones that are 1e-9 apart."""
    rng = np.random.default_rng(0)
    bases = [np.linalg.qr(rng.standard_normal((d, r)))[0] for _ in range(3)]
    near = np.linalg.qr(bases[0] + 1e-9 * rng.standard_normal((d, r)))[0]
    turned = bases[1] @ np.linalg.qr(rng.standard_normal((r, r)))[0]
    bases += [near, turned, bases[2].astype(np.float32).astype(np.float64)]
    phi, theta = pairwise(bases)
    for a, b in itertools.product(range(len(bases)), repeat=2):
        assert phi[a, b] == pytest.approx(overlap(bases[a], bases[b]), abs=1e-12)
        wanted = principal_angles(bases[a], bases[b])[-1]
        assert theta[a, b] == pytest.approx(wanted, rel=1e-6, abs=1e-14)
    if r < d:
        assert 1e-10 < theta[0, 3] < 1e-8
    assert theta[1, 4] < 1e-14 and np.all(phi <= 1.0)


def test_pairs_need_bases_of_one_shape() -> None:
    assert pairwise([np.eye(4, 2)])[0] == pytest.approx(np.ones((1, 1)))
    for other in (np.eye(4, 3), np.eye(5, 2)):
        with pytest.raises(ValueError, match="bases of one shape"):
            pairwise([np.eye(4, 2), other])
    with pytest.raises(ValueError, match=r"bases of one shape are needed, got \[\]"):
        pairwise([])
    with pytest.raises(ValueError, match="not orthonormal"):
        pairwise([np.eye(4, 2), 2 * np.eye(4, 2)])
