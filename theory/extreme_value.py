"""Sign and size of a tail without a threshold on the exponent; outliers beyond the tail.

ξ > 0 is a power-law tail with α = 1 + 1/ξ, ξ = 0 an exponential one, ξ < 0 a bounded edge; the
edge of a random matrix has ξ = -2/3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import f

from theory.power_law import ascending

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DragonKings:
    """`statistic` compares the log-spacings of the r largest values with those of the tail."""

    statistic: float
    p: float


def moment_index(values: ArrayLike, k: int) -> float | None:
    """ξ = M1 + 1 - 1/(2(1 - M1²/M2)) from the k largest values, M_p the mean of their dᵖ,
    d = ln λ_(i) - ln λ_(k+1).

    A. Dekkers, J. Einmahl & L. de Haan, Ann. Statist. 17, 1989, eq. 1.7. None where the k largest
    are all equal. Raises ValueError unless 1 ≤ k < number of values.
    """
    logs = np.log(ascending(values))
    _check(k, logs.size)
    xi = float(_moment(logs[None, -k - 1 :])[0])
    return xi if np.isfinite(xi) else None


def moment_interval(
    values: ArrayLike, k: int, *, replicates: int = 400, seed: int, level: float = 0.95
) -> tuple[float, float] | None:
    """Percentile interval of ξ over resampled values (B. Efron, Ann. Statist. 7, 1979).

    None where too few resamples have an index. Raises like `moment_index`.
    """
    logs = np.log(ascending(values))
    _check(k, logs.size)
    rng = np.random.default_rng(seed)
    top = _largest_uniforms(rng, replicates, logs.size, k + 1)
    xi = _moment(logs[(top * logs.size).astype(np.intp)])
    xi = xi[np.isfinite(xi)]
    if xi.size < 0.9 * replicates:
        return None
    low, high = np.quantile(xi, [0.5 - 0.5 * level, 0.5 + 0.5 * level])
    return float(low), float(high)


def _largest_uniforms(rng: np.random.Generator, rows: int, size: int, count: int) -> Array:
    """The `count` largest of `size` uniform numbers, ascending, without drawing the others.

    -ln U_(i), summed from the largest down, grows by independent Exp(1)/size, Exp(1)/(size-1), …
    (A. Rényi, Acta Math. Hung. 4, 1953).
    """
    steps = rng.standard_exponential((rows, count)) / (size - np.arange(count))
    return np.exp(-np.cumsum(steps, axis=1))[:, ::-1]


def _moment(logs: Array) -> Array:
    """ξ of each row (B, k+1) of ascending logarithms, NaN where undefined."""
    d = logs[:, 1:] - logs[:, :1]
    first, second = d.mean(axis=1), np.einsum("bk,bk->b", d, d) / d.shape[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return first + 1.0 - 0.5 / (1.0 - first**2 / second)


def _check(k: int, size: int) -> None:
    if not 1 <= k < size:
        raise ValueError(f"k must lie in [1, {size - 1}] for {size} values, got {k}")


def dragon_kings(tail: ArrayLike, r: int) -> DragonKings:
    """Whether the r largest values of a power-law tail lie apart from the rest.

    z_i = i ln(x_(i)/x_(i+1)), descending, are independent and exponential under a power law, so
    T = mean z_{1…r} / mean z_{r+1…n-1} ~ F(2r, 2(n-1-r))
    (V. Pisarenko & D. Sornette, arXiv 1205.1002). Raises ValueError unless 1 ≤ r < n - 1, or for
    a constant tail.
    """
    logs = np.log(ascending(tail))[::-1]
    if not 1 <= r < logs.size - 1:
        raise ValueError(f"r must lie in [1, {logs.size - 2}] for {logs.size} values, got {r}")
    z = np.arange(1, logs.size) * (logs[:-1] - logs[1:])
    rest = float(z[r:].mean())
    if rest <= 0.0:
        raise ValueError("the tail below the r largest values is constant")
    statistic = float(z[:r].mean()) / rest
    return DragonKings(statistic, float(f.sf(statistic, 2 * r, 2 * (logs.size - 1 - r))))
