"""W − W0 and W0 + s (W − W0) of two stored matrices, in float64 only where they are read.

A difference of two float32 matrices takes twice the memory of either once it is formed. Products
and Gram matrices read a matrix a block of rows at a time, so a block is all that has to exist.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from analyzer.errors import ShapeMismatch


@dataclass(frozen=True, slots=True)
class Difference:
    """factor·(W − W0), with W0 added again if `on_base`; both (m, n), dtypes as stored.

    Raises ShapeMismatch if they differ in shape.
    """

    tuned: torch.Tensor  # W
    base: torch.Tensor  # W0
    factor: float = 1.0
    on_base: bool = False

    def __post_init__(self) -> None:
        if self.tuned.shape != self.base.shape:
            raise ShapeMismatch(f"tuned {tuple(self.tuned.shape)} against {tuple(self.base.shape)}")

    @property
    def shape(self) -> torch.Size:
        return self.base.shape

    @property
    def ndim(self) -> int:
        return self.base.ndim

    @property
    def T(self) -> Difference:
        return replace(self, tuned=self.tuned.T, base=self.base.T)

    def __getitem__(self, rows: slice) -> Difference:
        return replace(self, tuned=self.tuned[rows], base=self.base[rows])

    def to(self, device: torch.device | str) -> Difference:
        """Both operands on a device, dtypes as stored."""
        return replace(self, tuned=self.tuned.to(device), base=self.base.to(device))

    def stride(self, axis: int) -> int:
        return self.base.stride(axis)

    def numel(self) -> int:
        return self.base.numel()

    def element_size(self) -> int:
        """Bytes of the wider operand: 8 where the difference may be exact, else it was rounded."""
        return max(self.tuned.element_size(), self.base.element_size())

    def write(self, out: torch.Tensor) -> torch.Tensor:
        """Into `out` (m, n) float64, and back; W0 is converted to float64 as a whole."""
        base = self.base.to(torch.float64)
        out.copy_(self.tuned).sub_(base)
        if self.factor != 1.0:
            out.mul_(self.factor)
        return out.add_(base) if self.on_base else out
