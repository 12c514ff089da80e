"""The k leading singular triplets of a matrix."""

from __future__ import annotations

import numpy as np
import torch

from analyzer.errors import UsageError
from analyzer.spectral.backend import CPU, Backend, on_host_if_full
from analyzer.spectral.certificates import (
    none_above,
    probe,
    triplet_residual,
    value_and_angle_error,
)
from analyzer.spectral.gram import gram
from analyzer.spectral.lanczos import Ritz, lanczos, matrix_operator
from analyzer.spectral.prepare import Matrix, Prepared, prepare, short_product, tall_product
from analyzer.spectral.results import EPS, FloatArray, TopK

GRAM_UP_TO = 1536  # short side: a Gram matrix and k of its eigenvectors cost less than Lanczos
GRAM_RESOLVES = 1e-4  # σ_k/σ₁ down to which Gram vectors leave residuals of rounding size
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

    Eigenvectors of the Gram matrix, complete by construction, for p ≤ 1536 or k > p/20; Lanczos
    beyond, with a certificate: `certify` is ``probe``, ``cholesky`` or ``none``. `v0`
    (min(m, n),) is a warm right vector (left, if m < n), mixed half and half with a random one;
    `tol` is relative to σ₁. k > p gives p triplets. Raises NonFinite, UsageError.
    """
    if k < 0 or certify not in ("probe", "cholesky", "none"):
        raise UsageError(f"svd_topk cannot take k={k}, certify={certify!r}")
    X = prepare(W)
    k = min(k, X.p)
    if k == 0 or X.largest == 0.0:
        zero = np.zeros(k)
        U, V = np.eye(X.shape[0], k), np.eye(X.shape[1], k)
        return TopK(U, zero, V.T, zero, zero, np.ones(k), True, "degenerate")
    rng = np.random.default_rng(seed)

    def work(chosen: Backend) -> TopK:
        found = None
        if X.p > GRAM_UP_TO and k <= X.p // 20:
            found = _lanczos(X, k, tol, _start(X.p, v0, rng), certify, rng, chosen)
        return found or _by_gram(X, k, chosen)

    return on_host_if_full(work, backend)


def _by_gram(X: Prepared, k: int, backend: Backend) -> TopK:
    """Short vectors from XᵀX; an SVD of X times them gives the long ones and the values."""
    eigenvalues, vectors = backend.leading_eigh(gram(X, backend), min(k + 1, X.p))
    s = np.sqrt(np.maximum(backend.numpy(eigenvalues), 0.0))
    if s[k - 1] < GRAM_RESOLVES * s[0]:
        return _direct(X, k, backend)
    basis = torch.linalg.qr(torch.as_tensor(vectors)[:, :k]).Q
    reached = tall_product(X, basis)
    long, values, turn = torch.linalg.svd(reached, full_matrices=False)
    short = basis @ turn.T
    r1 = torch.linalg.vector_norm(reached @ turn.T - long * values, dim=0)
    r2 = torch.linalg.vector_norm(short_product(X, long) - short * values, dim=0)
    U, S, V, r1, r2 = (x.cpu().numpy() for x in (long, values, short, r1, r2))
    return _result(X, U, S, V, float(s[k]) if k < X.p else 0.0, r1, r2, True, "gram_eigh")


def _direct(X: Prepared, k: int, backend: Backend) -> TopK:
    """The dense SVD, for leading values that reach down to where a Gram matrix is blind."""
    A = backend.asarray(X.dense())
    op = matrix_operator(A)
    U, s, Vh = (backend.numpy(part) for part in backend.svd(A))
    left, right = (U, Vh.T) if X.shape[0] >= X.shape[1] else (Vh.T, U)
    left, right = left[:, :k], right[:, :k]
    following = float(s[k]) if k < s.size else 0.0
    r1, r2 = triplet_residual(op, left, s[:k], right, backend)
    return _result(X, left, s[:k], right, following, r1, r2, True, "direct_svd")


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
        complete, direction = certify == "none", start
        if not complete:
            missed, direction = probe(op, U, V, rng, backend)
            complete = missed <= s[-1] * (1 + PROBE_SLACK)
        if complete and certify == "cholesky":
            G = backend.symmetric(gram(X, backend))
            complete = none_above(G, s, V, float(s[-1]) * (1 + 1e-6), backend)
        if complete:
            r1, r2 = triplet_residual(op, U, s, V, backend)
            method = "lanczos" if certify == "none" else f"lanczos_{certify}"
            following = float(ritz.S[k])
            return _result(X, U, s, V, following, r1, r2, certify != "none", method)
        known, start = ritz, direction
    return None


def _result(
    X: Prepared,
    U: FloatArray,
    s: FloatArray,
    V: FloatArray,
    next_value: float,
    r1: FloatArray,
    r2: FloatArray,
    certified: bool,
    method: str,
) -> TopK:
    """Error bounds, back to the scale and orientation of the stored matrix, signs fixed."""
    m, n = X.shape
    if s.size == X.p and m == n:
        next_value = -np.inf  # nothing follows, not even a 0
    error, angle = value_and_angle_error(s, next_value, r1, r2, square=m == n)
    left, right = (U, V) if m >= n else (V, U)
    lead = np.argmax(np.abs(left), axis=0)
    sign = np.where(left[lead, np.arange(s.size)] < 0, -1.0, 1.0)
    return TopK(
        U=left * sign,
        S=s * X.scale,
        Vh=(right * sign).T,
        residual=np.sqrt((r1**2 + r2**2) / 2) * X.scale,
        error=np.maximum(error, 8 * np.sqrt(X.p) * EPS * s[0]) * X.scale,
        angle_error=angle,
        certified=certified,
        method=method,
    )
