"""Exact decoding, finiteness and scaling of a stored matrix, block by block.

bf16, fp16, fp8 and fp32 are subsets of float64, so decoding is exact. Scaling by a power of two
is exact as well and keeps 1e-300 … 1e300 and float32 subnormals away from underflow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from analyzer.errors import NonFinite, ShapeMismatch
from analyzer.spectral.results import FloatArray

BLOCK = 2048  # long-side extent of one float64 block
Matrix = np.ndarray | torch.Tensor


@dataclass(frozen=True, slots=True)
class Prepared:
    """A finite m×n matrix W = 2^exponent · X with max|X| in [½, 1), read in float64 blocks."""

    source: torch.Tensor  # (m, n), any real dtype
    exponent: int
    largest: float  # max |W|

    @property
    def shape(self) -> tuple[int, int]:
        return self.source.shape[0], self.source.shape[1]

    @property
    def p(self) -> int:
        return min(self.shape)

    @property
    def scale(self) -> float:
        """2^exponent: what the results of X are multiplied with."""
        return float(np.ldexp(1.0, self.exponent))

    def tall_blocks(self) -> Iterator[FloatArray]:
        """Blocks (≤ 2048, p) of X with the long side first (X or Xᵀ, whichever is tall)."""
        m, n = self.shape
        for start in range(0, max(m, n), BLOCK):
            part = slice(start, start + BLOCK)
            block = self.source[part] if m >= n else self.source[:, part].T
            yield self._scaled(block)

    def dense(self) -> FloatArray:
        """X as one float64 array (m, n)."""
        return self._scaled(self.source)

    def _scaled(self, block: torch.Tensor) -> FloatArray:
        return np.ldexp(block.to(torch.float64).numpy(), -self.exponent)


def prepare(W: Matrix) -> Prepared:
    """Check and scale a 2-D matrix of any real dtype.

    Raises NonFinite with the number of NaN and infinite entries and the flat index of the first,
    ShapeMismatch for an array that is not 2-D.
    """
    source = _as_tensor(W)
    if source.ndim != 2:
        raise ShapeMismatch(f"expected a matrix, got shape {tuple(source.shape)}")
    largest = 0.0
    for start in range(0, source.shape[0], BLOCK):
        block = source[start : start + BLOCK]
        if not block.numel():
            continue
        low, high = torch.aminmax(_comparable(block))
        extreme = max(abs(float(low)), abs(float(high)))
        if not np.isfinite(extreme):
            _raise_non_finite(source)
        largest = max(largest, extreme)
    exponent = int(np.frexp(largest)[1]) if largest else 0
    return Prepared(source, exponent, largest)


def _as_tensor(W: Matrix) -> torch.Tensor:
    if isinstance(W, torch.Tensor):
        tensor = W.detach().cpu()
        return tensor if tensor.is_floating_point() else tensor.to(torch.float64)
    array = np.asarray(W)
    if array.dtype not in (np.float16, np.float32, np.float64):
        array = array.astype(np.float64)
    if any(stride < 0 for stride in array.strides) or not array.flags.writeable:
        array = array.copy()
    return torch.from_numpy(array)


def _comparable(block: torch.Tensor) -> torch.Tensor:
    """float8 has no comparisons of its own."""
    return block.to(torch.float32) if block.element_size() == 1 else block


def _raise_non_finite(source: torch.Tensor) -> None:
    flat = _comparable(source).reshape(-1)
    n_nan, n_inf = int(torch.isnan(flat).sum()), int(torch.isinf(flat).sum())
    first = int(torch.nonzero(~torch.isfinite(flat))[0])
    raise NonFinite(n_nan, n_inf, first)
