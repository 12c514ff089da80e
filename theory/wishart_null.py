"""What tail statistics look like for a random matrix of the same shape.

For iid N(0, 1) entries the eigenvalues of W Wᵀ (m × m, n ≥ m) have the law of those of a
tridiagonal matrix B Bᵀ, B lower bidiagonal with independent entries a_i ~ χ_{n-i+1} (i = 1…m) on
and b_i ~ χ_{m-i} below the diagonal (I. Dumitriu & A. Edelman, J. Math. Phys. 43, 2002). A draw
takes O(m²) instead of the O(m²n) of a matrix. The statistics do not depend on scale, so one set
of draws serves every matrix of a shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigvalsh_tridiagonal

from theory.extreme_value import moment_index
from theory.ks_scan import best_starts, samples
from theory.power_law import pl_alpha_hill

Array = NDArray[np.float64]

MIN_SIZE = 8
_TOGETHER = 1 << 15  # eigenvalues of draws that are fitted together
_ONE_AT_A_TIME = Lock()


@dataclass(frozen=True, slots=True)
class NullStatistics:
    """Statistics of `draws` random matrices, each array (draws,) ascending."""

    alpha: Array
    ks_d: Array
    hill: Array
    xi: Array  # from the largest quarter

    def share_below(self, name: str, value: float) -> float:
        """Share of the draws whose statistic `name` is below `value`."""
        drawn: Array = getattr(self, name)
        return float(np.searchsorted(drawn, value, side="left")) / drawn.size


def wishart_eigenvalues(rows: int, cols: int, rng: np.random.Generator) -> Array:
    """Eigenvalues (m,) ascending of W Wᵀ, W (rows, cols) iid N(0, 1), m the shorter side."""
    m, n = min(rows, cols), max(rows, cols)
    a2 = rng.chisquare(n - np.arange(m))
    b2 = rng.chisquare(m - 1 - np.arange(m - 1)) if m > 1 else np.empty(0)
    diagonal = a2.copy()
    diagonal[1:] += b2
    beside = np.sqrt(a2[:-1] * b2)
    # sterf: values only, three times faster than the default for tall shapes
    values = eigvalsh_tridiagonal(diagonal, beside, check_finite=False, lapack_driver="sterf")
    # rounding can push the smallest eigenvalue of a square matrix below zero
    return np.maximum(values, np.finfo(np.float64).eps ** 2 * values[-1])


def null_statistics(rows: int, cols: int, *, draws: int = 200, seed: int = 0) -> NullStatistics:
    """Exact null law of α, D, Hill exponent and ξ for a shape, computed once a process.

    Takes about 2 s for m = 768 and grows like m². Raises ValueError below 8 rows or columns.
    """
    m, n = min(rows, cols), max(rows, cols)
    if m < MIN_SIZE:
        raise ValueError(
            f"a null needs at least {MIN_SIZE} eigenvalues, got a {rows} × {cols} matrix"
        )
    with _ONE_AT_A_TIME:  # a second thread that asks for the same shape must wait, not compute
        return _statistics(m, n, draws, seed)


@lru_cache(maxsize=256)
def _statistics(m: int, n: int, draws: int, seed: int) -> NullStatistics:
    rng = np.random.default_rng([seed, m, n])
    together = max(1, _TOGETHER // m)
    parts = [_drawn(m, n, min(together, draws - first), rng) for first in range(0, draws, together)]
    return NullStatistics(*(np.sort(np.concatenate(one)) for one in zip(*parts, strict=True)))


def _drawn(m: int, n: int, draws: int, rng: np.random.Generator) -> tuple[Array, ...]:
    """The fields of `NullStatistics`, unsorted, of some random matrices; ξ where there is one."""
    spectra = np.array([wishart_eigenvalues(m, n, rng) for _ in range(draws)])  # (draws, m)
    sample = samples(np.log(spectra))
    index, distance = best_starts(sample)
    xi = [moment_index(values, m // 4) for values in spectra]
    return (
        1.0 + sample.slopes[np.arange(draws), index],
        distance,
        np.array([pl_alpha_hill(values) for values in spectra]),
        np.array([value for value in xi if value is not None], dtype=np.float64),
    )
