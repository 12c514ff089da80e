"""How wrong a computed triplet can be, and whether a larger one was missed."""

from __future__ import annotations

import numpy as np

from analyzer.spectral.backend import Array, Backend
from analyzer.spectral.gram import gram_error
from analyzer.spectral.lanczos import Operator, lanczos
from analyzer.spectral.results import FloatArray


def triplet_residual(
    op: Operator, U: FloatArray, S: FloatArray, V: FloatArray, backend: Backend
) -> tuple[FloatArray, FloatArray]:
    """‖Xv−su‖ and ‖Xᵀu−sv‖ of every triplet, (k,) each."""
    left, right = backend.asarray(U), backend.asarray(V)
    forward = backend.numpy(op.apply(right)) - U * S
    backward = backend.numpy(op.adjoint(left)) - V * S
    return np.linalg.norm(forward, axis=0), np.linalg.norm(backward, axis=0)


def value_and_angle_error(
    s: FloatArray, next_value: float, r1: FloatArray, r2: FloatArray, *, square: bool
) -> tuple[FloatArray, FloatArray]:
    """Bounds on |s_i − σ_i| and on √(sin²θ_u + sin²θ_v) from the residuals of each triplet.

    ρ = √((r1²+r2²)/2); |s−σ| ≤ min(ρ, ρ²/(δ−ρ)) with the gap δ to the other singular values
    (Weyl; Kato–Temple), and the angle is at most √(r1²+r2²)/δ (Wedin, BIT 12, 1972). For a matrix
    that is not square, 0 is an eigenvalue of [[0, X], [Xᵀ, 0]] and counts as a neighbour.
    """
    rho = np.sqrt((r1**2 + r2**2) / 2)
    gap = neighbour_gap(s, next_value, square=square)
    with np.errstate(divide="ignore", invalid="ignore"):
        tight = np.where(gap > 2 * rho, rho**2 / (gap - rho), np.inf)
        angle = np.where(gap > 0, np.sqrt(r1**2 + r2**2) / gap, 1.0)
    return np.minimum(rho, tight), np.minimum(angle, 1.0)


def neighbour_gap(s: FloatArray, next_value: float, *, square: bool) -> FloatArray:
    """Distance of each s_i (descending) to the nearest other singular value, (k,)."""
    if not s.size:
        return s
    chain = np.append(s, next_value)
    below = np.abs(chain[:-1] - chain[1:])
    above = np.append(np.inf, below[:-1])
    gap = np.minimum(below, above)
    return gap if square else np.minimum(gap, s)


def probe(
    op: Operator, U: FloatArray, V: FloatArray, rng: np.random.Generator, backend: Backend
) -> tuple[float, FloatArray]:
    """Largest Ritz value of (I−UUᵀ)X(I−VVᵀ) after 20 Lanczos steps, and its right vector.

    A value well above s_k proves that a triplet was missed. The chance of not seeing one falls
    like √p·exp(−2t√ε) in the number t of steps (Kuczyński & Woźniakowski, SIMAX 13, 1992).
    """
    left, right = backend.asarray(U), backend.asarray(V)

    def apply(x: Array) -> Array:
        y = op.apply(x - right @ (right.T @ x))
        return y - left @ (left.T @ y)

    def adjoint(y: Array) -> Array:
        x = op.adjoint(y - left @ (left.T @ y))
        return x - right @ (right.T @ x)

    deflated = Operator(op.rows, op.cols, apply, adjoint)
    ritz = lanczos(deflated, 1, tol=0.0, rng=rng, backend=backend, restarts=0)
    return float(ritz.S[0]), ritz.V[:, 0]


def none_above(G: Array, S: FloatArray, V: FloatArray, tau: float, backend: Backend) -> bool:
    """Whether τ²I − G + V diag(s²) Vᵀ is positive definite: then σ_{k+1} ≤ τ (Courant–Fischer).

    `G` = XᵀX (p, p), `V` (p, k). Deterministic up to the rounding error of G.
    """
    p = V.shape[0]
    shift = tau**2 + gram_error(float(S[0] ** 2), p)
    weighted = backend.asarray(V * S**2) @ backend.asarray(V).T
    return backend.is_positive_definite(backend.asarray(shift * np.eye(p)) - G + weighted)
