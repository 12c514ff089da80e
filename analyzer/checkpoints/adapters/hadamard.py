"""LoHa: ΔW = s (w1a w1b) ∘ (w2a w2b) (FedPara, Hyeon-Woo et al., arXiv 2108.06098, eq. 5).

With CP cores (convolutions) each side is t ×_1 wa ×_2 wb, wa (r, out), wb (r, in). A Hadamard
product of ranks r1, r2 has rank ≤ r1·r2, with the row-wise Khatri–Rao products as factors.
"""

from __future__ import annotations

import numpy as np

from analyzer.checkpoints.adapters.factors import Factors, as_matrix, oriented
from analyzer.checkpoints.adapters.types import FloatArray, LowRankDelta
from analyzer.checkpoints.tensors import MatrixInfo
from analyzer.errors import AdapterError


def change(factors: Factors, matrix: MatrixInfo, scaling: float) -> LowRankDelta | FloatArray:
    """ΔW as factors, or as a dense matrix (rows, cols) where r1·r2 ≥ min(rows, cols)."""
    name = factors.target.name
    (A1, B1), (A2, B2) = _side(factors, 1), _side(factors, 2)  # (out, r), (r, in·k)
    if (len(A1), B1.shape[1]) != (len(A2), B2.shape[1]):
        raise AdapterError("the two sides of the product differ in shape", tensor=name)
    if A1.shape[1] * A2.shape[1] >= min(matrix.rows, matrix.cols):
        return as_matrix(scaling * (A1 @ B1) * (A2 @ B2), matrix, name)
    return oriented(
        scaling * _khatri_rao(A1, A2), _khatri_rao(B1.T, B2.T), matrix, name, stored=True
    )


def _side(factors: Factors, side: int) -> tuple[FloatArray, FloatArray]:
    a, b = factors[f"hada_w{side}_a"], factors[f"hada_w{side}_b"]
    if f"hada_t{side}" not in factors:
        return a, b
    core = np.einsum("ij...,jr->ir...", factors[f"hada_t{side}"], b)  # (r, in, k…)
    return a.T, core.reshape(len(core), -1)


def _khatri_rao(X: FloatArray, Y: FloatArray) -> FloatArray:
    """Row-wise Kronecker products: (n, p), (n, q) → (n, p·q)."""
    return (X[:, :, None] * Y[:, None, :]).reshape(len(X), -1)
