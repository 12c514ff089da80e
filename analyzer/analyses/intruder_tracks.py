"""Leading singular vectors of a tuned matrix, followed from one training step to the next.

Shuttleworth et al., arXiv 2410.21228, figure 5, follow the rank of intruders through training. A
vector's rank changes on the way, so each is linked to the vector of the step before that it
resembles most. Where the base's vectors U0 do not span the space (the long side), most of an
intruder may lie outside them. With x = U0ᵀu and b = U0ᵀB, vectors are kept as

    u_j = U0 (x_j - b_j) + B_j,   hence   ⟨u, u'⟩ = xᵀx' - bᵀb' + BᵀB',

where B = u if the tuned matrix is dense, and B_j = P c_j, c_j = Qᵀv_j/σ_j for W0 + P Qᵀ, since
u_j = W v_j/σ_j = W0 v_j/σ_j + P c_j: no product with W0 is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analyzer.analyses.intruders import SIDES, TunedVectors
from analyzer.analyses.parameters import Side
from analyzer.analyses.rows_intruders import IntruderTrackRow
from analyzer.spectral import LowRankUpdate
from analyzer.spectral.results import EPS, FloatArray

Factors = tuple[FloatArray, FloatArray]  # P (m, r), Q (n, r)


@dataclass(frozen=True, slots=True)
class StepVectors:
    """The k leading vectors u_j of one side at one step, comparable with those of other steps.

    `inside` (p, k) are x, `part` (rows, k) and `part_inside` (p, k) are B and b; the latter two
    have no rows where the base spans the whole space. `error` (k,) bounds the error of u_j.
    """

    inside: FloatArray
    part: FloatArray
    part_inside: FloatArray
    error: FloatArray


SidesVectors = Mapping[Side, StepVectors]


@dataclass(frozen=True, slots=True)
class Links:
    """For each of k vectors the one before with the largest |cosine|; arrays (k,).

    `previous_j` is 1-based; `cosine_err` bounds the error of that largest |cosine|.
    """

    previous_j: NDArray[np.int64]
    cosine: FloatArray
    cosine_err: FloatArray


def step_vectors(
    top: TunedVectors, update: LowRankUpdate | None = None, factors: Factors | None = None
) -> SidesVectors:
    """Both sides' vectors of one step from `tuned_vectors`.

    For W0 + P Qᵀ also `update` = BaseSVD.update(P, Q) and `factors` (P, Q); without them `top` is
    that of a dense matrix. Their scale and the base must be those that `top` was computed with.
    """
    return {side: _one_side(top, side, update, factors) for side in SIDES}


def _one_side(
    top: TunedVectors, side: Side, update: LowRankUpdate | None, factors: Factors | None
) -> StepVectors:
    is_left = side == "left"
    x = top.left if is_left else top.right
    p, k = x.shape
    empty = np.zeros((0, k))
    if update is None or factors is None:
        vectors = top.left_vectors if is_left else top.right_vectors
        if vectors is None or vectors.shape[0] == p:
            return StepVectors(x, empty, empty, top.error)
        return StepVectors(x, vectors, x, top.error)
    factor = factors[0] if is_left else factors[1]
    if factor.shape[0] == p:
        return StepVectors(x, empty, empty, top.error)
    own, other = (update.left, update.right) if is_left else (update.right, update.left)
    sigma = top.singular_values
    through = other.T @ (top.right if is_left else top.left)  # Qᵀv on the left
    c = np.divide(through, sigma, out=np.zeros_like(through), where=sigma > 0)
    # W v/σ differs from u by residual/σ ≤ residual/gap, which is within the error of u itself.
    return StepVectors(x, factor @ c, own[:p] @ c, 2 * top.error)


def link(now: StepVectors, before: StepVectors) -> Links:
    """The largest |⟨u_j, u_i'⟩| over the vectors i of the step before, for every j of this one.

    Absolute cosines change by at most the sine of the angle by which either vector is off. The
    vectors before are orthonormal, so none but the nearest can exceed √(1 - its cosine²).
    """
    C = np.abs(
        now.inside.T @ before.inside
        - now.part_inside.T @ before.part_inside
        + now.part.T @ before.part
    )  # (k, k')
    sizes = (1 + np.linalg.norm(one.part, axis=0) for one in (now, before))
    rounding = 8 * np.sqrt(sum(now.inside.shape)) * EPS * np.multiply.outer(*sizes)
    a, b = now.error[:, None], before.error[None, :]
    error = a + b + a * b + rounding
    low, high = np.clip(C - error, 0.0, 1.0), np.clip(C + error, 0.0, 1.0)
    best, every = C.argmax(axis=1), np.arange(C.shape[0])
    nearest = low.argmax(axis=1)
    floor = low[every, nearest]
    others = np.minimum(high, np.sqrt(1 - floor**2)[:, None])
    others[every, nearest] = high[every, nearest]
    cosine = np.minimum(C[every, best], 1.0)
    return Links(best + 1, cosine, np.maximum(others.max(axis=1) - cosine, cosine - floor))


def track_rows(
    matrix_id: int, now: SidesVectors, previous_matrix_id: int, before: SidesVectors
) -> Iterator[IntruderTrackRow]:
    """One row a side and leading vector of a step, linked to the step before."""
    for side in SIDES:
        if not now[side].error.size:
            continue
        links = link(now[side], before[side])
        for j, (previous_j, cosine, error) in enumerate(
            zip(links.previous_j, links.cosine, links.cosine_err, strict=True), start=1
        ):
            yield IntruderTrackRow(
                matrix_id=matrix_id,
                side=side,
                j=j,
                previous_matrix_id=previous_matrix_id,
                previous_j=int(previous_j),
                cosine=float(cosine),
                cosine_err=float(error),
            )
