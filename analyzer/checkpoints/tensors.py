"""What a checkpoint says about its tensors before any of their data is read."""

from __future__ import annotations

from dataclasses import dataclass


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


@dataclass(frozen=True, slots=True)
class MatrixInfo:
    """One matrix to analyse, rows = output features, columns = input features.

    A linear or embedding weight is one matrix; a convolution (out, in, kh, kw) is the matrix
    (out, in·kh·kw); a stack of experts (E, a, b) is E matrices, whose names end in ``[e]``.
    `transposed` says that the tensor is stored input × output (GPT-2's ``Conv1D``).
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
