"""NumPy's ``.npz``: a zip of arrays, each with its own small header."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from analyzer.checkpoints.stored import BITS, StoredTensor, dense_stride, plausible_shape
from analyzer.checkpoints.zip_records import record_start, unreadable, zip_members
from analyzer.errors import CheckpointError, CorruptFile, UnsafePickle, UnsupportedFormat

_RATIO = 1100
"""Deflate cannot shrink data more than 1032 times; a record that claims more lies."""


def list_npz(path: Path) -> tuple[list[StoredTensor], tuple[str, ...]]:
    """The arrays of an ``.npz`` file, and warnings about those that are not numbers.

    Raises UnsafePickle for arrays of Python objects, CorruptFile, UnsupportedFormat.
    """
    tensors: list[StoredTensor] = []
    skipped: list[str] = []
    members = zip_members(path)
    try:
        with zipfile.ZipFile(path) as archive:
            for member in members:
                stored = _array(path, archive, member)
                if stored is None:
                    skipped.append(member.filename.removesuffix(".npy"))
                else:
                    tensors.append(stored)
    except OSError as error:
        raise unreadable(path, error) from None
    if not tensors:
        raise UnsupportedFormat("no arrays of numbers", path=path, hint="save weights in it")
    note = f"arrays that are not numbers were skipped: {', '.join(skipped[:6])}"
    return tensors, (note,) if skipped else ()


def inflate(stored: StoredTensor) -> NDArray[Any]:
    """The array of a record that cannot be mapped, whole, in native byte order."""
    assert stored.member is not None
    try:
        with np.load(stored.path, allow_pickle=False) as archive:
            array = archive[stored.member]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, RuntimeError) as error:
        raise _corrupt(stored.path, stored.member, f"cannot be read: {error}") from None
    except Exception as error:  # zlib.error has no base class of its own
        raise _corrupt(stored.path, stored.member, f"cannot be inflated: {error}") from None
    if array.shape != stored.shape:
        raise _corrupt(stored.path, stored.member, "changed since it was listed")
    return array.astype(array.dtype.newbyteorder("="), order="C", copy=False)


def _array(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> StoredTensor | None:
    """One record; None if its elements are not numbers torch knows."""
    name = member.filename.removesuffix(".npy")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _corrupt(path, name, "is compressed in a way NumPy does not use")
    try:
        with archive.open(member) as file:
            shape, fortran, dtype = _npy_header(file)
            header_length = file.tell()
    except CheckpointError:
        raise
    except Exception as error:  # the header is a Python literal: many ways to be wrong
        raise _corrupt(path, name, f"has no valid header: {error}") from None
    if dtype.hasobject:
        raise UnsafePickle(
            "an array of Python objects, which is a pickle",
            path=path,
            tensor=name,
            hint="save numbers only",
        )
    if dtype.name not in BITS:
        return None
    dims = plausible_shape(shape)
    claimed = member.file_size - header_length
    if dims is None or math.prod(dims) * dtype.itemsize != claimed:
        raise _corrupt(path, name, f"has {claimed} bytes for shape {shape} of {dtype}")
    if claimed > _RATIO * (member.compress_size + 64):
        raise _corrupt(path, name, "claims more data than it can hold")
    mappable = member.compress_type == zipfile.ZIP_STORED and dtype.isnative
    stride = dense_stride(dims)
    if fortran and mappable:
        stride = dense_stride(dims[::-1])[::-1]
    start = 0
    if mappable and archive.fp is not None:
        start = record_start(path, archive.fp, member) + header_length
    storage_id = f"{path.name}:{name}"
    return StoredTensor(
        name, dims, stride, dtype.name, path, start, storage_id, None if mappable else name
    )


def _npy_header(file: IO[bytes]) -> tuple[Any, bool, np.dtype[Any]]:
    version = npy.read_magic(file)
    if version == (1, 0):
        return npy.read_array_header_1_0(file)
    if version == (2, 0):
        return npy.read_array_header_2_0(file)
    raise ValueError(f"version {version} is only used for structured arrays")


def _corrupt(path: Path, name: str, what: str) -> CorruptFile:
    return CorruptFile(
        f"the array {what}", path=path, tensor=name, hint="the file is damaged; save it again"
    )
