"""VeRA: ΔW = diag(λ_b) B diag(λ_d) A, B and A random, shared and frozen (arXiv 2310.11454, eq. 2).

A (r, largest in) and B (largest out, r) are cut to the module's own size; there is no α.
"""

from __future__ import annotations

from analyzer.checkpoints.adapters.factors import Factors, oriented
from analyzer.checkpoints.adapters.types import LowRankDelta
from analyzer.checkpoints.tensors import MatrixInfo
from analyzer.errors import AdapterError


def low_rank(factors: Factors, matrix: MatrixInfo) -> LowRankDelta:
    """ΔW of one module, in the orientation of `matrix`. Raises AdapterError, ShapeMismatch."""
    name = factors.target.name
    lambda_b, lambda_d = factors["vera_lambda_b"].ravel(), factors["vera_lambda_d"].ravel()
    A, B = factors["projection_A"], factors["projection_B"]
    outputs = len(lambda_b)
    # A says nothing about the module's own input size: the matrix does.
    inputs = matrix.cols if outputs == matrix.rows else matrix.rows
    if A.shape[0] != len(lambda_d) or B.shape[1] != len(lambda_d):
        raise AdapterError(
            f"projections {A.shape}, {B.shape} for rank {len(lambda_d)}", tensor=name
        )
    if A.shape[1] < inputs or len(B) < outputs:
        raise AdapterError(f"projections smaller than {outputs}×{inputs}", tensor=name)
    P = lambda_b[:, None] * B[:outputs] * lambda_d
    return oriented(P, A[:, :inputs].T, matrix, name, stored=False)
