"""Norms of every head of a layer on the hidden states of a text.

Hu et al., arXiv 2406.03136; J. Alman & Z. Song, arXiv 2302.13214. Over several samples every norm
is the largest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from analyzer.analyses.limits_arrays import Array, LayerArrays, Lora
from analyzer.analyses.limits_samples import HeadSample, at_positions, head_columns
from analyzer.analyses.limits_sweeps import alpha_fields, perturbation_fields, prefix_rows
from analyzer.analyses.limits_tokens import BaseTokens, HeadTokens, head_tokens
from analyzer.analyses.limits_verdicts import Length, cost_fields, head_fields, ratio_fields
from analyzer.analyses.rows_limits import HeadLimits, HeadSweep
from analyzer.checkpoints.attention.types import AttentionLayer
from theory.lora_limits.alibi import alibi, alibi_slopes
from theory.lora_limits.chain import entry_norms, logit_norms, softcapped
from theory.lora_limits.logits import AdditiveBias, RowLogits, row_logits
from theory.lora_limits.norms import LiteralNorms, literal_norms, token_quantiles
from theory.lora_limits.projections import Projected
from theory.lora_limits.relative_bias import relative_bias
from theory.lora_limits.sweep import gaussian_crossover
from theory.lora_limits.thresholds import threshold

MOST_TOKENS = 8192  # longest sample of which all pairs are looked at


def measured_limits(
    layer: AttentionLayer,
    arrays: LayerArrays,
    base: BaseTokens,
    c: float = 1.0,
    lora: Lora | None = None,
) -> tuple[list[HeadLimits], list[HeadSweep]]:
    """One row a head, and one a head and prefix length (powers of two) of causal models.

    Raises ValueError for NaN or infinity, and for a longest sample of one token.
    """
    length = Length(base.longest, "activations", c)
    threshold(length.L, c)  # a text of one token is refused before any work
    tokens = head_tokens(layer, arrays, base)
    key_weight = arrays.key.tuned_weight
    limits, sweep = [], []
    for head in range(layer.n_heads):
        samples = _samples(layer, arrays, base, tokens, head)
        limits.append(_limits(layer, arrays, base, tokens, key_weight, samples, head, length, lora))
        if layer.causal and not layer.cross and samples:
            q = tokens.q[:, head_columns(head, layer.head_width)]
            sweep += prefix_rows(layer, head, [q[s] for s in base.samples], samples, c)
    return limits, sweep


def _limits(
    layer: AttentionLayer,
    arrays: LayerArrays,
    base: BaseTokens,
    tokens: HeadTokens,
    key_weight: Array,
    samples: Sequence[HeadSample],
    head: int,
    length: Length,
    lora: Lora | None,
) -> HeadLimits:
    width = layer.head_width
    of_q, of_k = head_columns(head, width), head_columns(layer.key_head(head), width)
    linear = layer.query_norm is None and layer.key_norm is None
    literal = literal_norms(
        base.x,
        _projected(tokens.q_base, tokens.q, tokens.dq, of_q),
        _projected(tokens.k_base, tokens.k, tokens.dk, of_k),
        None if tokens.v is None or tokens.v_base is None
        else Projected(tokens.v_base[:, of_k], (tokens.v - tokens.v_base)[:, of_k]),
        key_weight=key_weight[of_k] if linear else None,
        key_input=base.key_x if layer.cross else None,
        scaling=None if lora is None else lora.scaling,
    )  # fmt: skip
    norms = _literal_fields(literal) | _chain_fields(layer, samples)
    bound, relative = _logit_radius(layer, samples)
    q = tokens.q[:, of_q]
    quantiles = token_quantiles(q)
    spread = float(q.std())
    fields: dict[str, Any] = (
        head_fields(layer, head, length, literal.touches_qk, lora)
        | norms
        | ratio_fields(norms, length, bounds=False)
        | cost_fields(width, length.L, bound, relative=relative)
        | alpha_fields(tokens, of_q, length, lora, linear=linear)
        | perturbation_fields(layer, base, tokens, head, length, samples)
    )
    return HeadLimits(
        source="activations",
        method="norms of the projected tokens",
        precision="float64",
        warnings="; ".join(_warnings(layer, arrays, base, samples)) or None,
        n_tokens=len(base.x),
        n_samples=len(base.samples),
        q_token_q50=quantiles.q50,
        q_token_q99=quantiles.q99,
        log10_L_gaussian=gaussian_crossover(spread, width) if spread > 0.0 else None,
        **fields,
    )


def _samples(
    layer: AttentionLayer, arrays: LayerArrays, base: BaseTokens, tokens: HeadTokens, head: int
) -> list[HeadSample]:
    """[] where the positions cannot be computed."""
    if layer.rotary is not None and layer.rotary.frequencies is None:
        return []
    of_q = head_columns(head, layer.head_width)
    of_k = head_columns(layer.key_head(head), layer.head_width)
    bias, found = _bias(layer, arrays, head), []
    for sample, key_sample in zip(base.samples, base.key_samples, strict=True):
        q = at_positions(layer, tokens.q[sample, of_q])
        k = at_positions(layer, tokens.k[key_sample, of_k])
        rows = None
        if _looks_at_pairs(layer, len(k)) and not _unknown_bias(layer, arrays):
            mask = "causal" if layer.causal else "none"
            window = layer.window if layer.causal else None
            rows = row_logits(q, k, layer.beta, mask=mask, additive=bias, window=window)
        found.append(HeadSample(q, k, entry_norms(q, k, layer.beta), rows))
    return found


def _looks_at_pairs(layer: AttentionLayer, keys: int) -> bool:
    hidden = not layer.causal and layer.window is not None and keys > layer.window // 2 + 1
    return keys <= MOST_TOKENS and not hidden


def _unknown_bias(layer: AttentionLayer, arrays: LayerArrays) -> bool:
    return layer.logit_bias == "relative" and arrays.position_bias is None


def _bias(layer: AttentionLayer, arrays: LayerArrays, head: int) -> AdditiveBias | None:
    if layer.logit_bias == "alibi":
        return alibi(layer.bias_scale * float(alibi_slopes(layer.n_heads)[head]))
    if layer.relative is not None and arrays.position_bias is not None:
        learned, rule = arrays.position_bias[:, head], layer.relative
        return relative_bias(learned, rule.max_distance, two_sided=rule.two_sided)
    return None


def _projected(base: Array, tuned: Array, change: Array | None, columns: slice) -> Projected:
    if change is None:
        return Projected(base[:, columns], None)
    return Projected(base[:, columns], change[:, columns])


def _literal_fields(norms: LiteralNorms) -> dict[str, Any]:
    names = (
        "gamma_x", "gamma_q_base", "gamma_dq", "gamma_q", "gamma_k_base", "gamma_dk", "gamma_k",
        "gamma_v", "gamma_qkt", "c1", "c2", "c3", "gamma_partial", "gamma_full", "gamma_hard",
    )  # fmt: skip
    return {name: getattr(norms, name) for name in names}


def _chain_fields(layer: AttentionLayer, samples: Sequence[HeadSample]) -> dict[str, Any]:
    if not samples:
        return {}
    channels = [sample.entries.channels for sample in samples]
    fields: dict[str, Any] = {
        name: max(getattr(one, name) for one in channels)
        for name in ("gamma_as", "gamma_bal", "gamma_chan", "gamma_chansum")
    }
    fields["rem_ratio"] = max(sample.entries.rem_ratio for sample in samples)
    rows = _all_rows(samples)
    if rows is None:
        return fields
    ceiling = math.inf if layer.logit_bias else fields["gamma_chansum"]
    logits = logit_norms(rows, ceiling)
    fields |= {
        name: getattr(logits, name)
        for name in ("gamma_logit", "gamma_range", "ipr", "logit_q50", "logit_q99")
    }
    if layer.softcap is not None:
        fields["gamma_logit_capped"] = softcapped(logits.gamma_logit, layer.softcap)
    return fields


def _all_rows(samples: Sequence[HeadSample]) -> RowLogits | None:
    """The rows of all samples below each other; None where one is missing."""
    rows = [sample.rows for sample in samples if sample.rows is not None]
    if not rows or len(rows) < len(samples):
        return None
    names = ("spread", "largest", "top", "participation")
    return RowLogits(*(np.concatenate([getattr(one, name) for one in rows]) for name in names))


def _logit_radius(
    layer: AttentionLayer, samples: Sequence[HeadSample]
) -> tuple[float | None, bool]:
    """R on which exp must be accurate, and whether relatively.

    Without a mask and with the mean key subtracted, every row sum of exp is at least L, so that
    an absolute accuracy serves on max|S|. Else the middle of each row's range is subtracted.
    """
    rows = _all_rows(samples)
    if rows is None:
        return None, True
    if layer.causal or layer.logit_bias:
        return float(rows.spread.max()) / 2.0, True
    largest = 0.0
    for sample in samples:
        assert sample.rows is not None
        shift = layer.beta * sample.q @ sample.k.mean(axis=0)
        top = sample.rows.top - shift
        largest = max(largest, float(np.maximum(top, sample.rows.spread - top).max()))
    return largest, False


def _warnings(
    layer: AttentionLayer, arrays: LayerArrays, base: BaseTokens, samples: Sequence[HeadSample]
) -> list[str]:
    if not samples:
        detail = layer.rotary.detail if layer.rotary is not None else None
        return [f"positions are not known: {detail}" if detail else "positions are not known"]
    notes = []
    if _unknown_bias(layer, arrays):
        notes.append("relative position bias not stored: no logits")
    elif base.longest > MOST_TOKENS:
        notes.append(f"no logits: longer than {MOST_TOKENS} tokens")
    elif any(sample.rows is None for sample in samples):
        notes.append(f"no logits: longer than the window of {layer.window}")
    if layer.cross:
        notes.append("cross-attention: L is the number of keys")
    return notes
