"""LoRA (Hu et al., arXiv 2106.09685) and AdaLoRA (Zhang et al., arXiv 2303.10512).

Linear and GPT-2 Conv1D: ΔW = s B A (output × input). Embedding: ΔW = s (B A)ᵀ (vocabulary ×
dimension). Convolution (one group): ΔW = s B A with A (r, in·k…). CP convolution (LyCORIS
``lora_mid``): A = mid ×_2 down. AdaLoRA: ΔW = s B (E∘A). MLX: a (in, r), b (r, out),
ΔW = s bᵀ aᵀ.
"""

from __future__ import annotations

import numpy as np

from analyzer.checkpoints.adapters import experts
from analyzer.checkpoints.adapters.factors import Factors, oriented
from analyzer.checkpoints.adapters.types import FloatArray, LowRankDelta
from analyzer.checkpoints.tensors import MatrixInfo
from analyzer.errors import AdapterError


def low_rank(factors: Factors, matrix: MatrixInfo, scaling: float | None) -> LowRankDelta:
    """s B A of one target, in the orientation of `matrix`. Raises AdapterError, ShapeMismatch."""
    name = factors.target.name
    if "embedding_A" in factors:
        A, B = factors["embedding_A"], factors["embedding_B"]  # (r, vocabulary), (dim, r)
        return oriented(known(scaling, name) * A.T, B, matrix, name, stored=True)
    if "mlx_a" in factors:
        return _mlx(factors, matrix, known(scaling, name))
    if factors.target.experts or matrix.index is not None:
        return experts.low_rank(factors, matrix, factors.target.experts or matrix.shape[0])
    A, B = factors["A"], factors["B"]
    if "E" in factors:
        B = B * factors["E"].reshape(1, -1)
    if "mid" in factors:
        core, down = factors["mid"], A.reshape(A.shape[0], -1)  # (i, j, k…), (j, in)
        A = np.einsum("ij...,jr->ir...", core, down)
    A, B = A.reshape(A.shape[0], _size(A)), B.reshape(B.shape[0], _size(B))
    return oriented(known(scaling, name) * B, A.T, matrix, name, stored=False)


def known(scaling: float | None, name: str) -> float:
    if scaling is None:
        raise AdapterError("its scaling is unknown", tensor=name)
    return scaling


def _mlx(factors: Factors, matrix: MatrixInfo, scaling: float) -> LowRankDelta:
    name, a, b = factors.target.name, factors["mlx_a"], factors["mlx_b"]
    if b.ndim == 3:  # a (E·r, in) or (E, r, in), b (E, out, r)
        if matrix.index is None or len(b) != matrix.shape[0]:
            raise AdapterError(f"factors of {len(b)} experts for another weight", tensor=name)
        A_e, B_e = a.reshape(len(b), -1, a.shape[-1])[matrix.index], b[matrix.index]
        return oriented(scaling * B_e, A_e.T, matrix, name, stored=False)
    if matrix.role == "embed" and (len(a), b.shape[1]) == (matrix.rows, matrix.cols):
        return LowRankDelta(scaling * a, b.T)  # a (vocabulary, r), b (r, dim)
    return oriented(scaling * b.T, a, matrix, name, stored=False)


def _size(factor: FloatArray) -> int:
    """Entries of one row, also of a factor that has none (rank 0)."""
    return int(np.prod(factor.shape[1:], dtype=int))
