"""The SVD of a low-rank update P Qᵀ, never formed.

P = Q_P R_P, Q = Q_Q R_Q (thin QR), R_P R_Qᵀ = X diag(s) Zᵀ (r×r), so U = Q_P X, V = Q_Q Z:
O((m+n) r²) with an error of a few ε·‖P‖‖Q‖.
"""

from __future__ import annotations

import numpy as np

from analyzer.errors import ShapeMismatch
from analyzer.spectral.backend import CPU, Backend
from analyzer.spectral.prepare import Matrix, prepare
from analyzer.spectral.results import FloatArray, LowRankSVD


def low_rank_svd(P: Matrix, Q: Matrix, *, backend: Backend = CPU) -> LowRankSVD:
    """Thin SVD of P Qᵀ with P (m, r), Q (n, r). Raises NonFinite, ShapeMismatch."""
    left, right = prepare(P), prepare(Q)
    if left.shape[1] != right.shape[1]:
        raise ShapeMismatch(f"factors {left.shape} and {right.shape} have different ranks")
    if 0 in (*left.shape, *right.shape):
        empty = np.zeros((0,))
        return LowRankSVD(np.zeros((left.shape[0], 0)), empty, np.zeros((right.shape[0], 0)), 0.0)
    Q_P, R_P = backend.qr(backend.asarray(left.dense()))
    Q_Q, R_Q = backend.qr(backend.asarray(right.dense()))
    X, s, Zh = backend.svd(R_P @ R_Q.T)
    scale = left.scale * right.scale
    values: FloatArray = backend.numpy(s) * scale
    return LowRankSVD(
        U=backend.numpy(Q_P @ X),
        S=values,
        V=backend.numpy(Q_Q @ Zh.T),
        fro_norm=float(np.linalg.norm(values)),
    )
