"""Published variations of the tail fit that guard against a peak or a few outlying values.

Both appear as `fix_fingers` in WeightWatcher (C. H. Martin, T. S. Peng & M. W. Mahoney, Nature
Communications 12, 2021); a finger is one of a few largest values that stand apart from the tail.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from theory.power_law import PowerLawFit, ascending, fit_power_law


@dataclass(frozen=True, slots=True)
class ClippedFit:
    """A tail fit after `num_fingers` of the largest values were left out; `raw_alpha` is with."""

    fit: PowerLawFit
    num_fingers: int
    raw_alpha: float


def xmin_peak_range(values: ArrayLike, bins: int = 100) -> tuple[float, float]:
    """Search range [0.95, 1.5]·mode, the mode being that of a histogram of log10 values.

    The mode is the left edge of the fullest bin. For `fit_power_law(values, xmin=...)`.
    Raises ValueError for non-positive values.
    """
    counts, edges = np.histogram(np.log10(ascending(values)), bins=bins)
    mode = 10.0 ** float(edges[int(np.argmax(counts))])
    return 0.95 * mode, 1.5 * mode


def fit_clipped(
    values: ArrayLike, *, max_fingers: int = 10, finger_thresh: float = 1.0
) -> ClippedFit:
    """Leave out the k = 2 … max_fingers - 1 largest values until α falls by `finger_thresh`.

    Stops with the full fit where a refit reaches α ≤ 2 without having fallen enough, or none
    falls. Raises like `fit_power_law`.
    """
    data = ascending(values)
    full = fit_power_law(data)
    for k in range(2, min(max_fingers, data.size - 1)):
        clipped = fit_power_law(data, drop_largest=k)
        if clipped.alpha + finger_thresh < full.alpha:
            return ClippedFit(clipped, k, full.alpha)
        if clipped.alpha <= 2.0:
            break
    return ClippedFit(full, 0, full.alpha)
