"""Where a set of checkpoints lies in weight space, from inner products alone.

N checkpoints of P parameters: the Gram matrix of the centred set, summed tensor by tensor, gives
principal components, and equals what classical multidimensional scaling finds from Euclidean
distances (W. Torgerson, Psychometrika 17, 1952). A random walk has explained ratios 6/(π²k²):
J. Antognini & J. Sohl-Dickstein, "PCA of high dimensional random walks with comparison to neural
network training", arXiv 1806.08805, NeurIPS 2018. Ratios at that null show no drift in few
directions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

_EPS = float(np.finfo(np.float64).eps)
# Share of ‖x‖² + ‖y‖² below which ‖x - y‖² is rounding.
_UNRESOLVED = 32.0 * _EPS


@dataclass(frozen=True, slots=True)
class Embedding:
    """Principal components with variance, largest first; each score vector's sign is fixed."""

    scores: Array  # (N, K): coordinates of the checkpoints about their mean
    explained: Array  # (K,): shares of the variance


@dataclass(frozen=True, slots=True)
class Trajectory:
    """Shape of a path θ_0 … θ_T; None where a length it divides by is zero."""

    path_length: float  # Σ ‖d_t‖, d_t = θ_{t+1} - θ_t
    displacement: float  # ‖θ_T - θ_0‖
    tortuosity: float | None  # path_length/displacement ≥ 1
    step_lengths: Array  # (T,)
    turn_cosines: Array  # (T - 1,): cos(d_t, d_{t+1}); NaN at a step of zero length
    final_cosines: Array  # (T,): cos(d_t, θ_T - θ_0); NaN likewise
    from_start: Array  # (T + 1,): ‖θ_t - θ_0‖


def centred_gram(blocks: Iterable[ArrayLike]) -> Array:
    """G = Σ X_c X_cᵀ (N, N) over blocks (N, p) of parameters, centred over the checkpoints.

    Centring each block before the product loses no digits where checkpoints differ by little.
    Raises ValueError without a block, for different N, or values that are not finite.
    """
    total: Array | None = None
    for block in blocks:
        X = np.asarray(block, dtype=np.float64)
        X = X.reshape(len(X), -1)
        if not np.all(np.isfinite(X)):
            raise ValueError("checkpoints must have finite weights")
        X = X - X.mean(axis=0)
        if total is None:
            total = np.zeros((len(X), len(X)))
        if len(X) != len(total):
            raise ValueError(f"a block of {len(X)} checkpoints among blocks of {len(total)}")
        total += X @ X.T
    if total is None:
        raise ValueError("no weights to compare")
    return total


def distances(gram: ArrayLike) -> Array:
    """‖x_i - x_j‖ (N, N) from inner products, of a centred set or not.

    0 for points nearer than 1e-7 of their distance to the origin: inner products do not tell those
    apart, and the rounding left would pass for a distance.
    """
    G = np.asarray(gram, dtype=np.float64)
    own = np.diag(G)
    sums = own[:, None] + own
    squares = sums - 2.0 * G
    return np.sqrt(np.where(squares > _UNRESOLVED * sums, squares, 0.0))


def principal_components(gram: ArrayLike) -> Embedding:
    """Scores √λ_k v_k of a centred Gram matrix, at most N - 1, those above rounding.

    The entry of largest size in each score vector is positive, the first one among equals.
    """
    G = np.asarray(gram, dtype=np.float64)
    values, vectors = np.linalg.eigh((G + G.T) / 2.0)
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = values > 8.0 * len(G) * _EPS * max(float(values[0]), 0.0)
    values, vectors = values[kept], vectors[:, kept]
    size = np.abs(vectors)
    largest = np.argmax(size > size.max(axis=0, initial=0.0) * (1.0 - 1e-9), axis=0)
    signs = np.sign(vectors[largest, np.arange(values.size)])
    return Embedding(vectors * signs * np.sqrt(values), values / values.sum())


def classical_scaling(distance: ArrayLike) -> Embedding:
    """Principal components of B = -½ J D² J: the coordinates that Euclidean distances came from.

    Distances that are not Euclidean leave negative eigenvalues, which are dropped.
    """
    squares = np.asarray(distance, dtype=np.float64) ** 2
    means = squares.mean(axis=0)
    return principal_components(-0.5 * (squares - means - means[:, None] + means.mean()))


def random_walk_ratios(count: int, checkpoints: int | None = None) -> Array:
    """First `count` explained ratios of a random walk in many dimensions.

    6/(π²k²) for a long walk; of N checkpoints 3/(2(N² - 1) sin²(πk/2N)), k < N, and 0 beyond: the
    centred covariance of N running sums has eigenvalues 1/(4 sin²(πk/2N)).
    Raises ValueError below 2 checkpoints.
    """
    k = np.arange(1.0, count + 1.0)
    if checkpoints is None:
        return 6.0 / (np.pi * k) ** 2
    if checkpoints < 2:
        raise ValueError(f"a walk needs at least 2 checkpoints, got {checkpoints}")
    angle = np.pi * np.minimum(k, checkpoints) / (2 * checkpoints)
    ratios = 1.5 / ((checkpoints**2 - 1) * np.sin(angle) ** 2)
    return np.where(k < checkpoints, ratios, 0.0)


def trajectory(gram: ArrayLike) -> Trajectory:
    """Measures of checkpoints in order of training, from their centred Gram matrix (T + 1, T + 1).

    Raises ValueError below 2 checkpoints.
    """
    G = np.asarray(gram, dtype=np.float64)
    if len(G) < 2:
        raise ValueError(f"a trajectory needs at least 2 checkpoints, got {len(G)}")
    steps = np.diff(np.diff(G, axis=0), axis=1)  # ⟨d_s, d_t⟩
    lengths = np.sqrt(np.maximum(np.diag(steps), 0.0))
    to_end = steps.sum(axis=1)  # ⟨d_t, θ_T - θ_0⟩
    displacement = float(np.sqrt(max(to_end.sum(), 0.0)))
    path = float(lengths.sum())
    return Trajectory(
        path_length=path,
        displacement=displacement,
        # a closed path's displacement is the rounding of inner products
        tortuosity=path / displacement if displacement > 1e-7 * path else None,
        step_lengths=lengths,
        turn_cosines=_cosines(np.diag(steps, 1), lengths[:-1] * lengths[1:]),
        final_cosines=_cosines(to_end, lengths * displacement),
        from_start=distances(G)[0],
    )


def displacement_shares(grams: Mapping[str, ArrayLike]) -> dict[str, float] | None:
    """Each layer's share of ‖θ_T - θ_0‖², from its Gram matrix; None where nothing moved."""
    moved = {name: float(distances(gram)[0, -1] ** 2) for name, gram in grams.items()}
    total = sum(moved.values())
    return {name: value / total for name, value in moved.items()} if total > 0.0 else None


def _cosines(inner: Array, product: Array) -> Array:
    exact = np.divide(inner, product, out=np.full(inner.shape, np.nan), where=product > 0.0)
    return np.clip(exact, -1.0, 1.0)
