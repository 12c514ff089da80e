"""Random bulk of a spectrum: noise level and number of spikes, fitted in turn.

A spike is an eigenvalue of W Wᵀ above the 99 % Tracy-Widom edge of the remaining bulk. Each spike
takes one dimension from both sides, so the bulk is an (m - k) × (n - k) noise matrix; leaving n
as it is would bias the noise level low. The level itself is the least-squares slope of the
central bulk eigenvalues against Marchenko-Pastur quantiles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.random_matrix import mp_cdf, mp_edges, mp_median, mp_quantile
from theory.tracy_widom import tw_edge

Array = NDArray[np.float64]

_CENTRAL = (0.1, 0.9)  # both ends of the bulk fluctuate most and mix with spikes


@dataclass(frozen=True, slots=True)
class BulkFit:
    """Noise level, spikes and edges; eigenvalues are those of W Wᵀ, not divided by n."""

    sigma_bulk: float  # standard deviation of a bulk entry
    num_spikes: int
    bulk_min: float  # Marchenko-Pastur support of the deflated bulk
    bulk_max: float
    edge_tw99: float
    d_mp: float  # two-sided sup-distance of the bulk to the law
    n_values: int  # eigenvalues that entered

    @property
    def is_random(self) -> bool:
        """Bulk accepted as Marchenko-Pastur: D ≤ 4/m.

        Eigenvalues repel, so D of pure noise shrinks like 1/m, not like 1/√m.
        """
        return self.d_mp <= 4.0 / self.n_values


def bulk_fit(eigenvalues: ArrayLike, rows: int, cols: int) -> BulkFit:
    """Bulk of W Wᵀ for W (rows, cols); only positive `eigenvalues` may be passed.

    Fewer eigenvalues than min(rows, cols) mean that null directions were taken out beforehand.
    Raises ValueError for fewer than 8 or non-positive eigenvalues.
    """
    values = np.sort(np.asarray(eigenvalues, dtype=np.float64))
    if values.size < 8 or values[0] <= 0.0 or not np.isfinite(values[-1]):
        raise ValueError("bulk_fit needs at least 8 positive finite eigenvalues")
    m, n = values.size, max(rows, cols)
    n = max(n, m)
    spikes = _count_above(values, n, 0, float(np.median(values)) / (n * mp_median(m / n)))
    visited: list[int] = []
    while spikes not in visited:
        visited.append(spikes)
        level = _noise_level(values[: m - spikes], n - spikes)
        spikes = _count_above(values, n, spikes, level)
    # Each count follows from the one before, so a count seen twice closes a cycle, of length 1
    # when converged. Of a longer cycle the smallest count is the cautious one.
    spikes = min(visited[visited.index(spikes) :])
    return _result(values, n, spikes, _noise_level(values[: m - spikes], n - spikes))


def _count_above(values: Array, n: int, spikes: int, level: float) -> int:
    """Eigenvalues above the edge of the bulk without `spikes`, leaving at least 8 in the bulk."""
    edge = tw_edge(values.size - spikes, n - spikes, level)
    return min(int(np.count_nonzero(values > edge)), values.size - 8)


def _noise_level(bulk: Array, n: int) -> float:
    """s² = Σ e q / Σ q² over the central bulk, q the quantiles of an m' × n' noise matrix."""
    m = bulk.size
    chosen = slice(int(_CENTRAL[0] * m), int(_CENTRAL[1] * m))
    positions = (np.arange(m) + 0.5) / m
    quantiles = n * mp_quantile(positions[chosen], m / n)
    return float(bulk[chosen] @ quantiles / (quantiles @ quantiles))


def _result(values: Array, n: int, spikes: int, level: float) -> BulkFit:
    m_bulk, n_bulk = values.size - spikes, n - spikes
    bulk = values[:m_bulk]
    lower, upper = mp_edges(m_bulk / n_bulk, level * n_bulk)
    law = mp_cdf(bulk, m_bulk / n_bulk, level * n_bulk)
    steps = np.arange(m_bulk + 1) / m_bulk
    distance = max(float(np.max(steps[1:] - law)), float(np.max(law - steps[:-1])))
    return BulkFit(
        sigma_bulk=float(np.sqrt(level)),
        num_spikes=spikes,
        bulk_min=lower,
        bulk_max=upper,
        edge_tw99=tw_edge(m_bulk, n_bulk, level),
        d_mp=distance,
        n_values=values.size,
    )
