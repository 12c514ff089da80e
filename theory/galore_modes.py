"""How a gradient under GaLore's linear dynamics splits into the eigenspaces of its operator.

G_t = (1/N) Σ (A_i - B_i W_t C_i) with constant factors and W_{t+1} = W_t + η G_t obeys
G_{t+1} = G_t - η S(G_t), with the operator S(X) = (1/N) Σ B_i X C_i. So

    G_t = Σ_j (1 - ηλ_j)^(t-t0) G^(j),

where G^(j) is the component of G_{t0} in the eigenspace of the distinct eigenvalue λ_j of S.
J. Zhao et al., arXiv 2403.03507, Lemma 3.3. Here G = -∇L, which changes no spectrum.

Only eigenvalues with a nonzero component matter ("active"). Batches with fewer tokens than columns
give S a large null space that holds nothing of G_{t0}.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh_tridiagonal

from theory.galore_projection import as_matrix

Array = NDArray[np.float64]

DENSE_LIMIT = 2000  # elements of G up to which S is decomposed in full
DISTINCT = 1e-9  # of the largest eigenvalue: closer neighbours count as one
ACTIVE = 1e-10  # of ‖G‖_F: a smaller component is rounding
RITZ_TOLERANCE = 1e-10  # of the largest eigenvalue: residual of a converged pair
_CHECK_EVERY = 10  # Lanczos steps between two looks at the residuals


@dataclass(frozen=True, slots=True)
class GradientModes:
    """The k distinct active eigenvalues of S, ascending, and the components of G_{t0}."""

    eigenvalues: Array  # (k,)
    components: Array  # (k, m, n), sums to G_{t0}
    smallest: float  # smallest eigenvalue of S, active or not
    smallest_share: float  # ‖component of G_{t0} in that eigenspace‖_F/‖G_{t0}‖_F
    gap: float  # ‖(I - Π)(y z')‖_F: y z' leading pair of components[0], Π onto its eigenspace
    method: Literal["dense", "lanczos"]
    residual: float  # of the pairs that bounds use, over the largest eigenvalue; 0 for "dense"

    @property
    def converged(self) -> bool:
        return self.residual <= RITZ_TOLERANCE


def apply_operator(X: Array, left: Array, right: Array) -> Array:
    """S(X) = (1/N) Σ B_i X C_i, (m, n): B (N, m, m), C (N, n, n). O(N mn(m + n))."""
    return np.mean(left @ X @ right, axis=0)


def operator_matrix(left: Array, right: Array) -> Array:
    """S (mn, mn) on row-major vec: (1/N) Σ B_i ⊗ C_i for symmetric C_i."""
    count, m, n = left.shape[0], left.shape[1], right.shape[1]
    S = left.reshape(count, -1).T @ right.reshape(count, -1) / count
    return S.reshape(m, m, n, n).transpose(0, 2, 1, 3).reshape(m * n, m * n)


def gradient_modes(
    gradient: ArrayLike, left: ArrayLike, right: ArrayLike, max_steps: int = 400
) -> GradientModes:
    """Modes of G_{t0} (m, n) under B (N, m, m) and C (N, n, n): dense if mn ≤ 2000, else Lanczos.

    Raises ValueError for shapes that do not fit, factors that are not symmetric, NaN, Inf, or a
    zero gradient, which has no modes.
    """
    G, B, C = checked(gradient, left, right)
    if G.size <= DENSE_LIMIT:
        return dense_modes(G, B, C)
    return lanczos_modes(G, B, C, max_steps)


def dense_modes(G: Array, B: Array, C: Array) -> GradientModes:
    """Modes from the whole eigen-decomposition of S, O((mn)³)."""
    values, vectors = np.linalg.eigh(operator_matrix(B, C))
    coefficients = vectors.T @ G.ravel()
    groups = _groups(values, max(abs(values[0]), abs(values[-1])))
    size = float(np.linalg.norm(G))
    shares = np.array([np.linalg.norm(coefficients[s]) / size for s in groups])
    active = [s for s, share in zip(groups, shares, strict=True) if share > ACTIVE]
    components = np.stack([(vectors[:, s] @ coefficients[s]).reshape(G.shape) for s in active])
    U, _, Vt = np.linalg.svd(components[0])
    pair = np.outer(U[:, 0], Vt[0]).ravel()
    basis = vectors[:, active[0]]
    gap = float(np.linalg.norm(pair - basis @ (basis.T @ pair)))
    return GradientModes(
        eigenvalues=np.array([float(np.mean(values[s])) for s in active]),
        components=components,
        smallest=float(np.mean(values[groups[0]])),
        smallest_share=float(shares[0]),
        gap=gap,
        method="dense",
        residual=0.0,
    )


def lanczos_modes(G: Array, B: Array, C: Array, max_steps: int = 400) -> GradientModes:
    """Modes from Lanczos started at G_{t0}; holds up to 2·max_steps matrices of the size of G.

    The Krylov space of G_{t0} contains one vector of every active eigenspace, the component of
    G_{t0}, and nothing else. A solver for the lowest eigenvalues of S, restarted, gets lost in its
    null space instead; hence the full reorthogonalisation. Modes between the outermost ones may be
    Ritz approximations; their sum still gives G_t exactly for t - t0 below the number of steps.

    The eigenspace itself is not known here: `gap` is the upper bound √(1 - 1/sr(G^(1))), from the
    projection on G^(1) alone, equal to the gap where the eigenspace is one-dimensional.
    """
    values, vectors, residuals = _ritz_pairs(G, B, C, max_steps)
    low = values[:2]
    outer = np.concatenate([residuals[:2], residuals[-1:]])
    largest = max(abs(low[0]), abs(values[-1]))
    U = np.linalg.svd(vectors[0], compute_uv=False)
    gap = float(np.sqrt(max(0.0, 1.0 - float(U[0] ** 2 / np.sum(U**2)))))
    start = np.random.default_rng(0).standard_normal(G.shape)
    smallest = min(float(_ritz_pairs(start, B, C, max_steps)[0][0]), float(low[0]))
    seen = float(low[0]) - smallest <= DISTINCT * largest
    share = float(np.linalg.norm(vectors[0]) / np.linalg.norm(G)) if seen else 0.0
    return GradientModes(
        eigenvalues=values,
        components=vectors,
        smallest=smallest,
        smallest_share=share,
        gap=gap,
        method="lanczos",
        residual=float(outer.max() / largest) if largest > 0.0 else 0.0,
    )


def _ritz_pairs(start: Array, B: Array, C: Array, max_steps: int) -> tuple[Array, Array, Array]:
    """Active Ritz values (k,), components of `start` (k, m, n), residuals (k,).

    Stops when the two lowest and the largest have converged, or when the Krylov space is complete.
    """
    size = float(np.linalg.norm(start))
    steps = min(max_steps, start.size)
    Q = np.empty((steps, start.size))
    q = start.ravel() / size
    diagonal, off = np.zeros(steps), np.zeros(steps)
    values, Y, residuals = np.empty(0), np.empty((0, 0)), np.empty(0)
    active, used = np.empty(0, dtype=bool), 0
    for j in range(steps):
        Q[j], used = q, j + 1
        u = apply_operator(q.reshape(start.shape), B, C).ravel()
        diagonal[j] = q @ u
        for _ in range(2):  # twice is enough for orthogonality to rounding
            u = u - Q[:used].T @ (Q[:used] @ u)
        off[j] = np.linalg.norm(u)
        complete = off[j] <= 1e-13 * np.max(np.abs(diagonal[:used]) + off[:used])
        if complete or used % _CHECK_EVERY == 0 or used == steps:
            values, Y = eigh_tridiagonal(diagonal[:used], off[:j])
            active = np.abs(Y[0]) > ACTIVE
            residuals = off[j] * np.abs(Y[-1])
            outer = np.concatenate([residuals[active][:2], residuals[active][-1:]])
            if complete or np.all(outer <= RITZ_TOLERANCE * np.max(np.abs(values))):
                break
        q = u / off[j]
    values, Y, residuals = values[active], Y[:, active], residuals[active]
    parts = [
        (values[s].mean(), (Y[:, s] @ Y[0, s]) * size, residuals[s].max())
        for s in _groups(values, float(np.max(np.abs(values))))
    ]
    weights = np.stack([part[1] for part in parts])
    components = (weights @ Q[:used]).reshape(-1, *start.shape)
    return np.array([p[0] for p in parts]), components, np.array([p[2] for p in parts])


def _groups(ascending: Array, largest: float) -> list[slice]:
    """Runs of eigenvalues that count as one."""
    cuts = np.flatnonzero(np.diff(ascending) > DISTINCT * largest) + 1
    edges = [0, *cuts.tolist(), ascending.size]
    return [slice(a, b) for a, b in pairwise(edges)]


def checked(gradient: ArrayLike, left: ArrayLike, right: ArrayLike) -> tuple[Array, Array, Array]:
    """G, B, C as float64. Raises as `gradient_modes`."""
    G = as_matrix(gradient)
    B, C = symmetric_stack(left, "B"), symmetric_stack(right, "C")
    if B.shape[0] != C.shape[0]:
        raise ValueError(f"as many B as C are needed, got {B.shape[0]} and {C.shape[0]}")
    if G.shape != (B.shape[1], C.shape[1]):
        raise ValueError(f"gradient {G.shape} does not fit B {B.shape[1:]} and C {C.shape[1:]}")
    if not G.any():
        raise ValueError("the gradient is zero: it stays zero and has no stable rank")
    return G, B, C


def symmetric_stack(factors: ArrayLike, name: str) -> Array:
    """(N, d, d) symmetric matrices as float64; ValueError otherwise."""
    X = np.asarray(factors, dtype=np.float64)
    if X.ndim != 3 or X.shape[1] != X.shape[2] or X.size == 0:
        raise ValueError(f"{name} must have shape (N, d, d), got {X.shape}")
    if not np.isfinite(X).all():
        raise ValueError(f"{name} has elements that are not finite")
    skew = float(np.max(np.abs(X - X.swapaxes(1, 2))))
    limit = 1e-8 * float(np.max(np.abs(X)))
    if skew > limit:
        raise ValueError(f"{name} must be symmetric: asymmetry {skew:.3g} exceeds {limit:.3g}")
    return 0.5 * (X + X.swapaxes(1, 2))
