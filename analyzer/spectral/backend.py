"""Dense linear algebra as the algorithms see it, and its implementation by numpy and SciPy.

The algorithms are written once, over arrays that understand ``@``, ``.T``, slices and arithmetic;
a backend adds what numpy and torch spell differently. Everything is float64: a Gram matrix formed
in float32 or TF32 loses every singular value below 1e-3 of the largest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import scipy.linalg
import torch

from analyzer.spectral import mkl
from analyzer.spectral.results import FloatArray

dsyrk: Any = scipy.linalg.get_blas_funcs("syrk", dtype=np.float64)
Answer = TypeVar("Answer")
Array = Any  # numpy.ndarray or torch.Tensor, float64
# From this size on MKL, which torch brings where it has it, reduces to a band first and takes
# half the time of OpenBLAS (measured at 1536, 2048 and 3072; equal at 1024).
TWO_STAGE_FROM = 1280


class Backend(Protocol):
    """The operations that differ between numpy and torch; `torch_device` is where blocks go."""

    @property
    def device(self) -> str: ...
    @property
    def torch_device(self) -> str: ...
    def asarray(self, x: FloatArray) -> Array: ...
    def numpy(self, x: Array) -> FloatArray: ...
    def zeros(self, *shape: int) -> Array: ...
    def norm(self, x: Array) -> float: ...
    def add_gram(self, G: Array, block: torch.Tensor) -> Array: ...
    def symmetric(self, G: Array) -> Array: ...
    def eigvalsh(self, G: Array) -> FloatArray: ...
    def eigh(self, G: Array) -> tuple[Array, Array]: ...
    def leading_eigh(self, G: Array, k: int) -> tuple[Array, Array]: ...
    def qr(self, A: Array) -> tuple[Array, Array]: ...
    def svd(self, A: Array) -> tuple[Array, Array, Array]: ...
    def svdvals(self, A: Array) -> FloatArray: ...
    def is_positive_definite(self, A: Array) -> bool: ...


@dataclass(frozen=True)
class NumpyBackend:
    """LAPACK through SciPy; a Gram matrix has its lower triangle filled only."""

    device: str = "cpu"
    torch_device: str = "cpu"

    def asarray(self, x: FloatArray) -> Array:
        return x

    def numpy(self, x: Array) -> FloatArray:
        return x

    def zeros(self, *shape: int) -> Array:
        return np.zeros(shape, order="F")

    def norm(self, x: Array) -> float:
        return float(np.sqrt(np.vdot(x, x)))

    def add_gram(self, G: Array, block: torch.Tensor) -> Array:
        """G + AᵀA in place, A (b, p): half the flops of a product and no temporary."""
        A = block.numpy()
        if A.flags.f_contiguous:
            return dsyrk(1.0, A, beta=1.0, c=G, trans=1, lower=1, overwrite_c=1)
        return dsyrk(1.0, A.T, beta=1.0, c=G, trans=0, lower=1, overwrite_c=1)

    def symmetric(self, G: Array) -> Array:
        """Both triangles of a Gram matrix."""
        return np.tril(G) + np.tril(G, -1).T

    def eigvalsh(self, G: Array) -> FloatArray:
        """Eigenvalues ascending, from the lower triangle of `G`, which is overwritten."""
        if G.shape[0] >= TWO_STAGE_FROM and mkl.dsyevd() is not None:
            return mkl.eigvalsh(np.asfortranarray(G))
        values: Any = scipy.linalg.eigh(
            G, eigvals_only=True, overwrite_a=True, check_finite=False, driver="evd"
        )
        return values

    def eigh(self, G: Array) -> tuple[Array, Array]:
        """Eigenvalues ascending and eigenvectors in columns; `G` is overwritten."""
        # evd: its vectors are orthogonal to 5e-15, those of evr only to 1e-12.
        values, vectors = scipy.linalg.eigh(G, overwrite_a=True, check_finite=False, driver="evd")
        return values, vectors

    def leading_eigh(self, G: Array, k: int) -> tuple[Array, Array]:
        """The k largest eigenvalues, descending, and their vectors; `G` is overwritten."""
        p = G.shape[0]
        if 4 * k > p:
            values, vectors = self.eigh(G)
            return values[: -k - 1 : -1], vectors[:, : -k - 1 : -1].copy()
        values, vectors = scipy.linalg.eigh(
            G, subset_by_index=(p - k, p - 1), overwrite_a=True, check_finite=False, driver="evr"
        )
        return values[::-1], vectors[:, ::-1].copy()

    def qr(self, A: Array) -> tuple[Array, Array]:
        factors: Any = scipy.linalg.qr(A, mode="economic", check_finite=False)
        return factors

    def svd(self, A: Array) -> tuple[Array, Array, Array]:
        """Thin SVD; gesvd where gesdd does not converge."""
        try:
            return scipy.linalg.svd(A, full_matrices=False, check_finite=False)
        except scipy.linalg.LinAlgError:
            return scipy.linalg.svd(
                A, full_matrices=False, check_finite=False, lapack_driver="gesvd"
            )

    def svdvals(self, A: Array) -> FloatArray:
        try:
            values: Any = scipy.linalg.svdvals(A, check_finite=False)
            return values
        except scipy.linalg.LinAlgError:
            return self.svd(A)[1]

    def is_positive_definite(self, A: Array) -> bool:
        """Whether the Cholesky factorisation of the lower triangle of `A` exists."""
        try:
            scipy.linalg.cholesky(A, lower=True, check_finite=False)
        except scipy.linalg.LinAlgError:
            return False
        return True


CPU = NumpyBackend()


def on_host_if_full(work: Callable[[Backend], Answer], backend: Backend) -> Answer:
    """What `work` answers on a backend, or on the CPU if the device's memory does not suffice."""
    try:
        return work(backend)
    except torch.OutOfMemoryError:
        return work(CPU)
