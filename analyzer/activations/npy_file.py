"""NumPy's ``.npy``: one array behind a small header."""

from __future__ import annotations

import math
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from analyzer.checkpoints.stored import BITS, StoredTensor, dense_stride, plausible_shape
from analyzer.checkpoints.zip_records import unreadable
from analyzer.errors import CorruptFile, UnsafePickle, UnsupportedFormat


def list_npy(path: Path, name: str) -> StoredTensor:
    """The array of an ``.npy`` file, called `name`; reads the header alone.

    Raises UnsafePickle for an array of Python objects, UnsupportedFormat for one that is not of
    numbers in native byte order, CorruptFile if the header does not describe the file.
    """
    try:
        with path.open("rb") as file:
            shape, fortran, dtype = _header(file)
            start = file.tell()
            length = file.seek(0, 2) - start
    except OSError as error:
        raise unreadable(path, error) from None
    except Exception as error:  # the header is a Python literal: many ways to be wrong
        raise _corrupt(path, f"no valid .npy header: {error}") from None
    if dtype.hasobject:
        raise UnsafePickle(
            "an array of Python objects, which is a pickle", path=path, hint="save numbers only"
        )
    if dtype.name not in BITS or not dtype.isnative:
        raise UnsupportedFormat(
            f"an array of {dtype}", path=path, hint="save it as float32 in native byte order"
        )
    dims = plausible_shape(shape)
    if dims is None or math.prod(dims) * dtype.itemsize != length:
        raise _corrupt(path, f"{length} bytes of data for shape {shape} of {dtype}")
    stride = dense_stride(dims[::-1])[::-1] if fortran else dense_stride(dims)
    return StoredTensor(name, dims, stride, dtype.name, path, start, path.name)


def _header(file: IO[bytes]) -> tuple[Any, bool, np.dtype[Any]]:
    version = npy.read_magic(file)
    if version == (1, 0):
        return npy.read_array_header_1_0(file)
    if version == (2, 0):
        return npy.read_array_header_2_0(file)
    raise ValueError(f"version {version} is only used for structured arrays")


def _corrupt(path: Path, what: str) -> CorruptFile:
    return CorruptFile(what, path=path, hint="the file is truncated or damaged; save it again")
