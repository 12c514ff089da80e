"""Correlation traps: eigenvalues of the element-shuffled matrix above the random edge.

Shuffling makes the entries exchangeable, so their variance is Σw²/(mn) and the random edge is
Tracy-Widom's; what still stands out comes from the entries' marginal law: a few huge ones, or a
common mean, past the visibility threshold of F. Benaych-Georges & R. R. Nadakuditi,
J. Multivariate Anal. 111, 2012.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.linalg import svds

from theory.tracy_widom import tw_edge

_DENSE_UP_TO = 64


@dataclass(frozen=True, slots=True)
class ShuffleTraps:
    """Spikes of shuffled copies of a matrix and their visible causes."""

    rand_num_spikes: int  # median over the shuffles
    max_rand_eval: float  # largest eigenvalue of W Wᵀ over the shuffles
    edge_tw99: float
    large_entry: bool  # max|w| > s (mn)^¼
    large_mean: bool  # |mean w| > s (mn)^(-¼)


def shuffle_traps(W: ArrayLike, *, seed: int, shuffles: int = 5) -> ShuffleTraps:
    """Shuffle the entries of W (m, n), a permutation each, and count eigenvalues past the edge.

    Raises ValueError unless W is a non-empty matrix.
    """
    matrix = np.asarray(W, dtype=np.float64)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"expected a non-empty matrix, got shape {matrix.shape}")
    rows, cols = matrix.shape
    spread = float(np.sqrt(np.mean(matrix**2)))
    edge = tw_edge(rows, cols, spread**2)
    rng = np.random.default_rng(seed)
    counts, largest = [], 0.0
    for _ in range(shuffles):
        shuffled = rng.permutation(matrix.ravel()).reshape(min(rows, cols), -1)
        count, top = _above(shuffled, edge, rng)
        counts.append(count)
        largest = max(largest, top)
    quarter = float(matrix.size) ** 0.25
    return ShuffleTraps(
        rand_num_spikes=sorted(counts)[len(counts) // 2],
        max_rand_eval=largest,
        edge_tw99=edge,
        large_entry=bool(np.max(np.abs(matrix)) > spread * quarter),
        large_mean=bool(abs(float(matrix.mean())) > spread / quarter),
    )


def _above(matrix: NDArray[np.float64], edge: float, rng: np.random.Generator) -> tuple[int, float]:
    """How many eigenvalues of W Wᵀ exceed `edge`, and the largest, by Lanczos from the top."""
    short, wanted = matrix.shape[0], 4
    while short > _DENSE_UP_TO and 2 * wanted < short:
        start = rng.standard_normal(short)
        top = np.square(svds(matrix, k=wanted, return_singular_vectors=False, v0=start))
        if float(top.min()) <= edge:
            return int(np.count_nonzero(top > edge)), float(top.max())
        wanted *= 2
    eigenvalues = np.linalg.eigvalsh(matrix @ matrix.T)
    return int(np.count_nonzero(eigenvalues > edge)), float(eigenvalues[-1])
