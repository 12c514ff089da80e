"""Which channels to merge: weighted k-means on their incoming weights.

Minimises Σ_i w_i ‖x_i - x̄_c(i)‖², x_i the incoming weights of channel i and w_i the norm ‖a_i‖ of
its outgoing ones, which weighs channels as `theory.resampling.certificate` does. Everything follows
from the n × n squared distances D: a mean x̄ = Σ_p s_p x_p with Σ s = 1 lies at

    ‖x_i - x̄‖² = Σ_p s_p D_ip - ½ Σ_pq s_p s_q D_pq,

so that after D an iteration takes O(n²) whatever the number of features. Labels are numbered by
first use, so that parts keep the channels' order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.resampling.operators import Array, merge

Labels = NDArray[np.int64]

_MAX_ITERATIONS = 300


def kmeans_labels(
    features: ArrayLike, weights: ArrayLike, parts: int, *, seed: int = 0, restarts: int = 4
) -> Labels:
    """Lloyd's iteration from k-means++ starts; the best of `restarts` by the weighted error.

    features (n, d), weights (n,). D. Arthur & S. Vassilvitskii, SODA 2007, for the starts. Every
    part is used. Raises ValueError unless 1 ≤ parts ≤ n and all is finite, weights not negative.
    """
    X, w = checked_features(features, weights, parts)
    D, rng = squared_distances(X), np.random.default_rng(seed)
    runs = [_lloyd(D, w, parts, rng) for _ in range(restarts if 1 < parts < len(X) else 1)]
    best = min(runs, key=lambda labels: merge_error(X, w, labels))
    _, first, inverse = np.unique(best, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)


def merge_error(features: ArrayLike, weights: ArrayLike, labels: Labels) -> float:
    """Σ_i w_i ‖x_i - x̄_c(i)‖² about the weighted means of the parts."""
    X, w = np.asarray(features, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    centres = merge(labels, w) @ X
    return float(w @ np.sum((X - centres[labels]) ** 2, axis=1))


def checked_features(features: ArrayLike, weights: ArrayLike, parts: int) -> tuple[Array, Array]:
    """Features about their common mean, which no merge error depends on, and weights.

    Centred, squared distances by matrix products lose few digits. Raises like `kmeans_labels`.
    """
    X, w = np.asarray(features, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if X.ndim != 2 or w.shape != X.shape[:1]:
        raise ValueError(f"features (n, d) and weights (n,), got {X.shape} and {w.shape}")
    if not 1 <= parts <= len(X):
        raise ValueError(f"the number of parts must lie in 1..{len(X)}, got {parts}")
    if not (np.all(np.isfinite(X)) and np.all(np.isfinite(w) & (w >= 0.0))):
        raise ValueError("merging needs finite features, and finite weights that are not negative")
    return X - X.mean(axis=0), w


def squared_distances(X: Array, Y: Array | None = None) -> Array:
    """‖x - y‖² of all rows (by default of X with itself), negative rounding cut to 0."""
    other = X if Y is None else Y
    squares = X @ (-2.0 * other.T)
    squares += np.einsum("ij,ij->i", X, X)[:, None]
    squares += np.einsum("ij,ij->i", other, other)
    if Y is None:
        np.fill_diagonal(squares, 0.0)
    return np.maximum(squares, 0.0, out=squares)


def _lloyd(D: Array, w: Array, parts: int, rng: np.random.Generator) -> Labels:
    """Alternates nearest centres and means until no label changes."""
    to_centres = D[_spread_starts(D, w, parts, rng)]
    labels = np.full(len(D), -1, dtype=np.int64)
    for _ in range(_MAX_ITERATIONS):
        nearest = np.argmin(to_centres, axis=0)
        _fill_empty(nearest, w * to_centres[nearest, np.arange(len(D))], parts)
        if np.array_equal(nearest, labels):
            break
        labels = nearest
        to_centres = _distances_to_means(D, w, labels)
    return labels


def _distances_to_means(D: Array, w: Array, labels: Labels) -> Array:
    """‖x_i - x̄_c‖² (parts, n) by the identity at the head of this module."""
    means = merge(labels, w)
    averaged = means @ D
    shares = np.asarray(means.sum(axis=0)).ravel()  # each channel is in one part
    own = averaged[labels, np.arange(len(D))]
    averaged -= 0.5 * np.bincount(labels, weights=shares * own)[:, None]
    return averaged


def _spread_starts(D: Array, w: Array, parts: int, rng: np.random.Generator) -> list[int]:
    """Next starts are drawn with odds w times the squared distance to those chosen.

    Of 2 + ⌊ln parts⌋ draws the one that leaves the smallest error is taken.
    """
    chosen: list[int] = []
    nearest, left = np.full(len(D), np.inf), np.ones(len(D))
    for _ in range(parts):
        odds = w * left * (nearest if chosen else 1.0)
        odds = odds if np.any(odds > 0.0) else left
        draws = rng.choice(len(D), size=2 + int(np.log(parts)), p=odds / odds.sum())
        reached = np.minimum(nearest, D[draws])
        best = int(np.argmin(reached @ w))
        chosen.append(int(draws[best]))
        nearest, left[chosen[-1]] = reached[best], 0.0
    return chosen


def _fill_empty(labels: Labels, error: Array, parts: int) -> None:
    """Gives each unused label the channel of largest error among parts that can spare one."""
    sizes = np.bincount(labels, minlength=parts)
    for empty in np.flatnonzero(sizes == 0):
        worst = int(np.argmax(np.where(sizes[labels] > 1, error, -np.inf)))
        sizes[labels[worst]] -= 1
        labels[worst], sizes[empty], error[worst] = empty, 1, 0.0
