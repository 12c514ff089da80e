"""What a checkpoint says about its tensors before any of their data is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from analyzer.checkpoints.names import describe

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One stored tensor: name, shape, dtype (`torch` spelling, e.g. ``bfloat16``) and place.

    Tied tensors share `storage_id`. `shard` is the bare name of the file that holds the data.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    shard: str
    storage_id: str

    @property
    def role(self) -> str:
        """``attn_q``, ``mlp_down``, … as its name says; ``other`` if the name is unknown."""
        return describe(self.name).role

    @property
    def layer(self) -> int | None:
        """Number of the block the tensor belongs to."""
        return describe(self.name).layer


@dataclass(frozen=True, slots=True)
class MatrixInfo:
    """One matrix to analyse, rows = output features, columns = input features.

    A linear or embedding weight is one matrix; a convolution (out, in, kh, kw) is the matrix
    (out, in·kh·kw); a stack of experts (E, a, b) is E matrices, whose names end in ``[e]``.
    `transposed` says that the tensor is stored input × output (GPT-2's ``Conv1D``). `shape` is
    the shape of the stored tensor. `status` is ``ok``; ``quantised_unknown`` for packed integers
    and for eight-bit floats that come with scales; ``unsupported_dtype``; or ``expanded`` for a
    tensor with more entries than are stored. `detail` says why in words.
    """

    name: str
    tensor: str
    index: int | None
    rows: int
    cols: int
    dtype: str
    nbytes: int
    stack: str | None
    layer: int | None
    role: str
    expert: int | None
    transposed: bool
    storage_id: str
    shape: tuple[int, ...]
    status: str = "ok"
    detail: str | None = None

    def select(self, tensor: torch.Tensor) -> torch.Tensor:
        """The matrix (rows, cols) within a tensor of the stored shape; a view where possible."""
        matrix = tensor.flatten(1) if self.index is None else tensor[self.index]
        return matrix.T if self.transposed else matrix
