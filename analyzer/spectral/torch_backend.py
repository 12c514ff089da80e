"""The engine's linear algebra on a torch device, every eigensolver checked before it is trusted.

cuSOLVER offers several eigensolvers, torch changes its choice between versions, and no one of
them is best (or right) at every size. So the first matrix of a size class is decomposed by each
candidate, ‖VᵀV − I‖ and ‖GV − VΛ‖ decide which are trusted, and the fastest of these is kept.
TF32 is no concern: it replaces float32 products, and here all of them are float64.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from analyzer.spectral.backend import CPU, Array
from analyzer.spectral.results import EPS, FloatArray

TUNED_UP_TO = 1024  # above, the first candidate that passes the check is kept: trials are slow
Eigh = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class TorchBackend:
    """Arrays are float64 tensors on `device`; what fails or does not fit there runs on LAPACK."""

    device: str
    _chosen: dict[int, str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def torch_device(self) -> str:
        return self.device

    def asarray(self, x: FloatArray) -> Array:
        return torch.as_tensor(np.ascontiguousarray(x), device=self.device)

    def numpy(self, x: Array) -> FloatArray:
        return x.cpu().numpy() if isinstance(x, torch.Tensor) else x

    def zeros(self, *shape: int) -> Array:
        return torch.zeros(shape, dtype=torch.float64, device=self.device)

    def norm(self, x: Array) -> float:
        return float(torch.linalg.vector_norm(x))

    def add_gram(self, G: Array, block: torch.Tensor) -> Array:
        return G.addmm_(block.T, block)

    def symmetric(self, G: Array) -> Array:
        return G if isinstance(G, torch.Tensor) else self.asarray(CPU.symmetric(G))

    def eigvalsh(self, G: Array) -> FloatArray:
        """Eigenvalues ascending; Σλ = tr G and Σλ² = ‖G‖² tell whether to believe them."""
        if isinstance(G, np.ndarray):
            return CPU.eigvalsh(G)
        if self._chosen.get(_size_class(G.shape[0])) != "eigh":
            return self.numpy(self.eigh(G)[0])
        try:
            values = self.numpy(torch.linalg.eigvalsh(G))
        except RuntimeError:  # not converged, or out of memory
            return CPU.eigvalsh(self.numpy(G).copy())
        trace, norm = float(torch.trace(G)), self.norm(G)
        slack = 64 * EPS * values.size * norm
        if abs(values.sum() - trace) <= slack and abs(np.linalg.norm(values) - norm) <= slack:
            return values
        return CPU.eigvalsh(self.numpy(G).copy())

    def eigh(self, G: Array) -> tuple[Array, Array]:
        """Eigenvalues ascending and eigenvectors in columns, by the size class's driver."""
        if isinstance(G, np.ndarray):
            values, vectors = CPU.eigh(G)  # a Gram matrix that did not fit on the device
            return torch.from_numpy(values), torch.from_numpy(vectors)
        size = _size_class(G.shape[0])
        if size not in self._chosen:
            self._chosen[size], answer = self._fastest(G)
            return answer
        try:
            return self._drivers()[self._chosen[size]](G)
        except RuntimeError:
            return self._lapack_eigh(G)

    def leading_eigh(self, G: Array, k: int) -> tuple[Array, Array]:
        """The k largest eigenvalues, descending, and their vectors."""
        values, vectors = self.eigh(G)
        return values[-k:].flip(0), vectors[:, -k:].flip(1)

    def _drivers(self) -> dict[str, Eigh]:
        """Candidates, the likely best first; LAPACK on the host is the last resort."""
        drivers: dict[str, Eigh] = {"eigh": torch.linalg.eigh}
        if self.device.startswith("cuda"):
            drivers["gesvd"] = _eigh_by_gesvd
        drivers["lapack"] = self._lapack_eigh
        return drivers

    def _fastest(self, G: torch.Tensor) -> tuple[str, tuple[Array, Array]]:
        """The quickest trusted driver for matrices of this size, and what it answers for G."""
        best, seconds = "lapack", np.inf
        answer: tuple[Array, Array] | None = None
        for name, driver in self._drivers().items():
            if answer is not None and G.shape[0] > TUNED_UP_TO:
                break
            try:
                driver(G)  # the first call also loads the library
                started = time.perf_counter()
                candidate = driver(G)
                trusted = name == "lapack" or self._verified(G, *candidate)
            except RuntimeError:
                continue
            elapsed = time.perf_counter() - started
            if trusted and elapsed < seconds:
                best, seconds, answer = name, elapsed, candidate
        return best, answer if answer is not None else self._lapack_eigh(G)

    def _lapack_eigh(self, G: torch.Tensor) -> tuple[Array, Array]:
        values, vectors = CPU.eigh(self.numpy(G).copy(order="F"))
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
        except RuntimeError:
            left, values, right = CPU.svd(self.numpy(A))
            return self.asarray(left), self.asarray(values), self.asarray(right)

    def svdvals(self, A: Array) -> FloatArray:
        try:
            return self.numpy(torch.linalg.svdvals(A, driver=self._svd_driver()))
        except RuntimeError:
            return CPU.svdvals(self.numpy(A))

    def _svd_driver(self) -> str | None:
        return "gesvd" if self.device.startswith("cuda") else None

    def is_positive_definite(self, A: Array) -> bool:
        return int(torch.linalg.cholesky_ex(A).info) == 0


def _eigh_by_gesvd(G: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A Gram matrix is positive semidefinite: its singular triplets are its eigenpairs."""
    vectors, values, _ = torch.linalg.svd(G, driver="gesvd")
    return values.flip(0), vectors.flip(1)


def _size_class(p: int) -> int:
    return p.bit_length()
