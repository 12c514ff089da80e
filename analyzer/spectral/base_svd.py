"""The SVD of a base matrix, computed once and shared by everything tuned from it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from analyzer.errors import ShapeMismatch
from analyzer.spectral.backend import CPU, Backend
from analyzer.spectral.prepare import Matrix, prepare
from analyzer.spectral.results import FloatArray
from analyzer.spectral.update import LowRankUpdate
from analyzer.spectral.vectors import thin_svd

ENGINE_VERSION = 1


@dataclass(frozen=True, slots=True)
class BaseSVD:
    """W0 = U diag(s) Vᵀ: U (m, p), s (p,) descending, V (n, p); `error` (p,) bounds |s − σ|."""

    U: FloatArray
    s: FloatArray
    V: FloatArray
    error: FloatArray
    method: str

    @property
    def shape(self) -> tuple[int, int]:
        return self.U.shape[0], self.V.shape[0]

    @classmethod
    def compute(cls, W0: Matrix, backend: Backend = CPU) -> BaseSVD:
        """Decompose W0 (m, n) of any real dtype in float64. Raises NonFinite."""
        return cls(*thin_svd(W0, backend))

    @classmethod
    def load_or_compute(cls, W0: Matrix, cache: Path, backend: Backend = CPU) -> BaseSVD:
        """The SVD of W0 from the folder `cache`, computed and put there if it is not."""
        from safetensors.numpy import load_file, save_file

        path = cache / f"{_key(W0)}.safetensors"
        if path.exists():
            stored = load_file(path)
            return cls(stored["U"], stored["s"], stored["V"], stored["error"], "cached")
        svd = cls.compute(W0, backend)
        cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        arrays = {"U": svd.U, "s": svd.s, "V": svd.V, "error": svd.error}
        save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, partial)
        partial.replace(path)
        return svd

    def update(self, P: Matrix, Q: Matrix) -> LowRankUpdate:
        """W0 + P Qᵀ, P (m, r), Q (n, r), in this basis. Raises NonFinite, ShapeMismatch."""
        left, right = prepare(P), prepare(Q)
        m, n = self.shape
        if left.shape[0] != m or right.shape[0] != n or left.shape[1] != right.shape[1]:
            raise ShapeMismatch(
                f"factors {left.shape} and {right.shape} do not update a matrix of {m}×{n}"
            )
        return LowRankUpdate(
            self.s,
            _coordinates(self.U, left.dense() * left.scale),
            _coordinates(self.V, right.dense() * right.scale),
        )


def _coordinates(basis: FloatArray, factor: FloatArray) -> FloatArray:
    """basisᵀ·factor, with the R of what lies outside the basis' span below: (p or p+l, r)."""
    inside = basis.T @ factor  # (p, r)
    if basis.shape[0] == basis.shape[1]:
        return inside
    outside = factor - basis @ inside
    again = basis.T @ outside  # projecting twice keeps the two parts orthogonal
    outside -= basis @ again
    return np.vstack([inside + again, np.linalg.qr(outside, mode="r")])


def _key(W0: Matrix) -> str:
    tensor = W0 if isinstance(W0, torch.Tensor) else torch.as_tensor(np.ascontiguousarray(W0))
    digest = hashlib.sha256(f"{ENGINE_VERSION} {tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
