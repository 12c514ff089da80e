"""Paths between weight vectors, and means of several, as weights on the vectors themselves.

Every result is a linear combination of the inputs whose coefficients need only their inner
products, so that checkpoints larger than memory can be combined tensor by tensor. Spherical
interpolation: K. Shoemake, SIGGRAPH 1985; mean on the sphere: H. Karcher, Comm. Pure Appl. Math.
30, 1977. Both act on directions; norms are averaged arithmetically.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

# Radians; below it the arc and the chord agree to 1e-9, and the angle itself is mostly rounding.
_SMALLEST_ANGLE = 1e-4
_MAX_ITERATIONS = 1000


def lerp(a: ArrayLike, b: ArrayLike, t: float) -> Array:
    """(1 - t)a + t b; exactly b at t = 1."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return (1.0 - t) * x + t * y


def slerp_weights(gram: ArrayLike, t: float) -> tuple[float, float]:
    """(α, β) of αa + βb: direction at t along the great circle, norm (1 - t)‖a‖ + t‖b‖.

    gram (2, 2): inner products of a and b. Linear weights below an angle of 1e-4 or for a zero
    vector. Raises ValueError for opposite vectors, between which no great circle is singled out.
    """
    G = np.asarray(gram, dtype=np.float64)
    norm_a, norm_b = np.sqrt(np.diag(G))
    if norm_a == 0.0 or norm_b == 0.0:
        return 1.0 - t, t
    angle = float(np.arccos(np.clip(G[0, 1] / norm_a / norm_b, -1.0, 1.0)))
    if angle < _SMALLEST_ANGLE:
        return 1.0 - t, t
    if angle > np.pi - _SMALLEST_ANGLE:
        raise ValueError("opposite vectors have no spherical interpolation")
    norm = (1.0 - t) * norm_a + t * norm_b
    on_arc = np.sin(np.array([1.0 - t, t]) * angle) / np.sin(angle)
    return float(norm * on_arc[0] / norm_a), float(norm * on_arc[1] / norm_b)


def slerp(a: ArrayLike, b: ArrayLike, t: float) -> Array:
    """The combination of `slerp_weights`, for task vectors (any shape). Raises like it."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    pair = np.stack([x.ravel(), y.ravel()])
    alpha, beta = slerp_weights(pair @ pair.T, t)
    return alpha * x + beta * y


def karcher_weights(gram: ArrayLike) -> Array:
    """c (N,) with Σ c_i x_i the mean direction on the sphere, its norm the mean of the norms.

    gram (N, N): inner products. The mean μ solves Σ log_μ(u_i) = 0 over unit vectors u_i, by the
    fixed point μ ← exp_μ(mean of log_μ(u_i)), which lies in the span of the inputs throughout.
    Raises ValueError for a zero vector, or where the mean is not unique: directions that cancel,
    or spread too far for the iteration to settle.
    """
    G = np.asarray(gram, dtype=np.float64)
    norms = np.sqrt(np.diag(G))
    if not np.all(norms > 0.0):
        raise ValueError("a zero vector has no direction to average")
    K = G / np.outer(norms, norms)
    c = np.full(len(G), 1.0 / len(G))
    if c @ K @ c < 1e-12:
        raise ValueError("the directions cancel: their mean on the sphere is not defined")
    for _ in range(_MAX_ITERATIONS):
        c = c / np.sqrt(c @ K @ c)
        cosine = np.clip(K @ c, -1.0, 1.0)
        if np.any(cosine < -1.0 + 1e-12):
            raise ValueError("a direction opposite to the mean: it is not unique")
        # log_μ(u) = θ/sin θ·(u - cos θ μ), θ/sin θ = 1/sinc(θ/π)
        stretch = 1.0 / np.sinc(np.arccos(cosine) / np.pi) / len(G)
        tangent = stretch - float(stretch @ cosine) * c
        length = float(np.sqrt(max(tangent @ K @ tangent, 0.0)))
        if length < 1e-12:
            return c * norms.mean() / norms
        c = np.cos(length) * c + np.sinc(length / np.pi) * tangent
    raise ValueError("the mean direction did not settle: the vectors spread over a half sphere")


def karcher_mean(vectors: Sequence[ArrayLike]) -> Array:
    """The combination of `karcher_weights`, for arrays of one shape. Raises like it."""
    stacked = np.stack([np.asarray(v, dtype=np.float64) for v in vectors])
    flat = stacked.reshape(len(stacked), -1)
    return np.tensordot(karcher_weights(flat @ flat.T), stacked, axes=1)
