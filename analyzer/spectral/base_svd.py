"""The SVD of a base matrix, computed once and shared by everything tuned from it.

eigh of the short side's Gram matrix XᵀX = V diag(s²) Vᵀ (X tall) gives the short side's vectors.
The long side's are u_i = X v_i/s_i, but only their products with a few columns are ever needed:
Uᵀ Y = diag(1/s) Vᵀ (Xᵀ Y). So neither U nor a float64 copy of the matrix is kept, and a base
costs one Gram matrix and one eigendecomposition of its short side. Where u_i would lose its
orthogonality, for the few σ_i < 1e-3 σ₁, both sides are held explicitly (`tail`); a matrix with
many of those gets a direct SVD.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from analyzer.errors import ShapeMismatch
from analyzer.spectral.backend import CPU, Array, Backend, on_host_if_full
from analyzer.spectral.gram import gram, root_with_error
from analyzer.spectral.prepare import Matrix, Prepared, prepare, short_product, tall_product
from analyzer.spectral.results import EPS, FloatArray
from analyzer.spectral.small_values import SMALL, resolve_tail
from analyzer.spectral.update import LowRankUpdate

MOST_SMALL = 8  # p/8 small values: beyond, the direct SVD is as quick
INDEPENDENT = 1e-4  # eigenvalue of a Gram matrix of unit columns that cancellation cannot reach


@dataclass(frozen=True, slots=True)
class BaseSVD:
    """W0 (m, n) = U diag(s) Vᵀ with p = min(m, n): `s` (p,) descending, `error` (p,) ≥ |s − σ|.

    The sign of each pair makes the largest entry of the short side's vector positive.
    """

    shape: tuple[int, int]
    s: FloatArray
    error: FloatArray
    method: str
    _source: Prepared  # X = W0/scale
    _short: torch.Tensor  # (p, p), on the backend's device
    _long: torch.Tensor  # (max(m, n), t): long vectors of the t last values only

    @classmethod
    def compute(cls, W0: Matrix, backend: Backend = CPU) -> BaseSVD:
        """Decompose W0 (m, n) of any real dtype in float64. Raises NonFinite."""
        X = prepare(W0)
        if X.p == 0 or X.largest == 0.0:
            long = torch.eye(max(X.shape), X.p, dtype=torch.float64)
            return cls(X.shape, np.zeros(X.p), np.zeros(X.p), "degenerate", X, long[: X.p], long)
        return on_host_if_full(lambda chosen: cls._by_gram(X, chosen), backend)

    @classmethod
    def _by_gram(cls, X: Prepared, backend: Backend) -> BaseSVD:
        eigenvalues, vectors = backend.eigh(gram(X, backend))
        s, error = root_with_error(np.ascontiguousarray(backend.numpy(eigenvalues)[::-1]))
        small = int(np.sum(s < SMALL * s[0]))
        if small > X.p // MOST_SMALL:
            return cls._direct(X, backend)
        short = _descending(vectors)
        long = short.new_empty(max(X.shape), 0)
        if small:
            on_device = torch.as_tensor(s, device=short.device)
            long, values, short[:, -small:] = resolve_tail(X, on_device, short, small)
            s[-small:] = values.cpu().numpy()
            error[-small:] = _direct_error(s)
        return cls(X.shape, s * X.scale, error * X.scale, "gram_eigh", X, short, long)

    @classmethod
    def _direct(cls, X: Prepared, backend: Backend) -> BaseSVD:
        A = backend.asarray(X.dense())
        U, s, Vh = (_tensor(part) for part in backend.svd(A))
        short, long = (Vh.T, U) if X.shape[0] >= X.shape[1] else (U, Vh.T)
        sign = _signs(short.T)
        values = s.cpu().numpy()
        error = np.full(X.p, _direct_error(values) * X.scale)
        return cls(X.shape, values * X.scale, error, "direct_svd", X, short * sign, long * sign)

    @property
    def U(self) -> FloatArray:
        """Left vectors (m, p), computed on demand."""
        return self._vectors(long=self._tall, count=self.s.size)

    @property
    def V(self) -> FloatArray:
        """Right vectors (n, p), computed on demand."""
        return self._vectors(long=not self._tall, count=self.s.size)

    def left_coordinates(self, X: Matrix) -> FloatArray:
        """UᵀX (p, c) of columns X (m, c). Raises NonFinite, ShapeMismatch."""
        return self._coordinates(X, long=self._tall)

    def right_coordinates(self, X: Matrix) -> FloatArray:
        """VᵀX (p, c) of columns X (n, c). Raises NonFinite, ShapeMismatch."""
        return self._coordinates(X, long=not self._tall)

    def truncated(self, r: int) -> tuple[FloatArray, FloatArray]:
        """U_r diag(s_r) (m, r) and V_r (n, r), whose product is the best rank-r approximation."""
        left, right = (self._vectors(long=side, count=r) for side in (self._tall, not self._tall))
        return left * self.s[:r], right

    def update(self, P: Matrix, Q: Matrix) -> LowRankUpdate:
        """W0 + P Qᵀ, P (m, r), Q (n, r), in this basis. Raises NonFinite, ShapeMismatch."""
        left, right = prepare(P), prepare(Q)
        m, n = self.shape
        if left.shape[0] != m or right.shape[0] != n or left.shape[1] != right.shape[1]:
            raise ShapeMismatch(
                f"factors {left.shape} and {right.shape} do not update a matrix of {m}×{n}"
            )
        factors = self._on_device(left), self._on_device(right)
        short, long = factors[::-1] if self._tall else factors
        inside, other = self._both_coordinates(long, short)
        outer, inner = inside.cpu().numpy(), other.cpu().numpy()
        noise = self._noise(outer, inner, left.scale * right.scale)
        outer = np.vstack([outer, self._outside(long, inside)])
        p, q = (outer, inner) if self._tall else (inner, outer)
        return LowRankUpdate(self.s, p * left.scale, q * right.scale, noise)

    @property
    def _tall(self) -> bool:
        return self.shape[0] >= self.shape[1]

    def _on_device(self, X: Prepared) -> torch.Tensor:
        return torch.as_tensor(X.dense(), device=self._short.device)

    def _coordinates(self, columns: Matrix, *, long: bool) -> FloatArray:
        X = prepare(columns)
        if X.shape[0] != (max(self.shape) if long else min(self.shape)):
            raise ShapeMismatch(f"columns {X.shape} do not fit a matrix of {self.shape}")
        Y = self._on_device(X)
        found = self._long_coordinates(Y) if long else self._short.T @ Y
        return found.cpu().numpy() * X.scale

    def _long_coordinates(self, Y: torch.Tensor) -> torch.Tensor:
        """Uᵀ Y of the long side: diag(1/s) Vᵀ (Xᵀ Y), and explicit vectors at the end."""
        return self._both_coordinates(Y, Y.new_empty(self.s.size, 0))[0]

    def _both_coordinates(
        self, Y: torch.Tensor, Z: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Uᵀ Y of the long side and Vᵀ Z of the short one, sharing a product."""
        split, c = self.s.size - self._long.shape[1], Y.shape[1]
        if not split:
            return self._long.T @ Y, self._short.T @ Z
        through = short_product(self._source, Y)
        both = self._short.T @ torch.cat([through, Z], dim=1)
        head = both[:split, :c] / self._values()[:split, None]
        return torch.cat([head, self._long.T @ Y]), both[:, c:]

    def _long_combination(self, C: torch.Tensor) -> torch.Tensor:
        """U C of the long side, C (≤ p, c)."""
        split = min(self.s.size - self._long.shape[1], C.shape[0])
        tail = self._long[:, : C.shape[0] - split] @ C[split:]
        if not split:
            return tail
        weighted = self._short[:, :split] @ (C[:split] / self._values()[:split, None])
        return tall_product(self._source, weighted) + tail

    def _values(self) -> torch.Tensor:
        """Singular values of X, on the device."""
        return torch.as_tensor(self.s / self._source.scale, device=self._short.device)

    def _vectors(self, *, long: bool, count: int) -> FloatArray:
        count = min(count, self.s.size)
        if not long:
            return self._short[:, :count].cpu().numpy()
        if self.s.size == self._long.shape[1]:
            return self._long[:, :count].cpu().numpy()
        eye = torch.eye(count, dtype=torch.float64, device=self._short.device)
        # Householder vectors are orthonormal to rounding; in order of falling σ the small ones
        # give way to the large.
        Q, R = torch.linalg.qr(self._long_combination(eye))
        return (Q * torch.sign(torch.diagonal(R))).cpu().numpy()

    def _outside(self, Y: torch.Tensor, inside: torch.Tensor) -> FloatArray:
        """R (l, r) with RᵀR = YᵀY − (UᵀY)ᵀ(UᵀY), the part of Y (q, r) outside the span of U."""
        q, r = Y.shape
        if q == self.s.size or r == 0:
            return np.zeros((0, r))
        size = torch.linalg.vector_norm(Y, dim=0)
        size = torch.where(size > 0, size, 1.0)
        whole, part = Y / size, inside / size
        G = (whole.T @ whole - part.T @ part).cpu().numpy()
        values, vectors = np.linalg.eigh(G)
        if values[0] > INDEPENDENT:
            return (np.sqrt(values)[:, None] * vectors.T) * size.cpu().numpy()
        outside = Y - self._long_combination(inside)
        outside -= self._long_combination(self._long_coordinates(outside))  # twice is enough
        return torch.linalg.qr(outside, mode="r").R.cpu().numpy()

    def _noise(self, outer: FloatArray, inner: FloatArray, scale: float) -> float:
        """How far, in ‖·‖₂, the core may be from that of exactly orthonormal vectors.

        With ÛᵀÛ = I + E, |E| ≤ 2√p ε σ₁²/(s_i s_j) outside the tail, the core is off by
        ½ E (diag(s) + p̂ q̂ᵀ) to first order.
        """
        if not self.s.size or self.s[0] == 0.0:
            return 0.0
        s = np.maximum(self.s / self.s[0], SMALL)
        change = float(np.linalg.norm(outer / s[:, None]) * np.linalg.norm(inner))
        return float(np.sqrt(self.s.size) * EPS / s[-1]) * (float(self.s[0]) + change * scale)


def _direct_error(s: FloatArray) -> float:
    return float(8.0 * np.sqrt(s.size) * EPS * s[0])


def _tensor(x: Array) -> torch.Tensor:
    return x if isinstance(x, torch.Tensor) else torch.from_numpy(x)


def _descending(vectors: Array) -> torch.Tensor:
    """Eigenvectors (p, p) in descending order with their signs fixed; contiguous columns."""
    rows = _tensor(vectors).T.flip(0)
    return rows.mul_(_signs(rows)[:, None]).T


def _signs(rows: torch.Tensor) -> torch.Tensor:
    """The sign of the entry of largest modulus of every row."""
    low, high = torch.aminmax(rows, dim=1)
    return torch.where(high >= -low, 1.0, -1.0).to(torch.float64)
