"""The largest query entry that L typical tokens reach: a median, not a bound.

Assumes that the normalised tokens are independent and uniform on the sphere ‖z‖₂ = √d (within
Σ z = 0 for LayerNorm) and that channels are independent; real activations are not isotropic.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import betainc

from theory.lora_limits.arrays import finite_vector
from theory.lora_limits.normed_rows import NormKind


def spherical_median(row_norms: ArrayLike, width: int, length: int, kind: NormKind) -> float:
    """t with L Σ_c P(|q_c| > t) = ln 2 for q_c = A_c·z, row_norms ‖A_c‖₂ (n,), no offset a_c.

    q_c/(√d‖A_c‖₂) is one coordinate u of a unit vector in D dimensions, D = d for RMSNorm and d - 1
    for LayerNorm, and (1 + u)/2 is Beta((D - 1)/2, (D - 1)/2). 0 if all rows are 0.
    Raises ValueError for D < 2, L < 1 and norms that are negative or not finite.
    """
    norms = finite_vector(row_norms, "the row norms")
    if norms.min() < 0.0:
        raise ValueError(f"row norms cannot be negative, got {norms.min()}")
    if kind not in ("layernorm", "rmsnorm"):
        raise ValueError(f"the norm must be layernorm or rmsnorm, got {kind!r}")
    dimension = width - 1 if kind == "layernorm" else width
    if dimension < 2:
        raise ValueError(f"a sphere needs at least 2 dimensions, got {dimension}")
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    largest = float(norms.max())
    if largest == 0.0:
        return 0.0
    reach = norms[norms > 0.0] / largest
    shape = 0.5 * (dimension - 1)

    def excess(t: float) -> float:
        # by symmetry the upper tail at (1 + u)/2 is the lower one at (1 - u)/2, without cancelling
        tails = 2.0 * betainc(shape, shape, np.clip(0.5 * (1.0 - t / reach), 0.0, 0.5))
        return length * float(tails.sum()) - math.log(2.0)

    share: Any = brentq(excess, 0.0, 1.0, xtol=1e-15)  # of the bound √d·max_c ‖A_c‖₂
    return math.sqrt(width) * largest * float(share)
