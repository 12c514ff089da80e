"""Frequent Directions: a small sketch of the Gram matrix of all rows seen so far.

M. Ghashami, E. Liberty, J. M. Phillips, D. P. Woodruff, "Frequent Directions: simple and
deterministic matrix sketching", arXiv 1501.01711. With A the stack of all rows and B the sketch of
ℓ rows,

    0 ⪯ AᵀA − BᵀB ⪯ δ I,     δ ≤ ‖A − A_j‖_F²/(ℓ − j) for every j < ℓ,

where δ is the sum of what was taken off: after each block the squared singular values of [B; block]
are lowered by the (ℓ+1)-th of them, which leaves at most ℓ rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from analyzer.errors import ShapeMismatch, UsageError
from analyzer.spectral.backend import CPU
from analyzer.spectral.prepare import fro_norm, prepare

ROWS = 256  # taken to float64 at once


@dataclass(frozen=True, slots=True)
class FrequentDirections:
    """The sketch of a stream of rows and what is known of the stream."""

    sketch: torch.Tensor  # (ℓ, d) float64, orthogonal rows by falling norm
    shrink: float  # δ, which bounds ‖AᵀA − BᵀB‖₂
    energy: float  # ‖A‖_F²


def empty(size: int, columns: int, device: torch.device | str = "cpu") -> FrequentDirections:
    """The sketch (size, columns) of no rows. Raises UsageError for a size below 1."""
    if size < 1:
        raise UsageError(f"a sketch needs at least one row, got {size}")
    zeros = torch.zeros(size, columns, dtype=torch.float64, device=device)
    return FrequentDirections(zeros, 0.0, 0.0)


@torch.no_grad()
def extend(state: FrequentDirections, rows: torch.Tensor) -> FrequentDirections:
    """The sketch after more rows (b, d), all of them in one shrinking step.

    For Σ G Gᵀ give the rows of Gᵀ, for Σ GᵀG those of G. Costs a symmetric eigenproblem of
    order min(ℓ + b, d). Raises NonFinite, and ShapeMismatch for rows of another length.
    """
    size, columns = state.sketch.shape
    if rows.ndim != 2 or rows.shape[1] != columns:
        raise ShapeMismatch(f"rows of shape {tuple(rows.shape)} for a sketch of {columns} columns")
    added = fro_norm(rows) ** 2
    if not math.isfinite(added):
        prepare(rows)  # raises with the counts
    wide = size + rows.shape[0] <= columns
    stack = torch.cat([state.sketch, rows.to(state.sketch)]) if wide else None
    gram = stack @ stack.T if stack is not None else _gram(state.sketch, rows)
    values, vectors = _leading(gram, min(size + 1, gram.shape[0]))
    shrink = float(values[size]) if values.numel() > size else 0.0
    values, vectors = values[:size], vectors[:, :size]
    left = (values - shrink).clamp(min=0.0)
    if stack is not None:  # vectors of the rows: the right ones are stackᵀ u/√λ
        weight = torch.where(values > 0.0, left / values, 0.0).sqrt()
        directions = vectors.T @ stack
    else:
        weight, directions = left.sqrt(), vectors.T
    sketch = torch.zeros_like(state.sketch)
    sketch[: left.numel()] = weight[:, None] * directions
    return FrequentDirections(sketch, state.shrink + shrink, state.energy + added)


def _leading(gram: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest eigenvalues, descending and not below 0, and their vectors."""
    if gram.device.type == "cpu":
        found, columns = CPU.leading_eigh(gram.numpy(), k)  # in place
        values, vectors = torch.tensor(found.copy()), torch.from_numpy(columns)
    else:
        values, vectors = (x.flip(-1)[..., :k] for x in torch.linalg.eigh(gram))
    return values.clamp(min=0.0), vectors


def _gram(sketch: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """BᵀB + RᵀR (d, d), the rows in float64 some at a time."""
    total = sketch.T @ sketch
    for start in range(0, rows.shape[0], ROWS):
        block = rows[start : start + ROWS].to(sketch)
        total.addmm_(block.T, block)
    return total
