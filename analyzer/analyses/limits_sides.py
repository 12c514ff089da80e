"""Queries and keys of all heads behind their norm layer: base, tuned, and the change alone."""

from __future__ import annotations

from dataclasses import dataclass

from analyzer.analyses.limits_arrays import LayerArrays, Linear
from theory.lora_limits.normed_rows import NormedRows, NormLayer, low_rank_rows, normed_rows
from theory.lora_limits.projections import LowRankUpdate


@dataclass(frozen=True, slots=True)
class Side:
    """Queries or keys of all heads behind their norm: base, tuned and the change alone."""

    base: NormedRows
    tuned: NormedRows
    change: NormedRows | None


def normed_sides(arrays: LayerArrays) -> tuple[Side, Side]:
    norms, tuned = arrays.norms, arrays.tuned_norms
    return (
        _side(arrays.query, norms.queries, tuned.queries),
        _side(arrays.key, norms.keys, tuned.keys),
    )


def _side(linear: Linear, norm: NormLayer | None, tuned: NormLayer | None) -> Side:
    assert tuned is not None
    base = normed_rows(linear.weight, norm or tuned, linear.bias)
    if linear.update is None and tuned is norm:
        return Side(base, base, None)
    merged = normed_rows(linear.tuned_weight, tuned, linear.tuned_bias)
    if linear.update is None:
        return Side(base, merged, None)
    if isinstance(linear.update, LowRankUpdate):
        return Side(base, merged, low_rank_rows(linear.update, tuned))
    return Side(base, merged, normed_rows(linear.update.weight, tuned, linear.update.bias))
