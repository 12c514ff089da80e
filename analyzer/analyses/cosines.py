"""Cosines between all steps of one source: exact from the matrices, estimated from sketches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike

from analyzer.analyses.observations import Product
from analyzer.spectral import low_rank_svd
from analyzer.spectral.results import EPS, FloatArray
from theory.gradient_maps import cosine_map, sketch_error

BLOCK = 1 << 16  # entries of every step in memory at once


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
    """⟨P_a Q_aᵀ, P_b Q_bᵀ⟩ from the SVDs of the products, none of which is formed.

    Dots of the factors as given would lose the square of what cancels within a difference of
    products. `error` says how much of its rounding is left.
    """
    svds, losses = [], [0.0]
    for one in products:
        svd = low_rank_svd(one.P, one.Q)
        rounding = 8.0 * EPS * float(np.linalg.norm(one.P) * np.linalg.norm(one.Q))
        known = svd.fro_norm > rounding
        losses += [rounding / svd.fro_norm] if known else []
        svds.append(Product(svd.U * (svd.S / svd.fro_norm), svd.V) if known else None)
    dots = np.zeros((len(svds), len(svds)))
    for a, first in enumerate(svds):
        for b, second in enumerate(svds[: a + 1]):
            if first is not None and second is not None:
                dots[a, b] = dots[b, a] = _inner(first, second)
    size = sum(products[0].P.shape) + sum(products[0].Q.shape) if products else 0
    return Cosines(tuple(steps), _normalised(dots), min(2.0, _rounding(size) + 4.0 * max(losses)))


def _inner(first: Product, second: Product) -> float:
    """tr((P_aᵀP_b)(Q_bᵀQ_a))."""
    return float(np.sum((first.P.T @ second.P) * (first.Q.T @ second.Q)))


def _normalised(dots: FloatArray) -> FloatArray:
    norms = np.sqrt(np.maximum(np.diag(dots), 0.0))
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = np.clip(dots / np.outer(norms, norms), -1.0, 1.0)
    cosines[np.diag_indices_from(cosines)] = np.where(norms > 0.0, 1.0, np.nan)
    return cosines


def _rounding(size: int) -> float:
    """Rounding of dot products of `size` terms in float64, summed in blocks."""
    return 4.0 * EPS * float(np.sqrt(max(size, 1))) + 8.0 * EPS
