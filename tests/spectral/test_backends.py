"""The torch backend: solvers are checked before they are trusted, and memory may run out."""

from typing import Literal

import numpy as np
import pytest
import torch

from analyzer.errors import UsageError
from analyzer.spectral import BaseSVD, get_backend, mkl, svd_topk, svdvals, topk
from analyzer.spectral import backend as backend_module
from analyzer.spectral.backend import CPU
from analyzer.spectral.torch_backend import TorchBackend


def gram_matrix(p: int, seed: int = 0) -> torch.Tensor:
    A = torch.randn(2 * p, p, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return A.T @ A


def test_a_driver_is_chosen_once_for_a_size_class() -> None:
    backend = TorchBackend("cpu")
    G = gram_matrix(60)
    want = torch.linalg.eigvalsh(G).numpy()
    for _ in range(2):
        values, vectors = backend.eigh(G)
        np.testing.assert_allclose(values, want, rtol=1e-12)
        torch.testing.assert_close((vectors * values) @ vectors.T, G)
    np.testing.assert_allclose(backend.eigvalsh(G), want, rtol=1e-12)
    backend.eigh(gram_matrix(20))
    assert set(backend._chosen) == {5, 6}


def test_vectors_that_are_not_orthonormal_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = torch.linalg.eigh

    def skewed(G: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values, vectors = honest(G)
        return values, vectors + 1e-6

    monkeypatch.setattr(torch.linalg, "eigh", skewed)
    backend = TorchBackend("cpu")
    values, vectors = backend.eigh(gram_matrix(40))
    assert backend._chosen == {6: "lapack"}
    torch.testing.assert_close((vectors * values) @ vectors.T, gram_matrix(40))


def test_wrong_values_are_noticed_later_too(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = TorchBackend("cpu")
    backend._chosen[6] = "eigh"
    G = gram_matrix(40)
    want = torch.linalg.eigvalsh(G).numpy()
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda G: torch.diagonal(G) * 1.001)
    np.testing.assert_allclose(backend.eigvalsh(G), want, rtol=1e-12)


def test_a_solver_that_fails_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*args: object, **kwargs: object) -> None:
        raise torch.linalg.LinAlgError("did not converge")

    for name in ("eigh", "svd", "svdvals"):
        monkeypatch.setattr(torch.linalg, name, failing)
    backend = TorchBackend("cpu")
    G = gram_matrix(30)
    values, vectors = backend.eigh(G)
    torch.testing.assert_close((vectors * values) @ vectors.T, G)
    U, s, Vh = backend.svd(G)
    torch.testing.assert_close((U * s) @ Vh, G)
    np.testing.assert_allclose(backend.svdvals(G), s, rtol=1e-12)


@pytest.mark.parametrize("fits", [300, 1])
def test_out_of_memory_means_smaller_blocks_and_then_the_host(
    fits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def add_gram(self: TorchBackend, G: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
        seen.append(block.shape[0])
        if block.shape[0] > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return G.addmm_(block.T, block)

    monkeypatch.setattr(TorchBackend, "add_gram", add_gram)
    W = np.random.default_rng(0).standard_normal((1500, 30))
    want = np.linalg.svd(W, compute_uv=False)
    found = svdvals(W, backend=TorchBackend("cpu"))
    np.testing.assert_allclose(found.singular_values, want, rtol=1e-12)
    assert min(seen) <= max(fits, 64)
    base = BaseSVD.compute(W, TorchBackend("cpu"))
    np.testing.assert_allclose(base.s, want, rtol=1e-12)


def test_a_matrix_that_does_not_fit_goes_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: TorchBackend, *args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    for name in ("zeros", "asarray", "eigh"):
        monkeypatch.setattr(TorchBackend, name, full)
    monkeypatch.setattr(topk, "GRAM_UP_TO", 20)
    W = np.random.default_rng(2).standard_normal((70, 60))
    want = np.linalg.svd(W, compute_uv=False)
    backend = TorchBackend("cpu")
    for method in ("gram", "direct"):
        found = svdvals(W, method=method, backend=backend)
        np.testing.assert_allclose(found.singular_values, want, rtol=1e-10)
    np.testing.assert_allclose(BaseSVD.compute(W, backend).s, want, rtol=1e-10)
    np.testing.assert_allclose(svd_topk(W, 3, backend=backend).S, want[:3], rtol=1e-12)


@pytest.mark.parametrize("shape", [(90, 50), (50, 90)])
def test_both_backends_agree_within_their_bounds(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    W, P, Q = (rng.standard_normal(s) for s in (shape, (shape[0], 3), (shape[1], 3)))
    one, other = (BaseSVD.compute(W, backend) for backend in (CPU, TorchBackend("cpu")))
    assert np.all(np.abs(one.s - other.s) <= one.error + other.error)
    tops = [base.update(P, Q).topk(5) for base in (one, other)]
    assert np.all(np.abs(tops[0].S - tops[1].S) <= tops[0].error + tops[1].error)
    bound = tops[0].cos_error + tops[1].cos_error + 1e-11
    assert np.all(np.abs(np.abs(tops[0].X) - np.abs(tops[1].X)) <= bound)


def test_devices_by_name() -> None:
    assert get_backend("cpu") is CPU
    assert get_backend("torch-cpu").device == "cpu"
    with pytest.raises(UsageError, match="no device named tpu"):
        get_backend("tpu")
    if not torch.cuda.is_available():
        assert get_backend("auto") is CPU
        with pytest.raises(UsageError, match="cuda:3 is not available"):
            get_backend("cuda:3")


@pytest.mark.skipif(mkl.dsyevd() is None, reason="torch without MKL")
@pytest.mark.parametrize("order", ["F", "C"])
def test_eigenvalues_by_mkl_in_place(order: Literal["F", "C"]) -> None:
    """The triangle above the diagonal is not read; LAPACK's two libraries agree."""
    G = gram_matrix(90).numpy()
    want = np.linalg.eigvalsh(G)
    lower = np.array(np.tril(G) + np.triu(np.full_like(G, np.nan), 1), order=order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend_module, "TWO_STAGE_FROM", 80)
        np.testing.assert_allclose(CPU.eigvalsh(lower), want, rtol=1e-12)
    assert mkl.eigvalsh(np.zeros((0, 0))).size == 0
    G = np.asfortranarray(G)
    mkl.eigvalsh(G)
    assert not np.array_equal(G, gram_matrix(90).numpy())


def test_without_mkl_scipy_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mkl, "dsyevd", lambda: None)
    monkeypatch.setattr(backend_module, "TWO_STAGE_FROM", 80)
    G = gram_matrix(90).numpy()
    np.testing.assert_allclose(CPU.eigvalsh(G.copy()), np.linalg.eigvalsh(G), rtol=1e-12)
