"""Where a tensor's bytes lie in a file, and how to get them: mapped, streamed or inflated.

Every format but a compressed ``.npz`` keeps a tensor as raw little-endian elements at some offset,
so one description serves them all. Torch is imported only by `as_tensor`.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from analyzer.errors import CorruptFile, UnsupportedFormat

if TYPE_CHECKING:
    import torch

_CODES = {
    "float64": "<d", "float32": "<f", "bfloat16": "<f", "float16": "<e",
    "int64": "<q", "int32": "<i", "int16": "<h", "int8": "<b", "uint8": "<B",
}  # fmt: skip
CHUNK = 1 << 20
MAX_DIMS = 32
MAX_EXTENT = 1 << 53

BITS: dict[str, int] = {
    "float64": 64, "float32": 32, "float16": 16, "bfloat16": 16,
    "float8_e4m3fn": 8, "float8_e5m2": 8, "float8_e4m3fnuz": 8, "float8_e5m2fnuz": 8,
    "float8_e8m0fnu": 8, "float6_e2m3": 6, "float6_e3m2": 6, "float4_e2m1fn_x2": 4,
    "int64": 64, "int32": 32, "int16": 16, "int8": 8,
    "uint64": 64, "uint32": 32, "uint16": 16, "uint8": 8,
    "bool": 8, "complex128": 128, "complex64": 64, "complex32": 32,
}  # fmt: skip
"""Bits of one element, by torch's name of the dtype (six-bit floats have no torch dtype)."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file: `start` in bytes, `stride` in elements, four-bit shapes unpacked.

    `member` names the record of an ``.npz`` that cannot be mapped (compressed, or big-endian);
    `start` then means nothing.
    """

    name: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str
    path: Path
    start: int
    storage_id: str
    member: str | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor laid out densely."""
        return -(-math.prod(self.shape) * BITS[self.dtype] // 8)

    @property
    def extent(self) -> int:
        """Stored elements from the first to the last one the tensor reaches."""
        if 0 in self.shape:
            return 0
        return 1 + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements lie densely in row-major order."""
        wanted = dense_stride(self.shape)
        pairs = zip(self.shape, self.stride, wanted, strict=True)
        return 0 in self.shape or all(n == 1 or have == want for n, have, want in pairs)

    @property
    def is_expanded(self) -> bool:
        """Whether the tensor has more entries than the elements it is stored in."""
        return math.prod(self.shape) > self.extent


def dense_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major strides in elements."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def plausible_shape(shape: object) -> tuple[int, ...] | None:
    """`shape` as a tuple if it is a sequence of a few non-negative integers, else None."""
    if not isinstance(shape, list | tuple) or len(shape) > MAX_DIMS:
        return None
    if not all(type(n) is int and 0 <= n <= MAX_EXTENT for n in shape):
        return None
    return tuple(shape)


def as_tensor(stored: StoredTensor, rows: slice | None = None) -> torch.Tensor:
    """The tensor with its stored dtype, a private view of the mapped file where possible.

    Four-bit floats come packed, two a byte, hence with half the last dimension. Raises
    CorruptFile if the file shrank or the tensor has more entries than are stored, and
    UnsupportedFormat if torch has no such dtype.
    """
    import torch

    dtype = getattr(torch, stored.dtype, None)
    if dtype is None:
        raise _no_dtype(stored)
    refuse_expanded(stored)
    if rows is not None and stored.shape and stored.member is None and BITS[stored.dtype] >= 8:
        stored, rows = _narrowed(stored, rows)
    if stored.member is not None:
        from analyzer.checkpoints.npz import inflate

        tensor = torch.from_numpy(inflate(stored))
    elif 0 in stored.shape:
        tensor = torch.empty(stored.shape, dtype=dtype)
    elif BITS[stored.dtype] < 8:
        packed = (*stored.shape[:-1], stored.shape[-1] // 2)
        tensor = _mapped(stored, torch.uint8, math.prod(packed)).view(dtype).reshape(packed)
    else:
        tensor = _mapped(stored, dtype, stored.extent).as_strided(stored.shape, stored.stride)
    return tensor if rows is None else tensor[rows]


def _narrowed(stored: StoredTensor, rows: slice) -> tuple[StoredTensor, slice]:
    """The part of the tensor that `rows` spans, and the slice that is left to take."""
    first, stop, step = rows.indices(stored.shape[0])
    if step < 1:
        return stored, rows  # torch says what is wrong with it
    start = stored.start + first * stored.stride[0] * BITS[stored.dtype] // 8
    shape = (max(stop - first, 0), *stored.shape[1:])
    return replace(stored, start=start, shape=shape), slice(None, None, step)


def _mapped(stored: StoredTensor, dtype: torch.dtype, count: int) -> torch.Tensor:
    """`count` elements from the tensor's start."""
    import torch

    if stored.start % dtype.itemsize:  # torch wants aligned elements: a copy has them
        raw = torch.empty(count * dtype.itemsize, dtype=torch.uint8)
        filled = 0
        for chunk in _stream(stored, raw.numel()):
            raw.numpy()[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
        return raw.view(dtype)
    mapping, offset = _map(stored, count * dtype.itemsize)
    return torch.frombuffer(mapping, dtype=dtype, count=count, offset=offset)


def _map(stored: StoredTensor, length: int) -> tuple[mmap.mmap, int]:
    """A private mapping of the tensor's bytes, which lives as long as the views on it."""
    page_start = stored.start - stored.start % mmap.ALLOCATIONGRANULARITY
    offset = stored.start - page_start
    try:
        with open(stored.path, "rb") as file:
            # Private and writable: torch wants writable buffers, the file must not change.
            mapping = mmap.mmap(
                file.fileno(), offset + length, access=mmap.ACCESS_COPY, offset=page_start
            )
    except (OSError, ValueError) as error:
        raise _changed(stored, str(error)) from None
    return mapping, offset


def content_sha256(stored: StoredTensor) -> str:
    """SHA-256 over dtype, shape and the values' bytes in row-major order, in every format alike.

    Raises CorruptFile if the file shrank.
    """
    shape = f"{stored.shape}:{stored.stride}" if stored.is_expanded else f"{stored.shape}"
    digest = hashlib.sha256(f"{stored.dtype}:{shape}:".encode())
    for chunk in chunks(stored):
        digest.update(chunk)
    return digest.hexdigest()


def stored_scalar(stored: StoredTensor) -> float | int:
    """The number in a tensor of one element, without torch: step counters of optimizers.

    Raises CorruptFile if the file shrank, UnsupportedFormat for a dtype that is no plain number.
    """
    data = b"".join(bytes(chunk) for chunk in chunks(stored))
    if stored.dtype == "bfloat16":
        data = b"\0\0" + data  # the upper half of a float32
    code = _CODES.get(stored.dtype)
    if code is None or len(data) != struct.calcsize(code):
        raise UnsupportedFormat(
            f"a {stored.dtype} where a number is expected", path=stored.path, tensor=stored.name
        )
    return struct.unpack(code, data)[0]


def chunks(stored: StoredTensor) -> Iterator[bytes | memoryview]:
    """The tensor's bytes in row-major order, a megabyte at a time, without torch.

    Of an expanded tensor, the bytes it is stored in. Raises CorruptFile if the file shrank.
    """
    if stored.member is not None:
        from analyzer.checkpoints.npz import inflate

        yield inflate(stored).tobytes()
    elif stored.is_contiguous:
        yield from _stream(stored, stored.nbytes)
    elif stored.is_expanded:
        yield from _stream(stored, stored.extent * BITS[stored.dtype] // 8)
    else:
        yield from _gather(stored)


def _stream(stored: StoredTensor, length: int) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(min(CHUNK, length)))
    try:
        with open(stored.path, "rb", buffering=0) as file:
            file.seek(stored.start)
            while length:
                count = file.readinto(buffer[:length])
                if not count:
                    raise _changed(stored, "it ends early")
                length -= count
                yield buffer[:count]
    except OSError as error:
        raise _changed(stored, os.strerror(error.errno or 0)) from None


def _gather(stored: StoredTensor) -> Iterator[bytes]:
    """Row-major bytes of a strided tensor, some rows at a time."""
    import numpy as np

    size = BITS[stored.dtype] // 8
    mapping, offset = _map(stored, stored.extent * size)
    view = np.ndarray(
        stored.shape, f"V{size}", mapping, offset, tuple(step * size for step in stored.stride)
    )
    rows = max(1, CHUNK * stored.shape[0] // max(stored.nbytes, 1))
    for first in range(0, stored.shape[0], rows):
        yield np.ascontiguousarray(view[first : first + rows]).tobytes()


def refuse_expanded(stored: StoredTensor) -> None:
    """Raise CorruptFile for a tensor that would need more memory than its file holds."""
    if stored.is_expanded:
        raise CorruptFile(
            f"shape {stored.shape} has more entries than the {stored.extent} that are stored",
            path=stored.path,
            tensor=stored.name,
            hint="save a contiguous copy of the tensor",
        )


def _changed(stored: StoredTensor, why: str) -> CorruptFile:
    return CorruptFile(
        f"the tensor's bytes cannot be read: {why}",
        path=stored.path,
        tensor=stored.name,
        hint="the file changed since it was listed, or the disk fails; scan again",
    )


def _no_dtype(stored: StoredTensor) -> UnsupportedFormat:
    return UnsupportedFormat(
        f"torch has no dtype {stored.dtype}",
        path=stored.path,
        tensor=stored.name,
        hint="convert the tensor to bfloat16",
    )
