"""W0 + P Qᵀ in the coordinates of the base's singular vectors.

With W0 = U diag(σ) Vᵀ, p̂ = UᵀP, q̂ = VᵀQ and the parts outside the spans of U and V reduced by
QR to R_P, R_Q,

    W0 + P Qᵀ = [U, U⊥] M [V, V⊥]ᵀ,   M = diag(σ, 0) + [p̂; R_P] [q̂; R_Q]ᵀ.

M and the tuned matrix share their singular values, and the cosine of new left vector j with base
left vector i is the entry X_ij of M's left vectors: no m×m product is ever needed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from analyzer.spectral.backend import CPU
from analyzer.spectral.certificates import neighbour_gap
from analyzer.spectral.gram import svdvals
from analyzer.spectral.inertia import inertia_count
from analyzer.spectral.lanczos import Operator, lanczos
from analyzer.spectral.results import EPS, FloatArray, Spectrum, UpdatedTopK
from analyzer.spectral.shift_invert import CoreTriplets, leading_triplets
from analyzer.spectral.topk import svd_topk

DENSE_UP_TO = 80  # core size below which LAPACK is the quickest
SHIFT_INVERT_UP_TO = 16  # rank r: a sweep costs r², a Lanczos step r
WIDTHS = (1e-9, 1e-8, 1e-7)  # of σ₁: how wide a cluster at the cut may be taken to be


@dataclass(frozen=True, slots=True)
class Core:
    """M/scale = diag(s) + LᵀR, square: `s` (N,), factors in rows `L`, `R` (r, N)."""

    scale: float
    s: FloatArray
    L: FloatArray
    R: FloatArray


@dataclass(frozen=True, slots=True)
class LowRankUpdate:
    """The core M of W0 + P Qᵀ: `s` (p,), `left` (p or p+l, r), `right` (p or p+l, r).

    `noise` bounds ‖M − M̂‖₂, what rounding in the base's vectors leaves.
    """

    s: FloatArray
    left: FloatArray
    right: FloatArray
    noise: float = 0.0

    def scaled(self, factor: float) -> LowRankUpdate:
        """W0 + factor · P Qᵀ."""
        noise = self.noise * max(1.0, abs(factor))
        return LowRankUpdate(self.s, factor * self.left, self.right, noise)

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
        """The k leading triplets of the tuned matrix with cosines, bounds and completeness.

        Rayleigh quotient iteration first, once more with independent factors if these were not,
        Lanczos if it fails or the rank is large, LAPACK if no answer can be certified. k > p is
        cut; `tol` is relative to σ₁.
        """
        k = min(k, self.s.size)
        core = _balanced(self)
        rank = core.L.shape[0]
        if k == 0 or rank == 0:
            return self._unchanged(k)
        if core.s.size <= DENSE_UP_TO or 4 * (k + rank) > self.s.size:
            return self._dense(k)
        for _attempt in range(2):
            found = _by_shift_invert(core, k, tol)
            if found is not None:
                return self._from_core(found, core, k, "shift_invert_inertia")
            core = _independent(core)
        rng = np.random.default_rng(seed)
        for _attempt in range(2):
            found = _by_lanczos(core, k, tol, rng)
            if found is not None:
                return self._from_core(found, core, k, "lanczos_inertia")
        return self._dense(k)

    def cosine_max(self, k: int, side: str = "left") -> tuple[FloatArray, FloatArray]:
        """max_i |⟨u'_j, u_i⟩| and its 0-based index i for the k leading new vectors j."""
        top = self.topk(k)
        cosines = np.abs((top.X if side == "left" else top.Y)[: self.s.size])
        return np.minimum(cosines.max(axis=0), 1.0), cosines.argmax(axis=0)

    def count_above(self, tau: float) -> int:
        """#{σ_j > τ} for τ > 0, exactly: by inertia, or by LAPACK where rounding could matter."""
        core = _balanced(self)
        if core.scale == 0.0:
            return 0
        count, certain = inertia_count(tau / core.scale, core.s, core.L, core.R)
        return count if certain else int(np.sum(CPU.svdvals(self.core()) > tau))

    def singular_values(self) -> Spectrum:
        """All singular values of the tuned matrix, from the Gram matrix of the core."""
        return svdvals(self.core(), method="gram")

    def fro_norm(self) -> float:
        """‖W0 + P Qᵀ‖_F = √(Σσ² + 2 Σ σ_i ⟨p_i, q_i⟩ + tr((PᵀP)(QᵀQ)))."""
        core = _balanced(self)
        s, L, R = core.s, core.L, core.R
        cross = float(s @ np.sum(L * R, axis=0))
        square = float(s @ s) + 2 * cross + float(np.sum((L @ L.T) * (R @ R.T)))
        return float(np.sqrt(max(square, 0.0))) * core.scale

    def _unchanged(self, k: int) -> UpdatedTopK:
        """W0 itself."""
        rows, cols = self.shape
        following = float(self.s[k]) if k < self.s.size else 0.0
        X, Y = np.eye(rows, k), np.eye(cols, k)
        return _certified(X, self.s[:k], Y, np.zeros(k), self.noise, following, "unchanged")

    def _dense(self, k: int) -> UpdatedTopK:
        """From the core as a dense matrix: by its Gram matrix, by LAPACK where it is small."""
        if self.s.size > DENSE_UP_TO:
            found = svd_topk(self.core(), k + 1)
            following = float(found.S[k]) if found.S.size > k else 0.0
            return _certified(
                found.U[:, :k], found.S[:k], found.Vh[:k].T, found.residual[:k],
                self.noise, following, found.method,
            )  # fmt: skip
        U, s, Vh = CPU.svd(self.core())
        following = float(s[k]) if k < s.size else 0.0
        noise = float(8 * np.sqrt(s.size) * EPS * s[0]) + self.noise
        return _certified(U[:, :k], s[:k], Vh[:k].T, np.zeros(k), noise, following, "dense_core")

    def _from_core(self, found: CoreTriplets, core: Core, k: int, method: str) -> UpdatedTopK:
        """The k triplets that `_proved` let pass, at the matrix's own scale and shape."""
        rows, cols = self.shape
        return _certified(
            found.X[:rows, :k], found.S[:k] * core.scale, found.Y[:cols, :k],
            found.residual[:k] * core.scale, self.noise, float(found.S[k]) * core.scale, method,
        )  # fmt: skip


def _balanced(update: LowRankUpdate) -> Core:
    """The core over its own size, padded to a square, columns of both factors equally large."""
    rows, cols = update.shape
    p, N = update.s.size, max(rows, cols)
    a = np.max(np.abs(update.left), axis=0, initial=0.0)
    b = np.max(np.abs(update.right), axis=0, initial=0.0)
    keep = (a > 0) & (b > 0)
    a, b = a[keep], b[keep]
    scale = max(float(np.max(update.s, initial=0.0)), float(np.max(a * b, initial=0.0)))
    s, L, R = np.zeros(N), np.zeros((a.size, N)), np.zeros((a.size, N))
    if scale > 0:
        size = np.sqrt(a / scale * b)
        s[:p] = update.s / scale
        L[:, :rows] = (update.left[:, keep] * (size / a)).T
        R[:, :cols] = (update.right[:, keep] * (size / b)).T
    return Core(scale, s, L, R)


def _independent(core: Core) -> Core:
    """The same core with orthogonal columns in both factors: LᵀR = (X√t)(Z√t)ᵀ, tiny t left out."""
    left, right = np.linalg.qr(core.L.T), np.linalg.qr(core.R.T)
    x, t, zh = CPU.svd(left.R @ right.R.T)
    keep = t > EPS  # of a core of size 1
    root = np.sqrt(t[keep])
    return replace(core, L=(left.Q @ (x[:, keep] * root)).T, R=(right.Q @ (zh[keep].T * root)).T)


def _by_shift_invert(core: Core, k: int, tol: float) -> CoreTriplets | None:
    if core.L.shape[0] > SHIFT_INVERT_UP_TO:
        return None
    try:
        with np.errstate(all="ignore"):  # a hit pole ends as NaN, which eigh refuses
            found = leading_triplets(core.s, core.L, core.R, k + 1, tol=tol)
    except ValueError:  # a singular block (numpy's LinAlgError is one) or an overflow to NaN
        return None
    return _proved(found, core, k)


def _by_lanczos(core: Core, k: int, tol: float, rng: np.random.Generator) -> CoreTriplets | None:
    """Lanczos on x ↦ Mx in O(N r) a step."""
    s, L, R = core.s, core.L, core.R
    op = Operator(s.size, s.size, lambda x: s * x + (R @ x) @ L, lambda y: s * y + (L @ y) @ R)
    ritz = lanczos(op, k + 1, tol=tol, rng=rng, backend=CPU)
    MV = ritz.V.T * s + (ritz.V.T @ R.T) @ L  # rows M v
    MU = ritz.U.T * s + (ritz.U.T @ L.T) @ R
    S = np.sum(ritz.U.T * MV, axis=1)  # the quadratic error bound holds for Rayleigh quotients
    residual = np.sqrt(np.sum((MV - (ritz.U * S).T) ** 2 + (MU - (ritz.V * S).T) ** 2, axis=1) / 2)
    return _proved(CoreTriplets(ritz.U, S, ritz.V, residual, ritz.converged), core, k)


def _proved(found: CoreTriplets, core: Core, k: int) -> CoreTriplets | None:
    """The answer, if inertia counts prove that no larger value was missed; else None.

    Either exactly k values lie above a point between σ_k and σ_{k+1}, which then replaces
    σ_{k+1} as the bound of all others; or, in a cluster at the cut, no other value lies above
    σ_k + w, and every choice of k is right to the width w, which is added to the residuals.
    """
    if not found.converged:
        return None
    values, rounding = found.S, 2 * float(np.max(found.residual))
    gap = float(values[k - 1] - values[k])
    if gap > rounding:
        tau = float(values[k]) + 0.1 * gap
        if inertia_count(tau, core.s, core.L, core.R) == (k, True):
            return replace(found, S=np.append(values[:k], tau))
    for width in (w for w in WIDTHS if w > rounding):
        tau = float(values[k - 1]) + width
        above = values > tau
        if inertia_count(tau, core.s, core.L, core.R) == (int(np.sum(above)), True):
            return replace(found, residual=found.residual + np.where(above, 0.0, width))
    return None


def _certified(
    U: FloatArray,
    s: FloatArray,
    V: FloatArray,
    residual: FloatArray,
    noise: float,
    following: float,
    method: str,
) -> UpdatedTopK:
    """Error bounds of k triplets from √((‖My−sx‖² + ‖Mᵀx−sy‖²)/2) of each and `noise` ≥ ‖δM‖₂.

    t = (residual + noise)/gap; every cosine is wrong by at most √2 t + t² while t < ½ (Davis &
    Kahan, SIAM J. Numer. Anal. 7, 1970, on [[0, M], [Mᵀ, 0]]). Residuals enter values squared,
    noise as it is (Weyl).
    """
    gap = neighbour_gap(s, following, square=False)
    rho = residual + noise
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(gap > 0, rho / gap, np.inf)
        tight = np.where(gap > 2 * residual, residual * (residual / (gap - residual)), np.inf)
        cos_error = np.where(t < 0.5, np.sqrt(2.0) * t + t**2, 1.0)
    floor = 8 * np.sqrt(max(U.shape[0], 1)) * EPS * float(np.max(s, initial=0.0))
    error = np.maximum(np.minimum(residual, tight), floor) + noise
    lead = np.argmax(np.abs(U), axis=0) if U.size else np.zeros(0, dtype=np.int64)
    sign = np.where(U[lead, np.arange(s.size)] < 0, -1.0, 1.0)
    return UpdatedTopK(s, U * sign, V * sign, rho, error, cos_error, True, method)
