"""A matrix scaled so that products with it neither overflow nor round more than they have to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from analyzer.spectral.prepare import prepare

COPIED = 1 << 18  # entries taken to float64 at once


@dataclass(frozen=True, slots=True)
class Scaled:
    """X = 2^-exponent·G in float32 or float64, and ‖X‖_F summed in float64."""

    X: torch.Tensor
    exponent: int
    fro: float


def scale_for_products(G: torch.Tensor) -> Scaled:
    """G (m, n) so that products, which reach ‖G‖_F² times a vector, stay in its precision's range.

    The exponent is 0, and X no copy, wherever fourth powers of what matters neither overflow nor
    underflow. Half precision becomes float32. Raises NonFinite.
    """
    X = G if G.dtype in (torch.float32, torch.float64) else G.to(torch.float32)
    fro = _frobenius(X)
    limits = torch.finfo(X.dtype)
    if math.sqrt(limits.tiny) * 1e9 < fro < math.sqrt(limits.max) * 1e-4 or not X.numel():
        return Scaled(X, 0, fro)
    largest = float(X.abs().max())
    if not math.isfinite(largest):
        prepare(G)  # raises with the counts
    if largest == 0.0:
        return Scaled(X, 0, 0.0)
    # 2^-exponent has to be a normal number of that precision
    low, high = math.frexp(limits.tiny)[1], math.frexp(limits.max)[1] - 8
    exponent = min(max(math.frexp(largest)[1], low), high)
    X = X * math.ldexp(1.0, -exponent)
    return Scaled(X, exponent, _frobenius(X))


def _frobenius(X: torch.Tensor) -> float:
    """‖X‖_F in float64. Copies and dot products take a third of a norm that converts entries."""
    copies = (part.double() for part in X.reshape(-1).split(COPIED))
    return math.sqrt(float(sum(torch.dot(copy, copy) for copy in copies)))


@contextmanager
def full_precision(device: str) -> Iterator[None]:
    """Neither autocast nor TF32 or bf16 products: their errors would exceed any certificate."""
    settings: Any = torch.backends.mkldnn if device == "cpu" else torch.backends.cuda
    chosen = settings.matmul.fp32_precision
    settings.matmul.fp32_precision = "ieee"
    try:
        with torch.autocast(device, enabled=False):
            yield
    finally:
        settings.matmul.fp32_precision = chosen
