"""Exact decoding, finiteness and scaling of a stored matrix, block by block.

bf16, fp16, fp8 and fp32 are subsets of float64, so decoding is exact. Scaling by a power of two
is exact as well and keeps 1e-300 … 1e300 and float32 subnormals away from underflow. A stored
matrix may be a read-only memory map: it is read in row blocks and never written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import torch

from analyzer.errors import NonFinite, ShapeMismatch
from analyzer.spectral.difference import Difference
from analyzer.spectral.results import FloatArray

BLOCK = 1024  # rows that are looked at together
CACHED_BLOCK = 2**17  # entries of a block that stays in the processor's cache
DEVICE_BLOCK = 2**24  # entries of a block on a GPU
Matrix = np.ndarray | torch.Tensor | Difference


@dataclass(frozen=True, slots=True)
class Prepared:
    """A finite m×n matrix W = 2^exponent · X with max|X| in [½, 1), read in float64 blocks."""

    source: torch.Tensor | Difference  # (m, n), any real dtype
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

    def tall_blocks(self, rows: int, device: str = "cpu") -> Iterator[torch.Tensor]:
        """Float64 blocks (≤ rows, p) of X with the long side first (X or Xᵀ, if m < n).

        In host memory one buffer serves all of them: use each before asking for the next.
        """
        m, n = self.shape
        tall = self.source if m >= n else self.source.T
        size = min(rows, max(m, n)) * self.p if device == "cpu" else 0
        buffer = torch.empty(size, dtype=torch.float64)
        for start in range(0, max(m, n), rows):
            block = tall[start : start + rows]
            if device == "cpu":
                yield _times_power(_write(block, _laid_out(buffer, block)), -self.exponent)
            else:
                yield _scaled(block.to(device), -self.exponent)

    def dense(self) -> FloatArray:
        """X as one float64 array (m, n), not to be written to."""
        return _scaled(self.source, -self.exponent).numpy()

    def times(self, Y: torch.Tensor) -> torch.Tensor:
        """X Y (m, c) for Y (n, c), on the device of Y, one cached block of X at a time."""
        half, rest = _split(-self.exponent)
        Y = Y * half
        out = Y.new_empty(self.shape[0], Y.shape[1])
        for rows, block in self._row_blocks(Y.device):
            torch.mm(block, Y, out=out[rows])
        return out.mul_(rest)

    def adjoint_times(self, Y: torch.Tensor) -> torch.Tensor:
        """Xᵀ Y (n, c) for Y (m, c)."""
        half, rest = _split(-self.exponent)
        rows_of_Y = (Y * half).T.contiguous()  # YᵀX: BLAS is slower on a transposed block
        out = Y.new_zeros(Y.shape[1], self.shape[1])
        for rows, block in self._row_blocks(Y.device):
            out.addmm_(rows_of_Y[:, rows], block)
        return out.mul_(rest).T

    def _row_blocks(self, device: torch.device) -> Iterator[tuple[slice, torch.Tensor]]:
        """Row blocks of W itself in float64."""
        source = self.source
        if (
            isinstance(source, torch.Tensor)
            and source.dtype == torch.float64
            and source.device == device
        ):
            yield slice(0, source.shape[0]), source
        else:
            yield from _float64_blocks(source, device)


def tall_product(X: Prepared, Y: torch.Tensor) -> torch.Tensor:
    """X Y (q, c), X in its tall orientation (q, p), Y (p, c)."""
    return X.times(Y) if X.shape[0] >= X.shape[1] else X.adjoint_times(Y)


def short_product(X: Prepared, Y: torch.Tensor) -> torch.Tensor:
    """Xᵀ Y (p, c), X in its tall orientation (q, p), Y (q, c)."""
    return X.adjoint_times(Y) if X.shape[0] >= X.shape[1] else X.times(Y)


def prepare(W: Matrix) -> Prepared:
    """Check and scale a 2-D matrix of any real dtype.

    Raises NonFinite with the number of NaN and infinite entries and the flat index of the first,
    ShapeMismatch for an array that is not 2-D.
    """
    source = W if isinstance(W, Difference) else as_tensor(W)
    if source.ndim != 2:
        raise ShapeMismatch(f"expected a matrix, got shape {tuple(source.shape)}")
    largest = 0.0
    for block in _comparable_blocks(source):
        low, high = torch.aminmax(block)
        extreme = max(abs(float(low)), abs(float(high)))
        if not np.isfinite(extreme):
            _raise_non_finite(source)
        largest = max(largest, extreme)
    exponent = int(np.frexp(largest)[1]) if largest else 0
    return Prepared(source, exponent, largest)


def fro_norm(W: np.ndarray | torch.Tensor) -> float:
    """‖W‖_F of a matrix of any real dtype, summed in float64."""
    source = as_tensor(W)
    by_row = source if source.stride(0) >= source.stride(1) else source.T
    blocks = _float64_blocks(by_row, source.device)
    return float(np.linalg.norm([float(torch.linalg.vector_norm(block)) for _, block in blocks]))


def _float64_blocks(
    source: torch.Tensor | Difference, device: torch.device
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Row blocks in float64 on a device; one buffer serves all of them."""
    m, n = source.shape
    entries = CACHED_BLOCK if device.type == "cpu" else DEVICE_BLOCK
    height = max(1, entries // max(n, 1))
    buffer = torch.empty(min(height, m), n, dtype=torch.float64, device=device)
    for start in range(0, m, height):
        block = source[start : start + height]
        if isinstance(block, Difference):
            block = block.to(device)
        yield slice(start, start + height), _write(block, buffer[: block.shape[0]])


def _write(source: torch.Tensor | Difference, out: torch.Tensor) -> torch.Tensor:
    return source.write(out) if isinstance(source, Difference) else out.copy_(source)


def _laid_out(buffer: torch.Tensor, block: torch.Tensor | Difference) -> torch.Tensor:
    """The buffer's start in the shape of `block`, and in its order of rows and columns."""
    rows, cols = block.shape
    part = buffer[: rows * cols]
    by_row = block.stride(0) >= block.stride(1)
    return part.view(rows, cols) if by_row else part.view(cols, rows).T


def _scaled(source: torch.Tensor | Difference, exponent: int) -> torch.Tensor:
    """2^exponent · source in float64; the source itself if there is nothing to do."""
    if isinstance(source, Difference):
        whole = torch.empty(source.numel(), dtype=torch.float64, device=source.base.device)
        out = _laid_out(whole, source)
        turned = out.stride(0) < out.stride(1)
        long, target = (source.T, out.T) if turned else (source, out)
        for rows, block in _float64_blocks(long, whole.device):
            target[rows] = block
        return _times_power(out, exponent)
    if exponent == 0:
        return source.to(torch.float64)
    return _times_power(source.to(torch.float64, copy=True), exponent)


def _times_power(x: torch.Tensor, exponent: int) -> torch.Tensor:
    """2^exponent · x in place."""
    if exponent == 0:
        return x
    half, rest = _split(exponent)
    if abs(exponent) < 1000:
        half, rest = half * rest, 1.0
    x.mul_(half)
    return x if rest == 1.0 else x.mul_(rest)


def _split(exponent: int) -> tuple[float, float]:
    """Two powers of two whose product is 2^exponent."""
    half = exponent // 2
    return float(np.ldexp(1.0, half)), float(np.ldexp(1.0, exponent - half))


def as_tensor(W: np.ndarray | torch.Tensor) -> torch.Tensor:
    """In host memory, without a copy where possible; what is not floating-point as float64."""
    if isinstance(W, torch.Tensor):
        tensor = W.detach().cpu()
        return tensor if tensor.is_floating_point() else tensor.to(torch.float64)
    array = np.asarray(W)
    if array.dtype not in (np.float16, np.float32, np.float64):
        array = array.astype(np.float64)
    if any(stride < 0 for stride in array.strides):
        array = array.copy()
    return torch.from_numpy(array if array.flags.writeable else _unlocked(array))


def _unlocked(array: np.ndarray) -> np.ndarray:
    """The same memory without the read-only flag, which torch would warn about."""
    view = dict(array.__array_interface__)
    view["data"] = (view["data"][0], False)
    holder = type("Memory", (), {"__array_interface__": view, "base": array})()
    return np.asarray(holder)


def _comparable_blocks(source: torch.Tensor | Difference) -> Iterator[torch.Tensor]:
    """Row blocks, as stored where they can be compared."""
    if not source.numel():
        return
    if isinstance(source, Difference):
        yield from (block for _, block in _float64_blocks(source, source.base.device))
    else:
        for start in range(0, source.shape[0], BLOCK):
            block = source[start : start + BLOCK]
            # float8 has no comparisons of its own
            yield block.to(torch.float32) if block.element_size() == 1 else block


def _raise_non_finite(source: torch.Tensor | Difference) -> NoReturn:
    n_nan = n_inf = seen = 0
    first: int | None = None
    for block in _comparable_blocks(source):
        n_nan += int(torch.isnan(block).sum())
        n_inf += int(torch.isinf(block).sum())
        if first is None and n_nan + n_inf:
            first = seen + int(torch.nonzero(~torch.isfinite(block).reshape(-1))[0])
        seen += block.numel()
    assert first is not None
    raise NonFinite(n_nan, n_inf, first)
