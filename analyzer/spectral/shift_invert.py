"""Leading singular triplets of diag(s) + LᵀR by block Rayleigh quotient iteration.

In the coordinates w = (x + y, x − y)/2 of the augmented matrix [[0, M], [Mᵀ, 0]],

    A = diag(s, −s) + FᵀJF,   F = [[L, L], [R, −R]]/√2,   J = [[0, I], [I, 0]],

so (A − θ)⁻¹ is a diagonal and, by Woodbury's formula, a solve with the 2r×2r matrix H(θ) of
`inertia`: exact shift-and-invert for O(N r²). One sweep applies it to all vectors, each with its
own Ritz value as the shift (cubic convergence: Ostrowski, Arch. Rational Mech. Anal. 3, 1959;
Parlett, Math. Comp. 28, 1974), and takes the Ritz vectors of the block; two or three sweeps do.
Nothing here proves that no triplet was missed: that is the inertia count's part.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from analyzer.spectral.inertia import resolvent, with_coupling
from analyzer.spectral.results import EPS, FloatArray

SWEEPS = 6
EXTRA = 8  # base directions beyond the k + r that interlacing can bring to the top


@dataclass(frozen=True, slots=True)
class CoreTriplets:
    """X (N, k), S (k,) descending, Y (N, k) and √((‖My−sx‖² + ‖Mᵀx−sy‖²)/2) of each."""

    X: FloatArray
    S: FloatArray
    Y: FloatArray
    residual: FloatArray
    converged: bool


@dataclass(frozen=True, slots=True)
class _Augmented:
    """A: σ = (s, −s) (2N,), F (2r, 2N), and all products of two rows of L and R (3r², N)."""

    sigma: FloatArray
    F: FloatArray
    products: FloatArray

    def apply(self, W: FloatArray) -> FloatArray:
        """Rows A w."""
        r = self.F.shape[0] // 2
        g = W @ self.F.T
        return W * self.sigma + np.hstack([g[:, r:], g[:, :r]]) @ self.F

    def solve(self, W: FloatArray, theta: FloatArray) -> FloatArray:
        """Rows (A − θ_j)⁻¹ w_j, normalised."""
        e = resolvent(theta, self.sigma)
        Z = e * W
        c = np.linalg.solve(self._shifted_cores(e), (Z @ self.F.T)[:, :, None])
        Z -= e * (c[:, :, 0] @ self.F)
        return Z / _norms(Z)[:, None]

    def _shifted_cores(self, e: FloatArray) -> FloatArray:
        """H(θ_j) of every shift, (k, 2r, 2r), in two matrix products."""
        k, N = e.shape[0], self.sigma.size // 2
        r = self.F.shape[0] // 2
        same, cross = self.products[: 2 * r * r], self.products[2 * r * r :]
        even = (0.5 * (e[:, :N] + e[:, N:]) @ same.T).reshape(k, 2, r, r)
        odd = (0.5 * (e[:, :N] - e[:, N:]) @ cross.T).reshape(k, r, r)
        return with_coupling(even[:, 0], odd, even[:, 1])


def _augmented(s: FloatArray, L: FloatArray, R: FloatArray) -> _Augmented:
    r, N = L.shape
    products = np.empty((3, r, r, N))
    for out, (a, b) in zip(products, ((L, L), (R, R), (L, R)), strict=True):
        np.multiply(a[:, None], b, out=out)
    F = np.sqrt(0.5) * np.vstack([np.hstack([L, L]), np.hstack([R, -R])])
    return _Augmented(np.concatenate([s, -s]), F, products.reshape(3 * r * r, N))


def leading_triplets(
    s: FloatArray, L: FloatArray, R: FloatArray, k: int, *, tol: float
) -> CoreTriplets:
    """k triplets near the top of diag(s) + LᵀR, each with residual ≤ tol·S_j if converged.

    s (N,) descending and ≥ 0, factors in rows L, R (r, N). Raises numpy's LinAlgError where a
    block of vectors or a shifted core is singular.
    """
    A = _augmented(s, L, R)
    W, theta = _start(s, L, R, k)  # (k, 2N), (k,)
    residual = _norms(A.apply(W) - theta[:, None] * W)
    for _sweep in range(SWEEPS):
        if _small(residual, theta, tol):
            break
        Z = A.solve(W, _off_poles(theta, s))
        W, AW, theta = _rayleigh_ritz(Z, A.apply(Z))
        residual = _norms(AW - theta[:, None] * W)
    converged = theta[-1] > 0 and _small(residual, theta, tol)
    X, Y = W[:, : s.size] + W[:, s.size :], W[:, : s.size] - W[:, s.size :]
    X, Y = X / _norms(X)[:, None], Y / _norms(Y)[:, None]  # 1 up to the residual
    return CoreTriplets(X.T, theta, Y.T, residual, converged)


def _start(s: FloatArray, L: FloatArray, R: FloatArray, k: int) -> tuple[FloatArray, FloatArray]:
    """Ritz triplets on the leading base directions and one Krylov block of the rest of L and R.

    By interlacing, the k leading values are at least s_{k+r}.
    """
    K = min(k + L.shape[0] + EXTRA, s.size)
    low = s[K:]
    left = _orthonormal(np.vstack([L[:, K:], low * R[:, K:]]))  # (a, N − K)
    right = _orthonormal(np.vstack([R[:, K:], low * L[:, K:]]))
    top = np.arange(K)
    C = np.hstack([L[:, :K], L[:, K:] @ left.T]).T @ np.hstack([R[:, :K], R[:, K:] @ right.T])
    C[top, top] += s[:K]
    C[K:, K:] += (low * left) @ right.T
    x, theta, yh = np.linalg.svd(C)
    X = np.hstack([x[:K, :k].T, x[K:, :k].T @ left])
    Y = np.hstack([yh[:k, :K], yh[:k, K:] @ right])
    return 0.5 * np.hstack([X + Y, X - Y]), theta[:k]


def _orthonormal(A: FloatArray) -> FloatArray:
    """Orthonormal rows that span the numerical row space of A, good enough to start from."""
    values, vectors = np.linalg.eigh(A @ A.T)
    keep = values > 1e-12 * max(values[-1], np.finfo(np.float64).tiny)
    return (vectors[:, keep] / np.sqrt(values[keep])).T @ A


def _off_poles(theta: FloatArray, s: FloatArray) -> FloatArray:
    """Shifts at least a few ε θ₀ away from every base value: an untouched one is a pole."""
    closest = 16 * EPS * theta[0]
    distance = np.min(np.abs(theta[:, None] - s), axis=1)
    return np.where(distance < closest, theta + closest, theta)


def _rayleigh_ritz(Z: FloatArray, AZ: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Ritz vectors of A on the rows of Z, A times them, and the Ritz values, descending."""
    values, vectors = scipy.linalg.eigh(Z @ AZ.T, Z @ Z.T)
    C = np.ascontiguousarray(vectors[:, ::-1].T)
    return C @ Z, C @ AZ, values[::-1]


def _small(residual: FloatArray, theta: FloatArray, tol: float) -> bool:
    """Relative to each value, as far as rounding lets it: one more sweep costs little."""
    return bool(np.all(residual <= np.maximum(tol * theta, 64 * EPS * theta[0])))


def _norms(rows: FloatArray) -> FloatArray:
    return np.sqrt(np.einsum("ij,ij->i", rows, rows))
