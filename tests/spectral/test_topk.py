"""Leading triplets: repeated values, certificates, warm starts that lack a direction."""

import numpy as np
import pytest

from analyzer.spectral import clusters, get_backend, low_rank_svd, svd_topk, topk
from analyzer.spectral.backend import CPU
from analyzer.spectral.certificates import none_above, probe, value_and_angle_error
from analyzer.spectral.lanczos import lanczos, matrix_operator


def rotation(n: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]


def test_identity() -> None:
    """Five of three hundred equal values: orthonormal vectors, all ones."""
    found = svd_topk(np.eye(300), 5)
    np.testing.assert_allclose(found.S, np.ones(5), atol=1e-14)
    np.testing.assert_allclose(found.U.T @ found.U, np.eye(5), atol=1e-13)
    assert found.certified


def test_lanczos_on_the_identity_survives_breakdown() -> None:
    op = matrix_operator(np.eye(300))
    ritz = lanczos(op, 5, tol=1e-10, rng=np.random.default_rng(0), backend=CPU)
    np.testing.assert_allclose(ritz.S, np.ones(5), atol=1e-14)


@pytest.fixture
def by_lanczos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Iterate at sizes for which the Gram matrix would be chosen."""
    monkeypatch.setattr(topk, "GRAM_UP_TO", 256)


@pytest.mark.usefixtures("by_lanczos")
@pytest.mark.parametrize("device", ["cpu", "torch-cpu"])
@pytest.mark.parametrize("certify", ["probe", "cholesky"])
def test_a_twentyfold_value_is_found_twenty_times(certify: str, device: str) -> None:
    s = np.concatenate([np.full(20, 2.0), np.linspace(1, 0.1, 580)])
    W = (rotation(600, 1) * s) @ rotation(600, 2).T
    found = svd_topk(W, 15, certify=certify, backend=get_backend(device))
    np.testing.assert_allclose(found.S, np.full(15, 2.0), atol=1e-12)
    assert found.certified
    assert found.method.startswith("lanczos")


@pytest.mark.parametrize("device", ["cpu", "torch-cpu"])
@pytest.mark.parametrize("limit", [256, 1536])
@pytest.mark.parametrize("shape", [(700, 400), (400, 700), (440, 440)])
def test_bounds_hold_against_dense(
    shape: tuple[int, int], limit: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topk, "GRAM_UP_TO", limit)
    rng = np.random.default_rng(3)
    W = 0.02 * rng.standard_normal(shape)
    W += (rotation(shape[0], 4)[:, :32] * (2.0 / np.arange(1, 33))) @ rotation(shape[1], 5)[
        :, :32
    ].T
    U, s, Vh = np.linalg.svd(W, full_matrices=False)
    found = svd_topk(W, 10, backend=get_backend(device))
    assert found.method == ("lanczos_probe" if limit == 256 else "gram_eigh")
    assert found.certified
    assert np.all(np.abs(found.S - s[:10]) <= found.error + 1e-14 * s[0])
    sin_u = np.sqrt(np.maximum(1 - np.sum(found.U * U[:, :10], axis=0) ** 2, 0))
    sin_v = np.sqrt(np.maximum(1 - np.sum(found.Vh * Vh[:10], axis=1) ** 2, 0))
    # 1 − cos² cannot resolve angles below √ε ≈ 3e-8.
    assert np.all(np.hypot(sin_u, sin_v) <= found.angle_error + 1e-7)


@pytest.mark.usefixtures("by_lanczos")
def test_warm_start_without_the_new_direction_still_finds_it() -> None:
    n = 700
    s = np.linspace(5, 1, n)
    W = np.diag(s)
    W[650, 640] = 30.0
    warm = np.zeros(n)
    warm[:10] = 1.0
    found = svd_topk(W, 3, v0=warm)
    np.testing.assert_allclose(found.S, np.linalg.svd(W, compute_uv=False)[:3], rtol=1e-10)


def test_wedin_bound_of_a_perturbed_triplet() -> None:
    W = np.array([[3.0, 0], [0, 1], [0, 0]])
    u = np.array([1, 1e-3, 0]) / np.linalg.norm([1, 1e-3])
    v = np.array([1, 2e-3]) / np.linalg.norm([1, 2e-3])
    s = float(u @ W @ v)
    assert s == pytest.approx(2.9999945, abs=1e-9)
    r1, r2 = np.linalg.norm(W @ v - s * u), np.linalg.norm(W.T @ u - s * v)
    assert (r1, r2) == (pytest.approx(9.99998e-4, rel=1e-5), pytest.approx(4.99999e-3, rel=1e-5))
    one = np.array([1.0])
    _, angle = value_and_angle_error(one * s, 1.0, one * r1, one * r2, square=False)
    assert angle[0] == pytest.approx(2.549510e-3, rel=1e-6)
    assert angle[0] >= np.hypot(1e-3, 2e-3) * (1 - 1e-5)


def test_certificates_see_a_missing_triplet() -> None:
    s = np.linspace(4, 1, 60)
    W = (rotation(60, 6) * s) @ rotation(60, 7).T
    U, _, Vh = np.linalg.svd(W)
    keep = [0, 1, 3, 4]
    missed, _ = probe(matrix_operator(W), U[:, keep], Vh[keep].T, np.random.default_rng(0), CPU)
    assert missed == pytest.approx(s[2], rel=1e-3)
    assert not none_above(W.T @ W, s[keep], Vh[keep].T, s[4] * (1 + 1e-6), CPU)
    assert none_above(W.T @ W, s[:5], Vh[:5].T, s[4] * (1 + 1e-6), CPU)


def test_degenerate_requests() -> None:
    assert svd_topk(np.zeros((5, 4)), 2).S.tolist() == [0, 0]
    assert svd_topk(np.diag([3.0, 2.0]), 9).S.tolist() == [3, 2]
    assert svd_topk(np.ones((1, 7)), 1).S[0] == pytest.approx(np.sqrt(7))


def test_low_rank_integer_factors() -> None:
    """σ² are the eigenvalues of [[22, 1], [1, 15]]·diag(7, 6)."""
    B = np.array([[1, 0], [2, 1], [0, 3], [1, -1], [4, 0], [0, 2]], dtype=float)
    A = np.array([[1, 2, 0, -1, 1], [0, 1, 1, 0, -2]], dtype=float)
    found = low_rank_svd(B, A.T)
    np.testing.assert_allclose(found.S, [12.435821461995545, 9.4525311195134917], rtol=1e-14)
    np.testing.assert_allclose((found.U * found.S) @ found.V.T, B @ A, atol=1e-13)


def test_low_rank_wider_than_the_matrix() -> None:
    rng = np.random.default_rng(8)
    P, Q = rng.standard_normal((6, 9)), rng.standard_normal((4, 9))
    want = np.linalg.svd(P @ Q.T, compute_uv=False)
    np.testing.assert_allclose(low_rank_svd(P, Q).S, want, rtol=1e-12)


def test_leading_values_that_a_gram_matrix_cannot_see() -> None:
    s = np.logspace(0, -12, 30)
    W = (rotation(50, 11)[:, :30] * s) @ rotation(30, 12).T
    found = svd_topk(W, 25)
    assert found.method == "direct_svd"
    assert np.all(np.abs(found.S - s[:25]) <= found.error + 1e-15)


def test_one_thread_of_every_shape() -> None:
    for shape in ((1, 1), (1, 9), (9, 1), (2, 2), (3, 200)):
        W = np.random.default_rng(13).standard_normal(shape) * 1e-250
        U, s, Vh = np.linalg.svd(W * 1e250, full_matrices=False)
        found = svd_topk(W, 2)
        np.testing.assert_allclose(found.S * 1e250, s[:2], rtol=1e-12)
        np.testing.assert_allclose(np.abs(found.U), np.abs(U[:, :2]), atol=1e-12)
        np.testing.assert_allclose(np.abs(found.Vh), np.abs(Vh[:2]), atol=1e-12)
        assert np.all(found.U[np.abs(found.U).argmax(axis=0), range(found.S.size)] > 0)


def test_clusters() -> None:
    assert clusters(np.array([3.0, 3.0 - 1e-9, 2.0, 1.0]), 1e-6).tolist() == [0, 0, 1, 2]
    assert clusters(np.zeros(0), 1.0).size == 0
