"""The base's SVD: what it holds, and what its products say against a dense SVD."""

import numpy as np
import pytest
import torch

from analyzer.errors import NonFinite, ShapeMismatch
from analyzer.spectral import BaseSVD, get_backend

BACKENDS = ["cpu", "torch-cpu"]
SHAPES = [(40, 40), (60, 25), (25, 60), (1, 9), (9, 1)]


def rotation(n: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]


def with_spectrum(shape: tuple[int, int], s: np.ndarray) -> np.ndarray:
    p = min(shape)
    return (rotation(shape[0], 9)[:, :p] * s) @ rotation(shape[1], 10)[:, :p].T


def check(base: BaseSVD, W: np.ndarray, s: np.ndarray, orthogonal: float = 1e-9) -> None:
    """U, V and the coordinates agree with W and with each other."""
    p = min(W.shape)
    np.testing.assert_allclose(base.U.T @ base.U, np.eye(p), atol=1e-12)
    np.testing.assert_allclose(base.V.T @ base.V, np.eye(p), atol=1e-12)
    np.testing.assert_allclose((base.U * base.s) @ base.V.T, W, atol=1e-9 * s[0])
    assert np.all(np.abs(base.s - s) <= base.error + 1e-15 * s[0])
    left, right = np.eye(W.shape[0]), np.eye(W.shape[1])
    np.testing.assert_allclose(base.left_coordinates(left), base.U.T, atol=orthogonal)
    np.testing.assert_allclose(base.right_coordinates(right), base.V.T, atol=orthogonal)


@pytest.mark.parametrize("device", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("grade", [0, 2, 4, 8, 14])
def test_graded_spectra(shape: tuple[int, int], grade: int, device: str) -> None:
    s = np.logspace(0, -grade, min(shape))
    W = with_spectrum(shape, s)
    check(BaseSVD.compute(W, get_backend(device)), W, s)


@pytest.mark.parametrize("device", BACKENDS)
@pytest.mark.parametrize("shape", [(80, 80), (120, 60), (60, 120)])
@pytest.mark.parametrize("last", [1e-5, 1e-8, 1e-12, 0.0])
def test_a_few_small_values_do_not_need_a_direct_svd(
    shape: tuple[int, int], last: float, device: str
) -> None:
    p = min(shape)
    s = np.append(np.linspace(1, 0.1, p - 4), [2e-4, last, last, last / 2])
    W = with_spectrum(shape, s)
    base = BaseSVD.compute(W, get_backend(device))
    assert base.method == "gram_eigh"
    check(base, W, s, orthogonal=1e-8)


def test_many_small_values_do() -> None:
    s = np.logspace(0, -9, 60)
    base = BaseSVD.compute(with_spectrum((90, 60), s))
    assert base.method == "direct_svd"
    check(base, with_spectrum((90, 60), s), s, orthogonal=1e-13)


def test_dead_rows_and_columns() -> None:
    W = np.random.default_rng(0).standard_normal((50, 50))
    W[:, 7], W[12], W[13] = 0.0, 0.0, 0.0
    P, Q = np.random.default_rng(1).standard_normal((2, 50, 3))
    base = BaseSVD.compute(W)
    check(base, W, np.linalg.svd(W, compute_uv=False))
    top = base.update(P, Q).topk(10)
    U, s, _ = np.linalg.svd(W + P @ Q.T)
    np.testing.assert_allclose(top.S, s[:10], rtol=1e-12)
    np.testing.assert_allclose(np.abs(top.X), np.abs(base.U.T @ U[:, :10]), atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(700, 300), (300, 700), (300, 300)])
def test_coordinates_of_every_storage(shape: tuple[int, int], dtype: torch.dtype) -> None:
    W = torch.randn(*shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    base = BaseSVD.compute(W)
    U, s, Vh = np.linalg.svd(W.to(torch.float64).numpy(), full_matrices=False)
    np.testing.assert_allclose(base.s, s, rtol=1e-9)
    X, Y = np.random.default_rng(2).standard_normal((2, 700, 3))
    X, Y = X[: shape[0]], Y[: shape[1]]
    # Up to signs and to rotations of close pairs: compare what does not depend on either.
    np.testing.assert_allclose(
        X.T @ base.truncated(40)[0] @ base.truncated(40)[1].T @ Y,
        X.T @ (U[:, :40] * s[:40]) @ Vh[:40] @ Y, atol=1e-8,
    )  # fmt: skip
    left, right = base.left_coordinates(X), base.right_coordinates(Y)
    np.testing.assert_allclose((left.T * base.s) @ right, X.T @ W.double().numpy() @ Y, atol=1e-9)
    np.testing.assert_allclose(base.U.T @ X, left, atol=1e-9)


def test_truncation_is_the_best_approximation() -> None:
    W = np.random.default_rng(3).standard_normal((30, 20))
    left, right = BaseSVD.compute(W).truncated(5)
    s = np.linalg.svd(W, compute_uv=False)
    assert np.linalg.norm(W - left @ right.T) == pytest.approx(np.linalg.norm(s[5:]))
    assert BaseSVD.compute(W).truncated(99)[1].shape == (20, 20)


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_extreme_scales(scale: float) -> None:
    rng = np.random.default_rng(4)
    W, P, Q = (rng.standard_normal(shape) for shape in ((30, 20), (30, 2), (20, 2)))
    base = BaseSVD.compute(W * scale)
    np.testing.assert_allclose(base.s / scale, np.linalg.svd(W, compute_uv=False), rtol=1e-11)
    top = base.update(P * scale, Q).topk(5)
    want = np.linalg.svd(W + P @ Q.T, compute_uv=False)[:5]
    np.testing.assert_allclose(top.S / scale, want, rtol=1e-11)


def test_a_read_only_map_is_read_and_not_written(tmp_path) -> None:
    W = np.random.default_rng(5).standard_normal((64, 48)).astype(np.float32)
    np.save(tmp_path / "w.npy", W)
    mapped = np.load(tmp_path / "w.npy", mmap_mode="r")
    base = BaseSVD.compute(mapped)
    np.testing.assert_allclose(base.s, np.linalg.svd(W.astype(np.float64), compute_uv=False))
    np.testing.assert_array_equal(np.load(tmp_path / "w.npy"), W)


def test_nearly_dependent_factors_outside_the_span() -> None:
    """‖P‖² − ‖UᵀP‖² cancels here; the part outside must be formed explicitly."""
    rng = np.random.default_rng(6)
    W0 = rng.standard_normal((200, 40))
    P = W0 @ rng.standard_normal((40, 3)) + 1e-7 * rng.standard_normal((200, 3))
    P[:, 2] = P[:, 1] + 1e-9 * rng.standard_normal(200)
    Q = rng.standard_normal((40, 3))
    U, s, _ = np.linalg.svd(W0 + P @ Q.T, full_matrices=False)
    base = BaseSVD.compute(W0)
    top = base.update(P, Q).topk(10)
    np.testing.assert_allclose(top.S, s[:10], rtol=1e-12)
    # What lies outside the base's span is 1e-7 of the whole and must not drown in rounding.
    want = np.linalg.norm(U[:, :3] - base.U @ (base.U.T @ U[:, :3]), axis=0)
    np.testing.assert_allclose(np.linalg.norm(top.X[40:, :3], axis=0), want, atol=1e-13)


def test_degenerate_bases() -> None:
    base = BaseSVD.compute(np.zeros((6, 4)))
    P, Q = np.random.default_rng(7).standard_normal((2, 6, 2))
    np.testing.assert_allclose(
        base.update(P, Q[:4]).topk(2).S, np.linalg.svd(P @ Q[:4].T, compute_uv=False)[:2]
    )
    empty = BaseSVD.compute(np.zeros((0, 3)))
    assert empty.shape == (0, 3)
    assert empty.update(np.zeros((0, 1)), np.ones((3, 1))).topk(2).S.size == 0
    with pytest.raises(NonFinite):
        BaseSVD.compute(np.array([[1.0, np.nan]]))


def test_wrong_shapes_are_named() -> None:
    base = BaseSVD.compute(np.eye(4, 3))
    with pytest.raises(ShapeMismatch, match="4×3"):
        base.update(np.ones((3, 1)), np.ones((3, 1)))
    with pytest.raises(ShapeMismatch):
        base.left_coordinates(np.ones((3, 1)))
