"""Singular triplets of the small values, which a Gram matrix leaves poorly resolved.

XᵀX resolves σ_i to ε σ₁²/σ_i, and the long vectors X v_i/s_i of small values are orthogonal only
to ε σ₁²/(σ_i σ_j). But their span is well determined, so one Rayleigh–Ritz step inside it, an SVD
of X V_t (q, t), gives values with an absolute error of a few ε σ₁ and orthonormal long vectors,
at the price of t products with X instead of a direct SVD of all of X.
"""

from __future__ import annotations

import torch

from analyzer.spectral.prepare import Prepared, short_product, tall_product
from analyzer.spectral.results import EPS

CLOSE = 1e-6  # inner product with other long vectors that one projection removes
MOST_PROJECTIONS = 3
SMALL = 1e-3  # of σ₁: the Gram matrix determines larger values to 1e-9 or better


def resolve_tail(
    X: Prepared, s: torch.Tensor, short: torch.Tensor, t: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Long vectors (q, t), values (t,) and short vectors (p, t) of the t smallest values.

    `s` (p,) descending and `short` (p, p) come from the Gram matrix. Long vectors are orthogonal
    to those of the other values, also where the value is 0 and X v_i holds no direction.
    """
    head, values = short[:, :-t], s[:-t]
    basis = short[:, -t:]
    long, small, turn = torch.linalg.svd(tall_product(X, basis), full_matrices=False)
    lost = small <= 8 * short.shape[0] ** 0.5 * EPS * s[0]
    long[:, lost] = _random(long.shape[0], int(lost.sum()), long)
    for _ in range(MOST_PROJECTIONS):
        inside = (head.T @ short_product(X, long)) / values[:, None]
        long, R = torch.linalg.qr(long - tall_product(X, head @ (inside / values[:, None])))
        long = long * torch.sign(torch.diagonal(R))
        if inside.abs().max() < CLOSE:
            break
    return long, small, basis @ turn.T


def _random(rows: int, columns: int, like: torch.Tensor) -> torch.Tensor:
    """Unit vectors to start from where X v_i = 0 names no direction; the same in every run."""
    start = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).to(like)
    return start / torch.linalg.vector_norm(start, dim=0)
