"""DoRA: W' = m ∘ (W0 + ΔW)/‖W0 + ΔW‖ (Liu et al., arXiv 2402.09353, eq. 5).

The norm runs over all inputs of an output (linear, Conv1D, convolution: one m per output row);
PEFT's embeddings have one m per dimension, the columns of vocabulary × dimension. LyCORIS'
``dora_scale`` says by its shape: (out, 1, …) per output, (1, in, 1, …) per input channel, the
norm then running over outputs and kernel.
"""

from __future__ import annotations

import numpy as np

from analyzer.checkpoints.adapters.factors import Factors, shape_mismatch
from analyzer.checkpoints.adapters.types import FloatArray, TunedWeight
from analyzer.checkpoints.tensors import MatrixInfo


def rescaled(factors: Factors, W: FloatArray, matrix: MatrixInfo) -> TunedWeight:
    """The tuned matrix from W = W0 + ΔW (rows, cols). Raises ShapeMismatch."""
    part = next(part for part in ("magnitude", "mlx_m", "dora_scale") if part in factors)
    m = factors[part]
    per_input = part == "dora_scale" and m.ndim > 1 and m.shape[0] == 1 and matrix.rows > 1
    if "embedding_A" in factors:
        per_input = not matrix.transposed
    channels = m.size if per_input else matrix.rows
    if m.size != channels or (matrix.cols % channels if per_input else 0):
        raise shape_mismatch(dict(factors.target.parts)[part], m.shape, matrix)
    if per_input:
        cells = W.reshape(matrix.rows, channels, -1)  # (out, in, k)
        factor = _ratio(m.reshape(1, -1, 1), np.sqrt((cells**2).sum(axis=(0, 2), keepdims=True)))
        return TunedWeight((cells * factor).reshape(W.shape))
    return TunedWeight(W * _ratio(m.reshape(-1, 1), np.linalg.norm(W, axis=1, keepdims=True)))


def _ratio(m: FloatArray, norm: FloatArray) -> FloatArray:
    """m/‖·‖, and 0 for a zero vector, which has no direction to scale."""
    return np.divide(m, norm, out=np.zeros_like(norm), where=norm > 0)
