"""The intruder analysis of one tuned matrix: both sides, thresholds and rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from analyzer.analyses.critical import Critical, DenseUpdate, critical_multipliers
from analyzer.analyses.intruders import SIDES, Intruders, TunedVectors, judge, tuned_vectors
from analyzer.analyses.parameters import Side
from analyzer.analyses.rows_intruders import IntruderCosineRow, IntruderRow, IntruderVectorRow
from analyzer.spectral import CPU, Backend, BaseSVD, LowRankUpdate
from analyzer.spectral.results import FloatArray
from analyzer.store.columns import Row
from theory.intruder_law import intruder_threshold
from theory.spectral_summaries import summarise


def thresholds(base: BaseSVD, k: int, epsilon: float) -> dict[Side, float | None]:
    """θ* of both sides: strength at which a generic update is expected to show an intruder."""
    return {
        side: intruder_threshold(base.s, *base.shape, k=k, epsilon=epsilon, side=side)
        for side in SIDES
    }


def leading_vectors(
    base: BaseSVD,
    update: LowRankUpdate | DenseUpdate,
    delta_singular_values: FloatArray,
    k: int,
    *,
    backend: Backend = CPU,
) -> TunedVectors:
    """The k leading triplets of the tuned matrix in the base's coordinates.

    Those of the base itself if ΔW, of `delta_singular_values` (l,), is zero: in its own
    coordinates, where rounding cannot invent a difference. Raises ShapeMismatch, NonFinite.
    """
    if not delta_singular_values.any():
        update = base.update(np.zeros((base.shape[0], 1)), np.zeros((base.shape[1], 1)))
    asked = update if isinstance(update, LowRankUpdate) else update.tuned
    return tuned_vectors(base, asked, k, backend=backend)


def intruder_rows(
    matrix_id: int,
    base: BaseSVD,
    update: LowRankUpdate | DenseUpdate,
    top: TunedVectors,
    delta_singular_values: FloatArray,
    theta_star: Mapping[Side, float | None],
    *,
    k: int,
    epsilon: float,
    backend: Backend = CPU,
) -> Iterator[Row]:
    """Rows of one tuned matrix: leading vectors of both sides against the base's, thresholds.

    `top` as from `leading_vectors`; `delta_singular_values` (l,) are those of ΔW; `theta_star` as
    from `thresholds`. Raises ShapeMismatch, NonFinite.
    """
    largest = float(delta_singular_values.max(initial=0.0))
    # Without a predicted threshold an update as strong as the base is the scale to search around.
    scales: dict[Side, float] = (
        {side: (t or float(base.s[0])) / largest for side, t in theta_star.items()}
        if largest and base.s[0]
        else {}
    )
    critical = critical_multipliers(base, update, scales, k=k, epsilon=epsilon, backend=backend)
    for side in SIDES:
        found = judge(base, top, epsilon, side)
        yield from _rows(
            matrix_id, found, delta_singular_values, float(np.linalg.norm(base.s)),
            theta_star[side], critical.get(side),
        )  # fmt: skip
        yield from _cosine_rows(matrix_id, top, side)


def _rows(
    matrix_id: int,
    found: Intruders,
    delta_singular_values: FloatArray,
    base_fro: float,
    theta_star: float | None,
    critical: Critical | None,
) -> Iterator[Row]:
    fro = float(np.linalg.norm(delta_singular_values))
    largest = float(delta_singular_values.max(initial=0.0))
    summary = summarise(delta_singular_values)
    yield IntruderRow(
        matrix_id=matrix_id,
        side=found.side,
        k=found.k,
        epsilon=found.epsilon,
        n_intruders=found.n_intruders,
        n_uncertain=found.n_uncertain,
        n_robust=found.n_robust,
        energy_share=found.energy_share,
        top_intruder_rank=found.top_intruder_rank,
        delta_fro=fro,
        delta_fro_ratio=fro / base_fro if base_fro else None,
        delta_spectral_norm=largest,
        # An update of nothing has no direction: its effective rank is 0.
        delta_effective_rank=summary.effective_rank if largest else 0.0,
        delta_stable_rank=summary.stable_rank,
        theta_star=theta_star,
        n_predicted=None
        if theta_star is None
        else int(np.count_nonzero(delta_singular_values >= theta_star)),
        critical_multiplier=critical.multiplier if critical else None,
        critical_limit=critical.limit if critical else None,
        method=found.method,
        certified=found.certified,
        status="ok" if largest else "zero_delta",
    )
    for j in range(found.k):
        yield IntruderVectorRow(
            matrix_id=matrix_id,
            side=found.side,
            j=j + 1,
            sigma=float(found.singular_values[j]),
            maxcos=float(found.maxcos[j]),
            maxcos_err=float(found.maxcos_err[j]),
            argmax_base=int(found.argmax_base[j]),
            outside=float(found.outside[j]),
            cluster_cos=float(found.cluster_cos[j]),
            is_intruder=bool(found.is_intruder[j]),
        )


def _cosine_rows(matrix_id: int, top: TunedVectors, side: Side) -> Iterator[IntruderCosineRow]:
    """The k leading base vectors against the k leading tuned ones."""
    coordinates = top.left if side == "left" else top.right  # (p, k)
    k = coordinates.shape[1]
    cosines = np.minimum(np.abs(coordinates[:k]), 1.0)
    for i in range(k):
        for j in range(k):
            yield IntruderCosineRow(matrix_id, side, i + 1, j + 1, float(cosines[i, j]))
