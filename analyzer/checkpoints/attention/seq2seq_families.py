"""Encoders with a decoder that looks at them, by ``model_type``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from analyzer.checkpoints.attention.family import (
    Config,
    Family,
    Front,
    NormRule,
    block,
    integer,
    number,
)


def t5(config: Config) -> Family:
    """Unscaled, with a learned bias by distance in self-attention."""
    keys = Front("{root}encoder.final_layer_norm")
    return Family(
        (
            block("encoder.block", "layer.0.SelfAttention", "layer.0.layer_norm", causal=False),
            block("decoder.block", "layer.0.SelfAttention", "layer.0.layer_norm"),
            block(
                "decoder.block",
                "layer.1.EncDecAttention",
                "layer.1.layer_norm",
                causal=False,
                cross=True,
                keys_front=keys,
            ),
        ),
        NormRule("rmsnorm", number(config, "layer_norm_epsilon", 1e-6)),
        heads=("num_heads", "num_attention_heads"),
        head_width="d_kv",
        scale=lambda width, layer: 1.0,
        logit_bias="relative",
        relative="{root}{part}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        max_distance=integer(config, "relative_attention_max_distance") or 128,
    )


def bart(config: Config) -> Family:
    """Norms behind attention and MLP."""
    last = (integer(config, "encoder_layers") or 12) - 1
    return _sequence_to_sequence(
        front="{{root}}{part}.layers.{{previous}}.final_layer_norm",
        first="{{root}}{part}.layernorm_embedding",
        cross="self_attn_layer_norm",
        keys=f"{{root}}encoder.layers.{last}.final_layer_norm",
    )


def mbart(config: Config) -> Family:
    """Norms in front of attention and MLP, and behind the last layer."""
    return _sequence_to_sequence(
        front="{{root}}{part}.layers.{{layer}}.self_attn_layer_norm",
        first=None,
        cross="encoder_attn_layer_norm",
        keys="{root}encoder.layer_norm",
    )


def whisper(config: Config) -> Family:
    lengths = {"encoder": ("max_source_positions",), "decoder": ("max_target_positions",)}
    family = mbart(config)
    blocks = tuple(
        replace(b, lengths=lengths["decoder" if "decoder" in b.path.pattern else "encoder"])
        for b in family.blocks
    )
    return replace(family, blocks=blocks)


def _sequence_to_sequence(front: str, first: str | None, cross: str, keys: str) -> Family:
    """Encoder and decoder of the BART kind, whose templates differ in the part's name."""

    def self_attention(part: str, *, causal: bool):
        return block(
            f"{part}.layers",
            "self_attn",
            front.format(part=part),
            first=Front(first.format(part=part)) if first else None,
            causal=causal,
            heads=(f"{part}_attention_heads",),
        )

    return Family(
        (
            self_attention("encoder", causal=False),
            self_attention("decoder", causal=True),
            block(
                "decoder.layers",
                "encoder_attn",
                cross,
                causal=False,
                cross=True,
                keys_front=Front(keys),
                heads=("decoder_attention_heads",),
            ),
        ),
        NormRule("layernorm", 1e-5),
    )


SEQUENCE_TO_SEQUENCE: dict[str, Callable[[Config], Family]] = {
    "t5": t5,
    "mt5": t5,
    "bart": bart,
    "mbart": mbart,
    "whisper": whisper,
}
