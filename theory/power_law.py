"""Power-law tail p(x) = (α-1)/xmin · (x/xmin)^(-α), x ≥ xmin: fit, interval, bias.

A. Clauset, C. R. Shalizi & M. E. J. Newman (CSN), arXiv 0706.1062, SIAM Review 51, 2009. In terms
of the survival function x^(1-α) the extreme-value index is ξ = 1/(α-1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2

from theory.ks_scan import KS, Samples, all_distances, best_starts, near_best, samples

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PowerLawFit:
    """A fitted tail. T = Σ ln(x/xmin) over the tail."""

    alpha: float  # 1 + n/T (CSN eq. 3.1)
    xmin: float
    xmax: float
    ks_d: float
    sigma: float  # (α-1)/√n (CSN eq. 3.2)
    n_tail: int
    n_values: int
    log_sum: float  # T
    free_logs: int  # random terms of T: n - 1 when xmin is one of the data, else n

    @property
    def alpha_unbiased(self) -> float:
        """1 + (n-2)/T. T ~ Γ(n-1, 1/(α-1)) and E[1/T] = (α-1)/(n-2), given xmin."""
        return 1.0 + (self.free_logs - 1) / self.log_sum


@dataclass(frozen=True, slots=True)
class ScanCurve:
    """Every admissible start of the tail: arrays of one length, xmins ascending."""

    xmins: Array
    alphas: Array
    ks_ds: Array


def fit_power_law(
    values: ArrayLike,
    *,
    xmin: float | tuple[float, float] | None = None,
    drop_largest: int = 0,
    ks: KS = "csn",
) -> PowerLawFit:
    """Tail of the smallest Kolmogorov-Smirnov distance, over every start (CSN section 3.3).

    `xmin`: None searches all data, a pair searches the data inside it, a number is taken as given
    (then T has n random terms instead of n - 1). `drop_largest` leaves the k largest values out.
    Raises ValueError for non-positive or non-finite values, or where no start is possible.
    """
    data = ascending(values)
    data = data[: data.size - drop_largest] if drop_largest else data
    if xmin is not None and not isinstance(xmin, tuple):
        return _fit_at(data, float(xmin), ks)
    sample = scan_sample(data, xmin)
    if not sample.starts.any():
        raise ValueError("no power-law tail: all values are equal, or none lies in the xmin range")
    index, distance = best_starts(sample, ks)
    return _result(data, int(index[0]), float(distance[0]), float(sample.slopes[0, index[0]]))


def fit_with_rivals(values: ArrayLike, share: float = 0.1) -> tuple[PowerLawFit, Array]:
    """The scan's fit, and α at the other local minima of D within (1 + share) of the smallest.

    A rival at another exponent says that the data do not decide where the tail starts.
    Raises like `fit_power_law`.
    """
    data = ascending(values)
    sample = scan_sample(data)
    if not sample.starts.any():
        raise ValueError("no power-law tail: all values are equal")
    near, distances = near_best(sample, share)
    best = int(np.argmin(distances))
    fit = _result(
        data, int(near[best]), float(distances[best]), float(sample.slopes[0, near[best]])
    )
    everywhere = np.full(data.size + 2, np.inf)
    everywhere[near + 1] = distances
    low = (distances <= everywhere[near]) & (distances <= everywhere[near + 2])
    low[best] = False
    return fit, 1.0 + sample.slopes[0, near[low]]


def scan_curve(
    values: ArrayLike, *, xmin: tuple[float, float] | None = None, ks: KS = "csn"
) -> ScanCurve:
    """α and D at every start, the curves that plots of a fit show. Raises like `fit_power_law`."""
    data = ascending(values)
    sample = scan_sample(data, xmin)
    starts = sample.starts[0]
    return ScanCurve(
        xmins=data[starts],
        alphas=1.0 + sample.slopes[0, starts],
        ks_ds=all_distances(sample, ks)[starts],
    )


def ascending(values: ArrayLike) -> Array:
    """Sorted float64 copy. Raises ValueError unless all values are positive and finite."""
    data = np.sort(np.asarray(values, dtype=np.float64).ravel())
    if data.size == 0 or not data[0] > 0.0 or not np.isfinite(data[-1]):
        raise ValueError("a power law needs positive finite values")
    return data


def scan_sample(data: Array, xmin: tuple[float, float] | None = None) -> Samples:
    """One sorted sample (N,) as the scan takes it."""
    allowed = None if xmin is None else ((data >= xmin[0]) & (data <= xmin[1]))[None, :]
    return samples(np.log(data)[None, :], allowed)


def _result(data: Array, start: int, distance: float, slope: float) -> PowerLawFit:
    n = data.size - start
    return PowerLawFit(
        alpha=1.0 + slope,
        xmin=float(data[start]),
        xmax=float(data[-1]),
        ks_d=distance,
        sigma=slope / float(np.sqrt(n)),
        n_tail=n,
        n_values=data.size,
        log_sum=n / slope,
        free_logs=n - 1,
    )


def _fit_at(data: Array, xmin: float, ks: KS) -> PowerLawFit:
    """Fit above a threshold that was not chosen from the data."""
    tail = data[data >= xmin]
    if tail.size == 0 or tail[-1] == xmin:
        raise ValueError(f"no values above xmin = {xmin}")
    logs = np.log(tail / xmin)
    log_sum, n = float(logs.sum()), tail.size
    model = 1.0 - np.exp(-n / log_sum * logs)
    distance = float(np.max(np.abs(model - np.searchsorted(tail, tail, side="left") / n)))
    if ks == "two-sided":
        upper = np.searchsorted(tail, tail, side="right") / n
        distance = max(distance, float(np.max(np.abs(upper - model))))
    alpha = 1.0 + n / log_sum
    return PowerLawFit(
        alpha=alpha,
        xmin=xmin,
        xmax=float(tail[-1]),
        ks_d=distance,
        sigma=(alpha - 1.0) / float(np.sqrt(n)),
        n_tail=n,
        n_values=data.size,
        log_sum=log_sum,
        free_logs=n,
    )


def alpha_interval(fit: PowerLawFit, level: float = 0.95) -> tuple[float, float]:
    """Exact interval of α given xmin: 2T(α-1) ~ χ² with 2(n-1) degrees of freedom.

    The choice of xmin is not in it; `bootstrap_alpha` has that.
    """
    tails = np.array([0.5 - 0.5 * level, 0.5 + 0.5 * level])
    low, high = 1.0 + chi2.ppf(tails, 2 * fit.free_logs) / (2.0 * fit.log_sum)
    return float(low), float(high)


def bootstrap_alpha(
    values: ArrayLike, *, replicates: int, seed: int, level: float = 0.95, ks: KS = "csn"
) -> tuple[float, float]:
    """Percentile interval of α when the values are drawn anew and xmin is chosen anew each time.

    B. Efron, Ann. Statist. 7, 1979. Raises like `fit_power_law`.
    """
    logs = np.log(ascending(values))
    rng = np.random.default_rng(seed)
    alphas: list[Array] = []
    batch = max(1, (1 << 20) // logs.size)
    for begin in range(0, replicates, batch):
        drawn = rng.random((min(batch, replicates - begin), logs.size))
        drawn.sort(axis=1)  # sorted positions give sorted values without sorting those
        sample = samples(logs[(drawn * logs.size).astype(np.intp)])
        index, _ = best_starts(sample, ks)
        rows = np.flatnonzero(sample.starts.any(axis=1))
        alphas.append(1.0 + sample.slopes[rows, index[rows]])
    tails = [0.5 - 0.5 * level, 0.5 + 0.5 * level]
    low, high = np.quantile(np.concatenate(alphas), tails)
    return float(low), float(high)


def pl_alpha_hill(values: ArrayLike) -> float:
    """1 + (N-i)/Σ_{j≥i} ln(x_j/x_i), i = ⌊N/2⌋ of the ascending values: no search for xmin.

    Y. Zhou et al., "Temperature Balancing, Layer-wise Weight Analysis, and Neural Network
    Training", arXiv 2312.00359, eq. 2. Raises ValueError if the upper half is constant.
    """
    data = ascending(values)
    upper = data[data.size // 2 :]
    log_sum = float(np.sum(np.log(upper / upper[0])))
    if log_sum <= 0.0:
        raise ValueError("the upper half of the values is constant")
    return 1.0 + upper.size / log_sum
