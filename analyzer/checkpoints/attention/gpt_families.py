"""Language models before Llama, most with queries, keys and values in one matrix.

Defaults are those of the configuration classes in transformers, which config.json may leave out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from analyzer.checkpoints.attention.family import (
    SLIDING,
    Config,
    Family,
    Front,
    NormRule,
    block,
    clipped,
    integer,
    inverse_root,
    layernorm,
    number,
    positive,
)
from analyzer.checkpoints.attention.fused_layouts import codegen, consecutive, grouped
from analyzer.checkpoints.attention.rotary_config import RotaryRule

_GPT_BLOCK = (block("h", "attn", "ln_1"),)


def gpt2(config: Config) -> Family:
    """Scaled by 1/√d_h unless told otherwise; in some models also by the layer's number."""
    by_width = config.get("scale_attn_weights", True) is not False
    by_layer = config.get("scale_attn_by_inverse_layer_idx") is True

    def scale(width: int, layer: int) -> float:
        return (inverse_root(width, layer) if by_width else 1.0) / (layer + 1 if by_layer else 1)

    return Family(_GPT_BLOCK, layernorm(config), fused=consecutive, scale=scale)


def gpt_bigcode(config: Config) -> Family:
    multi_query = config.get("multi_query", True) is True
    return replace(
        gpt2(config),
        fused=consecutive if multi_query else grouped,
        kv_heads=1 if multi_query else integer(config, "num_attention_heads", "n_head"),
    )


def gpt_neo(config: Config) -> Family:
    """Unscaled; layers with a window are called local."""
    listed = config.get("attention_layers")
    kinds = listed if isinstance(listed, list) else []
    return Family(
        (block("h", "attn.attention", "ln_1"),),
        layernorm(config),
        heads=("num_heads", "num_attention_heads"),
        scale=lambda width, layer: 1.0,
        layer_type=lambda layer: (
            SLIDING if layer < len(kinds) and kinds[layer] == "local" else "full_attention"
        ),
        window=integer(config, "window_size") or 256,
        refusal=None if kinds else "config.json does not say attention_layers",
    )


def gptj(config: Config) -> Family:
    return Family(_GPT_BLOCK, layernorm(config), rotary=RotaryRule("adjacent", width="rotary_dim"))


def codegen_family(config: Config) -> Family:
    return replace(gptj(config), fused=codegen)


def gpt_neox(config: Config) -> Family:
    return Family(
        (block("layers", "attention", "input_layernorm"),),
        layernorm(config, "layer_norm_eps"),
        fused=grouped,
        rotary=RotaryRule(share=0.25, base=("rotary_emb_base", 10000.0)),
    )


def falcon(config: Config) -> Family:
    """Three layouts in one family, rotary or ALiBi; ALiBi is scaled like the logits."""
    new = config.get("new_decoder_architecture") is True
    parallel = config.get("parallel_attn", True) is not False
    one_norm = not new or not parallel or config.get("num_ln_in_parallel_attn") == 1
    heads = integer(config, "num_attention_heads", "n_head")
    multi_query = config.get("multi_query", True) is not False
    alibi = config.get("alibi") is True
    family = Family(
        (block("h", "self_attention", "input_layernorm" if one_norm else "ln_attn"),),
        layernorm(config),
        fused=consecutive if multi_query and not new else grouped,
        kv_heads=integer(config, "num_kv_heads", "n_head_kv") or heads
        if new
        else (1 if multi_query else heads),
    )
    if alibi:
        return replace(family, logit_bias="alibi", bias_scaled=True)
    return replace(family, rotary=RotaryRule())


def bloom(config: Config) -> Family:
    return Family(
        (block("h", "self_attention", "input_layernorm"),),
        layernorm(config),
        fused=grouped,
        logit_bias="alibi",
    )


def mpt(config: Config) -> Family:
    attention = config.get("attn_config")
    given = attention if isinstance(attention, dict) else {}
    scaled = given.get("softmax_scale") is not None
    scale = positive(given, "softmax_scale", 1.0) if scaled else 0.0
    largest = number(given, "alibi_bias_max", 8.0)
    has_alibi = given.get("alibi") is True
    refusal = clipped(given)
    if given.get("qk_ln") is True:
        refusal = "queries and keys are normalised (qk_ln)"
    elif given.get("attn_type", "multihead_attention") != "multihead_attention":
        refusal = f"attention of type {given['attn_type']!r} has fewer keys than queries"
    elif has_alibi and largest != 8.0:
        refusal = f"the slopes of ALiBi are not the usual ones (alibi_bias_max is {largest:g})"
    return Family(
        (block("blocks", "attn", "norm_1"),),
        layernorm(config),
        fused=consecutive,
        heads=("n_heads",),
        scale=(lambda width, layer: scale) if scaled else inverse_root,
        logit_bias="alibi" if has_alibi else None,
        refusal=refusal,
    )


def opt(config: Config) -> Family:
    """Norms in front, in OPT-350m behind; Galactica's hold no gain."""
    before = config.get("do_layer_norm_before", True) is not False
    unnormed = Front(None, "norms stand behind attention and MLP, and the embeddings have none")
    front = "self_attn_layer_norm" if before else "{root}layers.{previous}.final_layer_norm"
    affine = config.get("layer_norm_elementwise_affine", True) is not False
    return Family(
        (block("layers", "self_attn", front, first=None if before else unnormed),),
        NormRule("layernorm", 1e-5, affine=affine),
    )


GPTS: dict[str, Callable[[Config], Family]] = {
    "gpt2": gpt2,
    "gpt_bigcode": gpt_bigcode,
    "gpt_neo": gpt_neo,
    "gptj": gptj,
    "gpt_neox": gpt_neox,
    "falcon": falcon,
    "bloom": bloom,
    "mpt": mpt,
    "opt": opt,
    "codegen": codegen_family,
}
