"""Language models built like Llama, by ``model_type``: norms, rotations, scales and windows.

Defaults are those of the configuration classes in transformers, which config.json may leave out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from analyzer.checkpoints.attention.family import (
    SLIDING,
    Config,
    Family,
    HeadNormRule,
    NormRule,
    block,
    clipped,
    head_norm,
    integer,
    layer_types,
    layernorm,
    number,
    positive,
    rmsnorm,
)
from analyzer.checkpoints.attention.fused_layouts import consecutive, grouped
from analyzer.checkpoints.attention.rotary_config import RotaryRule

_DECODER = (block("layers", "self_attn", "input_layernorm"),)


def llama(config: Config) -> Family:
    return Family(_DECODER, rmsnorm(config), rotary=RotaryRule())


def mistral(config: Config, window: int | None = 4096) -> Family:
    """A window in every layer, if there is one."""
    return replace(
        llama(config),
        layer_type=lambda layer: SLIDING,
        window=integer({"sliding_window": window, **config}, "sliding_window"),
    )


def mixtral(config: Config) -> Family:
    return replace(
        mistral(config, None),
        norm=rmsnorm(config, 1e-5),
        rotary=RotaryRule(base=("rope_theta", 1e6)),
    )


def qwen2(config: Config) -> Family:
    """Windows above a certain layer, if at all."""
    windowed = config.get("use_sliding_window") is True
    first = number(config, "max_window_layers", 28.0)
    return replace(
        llama(config),
        layer_type=layer_types(config, lambda layer: windowed and layer >= first),
        window=integer(config, "sliding_window") if windowed else None,
    )


def qwen3(config: Config) -> Family:
    return replace(qwen2(config), head_norm=head_norm(rmsnorm(config)))


def qwen3_moe(config: Config) -> Family:
    windowed = config.get("use_sliding_window") is True
    return replace(
        qwen3(config),
        layer_type=lambda layer: SLIDING,
        window=integer(config, "sliding_window") if windowed else None,
    )


def phi(config: Config) -> Family:
    norm = layernorm(config, "layer_norm_eps")
    normed = HeadNormRule("q_layernorm", "k_layernorm", True, norm)
    return Family(
        _DECODER,
        norm,
        rotary=RotaryRule(share=0.5),
        head_norm=normed if config.get("qk_layernorm") is True else None,
    )


def persimmon(config: Config) -> Family:
    family = phi({"qk_layernorm": True, **config})
    return replace(family, fused=grouped)


def phi3(config: Config) -> Family:
    return replace(mistral(config, None), norm=rmsnorm(config, 1e-5), fused=consecutive)


def starcoder2(config: Config) -> Family:
    return replace(mistral(config, None), norm=layernorm(config, "norm_epsilon"))


def stablelm(config: Config) -> Family:
    return Family(
        _DECODER,
        layernorm(config, "layer_norm_eps"),
        rotary=RotaryRule(share=0.25),
        refusal="each head has a norm of its own for its queries (qk_layernorm)"
        if config.get("qk_layernorm") is True
        else None,
    )


def granite(config: Config) -> Family:
    scale = positive(config, "attention_multiplier", 1.0)
    return replace(llama(config), scale=lambda width, layer: scale)


def glm(config: Config) -> Family:
    return replace(
        llama(config),
        norm=rmsnorm(config, 1.5625e-7),
        rotary=RotaryRule("adjacent", share=0.5),
    )


def cohere(config: Config) -> Family:
    return Family(
        _DECODER,
        layernorm(config, "layer_norm_eps"),
        rotary=RotaryRule("adjacent", base=("rope_theta", 500000.0)),
        refusal="each head has gains of its own for its queries (use_qk_norm)"
        if config.get("use_qk_norm") is True
        else None,
    )


def cohere2(config: Config) -> Family:
    """Rotary embedding only where there is a window."""
    type_of = layer_types(config, lambda layer: (layer + 1) % 4 != 0)
    return replace(
        cohere(config),
        rotary=RotaryRule("adjacent"),
        unrotated=lambda layer: type_of(layer) != SLIDING,
        layer_type=type_of,
        window=integer({"sliding_window": 4096, **config}, "sliding_window"),
    )


def smollm3(config: Config) -> Family:
    """Some layers without rotary embedding."""
    listed = config.get("no_rope_layers")
    every = integer(config, "no_rope_layer_interval") or 4

    def unrotated(layer: int) -> bool:
        if isinstance(listed, list) and layer < len(listed):
            return not listed[layer]
        return (layer + 1) % every == 0

    windowed = config.get("use_sliding_window") is True
    return replace(
        llama(config),
        rotary=RotaryRule(base=("rope_theta", 2e6)),
        unrotated=unrotated,
        layer_type=layer_types(config, lambda layer: windowed and not unrotated(layer)),
        window=integer(config, "sliding_window") if windowed else None,
    )


def olmo(config: Config) -> Family:
    """LayerNorms without gain and bias."""
    return replace(
        llama(config), norm=NormRule("layernorm", 1e-5, affine=False), refusal=clipped(config)
    )


def olmo2(config: Config) -> Family:
    """Norms behind attention and MLP instead of in front; one over all queries, one over keys."""
    behind = "norms stand behind attention and MLP, so the input is the residual stream"
    norm = rmsnorm(config, 1e-5)
    return replace(
        llama(config),
        blocks=(block("layers", "self_attn", None, detail=behind),),
        norm=norm,
        head_norm=head_norm(norm, per_head=False),
    )


def olmoe(config: Config) -> Family:
    norm = rmsnorm(config, 1e-5)
    return replace(
        llama(config),
        norm=norm,
        head_norm=head_norm(norm, per_head=False),
        refusal=clipped(config),
    )


LLAMAS: dict[str, Callable[[Config], Family]] = {
    "llama": llama,
    "mistral": mistral,
    "mixtral": mixtral,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "qwen3_moe": qwen3_moe,
    "phi": phi,
    "persimmon": persimmon,
    "phi3": phi3,
    "starcoder2": starcoder2,
    "stablelm": stablelm,
    "granite": granite,
    "glm": glm,
    "cohere": cohere,
    "cohere2": cohere2,
    "smollm3": smollm3,
    "olmo": olmo,
    "olmo2": olmo2,
    "olmoe": olmoe,
    "qwen2_moe": qwen2,
}
