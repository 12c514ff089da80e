"""Typical norms of every head of a layer, for tokens that are uniform on the sphere.

Real tokens are not: read them beside bounds and measured values, never instead of them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from analyzer.analyses.limits_arrays import LayerArrays, Lora
from analyzer.analyses.limits_sides import Side, normed_sides
from analyzer.analyses.limits_verdicts import Length, head_fields, ratio_fields
from analyzer.analyses.rows_limits import HeadLimits
from analyzer.checkpoints.attention.types import AttentionLayer
from theory.lora_limits.normed_rows import NormedRows, NormLayer
from theory.lora_limits.spherical import spherical_median


def spherical_limits(
    layer: AttentionLayer, arrays: LayerArrays, length: Length, lora: Lora | None = None
) -> list[HeadLimits]:
    """Medians of the largest entry among L random tokens; [] where the model has no such norm."""
    norm, key_norm = arrays.tuned_norms.queries, arrays.tuned_norms.keys
    if norm is None or key_norm is None or layer.query_norm is not None:
        return []
    q, k = normed_sides(arrays)
    keys = [_medians(k, head, layer.head_width, length.L, key_norm) for head in _kv_heads(layer)]
    without = [
        text
        for text, there in (
            ("biases left out", any(side.tuned.a.any() for side in (q, k))),
            ("before the rotary embedding", layer.rotary is not None),
        )
        if there
    ]
    rows = []
    for head in range(layer.n_heads):
        queries = _medians(q, head, layer.head_width, length.L, norm)
        of_keys = keys[layer.key_head(head)]
        norms: dict[str, float | None] = {
            "gamma_q_base": queries[0], "gamma_q": queries[1], "gamma_dq": queries[2],
            "gamma_k_base": of_keys[0], "gamma_k": of_keys[1], "gamma_dk": of_keys[2],
            "c2": of_keys[0],
            "gamma_partial": max(queries[1], of_keys[0]),
            "gamma_hard": max(of_keys[0], queries[2]),
            "gamma_as": _on_scale(layer, max(queries[1], of_keys[1]) ** 2),
            "gamma_bal": _on_scale(layer, queries[1] * of_keys[1]),
        }  # fmt: skip
        fields: dict[str, Any] = (
            head_fields(layer, head, length, arrays.touches_qk, lora)
            | norms
            | ratio_fields(norms, length, bounds=True)
            | {"verdict": None, "warnings": "; ".join(without) or None}
        )
        method = "median over independent tokens, uniform on the sphere"
        rows.append(HeadLimits(source="spherical", method=method, precision="float64", **fields))
    return rows


def _medians(
    side: Side, head: int, width: int, length: int, norm: NormLayer
) -> tuple[float, float, float]:
    """Typical largest entry of base, tuned and change."""
    d = np.asarray(norm.gain).size

    def median(rows: NormedRows | None) -> float:
        if rows is None:
            return 0.0
        norms = np.linalg.norm(rows.A[slice(head * width, (head + 1) * width)], axis=1)
        return spherical_median(norms, d, length, norm.kind)

    base = median(side.base)
    tuned = base if side.tuned is side.base else median(side.tuned)
    return base, tuned, median(side.change)


def _kv_heads(layer: AttentionLayer) -> range:
    return range(layer.n_kv_heads)


def _on_scale(layer: AttentionLayer, product: float) -> float:
    return math.sqrt(layer.beta * layer.head_width * product)
