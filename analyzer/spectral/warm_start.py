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
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from analyzer.errors import ShapeMismatch, UsageError
from analyzer.spectral.prepare import prepare

COPIED = 1 << 18  # entries taken to float64 at once
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
    if rank < 1 or fresh < 0:
        raise UsageError(f"leading_subspace needs rank ≥ 1 and fresh ≥ 0, got {rank} and {fresh}")
    if G.ndim != 2:
        raise ShapeMismatch(f"expected a matrix, got shape {tuple(G.shape)}")
    with torch.no_grad(), full_precision(G.device.type):
        X, exponent, fro = _scaled(G.detach())
        A = X if side == "left" or (side is None and G.shape[0] <= G.shape[1]) else X.T
        if previous is not None and previous.shape[0] != A.shape[0]:
            raise ShapeMismatch(f"a basis of {previous.shape[0]} rows for a side of {A.shape[0]}")
        k = min(rank, *A.shape)
        random = torch.Generator().manual_seed(seed)
        if fro == 0.0:
            eye = torch.eye(A.shape[0], k, dtype=A.dtype, device=A.device)
            return LeadingSubspace(eye, np.zeros(k), 0.0, 0.0, "zero", False)
        if min(A.shape) <= EXACT_UP_TO or k == min(A.shape):
            found = rayleigh_ritz(A, _gram_basis(A, k), fro, "exact")
        elif previous is None:
            found = _cold(A, k, fro, random)
        else:
            found = rayleigh_ritz(A, _power(A, _start(A, previous, k, fresh, random)), fro, "warm")
            if (
                previous_epsilon_ratio is not None
                and found.epsilon > (JUMP * previous_epsilon_ratio + JUMP_FLOOR) * fro**2
            ):
                other = _cold(A, k, fro, random)
                found = replace(min(found, other, key=lambda s: s.epsilon), restarted=True)
    unit = math.ldexp(1.0, exponent)
    return replace(
        found, sigma=found.sigma * unit, fro=fro * unit, epsilon=found.epsilon * unit * unit
    )


def rayleigh_ritz(A: torch.Tensor, Q: torch.Tensor, fro: float, method: str) -> LeadingSubspace:
    """Ritz values and vectors of AAᵀ on the span of Q (d, k), and ε; `fro` is ‖A‖_F."""
    B = (Q.T @ A).double()
    values, W = torch.linalg.eigh((B @ B.T).cpu())
    values = values.flip(0).clamp_(min=0.0).numpy()
    epsilon = max(fro**2 - float(values.sum()), 0.0)
    epsilon += ROUNDING * torch.finfo(A.dtype).eps * fro**2
    return LeadingSubspace(
        Q @ W.flip(1).to(Q), np.sqrt(values), fro, epsilon, method, restarted=False
    )


def _cold(A: torch.Tensor, k: int, fro: float, random: torch.Generator) -> LeadingSubspace:
    """Random start and one power iteration (q = 1)."""
    start = torch.linalg.qr(A @ _normal(A.shape[1], k, A, random)).Q
    return rayleigh_ritz(A, _power(A, start), fro, "cold")


def _power(A: torch.Tensor, Q: torch.Tensor) -> torch.Tensor:
    """orth(A (Aᵀ Q)); QᵀA rather than AᵀQ, which the BLAS is slower at for row-major A."""
    return torch.linalg.qr(A @ (Q.T @ A).T).Q


def _start(
    A: torch.Tensor, previous: torch.Tensor, k: int, fresh: int, random: torch.Generator
) -> torch.Tensor:
    """The leading columns of the last basis and `fresh` random ones, or as many as are missing."""
    kept = previous[:, : max(k - fresh, 0)].to(A)
    return torch.cat([kept, _normal(A.shape[0], k - kept.shape[1], A, random)], dim=1)


def _normal(rows: int, cols: int, like: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Columns of norm about 1, drawn on the CPU so that every device gets the same."""
    return (torch.randn(rows, cols, generator=random) / math.sqrt(rows)).to(like)


def _gram_basis(A: torch.Tensor, k: int) -> torch.Tensor:
    """The k leading left singular vectors of A (d, c) from the float64 Gram matrix of a side."""
    d, c = A.shape
    X = A.double()
    vectors = torch.linalg.eigh((X @ X.T if d <= c else X.T @ X).cpu())[1].to(X)
    leading = vectors[:, -k:].flip(1)
    return (leading if d <= c else torch.linalg.qr(X @ leading).Q).to(A)


def _scaled(G: torch.Tensor) -> tuple[torch.Tensor, int, float]:
    """X = 2^-exponent·G in float32 or float64, and ‖X‖_F summed in float64.

    The exponent is 0, and X no copy, wherever fourth powers of what matters neither overflow nor
    underflow in the precision of X: products reach ‖G‖_F² times a vector.
    """
    X = G if G.dtype in (torch.float32, torch.float64) else G.to(torch.float32)
    fro = _frobenius(X)
    limits = torch.finfo(X.dtype)
    if math.sqrt(limits.tiny) * 1e9 < fro < math.sqrt(limits.max) * 1e-4 or not X.numel():
        return X, 0, fro
    largest = float(X.abs().max())
    if not math.isfinite(largest):
        prepare(G)  # raises with the counts
    if largest == 0.0:
        return X, 0, 0.0
    # 2^-exponent has to be a normal number of that precision
    low, high = math.frexp(limits.tiny)[1], math.frexp(limits.max)[1] - 8
    exponent = min(max(math.frexp(largest)[1], low), high)
    X = X * math.ldexp(1.0, -exponent)
    return X, exponent, _frobenius(X)


def _frobenius(X: torch.Tensor) -> float:
    """‖X‖_F in float64. Copies and dot products take a third of a norm that converts entries."""
    copies = (part.double() for part in X.reshape(-1).split(COPIED))
    return math.sqrt(float(sum(torch.dot(copy, copy) for copy in copies)))


@contextmanager
def full_precision(device: str) -> Iterator[None]:
    """Neither autocast nor TF32 or bf16 products: their errors would exceed the certificate."""
    settings: Any = torch.backends.mkldnn if device == "cpu" else torch.backends.cuda
    chosen = settings.matmul.fp32_precision
    settings.matmul.fp32_precision = "ieee"
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        settings.matmul.fp32_precision = chosen
