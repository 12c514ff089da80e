"""The core of base + low-rank update against dense SVDs, on everything that could mislead it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzer.spectral import BaseSVD, LowRankUpdate
from analyzer.spectral import update as update_module
from analyzer.spectral.inertia import inertia_count
from analyzer.spectral.shift_invert import leading_triplets

P_MAX = 150
SPECTRA = {
    "gaussian": lambda p, rng: np.sort(np.abs(rng.standard_normal(p)))[::-1],
    "power law": lambda p, rng: np.arange(1.0, p + 1) ** -rng.uniform(0.3, 2),
    "identity": lambda p, rng: np.ones(p),
    "clusters": lambda p, rng: np.sort(rng.integers(1, 6, p) + rng.uniform(0, 1e-9, p))[::-1],
    "rank deficient": lambda p, rng: np.append(np.linspace(2, 1, 20), np.zeros(p - 20)),
    "graded": lambda p, rng: np.logspace(0, -12, p),
    "crowded top": lambda p, rng: np.append(1 + 1e-7 * np.arange(30)[::-1], rng.uniform(0, 0.5)
                                            * np.linspace(1, 0.2, p - 30)),
}  # fmt: skip
UPDATES = ("random", "few entries", "poles", "dependent", "cancelling", "tiny", "huge", "deflating")


def random_update(rng: np.random.Generator, spectrum: str, kind: str) -> LowRankUpdate:
    """A core of side 85 … 150 and rank 1 … 19, tall, wide or square."""
    p, r = int(rng.integers(85, P_MAX)), int(rng.integers(1, 20))
    rows, cols = (p, p + r, p, p)[(shape := int(rng.integers(3)))], p + r * (shape == 2)
    s = SPECTRA[spectrum](p, rng)
    P = rng.standard_normal((rows, r)) / np.sqrt(p)
    Q = rng.standard_normal((cols, r)) / np.sqrt(p)
    some = rng.choice(p, r, replace=False)
    if kind == "few entries":
        P, Q = P * (rng.random(P.shape) < 0.05), Q * (rng.random(Q.shape) < 0.05)
    elif kind == "dependent":
        P = P[:, :1] @ rng.standard_normal((1, r))
    elif kind == "cancelling" and r > 1:
        P[:, 1], Q[:, 1] = P[:, 0], -Q[:, 0]
        P[:, :2] *= 100
    elif kind in ("tiny", "huge"):
        P *= 10.0 ** (rng.uniform(-14, -3) if kind == "tiny" else rng.uniform(1, 4))
    elif kind in ("poles", "deflating"):  # only a few base vectors are touched at all
        P[:], Q[:] = 0.0, 0.0
        P[some, np.arange(r)] = -s[some] if kind == "deflating" else rng.uniform(0.1, 3, r)
        Q[some, np.arange(r)] = 1.0
    scale = float(rng.choice([1.0, 1.0, 1e-200, 1e200]))
    return LowRankUpdate(s * scale, P * scale, Q)


def dense(update: LowRankUpdate) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scale = np.abs(update.core()).max()
    X, s, Yh = np.linalg.svd(update.core() / scale, full_matrices=False)
    return X, s * scale, Yh.T


@given(
    st.sampled_from(sorted(SPECTRA)), st.sampled_from(UPDATES), st.integers(1, 14),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
@settings(max_examples=120, deadline=None)
def test_every_answer_is_within_its_bounds(spectrum: str, kind: str, k: int, seed: int) -> None:
    update = random_update(np.random.default_rng(seed), spectrum, kind)
    X, s, Y = dense(update)
    top = update.topk(k)
    k = top.S.size
    assert top.certified
    # The reference itself is off by a few ε σ₁, its vectors by that over the gap.
    assert np.all(np.abs(top.S - s[:k]) <= top.error + 2e-14 * s[0])
    gap = np.minimum(-np.diff(s)[:k], np.append(np.inf, -np.diff(s)[: k - 1]))
    gap = np.maximum(np.minimum(gap, s[:k]) / s[0], 1e-20)
    allowed = np.minimum(top.cos_error + 1e-13 + 2e-14 / gap, 1.0)
    assert np.all(np.abs(np.abs(top.X) - np.abs(X[:, :k])) <= allowed)
    assert np.all(np.abs(np.abs(top.Y) - np.abs(Y[:, :k])) <= allowed)


@given(
    st.sampled_from(sorted(SPECTRA)), st.sampled_from(UPDATES), st.integers(0, 2**32 - 1)
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_counts_are_exact(spectrum: str, kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    update = random_update(rng, spectrum, kind)
    s = dense(update)[1]
    for tau in (*(rng.uniform(0.02, 1.1, 3) * s[0]), float(update.s[3])):
        if np.min(np.abs(s - tau)) > 1e-7 * s[0]:
            assert update.count_above(float(tau)) == int(np.sum(s > tau))
    unit = 1.0 if kind == "cancelling" else 1e-7
    assert update.fro_norm() == pytest.approx(float(np.linalg.norm(s / s[0])) * s[0], rel=unit)


def test_iteration_alone_reaches_rounding() -> None:
    rng = np.random.default_rng(0)
    s = np.sort(rng.uniform(0.1, 1, 300))[::-1]
    L, R = rng.standard_normal((2, 6, 300)) / 15
    found = leading_triplets(s, L, R, 11, tol=1e-12)
    M = np.diag(s) + L.T @ R
    X, want, Yh = np.linalg.svd(M)
    assert found.converged
    np.testing.assert_allclose(found.S, want[:11], rtol=1e-14)
    np.testing.assert_allclose(np.abs(found.X), np.abs(X[:, :11]), atol=1e-11)
    np.testing.assert_allclose(np.abs(found.Y), np.abs(Yh[:11].T), atol=1e-11)
    assert np.all(np.linalg.norm(M @ found.Y - found.X * found.S, axis=0) < 1e-12)


def test_most_adapters_need_no_fallback() -> None:
    """Realistic spectra: a bulk with spikes, adapters that add directions or strengthen some."""
    rng = np.random.default_rng(1)
    p = 400
    s = np.sort(np.append(rng.uniform(0, 1, p - 20), 3.0 / np.arange(1, 21) ** 0.7))[::-1]
    for strength in (0.05, 0.5, 1.5):
        for r in (1, 4, 8, 16):
            P, Q = (np.linalg.qr(rng.standard_normal((p, r)))[0] for _ in range(2))
            top = LowRankUpdate(s, strength * s[0] * P, Q).topk(10)
            assert top.method == "shift_invert_inertia"
            assert np.all(top.cos_error < 1e-5)


def test_a_missed_triplet_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An iteration that skips the third value is not believed; the next method answers."""
    rng = np.random.default_rng(2)
    s = np.linspace(2, 0.1, 200)
    P, Q = rng.standard_normal((2, 200, 3)) / 20

    def skipping(s, L, R, k, *, tol):
        found = leading_triplets(s, L, R, k + 1, tol=tol)
        keep = [j for j in range(k + 1) if j != 2]
        return type(found)(
            found.X[:, keep], found.S[keep], found.Y[:, keep], found.residual[keep], True
        )

    monkeypatch.setattr(update_module, "leading_triplets", skipping)
    update = LowRankUpdate(s, P, Q)
    top = update.topk(6)
    assert top.method == "lanczos_inertia"
    np.testing.assert_allclose(top.S, dense(update)[1][:6], rtol=1e-12)


def test_a_doubtful_count_says_so() -> None:
    s = np.linspace(1, 0.1, 50)
    L = np.zeros((2, 50))
    L[:, 7] = 1.0, -1.0
    assert inertia_count(0.5, s, L, L)[1]
    assert not inertia_count(float(s[7]) * (1 + 1e-15), s, L, L)[1]


def test_rank_above_the_side() -> None:
    rng = np.random.default_rng(3)
    s = np.sort(rng.uniform(0, 1, 90))[::-1]
    P, Q = rng.standard_normal((2, 90, 130)) / 90
    update = LowRankUpdate(s, P, Q)
    np.testing.assert_allclose(update.topk(5).S, dense(update)[1][:5], rtol=1e-12)


def test_nothing_to_add() -> None:
    s = np.linspace(3, 1, 100)
    for P, Q in ((np.zeros((100, 2)), np.ones((100, 2))), (np.zeros((100, 0)),) * 2):
        update = LowRankUpdate(s, P, Q)
        top = update.topk(4)
        assert top.S.tolist() == s[:4].tolist()
        np.testing.assert_array_equal(top.X, np.eye(100, 4))
        assert update.count_above(2.0) == int(np.sum(s > 2.0))
        assert update.fro_norm() == pytest.approx(float(np.linalg.norm(s)))


def test_identity_base_of_the_field_guide() -> None:
    """I₄ + 3 v vᵀ, v = ½·𝟏: σ = 4, 1, 1, 1 (and the same embedded in a larger identity)."""
    for n in (4, 200):
        v = np.zeros((n, 1))
        v[:4] = 0.5
        update = BaseSVD.compute(np.eye(n)).update(3 * v, v)
        np.testing.assert_allclose(update.topk(4).S, [4, 1, 1, 1], atol=1e-8)
        assert update.count_above(1 - 1e-9) == n
        assert update.count_above(1 + 1e-9) == 1


def test_update_orthogonal_to_the_base() -> None:
    """Rows that the base does not use: the new value stands beside the old ones."""
    W0 = np.zeros((300, 120))
    W0[:120] = np.diag(np.linspace(2, 1, 120))
    P, Q = np.zeros((300, 1)), np.zeros((120, 1))
    P[200], Q[5] = 3.0, 1.0
    update = BaseSVD.compute(W0).update(P, Q)
    top = update.topk(3)
    new = np.hypot(3.0, W0[5, 5])
    np.testing.assert_allclose(top.S, [new, 2.0, W0[1, 1]], rtol=1e-12)
    assert np.sum(top.X[120:, 0] ** 2) == pytest.approx(9 / new**2, rel=1e-12)


def test_scaling_an_update() -> None:
    rng = np.random.default_rng(4)
    W0 = rng.standard_normal((150, 220)) / 20
    P, Q = rng.standard_normal((150, 5)) / 5, rng.standard_normal((220, 5)) / 5
    update = BaseSVD.compute(W0).update(P, Q)
    for factor in (-1.5, 0.0, 1e-3, 2.0):
        want = np.linalg.svd(W0 + factor * P @ Q.T, compute_uv=False)
        top = update.scaled(factor).topk(8)
        np.testing.assert_allclose(top.S, want[:8], rtol=1e-11)
        assert update.scaled(factor).fro_norm() == pytest.approx(float(np.linalg.norm(want)))
