"""Intruder dimensions: leading singular vectors of a tuned matrix that no base vector resembles.

Shuttleworth, Andreas, Torralba & Sharma, "LoRA vs Full Fine-tuning: An Illusion of Equivalence",
arXiv 2410.21228, definition 3.1 and algorithm 1: with W0 = U0 Σ0 V0ᵀ and the tuned W = U Σ Vᵀ,

    maxcos_j = max_i |⟨u_j, u0_i⟩| over ALL i ≤ min(m, n),   j ≤ k is an intruder ⇔ maxcos_j < ε.

Rows are output features, so left vectors live in output space. A low-rank update is judged in the
base's own coordinates, where cosines are entries of a small core's singular vectors; a dense
tuned matrix costs k leading triplets and one product with the base's vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analyzer.analyses.parameters import Side, check_parameters, check_side
from analyzer.errors import ShapeMismatch
from analyzer.spectral import CPU, Backend, BaseSVD, LowRankUpdate, clusters, svd_topk
from analyzer.spectral.prepare import Matrix
from analyzer.spectral.results import EPS, FloatArray

SIDES: tuple[Side, ...] = ("left", "right")
CLUSTER_TOL = 1e-6  # of σ₁: closer base values have vectors that no computation can tell apart


@dataclass(frozen=True, slots=True)
class Intruders:
    """The k leading vectors of one side of a tuned matrix, judged. Arrays are (k,), by rank.

    `argmax_base` is 1-based. `maxcos_err` bounds the error of `maxcos`; `uncertain` marks
    decisions inside it. `robust` marks intruders that stay so for every choice of vectors within
    clusters of (near-)equal singular values.
    """

    side: Side
    k: int
    epsilon: float
    singular_values: FloatArray
    maxcos: FloatArray
    maxcos_err: FloatArray
    argmax_base: NDArray[np.int64]
    outside: FloatArray
    cluster_cos: FloatArray
    is_intruder: NDArray[np.bool_]
    uncertain: NDArray[np.bool_]
    robust: NDArray[np.bool_]
    method: str
    certified: bool

    @property
    def n_intruders(self) -> int:
        return int(self.is_intruder.sum())

    @property
    def n_uncertain(self) -> int:
        return int(self.uncertain.sum())

    @property
    def n_robust(self) -> int:
        return int(self.robust.sum())

    @property
    def energy_share(self) -> float | None:
        """Σ σ² of the intruders over Σ σ² of all k; None for a zero matrix."""
        if not self.k or self.singular_values[0] == 0.0:
            return None
        energy = (self.singular_values / self.singular_values[0]) ** 2
        return float(energy[self.is_intruder].sum() / energy.sum())

    @property
    def top_intruder_rank(self) -> int | None:
        """1-based rank of the strongest intruder."""
        return int(np.argmax(self.is_intruder)) + 1 if self.n_intruders else None


@dataclass(frozen=True, slots=True)
class TunedVectors:
    """Leading triplets of a tuned matrix in coordinates of the base's singular vectors.

    `left`, `right`: cosines (p, k); `left_outside`, `right_outside`: squared norms (k,) outside
    the base's span; `error` bounds every cosine of column j, base vectors taken as exact.
    `left_vectors` (m, k) and `right_vectors` (n, k) are the vectors themselves, None for a
    low-rank update, of which only coordinates are computed.
    """

    singular_values: FloatArray
    left: FloatArray
    right: FloatArray
    left_outside: FloatArray
    right_outside: FloatArray
    error: FloatArray
    method: str
    certified: bool
    left_vectors: FloatArray | None = None
    right_vectors: FloatArray | None = None


def intruder_dimensions(
    base: BaseSVD | Matrix,
    tuned: LowRankUpdate | Matrix,
    *,
    k: int = 10,
    epsilon: float = 0.5,
    side: Side = "left",
    backend: Backend = CPU,
) -> Intruders:
    """Judge the k leading singular vectors of a tuned matrix (m, n) against its base (m, n).

    `tuned` is the tuned matrix, or `BaseSVD.update(P, Q)` for W0 + P Qᵀ with P (m, r), Q (n, r).
    k > min(m, n) is cut. Raises UsageError for k < 1, ε outside (0, 1] or
    an unknown side, ShapeMismatch, NonFinite.
    """
    check_parameters(k, epsilon)
    check_side(side)
    svd = base if isinstance(base, BaseSVD) else BaseSVD.compute(base, backend)
    return judge(svd, tuned_vectors(svd, tuned, k, backend=backend), epsilon, side)


def tuned_vectors(
    base: BaseSVD,
    tuned: LowRankUpdate | Matrix,
    k: int,
    *,
    tol: float = 1e-10,
    backend: Backend = CPU,
) -> TunedVectors:
    """The k leading triplets of the tuned matrix, both sides. Raises ShapeMismatch, NonFinite."""
    if isinstance(tuned, LowRankUpdate):
        top = tuned.topk(k, tol=tol)
        p = base.s.size
        return TunedVectors(
            top.S, top.X[:p], top.Y[:p],
            np.sum(top.X[p:] ** 2, axis=0), np.sum(top.Y[p:] ** 2, axis=0),
            top.cos_error, top.method, top.certified,
        )  # fmt: skip
    if tuple(tuned.shape) != base.shape:
        raise ShapeMismatch(f"tuned {tuple(tuned.shape)} against base {base.shape}")
    found = svd_topk(tuned, k, tol=tol, backend=backend)
    left, right = base.left_coordinates(found.U), base.right_coordinates(found.Vh.T)
    return TunedVectors(
        found.S, left, right,
        np.maximum(1.0 - np.sum(left**2, axis=0), 0.0),
        np.maximum(1.0 - np.sum(right**2, axis=0), 0.0),
        found.angle_error, found.method, found.certified, found.U, found.Vh.T,
    )  # fmt: skip


def judge(base: BaseSVD, tuned: TunedVectors, epsilon: float, side: Side) -> Intruders:
    """Decide every leading vector of one side, with the error of its largest cosine."""
    cosines = np.abs(tuned.left if side == "left" else tuned.right)  # (p, k)
    outside = tuned.left_outside if side == "left" else tuned.right_outside
    k = tuned.singular_values.size
    s0 = float(base.s[0]) if base.s.size else 0.0
    argmax = cosines.argmax(axis=0) if k else np.zeros(0, dtype=np.int64)
    maxcos = np.minimum(cosines.max(axis=0, initial=0.0), 1.0)
    cluster = clusters(base.s, CLUSTER_TOL * s0)
    projection = _cluster_norms(cosines, cluster)  # (number of clusters, k)
    lower, upper = _maxcos_range(base, projection, cluster, tuned.error)
    # In a cluster of tuned values only the span of the vectors is determined.
    worst = _worst_rotation(projection, clusters(tuned.singular_values, CLUSTER_TOL * s0))
    settled = np.minimum(worst + np.where(tuned.error < 1.0, tuned.error, 0.0), 1.0) < epsilon
    # σ at rounding level of σ₁ has no vector of its own.
    floor = max(base.shape) * EPS * float(tuned.singular_values.max(initial=0.0))
    defined = tuned.singular_values > floor
    return Intruders(
        side=side,
        k=k,
        epsilon=epsilon,
        singular_values=tuned.singular_values,
        maxcos=maxcos,
        maxcos_err=np.maximum(upper - maxcos, maxcos - lower),
        argmax_base=argmax + 1,
        outside=outside,
        cluster_cos=np.minimum(projection.max(axis=0, initial=0.0), 1.0),
        is_intruder=defined & (maxcos < epsilon),
        uncertain=defined & (lower < epsilon) & (upper >= epsilon) & ~settled,
        robust=defined & settled,
        method=tuned.method,
        certified=tuned.certified,
    )


def _maxcos_range(
    base: BaseSVD,
    projection: FloatArray,
    cluster: NDArray[np.int64],
    error: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Bounds (k,) of the largest cosine over every choice of base vectors that the data allow.

    A base vector alone in its cluster is known up to its angle error; in a cluster of c any
    rotation is as good, so that the largest cosine there lies between 1/√c and 1 times the
    projection on the cluster.
    """
    if not cluster.size:
        return np.zeros(error.size), np.zeros(error.size)
    sizes = np.bincount(cluster)
    single = sizes == 1
    first = np.flatnonzero(np.diff(cluster, prepend=-1))
    angle = np.where(single, _vector_error(base)[first], 0.0)[:, None]
    high = projection + angle
    low = np.where(single[:, None], projection - angle, projection / np.sqrt(sizes)[:, None])
    return (
        np.clip(low.max(axis=0) - error, 0.0, 1.0),
        np.clip(high.max(axis=0) + error, 0.0, 1.0),
    )


def _vector_error(base: BaseSVD) -> FloatArray:
    """Angle by which each computed base vector may be off: ε_G/min|λ_i - λ_j|, at most 1, (p,)."""
    if not base.s.size or base.s[0] == 0.0:
        return np.ones(base.s.size)
    eigenvalues = (base.s / base.s[0]) ** 2
    gap = np.abs(np.diff(eigenvalues))
    nearest = np.minimum(np.append(gap, np.inf), np.append(np.inf, gap))
    with np.errstate(divide="ignore"):
        return np.minimum(8.0 * np.sqrt(base.s.size) * EPS / nearest, 1.0)


def _cluster_norms(cosines: FloatArray, cluster: NDArray[np.int64]) -> FloatArray:
    """‖U0_Cᵀ u_j‖ of every cluster C of base vectors: (p, k) → (number of clusters, k)."""
    if not cluster.size:
        return cosines
    starts = np.flatnonzero(np.diff(cluster, prepend=-1))
    return np.sqrt(np.add.reduceat(cosines**2, starts, axis=0))


def _worst_rotation(projection: FloatArray, cluster: NDArray[np.int64]) -> FloatArray:
    """The largest projection on one base cluster that any rotation within a tuned cluster reaches.

    Bounded by max_C √(Σ_{j∈T} ‖U0_Cᵀ u_j‖²); below ε every vector of the tuned cluster T is an
    intruder however it is rotated.
    """
    worst = np.zeros(cluster.size)
    for number in np.unique(cluster):
        members = cluster == number
        worst[members] = np.sqrt(np.sum(projection[:, members] ** 2, axis=1)).max(initial=0.0)
    return np.minimum(worst, 1.0)
