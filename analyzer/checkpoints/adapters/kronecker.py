"""LoKr: ΔW = s w1 ⊗ w2 (Yeh et al., LyCORIS, arXiv 2309.14859, eq. 7), either factor as a product.

kron(L1 R1, L2 R2) = kron(L1, L2) kron(R1, R2), so ΔW is low-rank as soon as one factor is. A
convolution's w2 (b, d, k…) is the matrix (b, d·k…), which the Kronecker product respects.
"""

from __future__ import annotations

import numpy as np

from analyzer.checkpoints.adapters.factors import Factors, as_matrix, oriented
from analyzer.checkpoints.adapters.types import FloatArray, LowRankDelta
from analyzer.checkpoints.tensors import MatrixInfo


def change(
    factors: Factors, matrix: MatrixInfo, scaling: float, *, style: str
) -> LowRankDelta | FloatArray:
    """ΔW as factors, or as a dense matrix (rows, cols) where their rank is not smaller."""
    name = factors.target.name
    if style == "peft" and "lokr_w2" in factors and factors["lokr_w2"].ndim == 3:
        return _peft_conv1d(factors, matrix, scaling)
    (L1, R1), (L2, R2) = _first(factors), _second(factors)
    rank = L1.shape[1] * L2.shape[1]
    if rank >= min(matrix.rows, matrix.cols):
        return as_matrix(scaling * _kron(L1 @ R1, L2 @ R2), matrix, name)
    return oriented(scaling * _kron(L1, L2), _kron(R1, R2).T, matrix, name, stored=True)


def _first(factors: Factors) -> tuple[FloatArray, FloatArray]:
    if "lokr_w1" in factors:
        return _split(factors["lokr_w1"])
    return factors["lokr_w1_a"], factors["lokr_w1_b"]


def _second(factors: Factors) -> tuple[FloatArray, FloatArray]:
    """w2 (b, d·k…) as L (b, r) R (r, d·k…)."""
    if "lokr_w2" in factors:
        full = factors["lokr_w2"]
        return _split(full.reshape(len(full), -1))
    a, b = factors["lokr_w2_a"], factors["lokr_w2_b"]
    if "lokr_t2" not in factors:
        return a, b.reshape(len(b), -1)
    core = np.einsum("ij...,jr->ir...", factors["lokr_t2"], b)  # a (r, b), b (r, d)
    return a.T, core.reshape(len(core), -1)


def _split(full: FloatArray) -> tuple[FloatArray, FloatArray]:
    """W = W I or I W, whichever has the smaller inner dimension."""
    rows, cols = full.shape
    return (full, np.eye(cols)) if cols < rows else (np.eye(rows), full)


def _peft_conv1d(factors: Factors, matrix: MatrixInfo, scaling: float) -> FloatArray:
    """PEFT 0.21 pads w1 in front of a three-way w2, so that the Kronecker product runs over
    (input, kernel) and is then reshaped to the weight: not w1 ⊗ w2, but what it merges.
    """
    L1, R1 = _first(factors)
    delta = scaling * _kron((L1 @ R1)[None], factors["lokr_w2"])
    return as_matrix(delta.reshape(matrix.shape), matrix, factors.target.name)


def _kron(left: FloatArray, right: FloatArray) -> FloatArray:
    return np.asarray(np.kron(left, right), dtype=np.float64)
