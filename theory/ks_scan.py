"""Exact minimum of the Kolmogorov-Smirnov distance over every start of a power-law tail.

A. Clauset, C. R. Shalizi & M. E. J. Newman, "Power-law distributions in empirical data",
arXiv 0706.1062, section 3.3: for every start x_i of the tail fit α_i, measure the distance

    D_i = max_{j≥i} | 1 - (x_j/x_i)^(1-α_i) - #{i ≤ l : x_l < x_j}/n_i |,     n_i = N - i,

and keep the start of the smallest distance. All N²/2 deviations are not needed: every √N-th start
is computed in full, which leaves a distance to beat; a start whose deviation at one of a few places
exceeds that is out, and only the rest is completed. The minimum is exact.

Samples are rows of logarithms, sorted ascending, so that bootstraps run over all rows at once.
`ks` is ``"csn"`` (the empirical distribution's left limits, as in the authors' code) or
``"two-sided"`` (both limits: the true distance, at most 1/n_i larger).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
KS = Literal["csn", "two-sided"]

_CHUNK = 1 << 16  # deviations held at a time: 0.5 MiB, inside a core's cache
# Equality must survive rounding: two ways to compute one deviation differ in the last digits.
_SLACK = 1.0 + 1e-9, 1e-12
_SCREENS = (8, 32)  # places a start is bounded at before it is completed


@dataclass(frozen=True, slots=True)
class Samples:
    """Sorted log-samples with everything the distances need; rows are independent."""

    logs: Array  # (B, N) ascending
    first: Array  # (B, N) how many values are strictly smaller
    after: Array  # (B, N) how many values are smaller or equal
    slopes: Array  # (B, N) α_i - 1 = n_i / T_i, 0 where no tail can start
    starts: Mask  # (B, N) first of its ties, below the largest value, allowed


def samples(logs: Array, allowed: Mask | None = None) -> Samples:
    """Prepare rows of ascending logarithms (B, N); `allowed` restricts the starts.

    T_i = Σ_{j≥i} (L_j - L_i) is summed as Σ_{k≥i} (N-1-k)(L_{k+1} - L_k), whose terms are all
    non-negative: no cancellation.
    """
    rows, size = logs.shape
    places = np.arange(size, dtype=np.float64)
    gaps = np.diff(logs, axis=1)
    rises = gaps > 0.0
    first, after = np.zeros((rows, size)), np.full((rows, size), float(size))
    np.maximum.accumulate(np.where(rises, places[1:], 0.0), axis=1, out=first[:, 1:])
    ends = np.where(rises, places[1:], float(size))[:, ::-1]
    after[:, :-1] = np.minimum.accumulate(ends, axis=1)[:, ::-1]
    sums = np.zeros((rows, size))
    sums[:, :-1] = np.cumsum((gaps * places[:0:-1])[:, ::-1], axis=1)[:, ::-1]
    starts = (first == places) & (sums > 0.0)
    if allowed is not None:
        starts &= allowed
    slopes = np.divide(size - places, sums, out=np.zeros((rows, size)), where=sums > 0.0)
    return Samples(logs, first, after, slopes, starts)


def best_starts(sample: Samples, ks: KS = "csn") -> tuple[NDArray[np.intp], Array]:
    """Start (B,) and distance (B,) of the best tail of each row; distance inf without a start."""
    index = np.zeros(sample.logs.shape[0], dtype=np.intp)
    distance = np.full(sample.logs.shape[0], np.inf)
    for rows, part in _parts(sample):
        known = _complete_near(part, 0.0, ks)
        index[rows], distance[rows] = np.argmin(known, axis=1), np.min(known, axis=1)
    return index, distance


def near_best(sample: Samples, share: float, ks: KS = "csn") -> tuple[NDArray[np.intp], Array]:
    """Starts of the only row with a distance within (1 + share) of the best, and the distances."""
    known = _complete_near(sample, share, ks)[0]
    chosen = np.flatnonzero((known <= (1.0 + share) * known.min()) & np.isfinite(known))
    return chosen, known[chosen]


def beats(sample: Samples, ceiling: float, near: int, ks: KS = "csn") -> Mask:
    """Whether the best distance of each row (B,) is below `ceiling`, without finding it.

    `near` is a start where a good tail is likely: most rows are settled there.
    """
    size = sample.logs.shape[1]
    likely = np.clip(near + np.arange(-3, 3) * max(1, size // 64), 0, size - 1)
    below = np.zeros(sample.logs.shape[0], dtype=np.bool_)
    for rows, part in _parts(sample):
        below[rows] = _any_below(part, ceiling, likely, ks)
    return below


def _any_below(sample: Samples, ceiling: float, likely: NDArray[np.intp], ks: KS) -> Mask:
    distances = _distances(sample, likely[None, :], ks)
    below = np.any(sample.starts[:, likely] & (distances < ceiling), axis=1)
    bounds = np.where(sample.starts & ~below[:, None], 0.0, np.inf)
    limit = np.full(below.size, np.nextafter(ceiling, -np.inf))
    exact = ~sample.starts
    _screen(sample, bounds, exact, limit, ks)
    while _complete(sample, bounds, exact, np.where(below, -np.inf, limit), ks):
        below |= np.any(exact & (bounds < ceiling), axis=1)
    return below


def _complete_near(sample: Samples, share: float, ks: KS) -> Array:
    """Exact distances (B, N) of every start within (1 + share) of the row's best, else inf."""
    size = sample.logs.shape[1]
    step = max(4, int(np.sqrt(size)))
    coarse = np.arange(0, size, step)
    bounds = np.where(sample.starts, 0.0, np.inf)
    exact = ~sample.starts
    bounds[:, coarse] = np.where(
        sample.starts[:, coarse], _distances(sample, coarse[None, :], ks), np.inf
    )
    exact[:, coarse] = True

    def limit() -> Array:
        best = np.min(bounds, axis=1, where=exact, initial=np.inf)
        return (1.0 + share) * best * _SLACK[0] + _SLACK[1]

    _screen(sample, bounds, exact, limit(), ks)
    while _complete(sample, bounds, exact, limit(), ks, per_round=32 if share else 4):
        pass
    return np.where(exact, bounds, np.inf)


def all_distances(sample: Samples, ks: KS = "csn") -> Array:
    """D_i (N,) of every start of the only row, in full; inf where no tail can start."""
    size = sample.logs.shape[1]
    distances = np.full(size, np.inf)
    block = max(1, _CHUNK // size)
    for begin in range(0, size, block):
        chosen = np.arange(begin, min(begin + block, size))
        distances[chosen] = _distances(sample, chosen[None, :], ks)[0]
    return np.where(sample.starts[0], distances, np.inf)


def _rows(sample: Samples, chosen: slice | Mask | NDArray[np.intp]) -> Samples:
    return Samples(
        sample.logs[chosen],
        sample.first[chosen],
        sample.after[chosen],
        sample.slopes[chosen],
        sample.starts[chosen],
    )


def _parts(sample: Samples) -> Iterator[tuple[slice, Samples]]:
    """Groups of rows small enough for the cache."""
    rows, size = sample.logs.shape
    step = max(1, int(_CHUNK // (size**1.5 + 1.0)))
    for begin in range(0, rows, step):
        chosen = slice(begin, begin + step)
        yield chosen, _rows(sample, chosen)


def _screen(sample: Samples, bounds: Array, exact: Mask, limit: Array, ks: KS) -> None:
    """Raise the open bounds (B, N) that do not exceed `limit` (B,), in place, few places at first.

    The places are spread evenly over each start's own tail.
    """
    size = sample.logs.shape[1]
    for count in _SCREENS:
        row, start = np.nonzero(~exact & (bounds <= limit[:, None]))
        spread = (np.arange(count) + 0.5) / count
        columns = start[:, None] + ((size - start)[:, None] * spread).astype(np.intp)
        over, under = _deviations(sample, row[:, None], start[:, None], columns, ks)
        bounds[row, start] = np.maximum(over, under).max(axis=1)


def _complete(
    sample: Samples, bounds: Array, exact: Mask, limit: Array, ks: KS, per_round: int = 4
) -> bool:
    """Replace the lowest open bounds up to `limit` (B,) by exact distances; False if none is."""
    open_bounds = np.where(exact, np.inf, bounds)
    lowest = open_bounds.min(axis=1)
    rows = np.flatnonzero((lowest <= limit) & np.isfinite(lowest))
    if rows.size == 0:
        return False
    count = min(per_round, bounds.shape[1])
    chosen = np.argpartition(open_bounds[rows], count - 1, axis=1)[:, :count]
    values = _distances(_rows(sample, rows), chosen, ks)
    allowed = sample.starts[rows[:, None], chosen]
    bounds[rows[:, None], chosen] = np.where(allowed, values, np.inf)
    exact[rows[:, None], chosen] = True
    return True


def _distances(sample: Samples, chosen: NDArray[np.intp], ks: KS) -> Array:
    """D (B, I) of the starts `chosen` (B or 1, I) of each row, over all places."""
    rows, size = sample.logs.shape
    row = np.arange(rows)[:, None, None]
    first = int(chosen.min())
    columns = np.arange(first, size)[None, None, :]
    over, under = _deviations(sample, row, chosen[:, :, None], columns, ks)
    return np.maximum(over, under).max(axis=2)


def _deviations(
    sample: Samples,
    row: NDArray[np.intp],
    start: NDArray[np.intp],
    place: NDArray[np.intp],
    ks: KS,
) -> tuple[Array, Array]:
    """Model above and model below the sample's distribution at `place`, 0 left of the start.

    Indices of one broadcast shape: the tail of `row` that begins at `start`.
    """
    count = sample.logs.shape[1] - start
    excess = sample.logs[row, place] - sample.logs[row, start]
    np.maximum(excess, 0.0, out=excess)
    excess *= -sample.slopes[row, start]
    model = np.exp(excess, out=excess)
    np.subtract(1.0, model, out=model)
    empirical = np.maximum(sample.first[row, place] - start, 0.0)
    empirical /= count
    over = model - empirical
    if ks == "csn":
        return over, -over
    upper = np.maximum(sample.after[row, place] - start, 0.0)
    upper /= count
    return over, upper - model
