"""Groups of singular values too close to tell their vectors apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from analyzer.spectral.results import FloatArray


def clusters(s: FloatArray, tol: float) -> NDArray[np.int64]:
    """Group number of every value of a descending spectrum: neighbours within `tol` share one."""
    if not s.size:
        return np.zeros(0, dtype=np.int64)
    return np.concatenate([[0], np.cumsum(s[:-1] - s[1:] > tol)]).astype(np.int64)
