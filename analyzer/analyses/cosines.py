"""Cosines between all steps of one source: exact from the matrices, estimated from sketches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from analyzer.analyses.observations import Product
from analyzer.spectral.results import EPS, FloatArray
from theory.gradient_maps import cosine_map, sketch_error

BLOCK = 1 << 18  # entries of every step in memory at once


@dataclass(frozen=True, slots=True)
class Cosines:
    """C[a, b] (T, T) between steps; NaN beside a zero matrix. `error` is that of one entry."""

    steps: tuple[int, ...]
    values: FloatArray
    error: float


def of_arrays(steps: Sequence[int], matrices: Sequence[ArrayLike]) -> Cosines:
    """Cosines of matrices in memory."""
    size = int(np.prod(np.shape(matrices[0]))) if len(matrices) else 0
    return Cosines(tuple(steps), cosine_map(matrices), _rounding(size))


def of_sketches(steps: Sequence[int], sketches: Sequence[ArrayLike]) -> Cosines:
    """Cosines of CountSketches (w,) of equal seed and width."""
    width = np.shape(sketches[0])[0]
    return Cosines(tuple(steps), cosine_map(sketches), sketch_error(width))


def of_blocks(
    steps: Sequence[int], size: int, blocks: Callable[[slice], Sequence[torch.Tensor]]
) -> Cosines:
    """Cosines of matrices of `size` entries, read some entries of every step at a time.

    `blocks(part)` gives the same entries of all T matrices, flat, any dtype. Summed in float64.
    """
    dots = np.zeros((len(steps), len(steps)))
    for start in range(0, size, BLOCK):
        part = torch.stack([block.double() for block in blocks(slice(start, start + BLOCK))])
        dots += (part @ part.T).numpy()
    return Cosines(tuple(steps), _normalised(dots), _rounding(size))


def of_products(steps: Sequence[int], products: Sequence[Product]) -> Cosines:
    """⟨P_a Q_aᵀ, P_b Q_bᵀ⟩ = tr((P_aᵀP_b)(Q_bᵀQ_a)), never forming a product.

    `error` says how much cancellation within the products, differences of others, may leave.
    """
    count = len(products)
    dots, scale = np.zeros((count, count)), np.zeros(count)
    for a, first in enumerate(products):
        scale[a] = float(np.linalg.norm(first.P) * np.linalg.norm(first.Q))
        for b in range(a, count):
            second = products[b]
            value = float(np.sum((first.P.T @ second.P) * (first.Q.T @ second.Q)))
            dots[a, b] = dots[b, a] = value
    norms = np.sqrt(np.maximum(np.diag(dots), 0.0))
    known = norms > 0.0
    loss = float(np.max((scale[known] / norms[known]) ** 2, initial=1.0))
    size = sum(products[0].P.shape) + sum(products[0].Q.shape) if products else 0
    return Cosines(tuple(steps), _normalised(dots), min(2.0, _rounding(size) * loss))


def _normalised(dots: FloatArray) -> FloatArray:
    norms = np.sqrt(np.maximum(np.diag(dots), 0.0))
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = np.clip(dots / np.outer(norms, norms), -1.0, 1.0)
    cosines[np.diag_indices_from(cosines)] = np.where(norms > 0.0, 1.0, np.nan)
    return cosines


def _rounding(size: int) -> float:
    """Rounding of dot products of `size` terms in float64, summed in blocks."""
    return 4.0 * EPS * float(np.sqrt(max(size, 1))) + 8.0 * EPS
