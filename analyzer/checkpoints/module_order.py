"""The order in which known networks register their parameters, which files sort away.

An optimizer counts parameters in the order of ``model.named_parameters()``: a module's own
parameters, then its submodules in the order of its ``__init__``. Safetensors files are sorted by
name, so the order is restored from the classes' sources (transformers 4 and 5). One list a family
suffices: names that are siblings somewhere never stand in another order elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

from analyzer.checkpoints.names import strip_wrappers

# Parameters that a module holds itself, before its submodules.
_OWN = ("weight", "bias", "cls_token", "mask_token", "position_embeddings")
_LORA = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector")
_BERT_BLOCK = "encoder layer attention self query key value intermediate output dense LayerNorm"
_VIT_LAYER = "layernorm_before layernorm_after"
_VIT_MLP = "intermediate output dense"

_FAMILIES: tuple[tuple[str, ...], ...] = tuple(
    tuple(order.split())
    for order in (
        # Llama, Mistral, Qwen 2 and 3, Gemma 1 to 3, OLMo 2
        "model embed_tokens layers self_attn q_proj k_proj v_proj o_proj q_norm k_norm"
        " mlp gate_proj up_proj down_proj input_layernorm post_attention_layernorm"
        " pre_feedforward_layernorm post_feedforward_layernorm norm lm_head score",
        # GPT-2, nanoGPT
        "transformer wte wpe h ln_1 attn c_attn ln_2 mlp c_fc c_proj ln_f lm_head score",
        # GPT-NeoX, Pythia
        "gpt_neox embed_in layers input_layernorm post_attention_layernorm attention"
        " query_key_value mlp dense dense_h_to_4h dense_4h_to_h final_layer_norm embed_out"
        " lm_head score",
        # OPT
        "model decoder embed_tokens embed_positions project_out project_in self_attn k_proj"
        " v_proj q_proj out_proj self_attn_layer_norm fc1 fc2 final_layer_norm layers lm_head"
        " score",
        # BERT
        f"bert embeddings word_embeddings position_embeddings token_type_embeddings {_BERT_BLOCK}"
        " pooler cls predictions transform decoder seq_relationship classifier qa_outputs",
        # RoBERTa, XLM-R: transformers 4, then 5
        "roberta embeddings word_embeddings position_embeddings token_type_embeddings"
        f" {_BERT_BLOCK} pooler lm_head layer_norm decoder classifier out_proj qa_outputs",
        "roberta embeddings word_embeddings token_type_embeddings"
        f" {_BERT_BLOCK} position_embeddings pooler lm_head layer_norm decoder classifier"
        " out_proj qa_outputs",
        # T5
        "shared encoder decoder embed_tokens block layer SelfAttention EncDecAttention q k v o"
        " relative_attention_bias DenseReluDense wi wi_0 wi_1 wo layer_norm final_layer_norm"
        " lm_head",
        # ViT: transformers 4, then 5
        "vit embeddings patch_embeddings projection encoder layer attention query key value"
        f" {_VIT_MLP} {_VIT_LAYER} layernorm pooler classifier",
        "vit embeddings patch_embeddings projection encoder layer attention query key value"
        f" {_VIT_LAYER} {_VIT_MLP} layernorm pooler classifier",
    )
)


def module_orders(names: Sequence[str]) -> list[list[str]]:
    """`names` in the order of every family that knows all their parts; [] if none does."""
    orders = []
    for family in _FAMILIES:
        ranks = {part: rank for rank, part in enumerate((*family, *_LORA))}
        keys = {name: _key(name, ranks) for name in names}
        if None not in keys.values():
            ordered = sorted(names, key=lambda name: keys[name] or ())
            if ordered not in orders:
                orders.append(ordered)
    return orders


def _key(name: str, ranks: dict[str, int]) -> tuple[tuple[int, int], ...] | None:
    """Sorts a name among its siblings, level by level; None if a part of it is unknown."""
    parts = strip_wrappers(name).split(".")
    key: list[tuple[int, int]] = []
    for depth, part in enumerate(parts, 1):
        if depth == len(parts) and part in _OWN:
            key.append((0, _OWN.index(part)))
        elif part.isdecimal():
            key.append((1, int(part[:9])))
        elif part in ranks:
            key.append((1, ranks[part]))
        else:
            return None
    return tuple(key)
