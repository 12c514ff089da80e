"""Gemma 1 to 3: gains of 1 + weight, a scale of its own, capped logits, windows in some layers.

Defaults are those of the configuration classes in transformers, which config.json may leave out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from analyzer.checkpoints.attention.family import (
    Config,
    Family,
    block,
    head_norm,
    integer,
    layer_types,
    optional,
    positive,
    rmsnorm,
)
from analyzer.checkpoints.attention.rotary_config import RotaryRule


def gemma(config: Config) -> Family:
    """Gains are 1 + weight."""
    causal = config.get("use_bidirectional_attention") is not True
    return Family(
        (block("layers", "self_attn", "input_layernorm", causal=causal),),
        rmsnorm(config, offset=1.0),
        rotary=RotaryRule(),
    )


def gemma2(config: Config) -> Family:
    scale = positive(config, "query_pre_attn_scalar", 256.0) ** -0.5
    return replace(
        gemma(config),
        scale=lambda width, layer: scale,
        softcap=_cap(config, 50.0),
        layer_type=layer_types(config, lambda layer: layer % 2 == 0),
        window=_window(config),
    )


def gemma3(config: Config) -> Family:
    pattern = integer(config, "sliding_window_pattern", "_sliding_window_pattern") or 6
    return replace(
        gemma2(config),
        softcap=_cap(config),
        head_norm=head_norm(rmsnorm(config, offset=1.0)),
        layer_type=layer_types(config, lambda layer: (layer + 1) % pattern != 0),
        rotary=RotaryRule(base=("rope_theta", 1e6), local_base=("rope_local_base_freq", 10000.0)),
    )


def _cap(config: Config, default: float | None = None) -> float | None:
    """Null is no cap."""
    cap = optional(config, "attn_logit_softcapping", default)
    return None if cap is None else positive(config, "attn_logit_softcapping", cap)


def _window(config: Config) -> int | None:
    window = integer(config, "sliding_window") or 4096
    both_ways = config.get("use_bidirectional_attention") is True
    return 2 * (window // 2) + 1 if both_ways else window


GEMMAS: dict[str, Callable[[Config], Family]] = {
    "gemma": gemma,
    "gemma2": gemma2,
    "gemma3_text": gemma3,
}
