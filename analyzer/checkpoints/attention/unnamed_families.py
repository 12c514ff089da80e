"""Attention of torch and timm, whose configurations have no ``model_type``."""

from __future__ import annotations

import re
from dataclasses import replace

from analyzer.checkpoints.attention.encoder_families import image_tokens
from analyzer.checkpoints.attention.family import Block, Config, Family, Front, NormRule, block
from analyzer.checkpoints.attention.fused_layouts import consecutive

_HEADS = ("num_attention_heads", "num_heads", "n_head", "n_heads", "nhead")
_UNNORMED = "whether norms stand in front or behind is not stored"
# Vision transformers of timm whose positions enter the logits.
_POSITIONS_IN_LOGITS = re.compile(r"rope|relpos")


def torch_attention(config: Config) -> Family:
    """nn.MultiheadAttention: plain, one third of ``in_proj_weight`` each.

    Norms are left open. The mask is an argument of the call and not stored: without a field
    ``is_decoder`` or ``is_causal`` every pair counts as visible. In nn.TransformerDecoderLayer the
    keys of ``multihead_attn`` come from the encoder.
    """
    path = r"(?P<root>.*?)(?:layers?|resblocks|blocks|h)\.(?P<layer>\d+)\."
    causal = any(config.get(field) is True for field in ("is_decoder", "is_causal"))
    front = Front(None, _UNNORMED)
    return Family(
        (
            Block(re.compile(path + r"(?:self_attn|attn)"), front, causal=causal),
            Block(re.compile(path + r"multihead_attn"), front, causal=False, cross=True),
        ),
        NormRule("layernorm", 1e-5),
        fused=consecutive,
        heads=_HEADS,
    )


def timm_vit(config: Config) -> Family:
    """timm's VisionTransformer, ``attn.qkv`` one third each; its heads must be added to config.json
    or stand in ``model_args``, for timm does not save them."""
    architecture = str(config.get("architecture"))
    family = Family(
        (block("blocks", "attn", "norm1", causal=False),),
        NormRule("layernorm", 1e-6),
        fused=consecutive,
        heads=_HEADS,
        context=image_tokens(config, extra=1),
    )
    if not re.match(r"vit_|deit", architecture) or _POSITIONS_IN_LOGITS.search(architecture):
        return replace(family, refusal=f"timm's {architecture!r} is not known")
    return family
