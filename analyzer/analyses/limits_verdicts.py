"""From the norms of a head to ratios, verdict and what the explicit algorithm would cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from analyzer.analyses.limits_arrays import Lora
from analyzer.checkpoints.attention.types import AttentionLayer
from theory.lora_limits.polynomial import certified_degree, log_feature_count
from theory.lora_limits.thresholds import (
    band,
    head_verdict,
    log10_L_star,
    threshold,
    width_over_log,
)

_MOST_LOGIT = 1e5  # beyond it no degree is certified


@dataclass(frozen=True, slots=True)
class Length:
    """The L of the threshold and where it comes from, with the constant c."""

    L: int
    origin: str
    c: float = 1.0


def head_fields(
    layer: AttentionLayer, head: int, length: Length, touches_qk: bool, lora: Lora | None
) -> dict[str, Any]:
    """Columns that say which head at which length; raises ValueError for L < 2."""
    width = layer.head_width
    return {
        "head": head,
        "kv_head": layer.key_head(head),
        "L": length.L,
        "length_from": length.origin,
        "d_h": width,
        "beta": layer.beta,
        "causal": layer.causal,
        "cross_attention": layer.cross,
        "rope": layer.rotary is not None,
        "qk_norm": layer.query_norm is not None,
        "touches_qk": touches_qk,
        "r": None if lora is None else lora.r,
        "lora_alpha": None if lora is None else lora.lora_alpha,
        "scaling": None if lora is None else lora.scaling,
        "c": length.c,
        "threshold": threshold(length.L, length.c),
        "eps": 1.0 / length.L,
        "width_over_log": width_over_log(width, length.L),
    }


def ratio_fields(norms: dict[str, float | None], length: Length, *, bounds: bool) -> dict[str, Any]:
    """Ratios, bands and lengths from gamma_partial, _full, _as, _logit and _range.

    Of `bounds` only a verdict that follows from being below is given, else ``undecided``.
    """
    limit = threshold(length.L, length.c)
    fields: dict[str, Any] = {
        f"ratio_{name}": _over(norms.get(f"gamma_{name}"), limit)
        for name in ("partial", "full", "as", "logit", "range")
    }
    fields |= {
        f"log10_L_star_{name}": None if norm is None else log10_L_star(norm)
        for name in ("as", "logit")
        for norm in (norms.get(f"gamma_{name}"),)
    }
    of_entries, of_logits = fields["ratio_as"], fields["ratio_logit"]
    fields["band_as"] = None if of_entries is None else band(of_entries)
    fields["band_logit"] = None if of_logits is None else band(of_logits)
    fields["verdict"] = _verdict(of_entries, of_logits, bounds)
    gamma_q = norms.get("gamma_q")
    fields["weight_scale"] = limit / gamma_q if gamma_q else None
    return fields


def cost_fields(width: int, length: int, bound: float | None, *, relative: bool) -> dict[str, Any]:
    """Degree, features and their exponent for logits of at most `bound`; {} where none is known."""
    if bound is None or not bound <= _MOST_LOGIT:
        return {}
    degree = certified_degree(bound, 1.0 / length, relative=relative)
    features = log_feature_count(width, degree)
    return {
        "degree": degree,
        "log10_features": features / math.log(10.0),
        "rank_exponent": features / math.log(length),
    }


def _over(norm: float | None, limit: float) -> float | None:
    return None if norm is None else norm / limit


def _verdict(of_entries: float | None, of_logits: float | None, bounds: bool) -> str | None:
    if of_entries is None:
        return None
    if of_logits is None:
        return "certified" if band(of_entries) == "below" else ("undecided" if bounds else None)
    verdict = head_verdict(of_entries, of_logits)
    return "undecided" if bounds and verdict in ("borderline", "outside") else verdict
