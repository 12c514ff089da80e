"""What the engine answers: values with an error bound and the method that gave them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class Spectrum:
    """All singular values of an m×n matrix, descending, p = min(m, n).

    `error[i]` bounds |singular_values[i] − σ_i| absolutely.
    """

    singular_values: FloatArray  # (p,)
    error: FloatArray  # (p,)
    method: str
    precision: str
    certified: bool
    fro_norm: float
    seconds: float | None  # None for the by-product of another factorisation


@dataclass(frozen=True, slots=True)
class TopK:
    """The k leading singular triplets of an m×n matrix.

    `residual` is √((‖Xv−su‖²+‖Xᵀu−sv‖²)/2), `error` bounds |S−σ|, `angle_error` bounds
    √(sin²θ_u+sin²θ_v) (Wedin, BIT 12, 1972); `certified` says that no larger value was missed.
    """

    U: FloatArray  # (m, k)
    S: FloatArray  # (k,)
    Vh: FloatArray  # (k, n)
    residual: FloatArray  # (k,)
    error: FloatArray  # (k,)
    angle_error: FloatArray  # (k,)
    certified: bool
    method: str


@dataclass(frozen=True, slots=True)
class LowRankSVD:
    """Thin SVD of P Qᵀ with P (m, r), Q (n, r): U (m, l), S (l,), V (n, l), l = min(m, n, r)."""

    U: FloatArray
    S: FloatArray
    V: FloatArray
    fro_norm: float


@dataclass(frozen=True, slots=True)
class UpdatedTopK:
    """The k leading singular triplets of W0 + P Qᵀ in the coordinates of the base's SVD.

    Column j of `X` holds the cosines of the new left vector j with the base's left vectors in its
    first p rows, then the part outside their span; `Y` the same on the right. `cos_error[j]`
    bounds the error of every entry of column j of both.
    """

    S: FloatArray  # (k,)
    X: FloatArray  # (p + r or p, k)
    Y: FloatArray  # (p + r or p, k)
    residual: FloatArray  # (k,)
    error: FloatArray  # (k,)
    cos_error: FloatArray  # (k,)
    certified: bool
    method: str
