"""Where dense linear algebra runs: numpy and SciPy on the CPU, torch on a CUDA device.

The algorithms are written once, over arrays that understand ``@``, ``.T``, slices and arithmetic;
a backend adds what numpy and torch spell differently. Everything is float64: a Gram matrix formed
in float32 or TF32 loses every singular value below 1e-3 of the largest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import scipy.linalg
import torch

from analyzer.errors import UsageError
from analyzer.spectral.results import FloatArray

Array = Any  # numpy.ndarray or torch.Tensor, float64
# torch.linalg.LinAlgError and torch.OutOfMemoryError both derive from RuntimeError.
SOLVER_FAILURES = RuntimeError


class Backend(Protocol):
    """The operations that differ between numpy and torch."""

    @property
    def device(self) -> str: ...
    def asarray(self, x: FloatArray) -> Array: ...
    def numpy(self, x: Array) -> FloatArray: ...
    def zeros(self, *shape: int) -> Array: ...
    def norm(self, x: Array) -> float: ...
    def eigvalsh(self, G: Array) -> FloatArray: ...
    def eigh(self, G: Array) -> tuple[Array, Array]: ...
    def qr(self, A: Array) -> tuple[Array, Array]: ...
    def svd(self, A: Array) -> tuple[Array, Array, Array]: ...
    def svdvals(self, A: Array) -> FloatArray: ...
    def is_positive_definite(self, A: Array) -> bool: ...


@dataclass(frozen=True)
class NumpyBackend:
    """LAPACK through SciPy: `A.T @ A` is recognised as a syrk, rectangular SVDs stay fast."""

    device: str = "cpu"

    def asarray(self, x: FloatArray) -> Array:
        return x

    def numpy(self, x: Array) -> FloatArray:
        return x

    def zeros(self, *shape: int) -> Array:
        return np.zeros(shape)

    def norm(self, x: Array) -> float:
        return float(np.sqrt(np.vdot(x, x)))

    def eigvalsh(self, G: Array) -> FloatArray:
        """Eigenvalues ascending; `G` is overwritten."""
        values: Any = scipy.linalg.eigh(
            G.T, eigvals_only=True, overwrite_a=True, check_finite=False, driver="evd"
        )
        return values

    def eigh(self, G: Array) -> tuple[Array, Array]:
        """Eigenvalues ascending and eigenvectors in columns; `G` is overwritten."""
        # evd: its vectors are orthogonal to 5e-15, those of evr only to 1e-12.
        values, vectors = scipy.linalg.eigh(G.T, overwrite_a=True, check_finite=False, driver="evd")
        return values, vectors

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
        try:
            scipy.linalg.cholesky(A, check_finite=False)
        except scipy.linalg.LinAlgError:
            return False
        return True


CPU = NumpyBackend()


@dataclass(frozen=True)
class TorchBackend:
    """The same operations on a torch device.

    Every eigensolver's first answer of a size class is checked (‖VᵀV−I‖ and residual), because
    the driver behind `torch.linalg.eigh` changes with the version; one that fails, or runs out
    of memory, is replaced by LAPACK.
    """

    device: str
    _trusted: dict[int, bool] = field(default_factory=dict, compare=False, repr=False)

    def asarray(self, x: FloatArray) -> Array:
        return torch.as_tensor(np.ascontiguousarray(x), device=self.device)

    def numpy(self, x: Array) -> FloatArray:
        return x.cpu().numpy()

    def zeros(self, *shape: int) -> Array:
        return torch.zeros(shape, dtype=torch.float64, device=self.device)

    def norm(self, x: Array) -> float:
        return float(torch.linalg.vector_norm(x))

    def eigvalsh(self, G: Array) -> FloatArray:
        try:
            if self._trusted.get(_size_class(G.shape[0])) is None:
                return self.numpy(self.eigh(G)[0])
            return self.numpy(torch.linalg.eigvalsh(G))
        except torch.OutOfMemoryError:
            return CPU.eigvalsh(self.numpy(G))

    def eigh(self, G: Array) -> tuple[Array, Array]:
        size = _size_class(G.shape[0])
        if self._trusted.get(size, True):
            try:
                values, vectors = torch.linalg.eigh(G)
                if size not in self._trusted:
                    self._trusted[size] = self._verified(G, values, vectors)
                if self._trusted[size]:
                    return values, vectors
            except SOLVER_FAILURES:
                pass
        values, vectors = CPU.eigh(self.numpy(G).copy())
        return self.asarray(values), self.asarray(vectors)

    def _verified(self, G: Array, values: Array, vectors: Array) -> bool:
        p = G.shape[0]
        identity = torch.eye(p, dtype=torch.float64, device=self.device)
        skew = self.norm(vectors.T @ vectors - identity)
        residual = self.norm(G @ vectors - vectors * values)
        scale = float(values.abs().max()) if p else 0.0
        return skew <= 1e-12 * p and residual <= 1e-12 * p * scale

    def qr(self, A: Array) -> tuple[Array, Array]:
        return torch.linalg.qr(A)

    def svd(self, A: Array) -> tuple[Array, Array, Array]:
        # cuSOLVER's QR-based gesvd: Jacobi, torch's default, stalls beyond 1024 columns.
        try:
            return torch.linalg.svd(A, full_matrices=False, driver=self._svd_driver())
        except SOLVER_FAILURES:
            left, values, right = CPU.svd(self.numpy(A))
            return self.asarray(left), self.asarray(values), self.asarray(right)

    def svdvals(self, A: Array) -> FloatArray:
        try:
            return self.numpy(torch.linalg.svdvals(A, driver=self._svd_driver()))
        except SOLVER_FAILURES:
            return CPU.svdvals(self.numpy(A))

    def _svd_driver(self) -> str | None:
        return "gesvd" if self.device.startswith("cuda") else None

    def is_positive_definite(self, A: Array) -> bool:
        return int(torch.linalg.cholesky_ex(A).info) == 0


def _size_class(p: int) -> int:
    return p.bit_length()


def get_backend(device: str = "auto") -> Backend:
    """The backend for ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` (``torch-cpu`` for tests).

    Raises UsageError for a device that is not there.
    """
    if device == "auto":
        return TorchBackend("cuda") if torch.cuda.is_available() else CPU
    if device == "cpu":
        return CPU
    if device == "torch-cpu":
        return TorchBackend("cpu")
    name, _, index = device.partition(":")
    if name != "cuda" or not (index.isdigit() or not index):
        raise UsageError(f"no device named {device}", hint="choose auto, cpu, cuda or cuda:N")
    if int(index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"{device} is not available",
            hint="`analyzer doctor` lists the devices; try --device cpu",
        )
    return TorchBackend(device)


@contextmanager
def full_precision() -> Iterator[None]:
    """Matrix products on CUDA without TF32, whatever the caller's program has set."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
