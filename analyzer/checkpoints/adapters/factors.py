"""Reading an adapter's factors in float64 and turning them to the base matrix's orientation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analyzer.checkpoints.adapters.types import (
    AdapterFiles,
    AdapterTarget,
    FloatArray,
    LowRankDelta,
)
from analyzer.checkpoints.tensors import MatrixInfo
from analyzer.errors import AdapterError, NonFinite, ShapeMismatch


@dataclass(frozen=True, slots=True)
class Factors:
    """The factors of one target, read when asked for: `factors["A"]`, float64, finite."""

    source: AdapterFiles
    target: AdapterTarget

    def __contains__(self, part: object) -> bool:
        return any(part == name for name, _ in self.target.parts)

    def __getitem__(self, part: str) -> FloatArray:
        """Raises AdapterError if the file does not hold it, NonFinite."""
        names = dict(self.target.parts)
        if part not in names:
            raise AdapterError(f"has no {part}, which its method needs", tensor=self.target.module)
        return read_finite(self.source, names[part])

    def scalar(self, part: str) -> float:
        value = self[part]
        if value.size != 1:
            raise AdapterError(
                f"shape {value.shape} where a single number is expected",
                tensor=dict(self.target.parts)[part],
            )
        return float(value.reshape(()))


def read_finite(source: AdapterFiles, name: str) -> FloatArray:
    """A stored tensor as float64. Raises NonFinite, which names it."""
    values: FloatArray = source.read(name).detach().double().numpy()
    wrong = ~np.isfinite(values)
    if wrong.any():
        n_nan = int(np.isnan(values).sum())
        raise NonFinite(n_nan, int(wrong.sum()) - n_nan, int(np.flatnonzero(wrong)[0]), tensor=name)
    return values


def oriented(
    P: FloatArray, Q: FloatArray, matrix: MatrixInfo, tensor: str, *, stored: bool
) -> LowRankDelta:
    """P Qᵀ as a change of `matrix` (rows, cols). Raises AdapterError, ShapeMismatch.

    `stored` says that P Qᵀ has the orientation of the stored tensor; else it is output × input,
    as PEFT's linear factors are even where the base stores its transpose, and the shape decides
    if the base's orientation was not recognised.
    """
    if P.ndim != 2 or Q.ndim != 2 or P.shape[1] != Q.shape[1]:
        raise AdapterError(f"factors {P.shape} and {Q.shape} do not fit together", tensor=tensor)
    shape, wanted = (P.shape[0], Q.shape[0]), (matrix.rows, matrix.cols)
    swap = matrix.transposed if stored else shape != wanted
    if (shape[::-1] if swap else shape) != wanted:
        raise shape_mismatch(tensor, shape, matrix)
    return LowRankDelta(Q, P) if swap else LowRankDelta(P, Q)


def as_matrix(values: FloatArray, matrix: MatrixInfo, tensor: str) -> FloatArray:
    """A tensor shaped like the stored base tensor → the matrix (rows, cols), output × input."""
    part = values
    if matrix.index is not None and values.ndim == 3 and len(values) == matrix.shape[0]:
        part = values[matrix.index]
    flat = part.reshape(part.shape[0], -1) if part.ndim > 1 and part.size else part
    if flat.ndim == 2 and matrix.transposed:
        flat = flat.T
    if flat.shape != (matrix.rows, matrix.cols):
        raise shape_mismatch(tensor, values.shape, matrix)
    return flat


def concatenate(first: LowRankDelta, second: LowRankDelta) -> LowRankDelta:
    """The sum of two low-rank changes, factors side by side."""
    return LowRankDelta(np.hstack([first.P, second.P]), np.hstack([first.Q, second.Q]))


def shape_mismatch(tensor: str, shape: tuple[int, ...], matrix: MatrixInfo) -> ShapeMismatch:
    """The adapter's shape against the base matrix's, both named."""
    return ShapeMismatch(
        f"the adapter changes a {'×'.join(map(str, shape))} weight, but {matrix.name} of the base "
        f"is {matrix.rows}×{matrix.cols}",
        tensor=tensor,
        hint="another base, or a grown vocabulary",
    )
