"""Ranks that each matrix of a model may take, with their sizes, truncation errors and budget.

The allocation problem of I. Alimohammadi, I. Markov, E. Frantar & D. Alistarh, "L-GreCo", arXiv
2210.17357, MLSys 2024: minimise Σ size_l(r_l) subject to Σ err_l(r_l) ≤ α Σ err_l(r0), with
err(r) = √Σ_{i>r} s_i² (not squared), size = r(m + n), r between half and twice the uniform rank r0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RankChoices:
    """The ranks one matrix may take (ascending), their sizes in elements and their errors."""

    ranks: NDArray[np.int64]
    sizes: NDArray[np.int64]
    errors: Array


def truncation_errors(singular_values: ArrayLike) -> Array:
    """err(r) = √Σ_{i>r} s_i² for r = 0..k, (k + 1,), from values in any order.

    Raises ValueError for NaN or Inf.
    """
    s = np.sort(np.asarray(singular_values, dtype=np.float64))
    if not np.all(np.isfinite(s)):
        raise ValueError(f"{np.count_nonzero(~np.isfinite(s))} singular values are not finite")
    largest = float(s[-1]) if s.size and s[-1] > 0.0 else 1.0
    return largest * np.sqrt(np.concatenate([[0.0], np.cumsum((s / largest) ** 2)]))[::-1]


def rank_range(uniform_rank: int, full_rank: int) -> range:
    """⌊r0/2⌋ (at least 1) to 2 r0 (at most k). Raises ValueError for r0 outside 1..k."""
    if not 1 <= uniform_rank <= full_rank:
        raise ValueError(f"uniform rank must lie in 1..{full_rank}, got {uniform_rank}")
    return range(max(1, uniform_rank // 2), min(full_rank, 2 * uniform_rank) + 1)


def rank_choices(
    singular_values: ArrayLike, rows: int, cols: int, ranks: Iterable[int]
) -> RankChoices:
    """Choices of a matrix (rows, cols) with the given spectrum, at size r(rows + cols).

    Raises ValueError for no rank or one outside 1..len(spectrum).
    """
    errors = truncation_errors(singular_values)
    chosen = np.unique(np.fromiter(ranks, dtype=np.int64))
    limit = errors.size - 1
    if chosen.size == 0 or chosen[0] < 1 or chosen[-1] > limit:
        raise ValueError(f"ranks must lie in 1..{limit} and not be empty, got {chosen.tolist()}")
    return RankChoices(chosen, chosen * (rows + cols), errors[chosen])


def error_budget(spectra: Sequence[ArrayLike], uniform_rank: int, alpha: float = 1.0) -> float:
    """α Σ_l err_l(r0). Raises ValueError for r0 outside 1..k of a spectrum, or α ≤ 0."""
    if not alpha > 0.0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    total = 0.0
    for spectrum in spectra:
        errors = truncation_errors(spectrum)
        rank_range(uniform_rank, errors.size - 1)
        total += float(errors[uniform_rank])
    return alpha * total
