"""Leading singular triplets by thick-restart Golub–Kahan–Lanczos bidiagonalisation.

Baglama & Reichel, SIAM J. Sci. Comput. 27, 2005, restarted with Ritz vectors; both bases are
orthogonalised twice, and a vanishing α or β (an invariant subspace, as repeated singular values
make) is replaced by a fresh random direction, without which multiplicities are lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from analyzer.spectral.backend import CPU, Array, Backend
from analyzer.spectral.results import EPS, FloatArray

MAX_RESTARTS = 300


@dataclass(frozen=True, slots=True)
class Operator:
    """A linear map x ↦ Xx, X (rows, cols) with cols ≤ rows, and its adjoint."""

    rows: int
    cols: int
    apply: Callable[[Array], Array]
    adjoint: Callable[[Array], Array]


@dataclass(frozen=True, slots=True)
class Ritz:
    """U (rows, k), S (k,), V (cols, k), residual estimates (k,), whether all of them converged."""

    U: FloatArray
    S: FloatArray
    V: FloatArray
    residual: FloatArray
    converged: bool
    steps: int


def matrix_operator(X: Array) -> Operator:
    """The operator of a dense matrix, transposed if it is wide."""
    A = X if X.shape[0] >= X.shape[1] else X.T
    return Operator(A.shape[0], A.shape[1], lambda x: A @ x, lambda y: A.T @ y)


def lanczos(
    op: Operator,
    k: int,
    *,
    tol: float,
    rng: np.random.Generator,
    backend: Backend,
    start: FloatArray | None = None,
    known: Ritz | None = None,
    restarts: int = MAX_RESTARTS,
) -> Ritz:
    """The k leading triplets of `op`, each with residual ≤ tol·σ₁ when converged.

    `start` (cols,) is the first right vector; half of it should be random (a warm start alone
    cannot find directions it lacks). `known` holds converged triplets to go on from, with `start`
    a direction they lack.
    """
    size = min(max(2 * k + 10, k + 20), op.cols)
    k = min(k, size)
    V = backend.zeros(size + 1, op.cols)  # bases in rows: contiguous vectors
    U = backend.zeros(size, op.rows)
    B = np.zeros((size, size))
    first = start if start is not None else rng.standard_normal(op.cols)
    kept, steps, norm = 0, 0, 0.0
    if known is not None:
        kept, norm = known.S.size, float(known.S[0])
        U[:kept], V[:kept] = backend.asarray(known.U.T), backend.asarray(known.V.T)
        B[np.arange(kept), np.arange(kept)] = known.S
        first = first - known.V @ (known.V.T @ first)
    V[kept] = backend.asarray(first / np.linalg.norm(first))
    while True:
        beta, norm = _expand(op, U, V, B, kept, norm, rng, backend)
        steps += size - kept
        P, s, Qh = CPU.svd(B)
        residual = np.abs(beta * P[-1])
        converged = size == op.cols or bool(np.all(residual[:k] <= tol * s[0]))
        restarts -= 1
        if converged or restarts < 0:
            break
        kept = k + (size - k) // 2
        V[:kept] = backend.asarray(Qh[:kept]) @ V[:size]
        U[:kept] = backend.asarray(np.ascontiguousarray(P[:, :kept].T)) @ U
        V[kept] = V[size]
        B[:] = 0.0
        B[np.arange(kept), np.arange(kept)] = s[:kept]
        B[:kept, kept] = beta * P[-1, :kept]
    left = backend.numpy(U).T @ P[:, :k]
    right = backend.numpy(V)[:size].T @ Qh[:k].T
    return Ritz(left, s[:k], right, residual[:k], converged, steps)


def _expand(
    op: Operator,
    U: Array,
    V: Array,
    B: FloatArray,
    kept: int,
    norm: float,
    rng: np.random.Generator,
    backend: Backend,
) -> tuple[float, float]:
    """Steps kept … size−1 of the bidiagonalisation; returns the last β and the norm estimate."""
    size = U.shape[0]
    beta = 0.0
    for j in range(kept, size):
        u = _orthogonal(op.apply(V[j]), U[:j])
        alpha = backend.norm(u)
        norm = max(norm, alpha)
        if alpha <= 4 * EPS * np.sqrt(op.rows) * norm:
            alpha, u = 0.0, _fresh(op.rows, U[:j], rng, backend)
            U[j] = u
        else:
            U[j] = u / alpha
        B[j, j] = alpha
        w = _orthogonal(op.adjoint(U[j]), V[: j + 1])
        beta = backend.norm(w)
        norm = max(norm, beta)
        if beta <= 4 * EPS * np.sqrt(op.cols) * norm:
            beta = 0.0
            if j + 1 < op.cols:
                V[j + 1] = _fresh(op.cols, V[: j + 1], rng, backend)
        else:
            V[j + 1] = w / beta
        if j + 1 < size:
            B[j, j + 1] = beta
    return beta, norm


def _orthogonal(x: Array, basis: Array) -> Array:
    """x minus its projection on the rows of `basis`, twice."""
    for _ in range(2):
        x = x - (basis @ x) @ basis
    return x


def _fresh(n: int, basis: Array, rng: np.random.Generator, backend: Backend) -> Array:
    """A random unit vector orthogonal to the rows of `basis`."""
    x = _orthogonal(backend.asarray(rng.standard_normal(n)), basis)
    return x / backend.norm(x)
