"""Eigenvalues by the MKL inside torch, in place: torch's own interface copies the matrix first.

LAPACK's dsyevd (Fortran arguments by reference, 32-bit integers) with jobz = N needs no workspace
of the size of the matrix, so that a Gram matrix is all that is held.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analyzer.spectral.results import FloatArray


@cache
def dsyevd() -> Any:
    """MKL's routine, or None where torch has been built without it or does not export it."""
    if not torch.backends.mkl.is_available():
        return None
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        return ctypes.CDLL(str(library)).dsyevd_
    except (OSError, AttributeError):
        return None


def eigvalsh(G: FloatArray) -> FloatArray:
    """Eigenvalues (p,) ascending of a symmetric matrix, Fortran order, by its lower triangle.

    G is overwritten. Only where `dsyevd` is there. Raises LinAlgError without convergence.
    """
    p = G.shape[0]
    values, info = np.empty(p), ctypes.c_int(0)
    sizes, whole = np.empty(1), np.empty(1, dtype=np.int32)
    arguments = (b"N", b"L", _integer(p), _array(G), _integer(max(p, 1)), _array(values))
    dsyevd()(
        *arguments, _array(sizes), _integer(-1), _array(whole), _integer(-1), ctypes.byref(info)
    )
    work, iwork = np.empty(int(sizes[0])), np.empty(int(whole[0]), dtype=np.int32)
    dsyevd()(
        *arguments, _array(work), _integer(work.size), _array(iwork), _integer(iwork.size),
        ctypes.byref(info),
    )  # fmt: skip
    if info.value:
        raise np.linalg.LinAlgError(f"eigenvalues of {p}×{p} did not converge")
    return values


def _integer(value: int) -> Any:
    return ctypes.byref(ctypes.c_int(value))


def _array(x: np.ndarray) -> ctypes.c_void_p:
    return x.ctypes.data_as(ctypes.c_void_p)
