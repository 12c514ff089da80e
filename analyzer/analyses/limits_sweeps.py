"""How the norms of a head move with alpha, with the update, and with the length of the text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from analyzer.analyses.limits_arrays import Array, Lora
from analyzer.analyses.limits_samples import HeadSample, at_positions, head_columns
from analyzer.analyses.limits_tokens import BaseTokens, HeadTokens
from analyzer.analyses.limits_verdicts import Length
from analyzer.analyses.rows_limits import HeadSweep
from analyzer.checkpoints.attention.types import AttentionLayer
from theory.lora_limits.perturbation import delta_logit, head_update, perturbation_rank
from theory.lora_limits.polynomial import log_feature_count
from theory.lora_limits.scaling import alpha_room, scaling_interval
from theory.lora_limits.sweep import prefix_channel_norms, running_maximum
from theory.lora_limits.thresholds import threshold


def alpha_fields(
    tokens: HeadTokens, columns: slice, length: Length, lora: Lora | None, *, linear: bool
) -> dict[str, Any]:
    """For which s and alpha the largest query entry stays within the threshold; exact."""
    if lora is None or not linear or lora.scaling == 0.0:
        return {}
    change = tokens.dq[:, columns] if tokens.dq is not None else None
    direction = np.zeros_like(tokens.q[:, columns]) if change is None else change / lora.scaling
    limit = threshold(length.L, length.c)
    interval = scaling_interval(tokens.q_base[:, columns], direction, limit)
    fields: dict[str, Any] = {"scaling_low": interval.low, "scaling_high": interval.high}
    if lora.lora_alpha is None or not lora.lora_alpha > 0.0:
        return fields
    room = alpha_room(interval, lora.lora_alpha, lora.r, rank_stabilised=lora.rank_stabilised)
    return fields | {
        "alpha_max": room.alpha_max,
        "alpha_unbounded": room.unbounded,
        "headroom": room.headroom,
    }


def perturbation_fields(
    layer: AttentionLayer,
    base: BaseTokens,
    tokens: HeadTokens,
    head: int,
    length: Length,
    samples: Sequence[HeadSample],
) -> dict[str, Any]:
    """max|ΔS|, its rank and the features of exp(ΔS), on the sample where ΔS is largest."""
    if (
        (tokens.dq is None and tokens.dk is None)
        or any(s.rows is None for s in samples)
        or not samples
    ):
        return {}
    of_q = head_columns(head, layer.head_width)
    of_k = head_columns(layer.key_head(head), layer.head_width)
    updates = [
        head_update(
            at_positions(layer, tokens.q_base[sample, of_q]),
            at_positions(layer, tokens.k_base[keys, of_k]),
            at_positions(layer, _or_zero(tokens.dq, tokens.q)[sample, of_q]),
            at_positions(layer, _or_zero(tokens.dk, tokens.k)[keys, of_k]),
            layer.beta,
            causal=layer.causal,
        )
        for sample, keys in zip(base.samples, base.key_samples, strict=True)
    ]
    found = perturbation_rank(max(updates, key=delta_logit), 1.0 / length.L)
    log_features = log_feature_count(found.rank, found.degree) if found.rank else 0.0
    return {
        "delta_logit": found.delta_logit,
        "delta_rank": found.rank,
        "log10_k_delta": log_features / math.log(10.0),
    }


def _or_zero(change: Array | None, like: Array) -> Array:
    return np.zeros_like(like) if change is None else change


def prefix_rows(
    layer: AttentionLayer,
    head: int,
    queries: Sequence[Array],
    samples: Sequence[HeadSample],
    c: float,
) -> list[HeadSweep]:
    """The first L tokens of every sample that has as many."""
    longest = max(len(q) for q in queries)
    lengths = sorted({2**n for n in range(1, longest.bit_length()) if 2**n <= longest} | {longest})
    of_queries = [running_maximum(q) for q in queries]
    channels = [prefix_channel_norms(s.q, s.k, layer.beta) for s in samples]
    logits = [running_maximum(np.sqrt(s.rows.largest)) for s in samples if s.rows is not None]
    found = []
    for n in lengths:
        limit = threshold(n, c)
        gamma_q = max(float(r[n - 1]) for r in of_queries if r.size >= n)
        chansum, _, _, entries = np.max([r[:, n - 1] for r in channels if r.shape[1] >= n], axis=0)
        gamma_logit = max((float(r[n - 1]) for r in logits if r.size >= n), default=None)
        found.append(
            HeadSweep(
                head=head,
                L=n,
                threshold=limit,
                gamma_q=gamma_q,
                gamma_as=float(entries),
                gamma_chansum=float(chansum),
                gamma_logit=gamma_logit,
                ratio_q=gamma_q / limit,
                ratio_as=float(entries) / limit,
                ratio_logit=None if gamma_logit is None else gamma_logit / limit,
            )
        )
    return found
