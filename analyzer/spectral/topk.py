"""The k leading singular triplets of a matrix."""

from __future__ import annotations

import numpy as np

from analyzer.spectral.backend import CPU, Backend, full_precision
from analyzer.spectral.certificates import (
    none_above,
    probe,
    triplet_residual,
    value_and_angle_error,
)
from analyzer.spectral.gram import gram
from analyzer.spectral.lanczos import Operator, Ritz, lanczos, matrix_operator
from analyzer.spectral.prepare import Matrix, Prepared, prepare
from analyzer.spectral.results import FloatArray, TopK
from analyzer.spectral.vectors import thin_svd

LANCZOS_FROM = 512  # below, the Gram matrix is cheaper
PROBE_SLACK = 1e-3
MOST_PASSES = 1000  # over W, before the Gram matrix is the cheaper way


def svd_topk(
    W: Matrix,
    k: int,
    *,
    tol: float = 1e-10,
    v0: FloatArray | None = None,
    certify: str = "probe",
    seed: int = 0,
    backend: Backend = CPU,
) -> TopK:
    """The k leading triplets of W (m, n) with residuals, error bounds and completeness.

    Lanczos for k ≤ p/20 and p > 512, else the Gram matrix. `v0` (min(m, n),) is a warm right
    vector (left, if m < n), mixed half and half with a random one. `certify`: ``probe``,
    ``cholesky`` or ``none``. k > p gives p triplets. Raises NonFinite.
    """
    X = prepare(W)
    k = min(k, X.p)
    if k == 0 or X.largest == 0.0:
        U, _, V, _, _ = thin_svd(W, backend)
        zero = np.zeros(k)
        return TopK(U[:, :k], zero, V[:, :k].T, zero, zero, np.ones(k), True, "degenerate")
    if X.p <= LANCZOS_FROM or k > X.p // 20:
        return _dense(W, X, k, backend)
    rng = np.random.default_rng(seed)
    with full_precision():
        found = _lanczos(X, k, tol, _start(X.p, v0, rng), certify, rng, backend)
    return found or _dense(W, X, k, backend)


def _start(p: int, v0: FloatArray | None, rng: np.random.Generator) -> FloatArray:
    """½√2 warm + ½√2 random: the random half is what finds directions the warm half lacks."""
    random = rng.standard_normal(p)
    random /= np.linalg.norm(random)
    return random if v0 is None else random + v0 / np.linalg.norm(v0)


def _lanczos(
    X: Prepared,
    k: int,
    tol: float,
    start: FloatArray,
    certify: str,
    rng: np.random.Generator,
    backend: Backend,
) -> TopK | None:
    """Lanczos until the certificate holds; None if it does not converge or keeps missing one."""
    op = matrix_operator(backend.asarray(X.dense()))
    known: Ritz | None = None
    steps = 0
    while steps < MOST_PASSES:
        ritz = lanczos(op, k + 1, tol=tol, rng=rng, backend=backend, start=start, known=known)
        steps += ritz.steps
        if not ritz.converged:
            return None
        U, s, V = ritz.U[:, :k], ritz.S[:k], ritz.V[:, :k]
        if certify == "none":
            return _result(X, op, U, s, V, float(ritz.S[k]), False, "lanczos", backend)
        missed, direction = probe(op, U, V, rng, backend)
        complete = missed <= s[-1] * (1 + PROBE_SLACK)
        if complete and certify == "cholesky":
            complete = none_above(gram(X, backend), s, V, float(s[-1]) * (1 + 1e-6), backend)
        if complete:
            method = f"lanczos_{certify}"
            return _result(X, op, U, s, V, float(ritz.S[k]), True, method, backend)
        known, start = ritz, direction
    return None


def _dense(W: Matrix, X: Prepared, k: int, backend: Backend) -> TopK:
    U, s, V, _, method = thin_svd(W, backend)
    left, right = (U, V) if X.shape[0] >= X.shape[1] else (V, U)
    op = matrix_operator(backend.asarray(X.dense()))
    following = float(s[k] / X.scale) if k < s.size else 0.0
    with full_precision():
        return _result(
            X, op, left[:, :k], s[:k] / X.scale, right[:, :k], following, True, method, backend
        )


def _result(
    X: Prepared,
    op: Operator,
    U: FloatArray,
    s: FloatArray,
    V: FloatArray,
    next_value: float,
    certified: bool,
    method: str,
    backend: Backend,
) -> TopK:
    """Certificates, back to the scale and orientation of the stored matrix, signs fixed."""
    m, n = X.shape
    r1, r2 = triplet_residual(op, U, s, V, backend)
    square = m == n
    error, angle = value_and_angle_error(s, next_value, r1, r2, square=square)
    if s.size == X.p and square:
        error, angle = value_and_angle_error(s, -np.inf, r1, r2, square=square)
    left, right = (U, V) if m >= n else (V, U)
    lead = np.argmax(np.abs(left), axis=0)
    sign = np.where(left[lead, np.arange(s.size)] < 0, -1.0, 1.0)
    rho = np.sqrt((r1**2 + r2**2) / 2)
    return TopK(
        U=left * sign,
        S=s * X.scale,
        Vh=(right * sign).T,
        residual=rho * X.scale,
        error=error * X.scale,
        angle_error=angle,
        certified=certified,
        method=method,
    )
