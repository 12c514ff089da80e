"""Base + low-rank update: forty-digit references, exact counts, agreement with dense SVDs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzer.errors import ShapeMismatch
from analyzer.spectral import BaseSVD, low_rank_svd


def test_square_reference() -> None:
    i = np.arange(1, 21)
    W0 = np.diag(1.0 / i)
    P = np.cos(np.outer(i, [1, 2])) / 4
    Q = (np.sin(i[None, :] + 2 * np.array([[1], [2]])) / 4).T
    update = BaseSVD.compute(W0).update(P, Q)
    top = update.topk(6)
    known = [1.1121147456499128, 0.76505478832634752, 0.60421706703461068,
             0.36276363525857986, 0.28567189446386601, 0.23172802548173032]  # fmt: skip
    np.testing.assert_allclose(top.S, known, rtol=1e-13)
    cosines, index = update.cosine_max(6)
    np.testing.assert_allclose(
        cosines,
        [0.885688241461, 0.506800309667, 0.810637770243, 0.558956456076, 0.785959320841,
         0.904363798010],
        atol=1e-11,
    )  # fmt: skip
    assert (index + 1).tolist() == [1, 3, 2, 2, 3, 4]
    assert update.singular_values().singular_values[-1] == pytest.approx(0.012336648661209873)
    assert update.fro_norm() ** 2 == pytest.approx(2.5912341056559603, rel=1e-13)
    assert [update.count_above(t) for t in (0.5, 0.2, 0.1)] == [3, 6, 11]  # 1/2, 1/5, 1/10: poles
    np.testing.assert_allclose(
        low_rank_svd(P, Q).S, [0.73856243151382551, 0.46901528903535795], rtol=1e-13
    )


def test_tall_reference() -> None:
    rows = np.arange(12)
    U = np.sqrt(2 / 12) * np.cos(np.pi * np.outer(2 * rows + 1, np.arange(5)) / 24)
    U[:, 0] = 1 / np.sqrt(12)
    W0 = U * np.array([5.0, 4, 3, 2, 1])
    P = np.sin(np.outer(rows + 1, [2, 3]))
    Q = np.cos(np.outer([1, 2], np.arange(5) + 3)).T
    update = BaseSVD.compute(W0).update(P, Q)
    cosines, _ = update.cosine_max(5)
    np.testing.assert_allclose(
        update.topk(5).S,
        [6.3202341501546296, 4.8330133378828661, 3.8699253624144150, 3.2307861449741672,
         1.3363425495460481],
        rtol=1e-13,
    )  # fmt: skip
    np.testing.assert_allclose(
        cosines,
        [0.741299148138, 0.464381602912, 0.890125371376, 0.715865589669, 0.670932999196],
        atol=1e-11,
    )
    np.testing.assert_allclose(
        low_rank_svd(P, Q).S, [4.3737997518528563, 4.0195551534496739], rtol=1e-13
    )


def test_a_minor_base_direction_that_grows_is_not_new() -> None:
    s = np.concatenate([[10, 9, 8, 7, 6], np.linspace(5, 1, 35)])
    P, Q = np.zeros((40, 1)), np.zeros((40, 1))
    P[39], Q[38] = 1.0, 5.5
    update = BaseSVD.compute(np.diag(s)).update(P, Q)
    np.testing.assert_allclose(update.topk(7).S, [10, 9, 8, 7, 6, 5.69742516, 5], atol=1e-8)
    cosines, index = update.cosine_max(7)
    assert cosines[5] == pytest.approx(0.98115223, abs=1e-8)
    assert index[5] == 39


@given(
    st.integers(3, 30), st.integers(3, 30), st.integers(1, 4), st.integers(0, 2**32 - 1)
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_core_equals_dense(m: int, n: int, r: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    W0, P, Q = (rng.standard_normal(shape) for shape in ((m, n), (m, r), (n, r)))
    base = BaseSVD.compute(W0)
    update = base.update(P, Q)
    W = W0 + P @ Q.T
    U, s, _ = np.linalg.svd(W, full_matrices=False)
    p = min(m, n)
    top = update.topk(p)
    assert np.all(np.abs(top.S - s) <= top.error + 1e-14 * s[0])
    assert np.all(top.error < 1e-9 * s[0])
    assert update.fro_norm() == pytest.approx(float(np.linalg.norm(W)), rel=1e-9)
    gaps = np.abs(np.diff(np.append(s, 0.0)))
    clear = np.minimum(gaps, np.append(np.inf, gaps[:-1])) > 1e-4 * s[0]
    want = np.abs(base.U.T @ U)
    np.testing.assert_allclose(np.abs(top.X[:p])[:, clear], want[:, clear], atol=1e-9)
    for tau in rng.uniform(0.01, 1.2, 5) * s[0]:
        if np.min(np.abs(s - tau)) > 1e-9 * s[0]:
            assert update.count_above(float(tau)) == int(np.sum(s > tau))


@pytest.mark.parametrize("shape", [(400, 400), (500, 300), (300, 500)])
def test_lanczos_core_equals_dense(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(11)
    W0 = rng.standard_normal(shape) / 20
    P, Q = rng.standard_normal((shape[0], 8)), rng.standard_normal((shape[1], 8)) / 100
    base = BaseSVD.compute(W0)
    top = base.update(P, Q).topk(10)
    assert top.method == "shift_invert_inertia"
    assert top.certified
    U, s, Vh = np.linalg.svd(W0 + P @ Q.T, full_matrices=False)
    p = min(shape)
    assert np.all(np.abs(top.S - s[:10]) <= top.error + 1e-14 * s[0])
    for got, want in ((top.X, base.U.T @ U), (top.Y, base.V.T @ Vh.T)):
        wrong = np.abs(np.abs(got[:p]) - np.abs(want[:, :10])).max(axis=0)
        assert np.all(wrong <= top.cos_error + 1e-11)
    assert np.all(top.cos_error < 1e-5)


def test_wrong_shapes_are_named() -> None:
    base = BaseSVD.compute(np.eye(4, 3))
    with pytest.raises(ShapeMismatch, match="4×3"):
        base.update(np.ones((3, 1)), np.ones((3, 1)))
