"""The leading singular subspace of a matrix that changes slowly, one pass over it a step.

Subspace iteration from the basis of the step before (N. Halko, P.-G. Martinsson, J. A. Tropp,
"Finding structure with randomness", arXiv 0909.4061, algorithm 4.4, with a warm start), written
for the left side; the right side is that of the transpose:

    Q ← orth(G (Gᵀ Q_previous)),   B = QᵀG,   Q ← Q W with BBᵀ = W diag(ŝ²) Wᵀ.

Whatever Q is, as long as its columns are orthonormal, with ε = ‖G‖_F² − ‖QᵀG‖_F²

    ŝ_i² ≤ s_i² ≤ ŝ_i² + ε     for every i,

the left part by the interlacing of singular values, the right one since s_i² − ŝ_i² is at most the
spectral norm of GᵀG − BᵀB ⪰ 0 and so at most its trace. The pass costs 6·m·n·k operations in the
precision of G; norms, ε and the k×k eigenproblem are float64.

Matrices of one shape take the pass together. Only products with them are made one by one: the rest
are operations so small that starting them costs more than their arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from analyzer.errors import NonFinite, ShapeMismatch, UsageError
from analyzer.spectral.product_range import Scaled, full_precision, scale_for_products

EXACT_UP_TO = 32  # short side; from there on a pass costs less than a Gram matrix's eigenvectors
# ‖B‖² and the orthogonality of Q are those of computed matrices: the largest error observed, up to
# 1024×2736, was 3.7 units above and 6.7 below.
ROUNDING = 32
JUMP, JUMP_FLOOR = 1.25, 0.02  # ε/‖G‖² above 1.25 times the last one + 0.02: a direction is missed
Side = Literal["left", "right"]


@dataclass(frozen=True, slots=True)
class LeadingSubspace:
    """An orthonormal basis, its Ritz values ŝ, and the ε of ŝ_i² ≤ s_i² ≤ ŝ_i² + ε.

    ε includes what rounding may hide, 32 units of the precision times ‖G‖_F², so that the upper
    bound holds as it stands; the lower one holds up to that same allowance.
    """

    basis: torch.Tensor  # (d, k), by falling Ritz value; d = rows for "left", columns for "right"
    sigma: NDArray[np.float64]  # (k,) Ritz values ŝ
    fro: float  # ‖G‖_F
    epsilon: float  # ‖G‖_F² − ‖QᵀG‖_F² and the rounding, in units of G squared
    method: str  # cold (random start, q = 1), warm (one pass), exact (Gram eigenvectors), zero
    restarted: bool  # the certificate of a warm pass jumped, so that a cold one was tried as well


def default_side(rows: int, cols: int) -> Side:
    """GaLore's: the shorter side, left for a square matrix (J. Zhao et al., arXiv 2403.03507)."""
    return "left" if rows <= cols else "right"


def leading_subspace(
    G: torch.Tensor,
    rank: int = 16,
    *,
    previous: torch.Tensor | None = None,
    previous_epsilon_ratio: float | None = None,
    side: Side | None = None,
    seed: int = 0,
    fresh: int = 2,
) -> LeadingSubspace:
    """The k = min(rank, m, n) leading singular directions of G (m, n), with a certificate.

    `previous` (d, any) is the basis of a step before, of which the last columns make room for
    `fresh` random ones: without these a new direction orthogonal to all old ones stays unseen. Give
    none after a zero matrix, whose basis means nothing.
    `previous_epsilon_ratio` is ε/‖G‖_F² of that step; if this one's is much larger, a cold start is
    tried too and the better of the two is returned. `seed` should differ from step to step. `side`
    is the shorter one by default, left for a square matrix. Works on the device of G, in float32
    for half precision, and leaves the global random generator alone.
    Raises NonFinite, ShapeMismatch (G or `previous`), UsageError (`rank`, `fresh`).
    """
    if G.ndim != 2:
        raise ShapeMismatch(f"expected a matrix, got shape {tuple(G.shape)}")
    (found,) = leading_subspaces(
        [G],
        rank,
        previous=[previous],
        previous_epsilon_ratios=[previous_epsilon_ratio],
        side=side,
        seed=seed,
        fresh=fresh,
    )
    if isinstance(found, NonFinite):
        raise found
    return found


def leading_subspaces(
    matrices: Sequence[torch.Tensor],
    rank: int,
    *,
    previous: Sequence[torch.Tensor | None],
    previous_epsilon_ratios: Sequence[float | None],
    side: Side | None = None,
    seed: int = 0,
    fresh: int = 2,
) -> list[LeadingSubspace | NonFinite]:
    """`leading_subspace` of each of `matrices`, which share shape (m, n), precision and device.

    Each has its own certificate and restart, or NonFinite in place of a result; their random
    columns are the same. Raises ShapeMismatch (`previous`) and UsageError (`rank`, `fresh`).
    """
    if rank < 1 or fresh < 0:
        raise UsageError(f"leading_subspace needs rank ≥ 1 and fresh ≥ 0, got {rank} and {fresh}")
    m, n = matrices[0].shape
    on_left = (side or default_side(m, n)) == "left"
    d = m if on_left else n
    for basis in previous:
        if basis is not None and basis.shape[0] != d:
            raise ShapeMismatch(f"a basis of {basis.shape[0]} rows for a side of {d}")
    with torch.no_grad(), full_precision(matrices[0].device.type):
        scaled = [_scaled_or_error(G) for G in matrices]
        finite = [
            _Matrix(one.X if on_left else one.X.T, one.fro, basis, ratio)
            for one, basis, ratio in zip(scaled, previous, previous_epsilon_ratios, strict=True)
            if isinstance(one, Scaled)
        ]
        found = iter(_subspaces(finite, min(rank, m, n), fresh, seed))
    return [_in_units(next(found), one) if isinstance(one, Scaled) else one for one in scaled]


def rayleigh_ritz(A: torch.Tensor, Q: torch.Tensor, fro: float, method: str) -> LeadingSubspace:
    """Ritz values and vectors of AAᵀ on the span of Q (d, k), and ε; `fro` is ‖A‖_F."""
    return _rayleigh_ritz([_Matrix(A, fro, None, None)], Q.unsqueeze(0), method)[0]


@dataclass(frozen=True, slots=True)
class _Matrix:
    """A (d, c) in the range of its products, ‖A‖_F, and what the step before left."""

    A: torch.Tensor
    fro: float
    previous: torch.Tensor | None
    previous_epsilon_ratio: float | None

    def missed(self, found: LeadingSubspace) -> bool:
        """Whether the certificate jumped."""
        last = self.previous_epsilon_ratio
        return last is not None and found.epsilon > (JUMP * last + JUMP_FLOOR) * self.fro**2


def _subspaces(matrices: Sequence[_Matrix], k: int, fresh: int, seed: int) -> list[LeadingSubspace]:
    found: dict[int, LeadingSubspace] = {}
    cold: list[int] = []
    warm: list[int] = []
    for i, X in enumerate(matrices):
        if X.fro == 0.0:
            eye = torch.eye(X.A.shape[0], k, dtype=X.A.dtype, device=X.A.device)
            found[i] = LeadingSubspace(eye, np.zeros(k), 0.0, 0.0, "zero", False)
        elif min(X.A.shape) <= EXACT_UP_TO or k == min(X.A.shape):
            found[i] = rayleigh_ritz(X.A, _gram_basis(X.A, k), X.fro, "exact")
        else:
            (cold if X.previous is None else warm).append(i)
    found |= zip(cold, _cold([matrices[i] for i in cold], k, seed), strict=True)
    found |= zip(warm, _warm([matrices[i] for i in warm], k, fresh, seed), strict=True)
    missed = [i for i in warm if matrices[i].missed(found[i])]
    for i, other in zip(missed, _cold([matrices[i] for i in missed], k, seed), strict=True):
        found[i] = replace(min(found[i], other, key=lambda s: s.epsilon), restarted=True)
    return [found[i] for i in range(len(matrices))]


def _cold(matrices: Sequence[_Matrix], k: int, seed: int) -> list[LeadingSubspace]:
    """Random start and one power iteration (q = 1)."""
    if not matrices:
        return []
    start = _normal(matrices[0].A.shape[1], k, matrices[0].A, seed)
    Q = torch.linalg.qr(torch.stack([X.A @ start for X in matrices])).Q
    return _rayleigh_ritz(matrices, _power(matrices, Q), "cold")


def _warm(matrices: Sequence[_Matrix], k: int, fresh: int, seed: int) -> list[LeadingSubspace]:
    """One pass from the last basis' leading columns and `fresh` random ones, or all it lacks."""
    if not matrices:
        return []
    like = matrices[0].A
    kept = [X.previous[:, : max(k - fresh, 0)].to(like) for X in matrices if X.previous is not None]
    random = _normal(like.shape[0], k - min(Q.shape[1] for Q in kept), like, seed)
    Q = torch.stack([torch.cat([Q, random[:, : k - Q.shape[1]]], dim=1) for Q in kept])
    return _rayleigh_ritz(matrices, _power(matrices, Q), "warm")


def _rayleigh_ritz(
    matrices: Sequence[_Matrix], Q: torch.Tensor, method: str
) -> list[LeadingSubspace]:
    """The same for a stack of bases Q (number, d, k)."""
    B = _project(matrices, Q).double()
    values, W = torch.linalg.eigh((B @ B.mT).cpu())
    bases = Q @ W.flip(2).to(Q)
    squares = values.flip(1).clamp_(min=0.0).numpy()
    rounding = ROUNDING * torch.finfo(Q.dtype).eps
    return [
        LeadingSubspace(
            basis=basis,
            sigma=np.sqrt(of_one),
            fro=X.fro,
            epsilon=max(X.fro**2 - float(of_one.sum()), 0.0) + rounding * X.fro**2,
            method=method,
            restarted=False,
        )
        for X, basis, of_one in zip(matrices, bases, squares, strict=True)
    ]


def _power(matrices: Sequence[_Matrix], Q: torch.Tensor) -> torch.Tensor:
    """orth(A (Aᵀ Q)) of a stack Q (number, d, k)."""
    inside = _project(matrices, Q)
    products = torch.empty_like(Q)
    for X, B, out in zip(matrices, inside, products, strict=True):
        torch.mm(X.A, B.T, out=out)
    return torch.linalg.qr(products).Q


def _project(matrices: Sequence[_Matrix], Q: torch.Tensor) -> torch.Tensor:
    """QᵀA (number, k, c); not AᵀQ, which the BLAS is slower at for row-major A."""
    products = Q.new_empty(len(matrices), Q.shape[2], matrices[0].A.shape[1])
    for X, basis, out in zip(matrices, Q, products, strict=True):
        torch.mm(basis.T, X.A, out=out)
    return products


def _normal(rows: int, cols: int, like: torch.Tensor, seed: int) -> torch.Tensor:
    """Columns of norm about 1, drawn on the CPU so that every device gets the same."""
    random = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, cols, generator=random) / math.sqrt(rows)).to(like)


def _gram_basis(A: torch.Tensor, k: int) -> torch.Tensor:
    """The k leading left singular vectors of A (d, c) from the float64 Gram matrix of a side."""
    d, c = A.shape
    X = A.double()
    vectors = torch.linalg.eigh((X @ X.T if d <= c else X.T @ X).cpu())[1].to(X)
    leading = vectors[:, -k:].flip(1)
    return (leading if d <= c else torch.linalg.qr(X @ leading).Q).to(A)


def _scaled_or_error(G: torch.Tensor) -> Scaled | NonFinite:
    try:
        return scale_for_products(G.detach())
    except NonFinite as error:
        return error


def _in_units(found: LeadingSubspace, scaled: Scaled) -> LeadingSubspace:
    """The subspace of X as that of G = 2^exponent·X."""
    unit = math.ldexp(1.0, scaled.exponent)
    return replace(
        found,
        sigma=found.sigma * unit,
        fro=found.fro * unit,
        epsilon=found.epsilon * unit * unit,
    )
