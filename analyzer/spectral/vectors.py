"""Both sides of a thin SVD from the eigenvectors of the small Gram matrix.

V and λ from eigh(XᵀX); the columns of XV are σ_i u_i, orthogonal up to ε λ₁/σ_i. A Householder
QR of XV makes them orthonormal to working precision, in order of decreasing σ, so that the small
ones give way to the large. Below σ_p/σ₁ = 1e-6 a direct SVD is taken instead.
"""

from __future__ import annotations

import numpy as np

from analyzer.spectral.backend import CPU, Backend, full_precision
from analyzer.spectral.gram import gram, root_with_error
from analyzer.spectral.prepare import Matrix, prepare
from analyzer.spectral.results import EPS, FloatArray

SMALLEST_RATIO = 1e-6


def thin_svd(
    W: Matrix, backend: Backend = CPU
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, str]:
    """U (m, p), s (p,), V (n, p), error of s (p,), method. Raises NonFinite."""
    X = prepare(W)
    m, n = X.shape
    if X.p == 0 or X.largest == 0.0:
        return np.eye(m, X.p), np.zeros(X.p), np.eye(n, X.p), np.zeros(X.p), "degenerate"
    with full_precision():
        eigenvalues, vectors = backend.eigh(gram(X, backend))
        descending = np.ascontiguousarray(backend.numpy(eigenvalues)[::-1])
        s, error = root_with_error(descending)
        A = backend.asarray(X.dense())
        if s[-1] < SMALLEST_RATIO * s[0]:
            U, s, Vh = (backend.numpy(part) for part in backend.svd(A))
            error = np.full(X.p, 8.0 * np.sqrt(X.p) * EPS * s[0])
            return *_signed(U, s * X.scale, Vh.T), error * X.scale, "direct_svd"
        short = np.ascontiguousarray(backend.numpy(vectors)[:, ::-1])  # (p, p)
        tall = A if m >= n else A.T
        Q, R = backend.qr(tall @ backend.asarray(short))
        signs = np.sign(np.diagonal(backend.numpy(R)))
        long = backend.numpy(Q) * np.where(signs == 0, 1.0, signs)
    U, V = (long, short) if m >= n else (short, long)
    return *_signed(U, s * X.scale, V), error * X.scale, "gram_eigh"


def _signed(
    U: FloatArray, s: FloatArray, V: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The entry of largest modulus of every u_i made positive."""
    if U.size:
        lead = np.argmax(np.abs(U), axis=0)
        sign = np.where(U[lead, np.arange(U.shape[1])] < 0, -1.0, 1.0)
        return U * sign, s, V * sign
    return U, s, V
