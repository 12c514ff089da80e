"""Encoders of text and of images, by ``model_type``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from analyzer.checkpoints.attention.family import (
    LENGTHS,
    Config,
    Family,
    Front,
    NormRule,
    block,
    integer,
    layer_types,
    number,
)
from analyzer.checkpoints.attention.fused_layouts import consecutive
from analyzer.checkpoints.attention.rotary_config import RotaryRule

_SMALL_EMBEDDINGS = "the embeddings are projected to the width of the layers after their norm"


def bert(config: Config) -> Family:
    """Norms behind attention and MLP: the one in front is the previous layer's last."""
    narrow = integer(config, "embedding_size") not in (None, integer(config, "hidden_size"))
    first = Front(None, _SMALL_EMBEDDINGS) if narrow else Front("{root}embeddings.LayerNorm")
    absolute = config.get("position_embedding_type", "absolute") == "absolute"
    return Family(
        (
            block(
                "encoder.layer",
                "attention.self",
                "{root}encoder.layer.{previous}.output.LayerNorm",
                first=first,
                causal=config.get("is_decoder") is True,
            ),
            block(
                "encoder.layer",
                "crossattention.self",
                "attention.output.LayerNorm",
                causal=False,
                cross=True,
            ),
        ),
        NormRule("layernorm", number(config, "layer_norm_eps", 1e-12)),
        refusal=None if absolute else "relative positions change the keys of each pair",
    )


def roberta(config: Config) -> Family:
    """Positions count from behind that of the padding."""
    family = bert(config)
    positions = integer(config, *LENGTHS)
    padding = config.get("pad_token_id", 1)
    if positions and isinstance(padding, int):
        return replace(family, context=max(positions - padding - 1, 1))
    return family


def distilbert(config: Config) -> Family:
    return Family(
        (
            block(
                "transformer.layer",
                "attention",
                "{root}transformer.layer.{previous}.output_layer_norm",
                first=Front("{root}embeddings.LayerNorm"),
                causal=False,
            ),
        ),
        NormRule("layernorm", 1e-12),
        heads=("n_heads", "num_attention_heads"),
    )


def modernbert(config: Config) -> Family:
    """Layer 0 has no norm of its own, behind that of the embeddings; windows to both sides."""
    every = integer(config, "global_attn_every_n_layers") or 3
    window = integer(config, "local_attention") or 128
    return Family(
        (
            block(
                "layers",
                "attn",
                "attn_norm",
                first=Front("{root}embeddings.norm"),
                causal=False,
            ),
        ),
        NormRule("layernorm", number(config, "norm_eps", 1e-5)),
        fused=consecutive,
        rotary=RotaryRule(
            base=("global_rope_theta", 160000.0), local_base=("local_rope_theta", 10000.0)
        ),
        layer_type=layer_types(config, lambda layer: layer % every != 0),
        window=2 * (window // 2) + 1,
    )


def vit(config: Config, front: str = "layernorm_before", eps: float = 1e-12) -> Family:
    return Family(
        (block("encoder.layer", "attention.attention", front, causal=False),),
        NormRule("layernorm", number(config, "layer_norm_eps", eps)),
        context=image_tokens(config, extra=1),
    )


def deit(config: Config) -> Family:
    return replace(vit(config), context=image_tokens(config, extra=2))


def dinov2(config: Config) -> Family:
    return vit(config, "norm1", 1e-6)


def clip_vision(config: Config) -> Family:
    return replace(clip_text(config, causal=False), context=image_tokens(config, extra=1))


def clip_text(config: Config, *, causal: bool = True) -> Family:
    return Family(
        (block("encoder.layers", "self_attn", "layer_norm1", causal=causal),),
        NormRule("layernorm", number(config, "layer_norm_eps", 1e-5)),
    )


def image_tokens(config: Config, extra: int) -> int | None:
    """Patches of the image, and `extra` tokens beside them."""
    image, patch = (_sides(config.get(field)) for field in ("image_size", "patch_size"))
    if image is None or patch is None:
        return None
    return (image[0] // patch[0]) * (image[1] // patch[1]) + extra


def _sides(value: object) -> tuple[int, int] | None:
    match value if isinstance(value, list) else [value, value]:
        case [int(height), int(width)] if height > 0 and width > 0:
            return height, width
    return None


ENCODERS: dict[str, Callable[[Config], Family]] = {
    "bert": bert,
    "electra": bert,
    "roberta": roberta,
    "xlm-roberta": roberta,
    "camembert": roberta,
    "distilbert": distilbert,
    "modernbert": modernbert,
    "vit": vit,
    "deit": deit,
    "dinov2": dinov2,
    "clip_text_model": clip_text,
    "clip_vision_model": clip_vision,
}
