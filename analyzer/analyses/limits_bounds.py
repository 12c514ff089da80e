"""Upper bounds on the norms of every head of a layer, from its weights alone.

Hu et al., arXiv 2406.03136; J. Alman & Z. Song, arXiv 2302.13214. The bounds hold for every input
of the norm layer in front, hence for every text.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from analyzer.analyses.limits_arrays import Array, HeadGain, LayerArrays, Lora, Norms
from analyzer.analyses.limits_sides import Side, normed_sides
from analyzer.analyses.limits_verdicts import Length, cost_fields, head_fields, ratio_fields
from analyzer.analyses.rows_limits import HeadLimits
from analyzer.checkpoints.attention.types import AttentionLayer, Rotary
from theory.lora_limits.chain import ChannelNorms, channel_norms
from theory.lora_limits.data_free import (
    entry_bounds,
    logit_bound,
    logit_bound_rope,
    token_bound,
)
from theory.lora_limits.normed_rows import NormedRows, NormLayer, normed_rows
from theory.lora_limits.rotary import rotary_pairs


def data_free_limits(
    layer: AttentionLayer, arrays: LayerArrays, length: Length, lora: Lora | None = None
) -> list[HeadLimits]:
    """Upper bounds, one row a head; [] without a norm in front whose output is bounded."""
    if not _bounded(layer, arrays):
        return []
    sides = None if arrays.tuned_norms.queries is None else normed_sides(arrays)
    rows = []
    for head in range(layer.n_heads):
        norms = _head_bounds(layer, arrays, sides, head)
        squares = norms["gamma_logit"] ** 2
        fields: dict[str, Any] = (
            head_fields(layer, head, length, arrays.touches_qk, lora)
            | norms
            | ratio_fields(norms, length, bounds=True)
            | cost_fields(layer.head_width, length.L, squares, relative=layer.causal)
        )
        method = "row norms behind the norm layer" if sides else "gains of the query norm"
        rows.append(HeadLimits(source="data_free", method=method, precision="float64", **fields))
    return rows


def _bounded(layer: AttentionLayer, arrays: LayerArrays) -> bool:
    """Whether queries and keys are bounded for every input of the layer."""
    norms = arrays.tuned_norms
    in_front = norms.queries is not None and norms.keys is not None
    return in_front or (norms.q is not None and norms.k is not None)


def _head_bounds(
    layer: AttentionLayer, arrays: LayerArrays, sides: tuple[Side, Side] | None, head: int
) -> dict[str, Any]:
    width, kv_head = layer.head_width, layer.key_head(head)
    of_q, of_k = _rows(head, width), _rows(kv_head, width)
    norms: dict[str, Any] = {}
    if arrays.tuned_norms.queries is not None:
        norms["gamma_x"] = _largest_input(arrays.tuned_norms.queries)
    if sides is not None and arrays.tuned_norms.q is None:
        norms |= _entries(arrays, sides, of_q, of_k)
        tops_q, radius_q = _rotated(sides[0].tuned.rows(of_q), layer.rotary)
        tops_k, radius_k = _rotated(sides[1].tuned.rows(of_k), layer.rotary)
        q, k = sides[0].tuned.rows(of_q), sides[1].tuned.rows(of_k)
        bound = (
            logit_bound(q, k, layer.beta)
            if layer.rotary is None
            else logit_bound_rope(radius_q, radius_k, layer.beta)
        )
    else:
        own = arrays.tuned_norms
        assert own.q is not None and own.k is not None
        norms |= _gain_entries(arrays.norms, own, head, kv_head, width)
        norms |= _value_entries(arrays, of_k)
        tops_q, radius_q = _of_gain(own.q, head, width, layer.rotary)
        tops_k, radius_k = _of_gain(own.k, kv_head, width, layer.rotary)
        bound = layer.beta * _gain_product(own.q, own.k, head, kv_head, width, layer.rotary)
        bound = min(bound, logit_bound_rope(radius_q, radius_k, layer.beta))
    channels = channel_norms(tops_q, tops_k, layer.beta)
    return norms | _chain(channels, bound, layer.softcap)


def _entries(
    arrays: LayerArrays, sides: tuple[Side, Side], of_q: slice, of_k: slice
) -> dict[str, Any]:
    """The literal norms, before RoPE."""
    q, k = sides
    bounds: dict[str, Any] = {
        "gamma_q_base": _top(q.base, of_q), "gamma_q": _top(q.tuned, of_q),
        "gamma_dq": _top(q.change, of_q),
        "gamma_k_base": _top(k.base, of_k), "gamma_k": _top(k.tuned, of_k),
        "gamma_dk": _top(k.change, of_k),
    }  # fmt: skip
    bounds["c2"] = bounds["gamma_k_base"]
    bounds |= _value_entries(arrays, of_k)
    bounds["gamma_qkt"] = _product_entries(q.tuned.rows(of_q), arrays.key.tuned_weight[of_k])
    bounds["gamma_partial"] = max(bounds["gamma_q"], bounds["gamma_k_base"])
    bounds["gamma_hard"] = max(bounds["gamma_k_base"], bounds["gamma_dq"])
    key_input = _largest_input(arrays.tuned_norms.keys) if arrays.tuned_norms.keys else 0.0
    bounds["gamma_full"] = max(bounds["gamma_q"], bounds["gamma_k"], bounds["gamma_qkt"], key_input)
    return bounds


def _value_entries(arrays: LayerArrays, of_k: slice) -> dict[str, float]:
    """Values, base and tuned; {} without them or without a norm in front."""
    value, norm = arrays.value, arrays.tuned_norms.keys
    if value is None or norm is None:
        return {}
    base = normed_rows(value.weight[of_k], arrays.norms.keys or norm, _part(value.bias, of_k))
    tuned = normed_rows(value.tuned_weight[of_k], norm, _part(value.tuned_bias, of_k))
    return {"gamma_v": float(entry_bounds(tuned).max()), "c3": float(entry_bounds(base).max())}


def _chain(channels: ChannelNorms, bound: float, softcap: float | None) -> dict[str, Any]:
    logit = min(math.sqrt(bound), channels.gamma_chansum)
    capped = None if softcap is None else math.sqrt(softcap * math.tanh(logit**2 / softcap))
    return {
        "gamma_as": channels.gamma_as,
        "gamma_bal": channels.gamma_bal,
        "gamma_chan": channels.gamma_chan,
        "gamma_chansum": channels.gamma_chansum,
        "gamma_logit": logit,
        "gamma_logit_capped": capped,
    }


def _rotated(rows: NormedRows, rotary: Rotary | None) -> tuple[Array, float]:
    """Bounds on the channels after RoPE (d_h,), and on the norm of a token."""
    if rotary is None:
        return entry_bounds(rows), token_bound(rows)
    pairs = rotary_pairs(rotary.width, rotary.layout)
    tops = entry_bounds(rows, pairs)
    tops[: rotary.width] *= rotary.factor
    return tops, max(1.0, rotary.factor) * token_bound(rows)


def _of_gain(gain: HeadGain, head: int, width: int, rotary: Rotary | None) -> tuple[Array, float]:
    """The same of queries or keys behind a norm of their own."""
    g, b = gain.of_head(head, width)
    radius = math.sqrt(gain.gain.size)
    tops = radius * np.abs(g)
    offsets = np.abs(b)
    token = radius * float(np.abs(g).max()) + float(np.linalg.norm(b))
    if rotary is None:
        return tops + offsets, token
    both = rotary_pairs(rotary.width, rotary.layout)
    tops[both] = tops[both].max(axis=1, keepdims=True)
    offsets[both] = np.linalg.norm(offsets[both], axis=1, keepdims=True)
    tops = tops + offsets
    tops[: rotary.width] *= rotary.factor
    return tops, max(1.0, rotary.factor) * token


def _gain_product(
    q: HeadGain, k: HeadGain, head: int, kv_head: int, width: int, rotary: Rotary | None
) -> float:
    """Σ_c |q_c k_c| ≤ √n_q √n_k max_c |γ_q,c γ_k,c|, each γ the larger of its pair; biases: ∞."""
    if q.bias is not None or k.bias is not None:
        return math.inf
    gq, gk = (np.abs(g.of_head(h, width)[0]) for g, h in ((q, head), (k, kv_head)))
    factor = 1.0
    if rotary is not None:
        both = rotary_pairs(rotary.width, rotary.layout)
        for g in (gq, gk):
            g[both] = g[both].max(axis=1, keepdims=True)
        factor = max(1.0, rotary.factor**2)
    return factor * math.sqrt(q.gain.size * k.gain.size) * float((gq * gk).max())


def _gain_entries(
    base: Norms, tuned: Norms, head: int, kv_head: int, width: int
) -> dict[str, float]:
    assert tuned.q is not None and tuned.k is not None
    q_base, k_base = base.q or tuned.q, base.k or tuned.k
    bounds = {
        "gamma_q_base": float(_of_gain(q_base, head, width, None)[0].max()),
        "gamma_q": float(_of_gain(tuned.q, head, width, None)[0].max()),
        "gamma_k_base": float(_of_gain(k_base, kv_head, width, None)[0].max()),
        "gamma_k": float(_of_gain(tuned.k, kv_head, width, None)[0].max()),
    }
    bounds["c2"] = bounds["gamma_k_base"]
    bounds["gamma_partial"] = max(bounds["gamma_q"], bounds["gamma_k_base"])
    return bounds


def _product_entries(q: NormedRows, key_weight: Array) -> float:
    """Bound on |(X W_Q W_Kᵀ)_j| over j, from the Gram matrix of the query rows."""
    gram = q.A @ q.A.T
    squares = np.einsum("cj,ce,ej->j", key_weight, gram, key_weight, optimize=True)
    offsets = np.abs(q.a @ key_weight)
    return float((q.radius * np.sqrt(squares.clip(0.0)) + offsets).max())


def _largest_input(norm: NormLayer) -> float:
    """max|g ∘ z + b| over z: of LayerNorm, whose z sums to 0, no entry exceeds √(d - 1)."""
    gain = np.abs(np.asarray(norm.gain, dtype=np.float64))
    bias = np.zeros(gain.size) if norm.bias is None else np.abs(np.asarray(norm.bias))
    freedom = gain.size - 1 if norm.kind == "layernorm" else gain.size
    return float((math.sqrt(freedom) * gain + bias).max())


def _top(rows: NormedRows | None, which: slice) -> float:
    return 0.0 if rows is None else float(entry_bounds(rows.rows(which)).max())


def _part(vector: Array | None, which: slice) -> Array | None:
    return None if vector is None else vector[which]


def _rows(head: int, width: int) -> slice:
    return slice(head * width, (head + 1) * width)
