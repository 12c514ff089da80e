"""Kalman filter and Rauch-Tung-Striebel smoother of a Markov chain with whitened observations.

    x_0 ~ N(0, Q_0),   x_s | x_{s-1} ~ N(A_s x_{s-1}, Q_s),   g_s = M_s x_s + N(0, I)

What is known about u_s = H x_s at step s comes as exp(-½ uᵀΛu + ηᵀu) for any Λ ⪰ 0, Λ = 0 where
nothing is known. `whiten` writes Λ = R Rᵀ, so that M = RᵀH and g = R⁺η. Every solve then is with
B = I + M P Mᵀ, whose eigenvalues are at least 1; the equal form with η - ΛHm in place of
g - RᵀHm loses all digits where Λ is large. All arrays take leading batch axes (…): many functions
or modes are smoothed at once, one Python step a time point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.state_space import discretise, n_states

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Chain:
    """Prior of D states at n steps. A_0 = 0, and Q_0 is the covariance of the first state."""

    transition: Array  # A (…, n, D, D)
    noise: Array  # Q (…, n, D, D)


@dataclass(frozen=True, slots=True)
class Whitened:
    """Observations g = Rᵀu + N(0, I), equal to exp(-½ uᵀΛu + ηᵀu) up to a factor."""

    root: Array  # R (…, n, r, r), R Rᵀ = Λ
    target: Array  # g (…, n, r)


@dataclass(frozen=True, slots=True)
class Smoothed:
    """Posterior of the states, and ln ∫ prior · Π exp(-½ uᵀΛu + ηᵀu)."""

    mean: Array  # (…, n, D)
    cov: Array  # (…, n, D, D)
    log_normaliser: Array  # (…)


def matern_chain(kernel: str, indexes: ArrayLike, lengthscale: float, copies: int = 1) -> Chain:
    """`copies` independent Matérn processes at ascending indexes (…, n): D = copies·p states.

    States are ordered by process, then by derivative. Raises ValueError like `discretise`.
    """
    x = np.asarray(indexes, dtype=np.float64)
    step = discretise(kernel, np.diff(x, axis=-1), lengthscale)
    p = n_states(kernel)
    A = np.zeros((*x.shape, p, p))
    A[..., 1:, :, :] = step.transition
    Q = np.empty_like(A)
    Q[..., 0, :, :] = step.stationary
    Q[..., 1:, :, :] = step.noise
    return Chain(_repeated(A, copies), _repeated(Q, copies))


def values_of(states: Array, r: int) -> Array:
    """H x (…, r) of states (…, r·p): the first state of every process."""
    return states[..., :: states.shape[-1] // r]


def whiten(precision: ArrayLike, linear: ArrayLike) -> Whitened:
    """R and g of Λ (…, n, r, r), η (…, n, r). Eigenvalues of Λ below rounding count as 0."""
    Lam = np.asarray(precision, dtype=np.float64)
    if Lam.shape[-1] == 1:
        root = np.sqrt(np.maximum(Lam, 0.0))
        values, vectors = root[..., 0], np.ones_like(root)
    else:
        values, vectors = np.linalg.eigh(Lam)
        floor = values[..., -1:] * Lam.shape[-1] * np.finfo(np.float64).eps
        values = np.sqrt(np.where(values > floor, values, 0.0))
    rotated = (np.swapaxes(vectors, -1, -2) @ np.asarray(linear)[..., None])[..., 0]
    target = np.divide(rotated, values, out=np.zeros_like(rotated), where=values > 0.0)
    return Whitened(vectors * values[..., None, :], target)


def smooth(chain: Chain, seen: Whitened) -> Smoothed:
    """Posterior of every state given all observations, O(n D³). Both passes are loops over n."""
    A, Q = _steps_first(chain.transition, 2), _steps_first(chain.noise, 2)
    M, g = _steps_first(loading(seen.root, A.shape[-1]), 2), _steps_first(seen.target, 1)
    n = A.shape[0]
    means, covs = np.empty((*g.shape[:-1], A.shape[-1], 1)), np.empty_like(Q)
    log_normaliser = np.zeros(g.shape[1:-1])
    mean, cov = np.zeros_like(means[0]), np.zeros_like(Q[0])
    for s in range(n):
        mean, cov = A[s] @ mean, A[s] @ cov @ _t(A[s]) + Q[s]
        mean, cov, gain = _update(mean, cov, M[s], g[s])
        means[s], covs[s] = mean, cov
        log_normaliser += gain
    for s in range(n - 2, -1, -1):
        E, L = smoother_gain(A[s + 1], Q[s + 1], covs[s])
        means[s] += E @ (means[s + 1] - A[s + 1] @ means[s])
        covs[s] = L + E @ covs[s + 1] @ _t(E)
    return Smoothed(
        np.moveaxis(means[..., 0], 0, -2), np.moveaxis(symmetric(covs), 0, -3), log_normaliser
    )


def smoother_gain(A: Array, Q: Array, cov: Array) -> tuple[Array, Array]:
    """E = P Aᵀ (A P Aᵀ + Q)⁻¹ and what remains of P once the next state is known.

    The remainder P - E P_pred Eᵀ is written as a sum of squares, which cannot turn negative.
    """
    AP = A @ cov
    E = _t(np.linalg.solve(AP @ _t(A) + Q, AP))
    keep = np.eye(A.shape[-1]) - E @ A
    return E, keep @ cov @ _t(keep) + E @ Q @ _t(E)


def log_normaliser_terms(mean: Array, cov: Array, M: Array, g: Array) -> Array:
    """½gᵀg - ½vᵀB⁻¹v - ½ln|B| of predicted mean (…, D, 1), cov (…, D, D); v = g - M m."""
    B = np.eye(M.shape[-2]) + M @ cov @ _t(M)
    root = np.linalg.cholesky(B)
    v = np.linalg.solve(root, g[..., None] - M @ mean)[..., 0]
    half_log_det = np.log(np.diagonal(root, axis1=-2, axis2=-1)).sum(-1)
    return 0.5 * (g * g).sum(-1) - 0.5 * (v * v).sum(-1) - half_log_det


def loading(root: Array, n_states_all: int) -> Array:
    """M = RᵀH (…, r, D)."""
    r = root.shape[-1]
    M = np.zeros((*root.shape[:-1], n_states_all))
    M[..., :: n_states_all // r] = _t(root)
    return M


def symmetric(matrices: NDArray[Any]) -> Array:
    """½(X + Xᵀ) over the last two axes."""
    return 0.5 * (matrices + _t(matrices))


def _update(mean: Array, cov: Array, M: Array, g: Array) -> tuple[Array, Array, Array]:
    """Mean, covariance (Joseph form) and gain in the log normaliser after one observation."""
    K = _t(np.linalg.solve(np.eye(M.shape[-2]) + M @ cov @ _t(M), M @ cov))
    keep = np.eye(cov.shape[-1]) - K @ M
    updated = keep @ cov @ _t(keep) + K @ _t(K)
    gain = log_normaliser_terms(mean, cov, M, g)
    return mean + K @ (g[..., None] - M @ mean), updated, gain


def _repeated(blocks: Array, copies: int) -> Array:
    """I ⊗ X over the last two axes: (…, copies·p, copies·p)."""
    p = blocks.shape[-1]
    out = np.zeros((*blocks.shape[:-2], copies, p, copies, p))
    for copy in range(copies):
        out[..., copy, :, copy, :] = blocks
    return out.reshape(*blocks.shape[:-2], copies * p, copies * p)


def _steps_first(array: Array, trailing: int) -> Array:
    return np.ascontiguousarray(np.moveaxis(array, -1 - trailing, 0))


def _t(matrices: NDArray[Any]) -> Array:
    return np.swapaxes(matrices, -1, -2)
