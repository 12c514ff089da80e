"""Goodness of fit of a power-law tail by semi-parametric bootstrap.

A. Clauset, C. R. Shalizi & M. E. J. Newman, arXiv 0706.1062, section 4: each value of a synthetic
sample comes from the fitted tail with probability n_tail/N and is else drawn from the data below
xmin; the sample is scanned like the data. The share of samples that fit worse is the p-value,
and below 0.1 it speaks against a power law.

The p-value takes values as independent. Eigenvalues repel each other, so theirs are conservative:
a large p is no evidence for a power law, a small one is evidence against.

Sampling may stop at a given number of worse samples (J. Besag & P. Clifford, "Sequential Monte
Carlo p-values", Biometrika 78, 1991): where p is large few samples tell so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.ks_scan import KS, beats, samples
from theory.power_law import PowerLawFit, ascending

Array = NDArray[np.float64]

_BATCH = 8  # samples drawn before the sequential stop is looked at: changes no result


@dataclass(frozen=True, slots=True)
class GoodnessOfFit:
    """`exceedances` of `replicates` samples fit no better than the data."""

    p: float
    exceedances: int
    replicates: int


def goodness_of_fit(
    values: ArrayLike,
    fit: PowerLawFit,
    *,
    replicates: int = 2500,
    seed: int,
    stop_at: int | None = None,
    ks: KS = "csn",
) -> GoodnessOfFit:
    """P-value of a `fit` whose xmin was searched over all `values`.

    p = (1 + #worse)/(1 + replicates), to ±ε with 1/(4ε²) replicates. With `stop_at` = h sampling
    ends at the h-th worse sample, the l-th of all, and p = h/l.
    Raises ValueError for non-positive or non-finite values.
    """
    logs = np.log(ascending(values))
    rng = np.random.default_rng(seed)
    start = fit.n_values - fit.n_tail
    needed = replicates + 1 if stop_at is None else stop_at
    exceeded, done = 0, 0
    while done < replicates:
        drawn = _synthetic(logs, fit, min(_BATCH, replicates - done), rng)
        worse = ~beats(samples(drawn), fit.ks_d, start, ks)
        running = exceeded + np.cumsum(worse)
        if running[-1] >= needed:
            last = done + int(np.searchsorted(running, needed)) + 1
            return GoodnessOfFit(needed / last, needed, last)
        exceeded, done = int(running[-1]), done + worse.size
    return GoodnessOfFit((1 + exceeded) / (1 + replicates), exceeded, replicates)


def _synthetic(logs: Array, fit: PowerLawFit, rows: int, rng: np.random.Generator) -> Array:
    """Sorted log-samples (rows, N). One ascending uniform number a value decides both parts."""
    below = logs.size - fit.n_tail
    share = below / logs.size
    uniform = rng.random((rows, logs.size))
    uniform.sort(axis=1)
    body = logs[np.minimum((uniform * logs.size).astype(np.intp), logs.size - 1)]
    survival = np.minimum((1.0 - uniform) / (1.0 - share), 1.0)
    tail = np.log(fit.xmin) - np.log(survival) / (fit.alpha - 1.0)
    return np.where(uniform < share, body, tail)
