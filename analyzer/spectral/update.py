"""W0 + P Qᵀ in the coordinates of the base's singular vectors.

With W0 = U diag(σ) Vᵀ, p̂ = UᵀP, q̂ = VᵀQ and the parts outside the spans of U and V reduced by
QR to R_P, R_Q,

    W0 + P Qᵀ = [U, U⊥] M [V, V⊥]ᵀ,   M = diag(σ, 0) + [p̂; R_P] [q̂; R_Q]ᵀ.

M and the tuned matrix share their singular values, and the cosine of new left vector j with base
left vector i is the entry X_ij of M's left vectors: no m×m product is ever needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analyzer.spectral.backend import CPU
from analyzer.spectral.certificates import neighbour_gap, triplet_residual
from analyzer.spectral.gram import svdvals
from analyzer.spectral.lanczos import Operator, Ritz, lanczos
from analyzer.spectral.results import EPS, FloatArray, Spectrum, UpdatedTopK

DENSE_UP_TO = 160  # core size below which LAPACK beats Lanczos


@dataclass(frozen=True, slots=True)
class LowRankUpdate:
    """The core M of W0 + P Qᵀ: `s` (p,), `left` (p or p+l, r), `right` (p or p+l, r)."""

    s: FloatArray
    left: FloatArray
    right: FloatArray

    def scaled(self, factor: float) -> LowRankUpdate:
        """W0 + factor · P Qᵀ."""
        return LowRankUpdate(self.s, factor * self.left, self.right)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the core."""
        return self.left.shape[0], self.right.shape[0]

    def core(self) -> FloatArray:
        """M as a dense array."""
        M = self.left @ self.right.T
        p = self.s.size
        M[np.arange(p), np.arange(p)] += self.s
        return M

    def topk(self, k: int, *, tol: float = 1e-10, seed: int = 0) -> UpdatedTopK:
        """The k leading triplets of the tuned matrix with cosines, bounds and completeness."""
        k = min(k, self.s.size)
        if min(self.shape) <= DENSE_UP_TO or k > self.s.size // 4:
            return self._dense(k)
        rng = np.random.default_rng(seed)
        op = self._operator()
        for _attempt in range(3):
            ritz = lanczos(op, k + 1, tol=tol, rng=rng, backend=CPU)
            if ritz.converged and self._complete(ritz.S, k):
                return self._result(op, ritz, k, "lanczos_inertia")
        return self._dense(k)

    def cosine_max(self, k: int, side: str = "left") -> tuple[FloatArray, FloatArray]:
        """max_i |⟨u'_j, u_i⟩| and its 0-based index i for the k leading new vectors j."""
        top = self.topk(k)
        cosines = np.abs((top.X if side == "left" else top.Y)[: self.s.size])
        return np.minimum(cosines.max(axis=0), 1.0), cosines.argmax(axis=0)

    def count_above(self, tau: float) -> int:
        """#{σ_j > τ}, exactly, from the inertia of a 2r×2r matrix (Sylvester; Haynsworth).

        #{s_i > τ} + neg([[−K11, I−K12], [I−K12ᵀ, −K22]]) − r with
        K11 = Σ τ p_i p_iᵀ/(τ²−s_i²) + R_PᵀR_P/τ, K22 alike, K12 = Σ s_i p_i q_iᵀ/(τ²−s_i²).
        τ > 0; a τ that hits a base value is nudged by 32 ε.
        """
        p, r = self.s.size, self.left.shape[1]
        if np.any(self.s == tau):
            tau *= 1 + 32 * EPS
        weight = 1.0 / ((tau - self.s) * (tau + self.s))  # (p,)
        a, b = self.left[:p], self.right[:p]
        outer_a, outer_b = self.left[p:], self.right[p:]
        K11 = (a.T * (tau * weight)) @ a + outer_a.T @ outer_a / tau
        K22 = (b.T * (tau * weight)) @ b + outer_b.T @ outer_b / tau
        K12 = (a.T * (self.s * weight)) @ b
        eye = np.eye(r)
        H = np.block([[-K11, eye - K12], [eye - K12.T, -K22]])
        negative = int(np.sum(np.linalg.eigvalsh(H) < 0))
        return int(np.sum(self.s > tau)) + negative - r

    def singular_values(self) -> Spectrum:
        """All singular values of the tuned matrix, from the Gram matrix of the core."""
        return svdvals(self.core(), method="gram")

    def fro_norm(self) -> float:
        """‖W0 + P Qᵀ‖_F = √(Σσ² + 2 Σ σ_i ⟨p_i, q_i⟩ + tr((PᵀP)(QᵀQ)))."""
        p = self.s.size
        cross = float(self.s @ np.sum(self.left[:p] * self.right[:p], axis=1))
        quadratic = float(np.sum((self.left.T @ self.left) * (self.right.T @ self.right)))
        return float(np.sqrt(max(self.s @ self.s + 2 * cross + quadratic, 0.0)))

    def _operator(self) -> Operator:
        """x ↦ Mx in O((m+n) r), oriented so that the right side is the shorter."""
        p = self.s.size
        rows, cols = self.shape

        def apply(x: FloatArray) -> FloatArray:
            y = self.left @ (self.right.T @ x)
            y[:p] += (self.s * x[:p].T).T
            return y

        def adjoint(y: FloatArray) -> FloatArray:
            x = self.right @ (self.left.T @ y)
            x[:p] += (self.s * y[:p].T).T
            return x

        if rows >= cols:
            return Operator(rows, cols, apply, adjoint)
        return Operator(cols, rows, adjoint, apply)

    def _complete(self, found: FloatArray, k: int) -> bool:
        """Whether exactly the k found values lie above a threshold between σ_k and σ_{k+1}."""
        gap = found[k - 1] - found[k]
        if gap <= 1e-9 * found[0]:  # a cluster at the cut: look just below all of it
            tau = found[k] - 1e-8 * found[0]
            return self.count_above(tau) <= int(np.sum(found > tau)) if tau > 0 else True
        return self.count_above(found[k - 1] - gap / 2) == k

    def _result(self, op: Operator, ritz: Ritz, k: int, method: str) -> UpdatedTopK:
        r1, r2 = triplet_residual(op, ritz.U, ritz.S, ritz.V, CPU)
        U, V = (ritz.U, ritz.V) if self.shape[0] >= self.shape[1] else (ritz.V, ritz.U)
        return _certified(U[:, :k], ritz.S, V[:, :k], np.hypot(r1, r2), k, method)

    def _dense(self, k: int) -> UpdatedTopK:
        U, s, Vh = CPU.svd(self.core())
        residual = np.full(s.size, 8 * np.sqrt(s.size) * EPS * s[0])
        return _certified(U[:, :k], s, Vh[:k].T, residual, k, "dense_core")


def _certified(
    U: FloatArray, s: FloatArray, V: FloatArray, residual: FloatArray, k: int, method: str
) -> UpdatedTopK:
    """Error bounds of k triplets; `s` and `residual` = ‖(r1, r2)‖ may be longer than k.

    t = residual/(√2 gap); every cosine is wrong by at most √2 t + t² while t < ½ (Davis & Kahan,
    SIAM J. Numer. Anal. 7, 1970, on [[0, M], [Mᵀ, 0]]).
    """
    following = float(s[k]) if s.size > k else 0.0
    gap = neighbour_gap(s[:k], following, square=False)
    rho = residual[:k] / np.sqrt(2.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(gap > 0, rho / gap, np.inf)
        tight = np.where(gap > 2 * rho, rho**2 / (gap - rho), np.inf)
        cos_error = np.where(t < 0.5, np.sqrt(2.0) * t + t**2, 1.0)
    floor = 8 * np.sqrt(max(s.size, 1)) * EPS * (s[0] if s.size else 0.0)
    error = np.maximum(np.minimum(rho, tight), floor)
    lead = np.argmax(np.abs(U), axis=0) if U.size else np.zeros(0, dtype=np.int64)
    sign = np.where(U[lead, np.arange(k)] < 0, -1.0, 1.0)
    return UpdatedTopK(s[:k], U * sign, V * sign, rho, error, cos_error, True, method)
