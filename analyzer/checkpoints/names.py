"""Tensor names → stack, layer, role and expert, for the usual families of networks.

Wrappers (`module.`, `_orig_mod.`, `base_model.model.`, …) are stripped, the layer is the integer
after a container such as `layers` or `h`, and an ordered list of rules names the role: experts
before routers before MLPs before attention. A name no rule knows is `other`, never an error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module|base_layer"
    r"|base_model\.model|modules_to_save(?:\.default)?|original_module)\."
)
SUFFIX = re.compile(r"(?:\.(?:weight|bias|qweight|weight_packed)|_blocks|_exps(?:\.weight)?)$")
LAYER = re.compile(
    r"(?:^|\.)(?:layers?|h|blocks?|blk|decoder_layer|transformer_encoder|encoder_layer"
    r"|encoder_layer_|resblocks|(?:single_)?transformer_blocks|albert_layers)[._](\d+)(?:\.|$)"
)
# XLM keeps attentions and MLPs in lists of their own; elsewhere these are inner containers.
INNER_LAYER = re.compile(r"(?:^|\.)(?:attentions|ffns)\.(\d+)\.")
EXPERT = re.compile(r"(?:^|\.)(?:experts?|local_experts)\.(?:expert_)?(\d+)\.")
STACKED_EXPERTS = re.compile(r"(?:^|\.)(?:experts|local_experts|ffn_\w+_exps)(?:\.|$)")

NORM = (
    r"input_layernorm|\w*layer_?norm\w*|\w*_norm|norm\d?|ln_\w+|ln\d?|norm_\w+|LayerNorm|ln_f"
    r"|final_norm|rms_norm|q_norm|k_norm|attn_norm|ffn_norm|output_norm"
)
UNEMBED = (
    r"lm_head|lm_head\.decoder|embed_out|output_layer|cls\.predictions\.decoder"
    r"|predictions\.decoder|unembed|head\.out_proj"
)
EMBED = (
    r"embed_tokens|wte|wpe|word_embeddings|position_embeddings|token_type_embeddings"
    r"|embed_positions|tok_embeddings|token_embd|position_embd|embed_in|shared|embedding"
    r"|embeddings|patch_embed\.proj|patch_embedding|patch_embeddings|patch_embeddings\.proj"
    r"|patch_embeddings\.projection|pos_embed|position_embedding|token_embedding"
    r"|relative_attention_bias|tokens_embed|positions_embed"
)
# DeepSeek's latent attention: the fused compression of keys and values counts as fused.
ATTN_QKV = (
    r"c_attn|query_key_value|qkv_proj|qkv|[Ww]qkv|in_proj_weight|(?:attn|attention|self)\.in_proj"
    r"|attn_qkv|W_pack|kv_a_proj_with_mqa|kv_b_proj|attn_kv_a_mqa|attn_kv_b"
)
ATTN_Q = (
    r"q_proj|q_lin|attn_q|wq|to_q|query_proj|query_global|q_[ab]_proj|attn_q_[ab]"
    r"|(?<!_)(?:query|q)"
)
ATTN_K = r"k_proj|k_lin|attn_k|wk|to_k|key_proj|key_global|(?<!_)(?:key|k)"
ATTN_V = r"v_proj|v_lin|attn_v|wv|to_v|value_proj|value_global|(?<!_)(?:value|v)"
ATTN_O = (
    r"\w*(?:attn|[aA]ttention)\.(?:o|[Ww]o|c_proj|dense|proj|out_proj|projection|output"
    r"|output\.dense)|o_proj|out_lin|attn_output|wo|to_out\.0|to_out|to_add_out"
    r"|post_attention\.conv1d"
)
MLP_GATE_UP = r"gate_up_proj|gate_up|dense_h_to_4h_gate_up|ffn_gate_up|mlp\.Wi|net\.0\.proj"
MLP_GATE = r"gate_proj|wi_0|w1|ffn_gate|gate_fc|linear_gate"
MLP_DOWN = (
    r"mlp\.c_proj|fc2|down_proj|output\.dense|output_dense|dense_4h_to_h|ffn_down|w2|wo_mlp|wo"
    r"|mlp\.Wo|fc_out|lin2|linear2|ffn\.2|mlp\.down|ffn_output|ff\.layer_2|pwconv2|net\.2"
    r"|output\.conv1d|feed_forward\.value"
)
MLP_UP = (
    r"c_fc|fc1|up_proj|intermediate\.dense|intermediate_dense|dense_h_to_4h|ffn_up|w3|v1|wi_1|wi"
    r"|fc_in|lin1|linear1|ffn|ffn\.0|mlp\.up|ff\.layer_1|pwconv1|intermediate\.conv1d"
    r"|feed_forward\.key"
)


def _rules(*rules: tuple[str, str]) -> tuple[tuple[re.Pattern[str], str], ...]:
    """Rules that match the end of a stripped name."""
    return tuple((re.compile(rf"(?:^|[._])(?:{pattern})$"), role) for pattern, role in rules)


MLP_RULES = _rules(
    (MLP_GATE_UP, "mlp_gate_up"),
    (MLP_GATE, "mlp_gate"),
    (MLP_DOWN, "mlp_down"),
    (MLP_UP, "mlp_up"),
)
# Ordered, the first match wins: what only a parent's name tells apart comes before its leaf.
RULES = (
    *_rules(
        (NORM, "norm"),
        (UNEMBED, "unembed"),
        (EMBED, "embed"),
        (r"(?:DenseReluDense|DenseGatedGeluDense|mlp|feed_forward|ffn)\.wo", "mlp_down"),
        (r"feed_forward\.value", "mlp_down"),
        (r"feed_forward\.key", "mlp_up"),
        (ATTN_QKV, "attn_qkv"),
        (ATTN_Q, "attn_q"),
        (ATTN_K, "attn_k"),
        (ATTN_V, "attn_v"),
        (ATTN_O, "attn_o"),
    ),
    *MLP_RULES,
)
ROUTER = re.compile(
    r"(?:^|\.)(?:(?:mlp|block_sparse_moe|moe|feed_forward|ffn)\.(?:gate|router(?:\.\w+)?)"
    r"|router(?:\.(?:classifier|layer))?|ffn_gate_inp|gate\.wg|shared_expert_gate)$"
)
QWEN1 = re.compile(r"(?:^|\.)transformer\.h\.\d+\.mlp\.(w1|w2|c_proj)$")

BLOCK_ROLES = frozenset(
    {
        "attn_q", "attn_k", "attn_v", "attn_qkv", "attn_o",
        "mlp_gate", "mlp_up", "mlp_gate_up", "mlp_down",
        "expert_gate", "expert_up", "expert_gate_up", "expert_down",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorRole:
    """Where a tensor sits in its network."""

    stack: str | None
    layer: int | None
    role: str
    expert: int | None


@lru_cache(maxsize=1 << 16)
def describe(name: str) -> TensorRole:
    """Stack, layer, role and expert of a tensor name; role `other` if no rule knows it."""
    stripped = strip_wrappers(name)
    plain = SUFFIX.sub("", stripped)
    layer = LAYER.search(plain) or INNER_LAYER.search(plain)
    expert = EXPERT.search(plain)
    return TensorRole(
        stack=_stack(plain),
        layer=int(layer.group(1)[:9]) if layer else None,
        role=_role(plain, inside_expert=bool(expert or STACKED_EXPERTS.search(stripped))),
        expert=int(expert.group(1)[:9]) if expert else None,
    )


def strip_wrappers(name: str) -> str:
    """`name` without the prefixes that training wrappers add anywhere in it."""
    while (shorter := WRAPPERS.sub("", name)) != name:
        name = shorter
    return name


def is_block_linear(role: str) -> bool:
    """Whether a role is a linear map inside a block: no embeddings, heads, norms or routers."""
    return role in BLOCK_ROLES


def _role(plain: str, *, inside_expert: bool) -> str:
    if ROUTER.search(plain):
        return "router"
    if plain == "output":  # the unembedding in LLaMA's own files and in GGUF
        return "unembed"
    if qwen := QWEN1.search(plain):
        return {"w1": "mlp_up", "w2": "mlp_gate", "c_proj": "mlp_down"}[qwen.group(1)]
    rules = MLP_RULES if inside_expert else RULES
    role = next((role for rule, role in rules if rule.search(plain)), "other")
    return "expert_" + role.removeprefix("mlp_") if inside_expert and role != "other" else role


def _stack(plain: str) -> str | None:
    """decoder, encoder, vision or audio, where the name tells."""
    parts = plain.split(".")
    if any(re.fullmatch(r"vision\w*|visual|vit|image_encoder", part) for part in parts):
        return "vision"
    if any(re.fullmatch(r"audio\w*|speech\w*", part) for part in parts):
        return "audio"
    if "encoder" in parts:
        return "encoder"
    if "decoder" in parts or re.match(
        r"(?:model\.layers|transformer\.h|gpt_neox|h\.\d|blk)", plain
    ):
        return "decoder"
    return None
