"""EVA: incremental PCA of layer inputs, its stopping rule, and ranks by explained variance.

F. Paischer et al., "Parameter Efficient Fine-tuning via Explained Variance Adaptation", arXiv
2410.07170. The update of the components is that of D. Ross, J. Lim, R.-S. Lin & M.-H. Yang,
"Incremental Learning for Robust Visual Tracking", IJCV 77, 2008: the SVD of the old components
times their singular values, the centred new rows and one row that corrects the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.galore_projection import as_matrix

Array = NDArray[np.float64]

STOP_COSINE = 0.99  # the paper's τ


@dataclass(frozen=True, slots=True)
class PcaState:
    """Top components of the rows seen so far; their order, not their sign, has a meaning."""

    n_samples: int
    mean: Array  # (n,)
    components: Array  # (r, n), orthonormal rows
    singular_values: Array  # (r,), of the centred rows
    total_square: float  # Σ (x - mean)² over all rows and columns


@dataclass(frozen=True, slots=True)
class EvaRanks:
    """Ranks of the layers; `unassigned` is the budget left when components ran out."""

    ranks: tuple[int, ...]
    unassigned: int


def pca_update(state: PcaState | None, rows: ArrayLike, n_components: int) -> PcaState:
    """The state after further layer inputs `rows` (N, n); None starts it.

    Raises ValueError unless 1 ≤ n_components ≤ min(N, n) and the widths agree.
    """
    X = as_matrix(rows)
    N, width = X.shape
    if not 1 <= n_components <= min(N, width):
        raise ValueError(f"n_components must lie in 1..{min(N, width)}, got {n_components}")
    mean = X.mean(axis=0)
    stack = X - mean
    square = float(np.sum(stack**2))
    seen = N
    if state is not None:
        if state.mean.size != width:
            raise ValueError(f"rows of width {width} do not continue rows of {state.mean.size}")
        seen += state.n_samples
        shift = np.sqrt(state.n_samples / seen * N) * (state.mean - mean)
        square += state.total_square + float(shift @ shift)
        old = state.singular_values[:, None] * state.components
        stack = np.vstack([old, stack, shift])
        mean = (state.n_samples * state.mean + N * mean) / seen
    _, s, Vt = np.linalg.svd(stack, full_matrices=False)
    return PcaState(seen, mean, Vt[:n_components], s[:n_components], square)


def explained_variance_ratio(state: PcaState) -> Array | None:
    """s_i² over the total centred sum of squares (r,); None if all rows were equal."""
    if state.total_square == 0.0:
        return None
    return state.singular_values**2 / state.total_square


def component_cosines(before: PcaState, after: PcaState) -> Array:
    """|cos| of components of the same place (r,); their signs are arbitrary."""
    return np.minimum(1.0, np.abs(np.sum(before.components * after.components, axis=1)))


def converged(before: PcaState, after: PcaState, threshold: float = STOP_COSINE) -> bool:
    """Every component moved by a cosine of at least `threshold` in the last update."""
    return bool(np.all(component_cosines(before, after) >= threshold))


def redistribute_ranks(
    variance_ratios: Sequence[ArrayLike], rank: int, rho: float = 2.0
) -> EvaRanks:
    """The budget rank·L goes to the largest ratios of all layers, at most ρ·rank to one layer.

    `variance_ratios`: one descending array a layer. Equal ratios go to the earlier layer.
    Raises ValueError for rank < 1 or ρ < 1.
    """
    if rank < 1 or not rho >= 1.0:
        raise ValueError(f"rank and rho must be at least 1, got {rank} and {rho}")
    cap = int(rho * rank)
    offered = [np.asarray(ratios, dtype=np.float64)[:cap] for ratios in variance_ratios]
    owner = np.repeat(np.arange(len(offered)), [ratios.size for ratios in offered])
    pool = np.concatenate([*offered, np.empty(0)])
    budget = rank * len(offered)
    first = np.argsort(-pool, kind="stable")[:budget]
    counts = np.bincount(owner[first], minlength=len(offered))
    return EvaRanks(tuple(int(c) for c in counts), budget - first.size)
