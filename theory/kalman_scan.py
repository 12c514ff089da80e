"""The smoother as two scans: O(n D³) work in O(log n) array operations.

S. Särkkä & Á. F. García-Fernández, "Temporal parallelization of Bayesian smoothers", IEEE TAC 66,
2021, arXiv 1905.13002. Filtering becomes a product of elements (A, b, C, e, J), one a step, under
an associative operation (their lemma 8), smoothing a product of elements (E, g, L). Here the
observations are whitened (`theory.kalman`). Same results as `theory.kalman.smooth`; faster
wherever n is larger than the number of halvings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from theory.kalman import (
    Array,
    Chain,
    Smoothed,
    Whitened,
    loading,
    log_normaliser_terms,
    smoother_gain,
    symmetric,
)


@dataclass(frozen=True, slots=True)
class _Filtering:
    """Elements of the filter; vectors are columns (n, …, D, 1)."""

    A: Array
    b: Array
    C: Array
    e: Array
    J: Array

    def __getitem__(self, part: slice) -> _Filtering:
        return _Filtering(self.A[part], self.b[part], self.C[part], self.e[part], self.J[part])


@dataclass(frozen=True, slots=True)
class _Filtered:
    chain: Chain  # steps first
    mean: Array  # (n, …, D, 1)
    cov: Array  # (n, …, D, D)
    log_normaliser: Array  # (…)


def log_normaliser(chain: Chain, seen: Whitened) -> Array:
    """ln ∫ prior · Π exp(-½ uᵀΛu + ηᵀu), (…): the filter alone."""
    return _filter(chain, seen).log_normaliser


def smooth(chain: Chain, seen: Whitened) -> Smoothed:
    """Posterior of every state given all observations; shapes as in `theory.kalman.smooth`."""
    filtered = _filter(chain, seen)
    A, Q = filtered.chain.transition, filtered.chain.noise
    E = np.zeros_like(A)
    mean, cov = filtered.mean.copy(), filtered.cov.copy()  # the last step is smoothed already
    E[:-1], cov[:-1] = smoother_gain(A[1:], Q[1:], filtered.cov[:-1])
    mean[:-1] -= E[:-1] @ (A[1:] @ mean[:-1])
    mean, cov = _suffixes(E, mean, cov)
    return Smoothed(
        np.moveaxis(mean[..., 0], 0, -2),
        np.moveaxis(symmetric(cov), 0, -3),
        filtered.log_normaliser,
    )


def _filter(chain: Chain, seen: Whitened) -> _Filtered:
    A, Q = (np.ascontiguousarray(np.moveaxis(a, -3, 0)) for a in (chain.transition, chain.noise))
    M = np.ascontiguousarray(np.moveaxis(loading(seen.root, A.shape[-1]), -3, 0))
    g = np.ascontiguousarray(np.moveaxis(seen.target, -2, 0))
    mean, cov = _prefixes(_elements(A, Q, M, g[..., None]))
    predicted_mean, predicted_cov = np.zeros_like(mean), Q.copy()
    predicted_mean[1:] = A[1:] @ mean[:-1]
    predicted_cov[1:] += A[1:] @ cov[:-1] @ _t(A[1:])
    gains = log_normaliser_terms(predicted_mean, predicted_cov, M, g)
    return _Filtered(Chain(A, Q), mean, cov, gains.sum(0))


def _elements(A: Array, Q: Array, M: Array, g: Array) -> _Filtering:
    """One step as an element: B = I + M Q Mᵀ, gain K = Q Mᵀ B⁻¹."""
    MQ, MA = M @ Q, M @ A
    B = np.eye(M.shape[-2]) + MQ @ _t(M)
    solved = np.linalg.solve(B, np.concatenate([MQ, MA, g], axis=-1))
    D = A.shape[-1]
    K, MA_solved, g_solved = _t(solved[..., :D]), solved[..., D : 2 * D], solved[..., 2 * D :]
    return _Filtering(
        A=A - K @ MA,
        b=K @ g,
        C=symmetric(Q - K @ MQ),
        e=_t(MA) @ g_solved,
        J=symmetric(_t(MA) @ MA_solved),
    )


def _prefixes(elements: _Filtering) -> tuple[Array, Array]:
    """b and C of every product 0…s. Element 0 has A = 0, and so has every product with it."""
    n = elements.b.shape[0]
    if n == 1:
        return elements.b, elements.C
    odd_b, odd_C = _prefixes(_combine(elements[0 : n - 1 : 2], elements[1::2]))
    b, C = np.empty_like(elements.b), np.empty_like(elements.C)
    b[1::2], C[1::2] = odd_b, odd_C
    b[0], C[0] = elements.b[0], elements.C[0]
    rest = (n - 1) // 2
    b[2::2], C[2::2] = _extend(odd_b[:rest], odd_C[:rest], elements[2::2])
    return b, C


def _combine(i: _Filtering, j: _Filtering) -> _Filtering:
    """The steps of i, then those of j. One solve with I + C_i J_j serves all five parts."""
    D = i.A.shape[-1]
    M = np.eye(D) + i.C @ j.J
    solved = np.linalg.solve(M, np.concatenate([i.A, i.C, i.b + i.C @ j.e], axis=-1))
    through = solved[..., :D]
    return _Filtering(
        A=j.A @ through,
        b=j.A @ solved[..., 2 * D :] + j.b,
        C=symmetric(j.A @ solved[..., D : 2 * D] @ _t(j.A) + j.C),
        e=_t(through) @ (j.e - j.J @ i.b) + i.e,
        J=symmetric(_t(through) @ j.J @ i.A + i.J),
    )


def _extend(b: Array, C: Array, j: _Filtering) -> tuple[Array, Array]:
    """`_combine` for products that start at element 0: only b and C are left."""
    M = np.eye(C.shape[-1]) + C @ j.J
    solved = np.linalg.solve(M, np.concatenate([C, b + C @ j.e], axis=-1))
    return j.A @ solved[..., -1:] + j.b, symmetric(j.A @ solved[..., :-1] @ _t(j.A) + j.C)


def _suffixes(E: Array, g: Array, L: Array) -> tuple[Array, Array]:
    """g and L of every product s…n-1, E_i E_j, E_i g_j + g_i, E_i L_j E_iᵀ + L_i; E_{n-1} = 0."""
    n = E.shape[0]
    if n == 1:
        return g, L
    first = n % 2  # pairs end at the last step
    i, j = slice(first, None, 2), slice(first + 1, None, 2)
    pair_g, pair_L = _suffixes(E[i] @ E[j], E[i] @ g[j] + g[i], E[i] @ L[j] @ _t(E[i]) + L[i])
    mean, cov = np.empty_like(g), np.empty_like(L)
    mean[i], cov[i] = pair_g, pair_L
    mean[-1], cov[-1] = g[-1], L[-1]
    inner = slice(1 - first, n - 1, 2)  # steps whose next one starts a pair
    after = slice(0 if first else 1, None)
    mean[inner] = E[inner] @ pair_g[after] + g[inner]
    cov[inner] = E[inner] @ pair_L[after] @ _t(E[inner]) + L[inner]
    return mean, cov


def _t(matrices: NDArray[Any]) -> Array:
    return np.swapaxes(matrices, -1, -2)
