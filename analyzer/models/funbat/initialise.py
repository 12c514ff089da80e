"""Where inference starts: smooth draws from the prior, or TensorLy's Tucker of gridded data.

Covariances start small and the noise at a tenth of the values' variance: wide covariances with
noise as large as the data can collapse to the zero solution.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod, sqrt

import numpy as np
from numpy.typing import NDArray

from analyzer.models.funbat.checks import BadInput
from analyzer.models.funbat.core import Noise
from analyzer.models.funbat.entries import Mode
from analyzer.models.funbat.factors import Factor
from analyzer.models.funbat.messages import Core
from analyzer.models.funbat.state import Posterior, Problem
from theory.kalman import matern_chain

Array = NDArray[np.float64]

FUNCTION_VARIANCE, CORE_VARIANCE = 0.01, 1e-4
NOISE_PRECISION, HELD_NOISE_PRECISION = 10.0, 100.0  # the second where it is held at first
# A masked decomposition holds the whole grid, and passes over it in every iteration.
LARGEST_GRID, LEAST_OBSERVED = 2_000_000, 0.05


def prior_draw(mode: Mode, lengthscale: float, rng: np.random.Generator) -> Array:
    """r functions (n, r) drawn from the mode's prior at its indexes."""
    n, r = mode.grid.size, mode.rank
    if mode.kernel == "iid":
        return rng.standard_normal((n, r))
    chain = matern_chain(mode.kernel, mode.grid, lengthscale)
    variances, vectors = np.linalg.eigh(chain.noise)
    roots = vectors * np.sqrt(np.maximum(variances, 0.0))[:, None, :]
    steps = roots @ rng.standard_normal((n, roots.shape[-1], r))
    for s in range(1, n):
        steps[s] += chain.transition[s] @ steps[s - 1]
    return steps[:, 0, :]


def random_start(
    problem: Problem, lengthscales: Sequence[float], rng: np.random.Generator
) -> Posterior:
    """Functions from the prior; a core of random normal weights that gives values of variance 1."""
    factors = [
        prior_draw(mode, lengthscale, rng)
        for mode, lengthscale in zip(problem.modes, lengthscales, strict=True)
    ]
    P = prod(problem.ranks)
    core = None if problem.diagonal else rng.standard_normal(problem.ranks) / sqrt(P)
    return start_from(problem, lengthscales, factors, core)


def tensorly_start(problem: Problem, lengthscales: Sequence[float], seed: int) -> Posterior:
    """Masked Tucker (or CP) of the grid of mean values, entries nobody observed masked out.

    Raises BadInput where the grid is too large to hold or nearly empty, or the model has a
    constant.
    """
    from tensorly.decomposition import parafac, tucker

    sizes = [mode.grid.size for mode in problem.modes]
    if prod(sizes) > LARGEST_GRID:
        raise BadInput(f"initial: a grid of {prod(sizes)} cells is too large, use 'prior'")
    observed = np.count_nonzero(_grid(problem, sizes)[1]) / prod(sizes)
    if observed < LEAST_OBSERVED:
        raise BadInput(f"initial: {100 * observed:.2g} % of the grid is observed, use 'prior'")
    if problem.constant:
        raise BadInput("initial: TensorLy has no constant component, use 'prior'")
    grid, counts = _grid(problem, sizes)
    mask = (counts > 0).astype(np.float64)
    if problem.diagonal:
        weights, factors = parafac(
            grid, problem.modes[0].rank, init="random", mask=mask, random_state=seed
        )
        scale = np.asarray(weights) ** (1.0 / len(sizes))
        return start_from(problem, lengthscales, [np.asarray(f) * scale for f in factors], None)
    core, factors = tucker(grid, list(problem.ranks), init="random", mask=mask, random_state=seed)
    # orthonormal columns have mean square 1/n, functions of the prior have 1
    scaled = [np.asarray(f) * sqrt(n) for f, n in zip(factors, sizes, strict=True)]
    return start_from(problem, lengthscales, scaled, np.asarray(core) / sqrt(prod(sizes)))


def start_from(
    problem: Problem,
    lengthscales: Sequence[float],
    factors: Sequence[Array],
    core: Array | None,
    *,
    function_variance: float = FUNCTION_VARIANCE,
    core_variance: float = CORE_VARIANCE,
    noise_precision: float = NOISE_PRECISION,
) -> Posterior:
    """Means (n, r) and W with isotropic covariances, and no messages yet."""
    return Posterior(
        factors=tuple(
            Factor(
                mean=mean,
                cov=np.tile(function_variance * np.eye(mean.shape[1]), (len(mean), 1, 1)),
                precision=np.zeros((*mean.shape, mean.shape[1])),
                linear=np.zeros(mean.shape),
                lengthscale=lengthscale,
                divergence=0.0,
            )
            for mean, lengthscale in zip(factors, lengthscales, strict=True)
        ),
        core=None if core is None else Core(core, core_variance * np.eye(core.size), 1.0),
        noise=constant_noise(problem, noise_precision),
    )


def constant_noise(problem: Problem, precision: float) -> Noise:
    """E[τ] = `precision` in every group."""
    return Noise(np.full(problem.counts.shape, precision), np.ones(problem.counts.shape))


def _grid(problem: Problem, sizes: Sequence[int]) -> tuple[Array, Array]:
    """Mean value and number of entries of every cell of the grid."""
    entries = problem.entries[0]
    cells = np.ravel_multi_index(entries.rows, sizes)
    counts = np.bincount(cells, minlength=prod(sizes)).astype(np.float64)
    sums = np.bincount(cells, entries.values, minlength=prod(sizes))
    return (sums / np.maximum(counts, 1)).reshape(sizes), counts.reshape(sizes)
