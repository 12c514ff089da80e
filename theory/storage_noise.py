"""Noise that rounding to a storage format adds to a spectrum.

Rounding to unit roundoff u perturbs Gaussian entries by errors of root mean square 0.423·u times
their own (0.49 for Student-t₃ entries, 0.39 for entries spread evenly over an octave's logarithm),
and the errors of different entries behave like independent noise. Their spectral norm is then
sd·(√rows + √cols) (Bai-Yin edge), and no singular value moves by more (Weyl). Singular values
below this floor carry no information.
"""

from __future__ import annotations

import math

_ROUNDING_RMS = 0.425

UNIT_ROUNDOFF = {
    "float64": 2.0**-53,
    "float32": 2.0**-24,
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
    "float8_e4m3fn": 2.0**-4,
    "float8_e5m2": 2.0**-3,
}


def storage_floor(fro_norm: float, rows: int, cols: int, dtype: str) -> float:
    """0.425·u·rms(W)·(√rows + √cols), rms(W) = ‖W‖_F/√(rows·cols), in units of W.

    For a difference of two stored matrices add both floors in quadrature (`difference_floor`).
    Raises KeyError for a format without a known roundoff.
    """
    if rows == 0 or cols == 0:
        return 0.0
    rms = fro_norm / math.sqrt(rows * cols)
    return _ROUNDING_RMS * UNIT_ROUNDOFF[dtype] * rms * (math.sqrt(rows) + math.sqrt(cols))


def difference_floor(first: float, second: float) -> float:
    """Floor of W_tuned - W_base, whose rounding errors are independent: √(a² + b²)."""
    return math.hypot(first, second)
