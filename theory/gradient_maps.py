"""Gradients of one matrix along training: cosine map, when it saturates, and correlations.

A. Jaiswal et al., arXiv 2407.11239 (figure 2: cosines of the gradients of all checkpoints for one
fixed batch). Cosines grow where checkpoints are close together or the learning rate is small, so a
map belongs beside the sum of learning rates, not the step alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import pearsonr, rankdata, spearmanr

Array = NDArray[np.float64]
Method = Literal["spearman", "pearson"]

_BLOCK = 1 << 16  # columns converted to float64 at a time
_FEWEST_PAIRS = 4
_ROUNDING = 1e-12  # relative spread below which numbers count as equal
_ENUMERATED = 8  # 8! = 40320 permutations


@dataclass(frozen=True, slots=True)
class Saturation:
    """Means of a cosine map; None where there are too few gradients, each with its own minimum."""

    cos_adjacent: float | None  # mean C[t, t+1]; 2 steps
    cos_late: float | None  # mean of a ≠ b ≥ T//2; 3 steps
    cos_all: float | None  # mean of a ≠ b; 2 steps
    saturation_step: int | None  # first t with mean over b > t of C[t, b] ≥ τ; None if never


@dataclass(frozen=True, slots=True)
class Correlation:
    """ρ and its two-sided p-value over n complete pairs; `reason` says why there is none."""

    rho: float | None
    p: float | None
    n: int
    reason: str | None  # too_few_pairs, constant


def cosine_map(gradients: Sequence[ArrayLike]) -> Array:
    """C[a, b] = ⟨G_a, G_b⟩/(‖G_a‖‖G_b‖) (T, T) of gradients, or their sketches, of one shape.

    NaN in the row and column of a zero gradient, which has no direction. Inputs of any precision
    are summed in float64, after division by their largest entry. For sketches of width w the error
    is `sketch_error(w)`. Raises ValueError for unequal shapes, NaN or Inf.
    """
    rows = [np.asarray(g) for g in gradients]
    if any(row.shape != rows[0].shape for row in rows):
        raise ValueError(f"gradients of one shape are needed, got {[row.shape for row in rows]}")
    flat = [row.reshape(-1) for row in rows]
    largest = np.array([float(np.max(np.abs(row), initial=0.0)) for row in flat])
    if not np.all(np.isfinite(largest)):
        raise ValueError(f"gradient {int(np.argmin(np.isfinite(largest)))} is not finite")
    scale = np.where(largest > 0.0, largest, 1.0)[:, None]
    dots = np.zeros((len(flat), len(flat)))
    for start in range(0, flat[0].size if flat else 0, _BLOCK):
        block = np.stack([row[start : start + _BLOCK] for row in flat]).astype(np.float64) / scale
        dots += block @ block.T
    norms = np.sqrt(np.diag(dots))
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = np.clip(dots / np.outer(norms, norms), -1.0, 1.0)
    cosines[np.diag_indices_from(cosines)] = np.where(norms > 0.0, 1.0, np.nan)
    return cosines


def sketch_error(width: int) -> float:
    """±2/√w: about 2.3 standard deviations of a cosine from CountSketches of width w.

    M. Charikar, K. Chen & M. Farach-Colton, ICALP 2002: the inner product of two sketches of unit
    vectors is unbiased with variance of order 1/w.
    """
    if width < 1:
        raise ValueError(f"a sketch has a width of at least 1, got {width}")
    return 2.0 / float(np.sqrt(width))


def saturation(
    cosines: ArrayLike, *, steps: Sequence[int] | None = None, tau: float = 0.5
) -> Saturation:
    """When the gradient stops turning, from a cosine map (T, T) in order of steps.

    `steps` (T,) names the rows; without it `saturation_step` is an index. The last step has none
    after it and cannot saturate. Zero gradients (NaN) are left out of every mean.
    Raises ValueError for a map that is not square or does not fit `steps`.
    """
    C = np.asarray(cosines, dtype=np.float64)
    if C.ndim != 2 or C.shape[0] != C.shape[1]:
        raise ValueError(f"a cosine map is square, got shape {C.shape}")
    names = range(C.shape[0]) if steps is None else steps
    if len(names) != C.shape[0]:
        raise ValueError(f"{len(names)} steps for a map of {C.shape[0]}")
    late = C[C.shape[0] // 2 :, C.shape[0] // 2 :]
    following = [_mean(C[t, t + 1 :]) for t in range(C.shape[0])]
    reached = (
        t for t, mean in zip(names, following, strict=True) if mean is not None and mean >= tau
    )
    return Saturation(
        cos_adjacent=_mean(np.diag(C, 1)),
        cos_late=_mean(late[np.triu_indices_from(late, 1)]),
        cos_all=_mean(C[np.triu_indices_from(C, 1)]),
        saturation_step=next(reached, None),
    )


def rank_correlation(x: ArrayLike, y: ArrayLike, method: Method = "spearman") -> Correlation:
    """Spearman's or Pearson's correlation of x and y (n,), pairs with a NaN left out.

    Spearman's p is exact up to 8 pairs, by enumeration of all orders; Student's t after that. None
    with fewer than 4 pairs or where x or y is constant. Raises ValueError for unequal lengths.
    """
    a = np.asarray(x, dtype=np.float64).ravel()
    b = np.asarray(y, dtype=np.float64).ravel()
    if a.size != b.size:
        raise ValueError(f"pairs are needed, got {a.size} and {b.size} values")
    complete = np.isfinite(a) & np.isfinite(b)
    a, b = a[complete], b[complete]
    if a.size < _FEWEST_PAIRS:
        return Correlation(None, None, a.size, "too_few_pairs")
    if _is_constant(a) or _is_constant(b):
        return Correlation(None, None, a.size, "constant")
    if method == "pearson":
        # Correlation is scale-free, squares of 1e-200 are not.
        result = pearsonr(a / np.max(np.abs(a)), b / np.max(np.abs(b)))
    else:
        result = spearmanr(a, b)
    rho, p = map(float, np.asarray(result, dtype=np.float64))
    if method == "spearman" and a.size <= _ENUMERATED:
        p = _exact_p(a, b)
    return Correlation(rho, p, a.size, None)


def within_groups(
    x: ArrayLike, y: ArrayLike, groups: Sequence[Hashable], method: Method = "spearman"
) -> dict[Hashable, Correlation]:
    """`rank_correlation` inside every group, e.g. projection type, in order of appearance.

    A correlation over all matrices may be one between types alone. Raises ValueError for unequal
    lengths.
    """
    a, b = np.asarray(x, dtype=np.float64).ravel(), np.asarray(y, dtype=np.float64).ravel()
    if not a.size == b.size == len(groups):
        raise ValueError(f"{a.size} and {b.size} values with {len(groups)} group names")
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    return {group: rank_correlation(a[at], b[at], method) for group, at in members.items()}


def _is_constant(x: Array) -> bool:
    """Up to rounding, which has an order of its own that means nothing."""
    return bool(np.ptp(x) <= _ROUNDING * np.max(np.abs(x)))


def _mean(values: Array) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else None


def _exact_p(a: Array, b: Array) -> float:
    """Share of all orders of y whose |ρ| reaches the one seen; ties keep their mean ranks."""
    first, second = (ranks - ranks.mean() for ranks in (rankdata(a), rankdata(b)))
    orders = np.array(list(permutations(second)))
    return float(np.mean(np.abs(orders @ first) >= abs(float(first @ second)) - 1e-9))
