"""What config.json leaves out is what the configuration classes have for it."""

from __future__ import annotations

import json

import pytest

from analyzer.checkpoints.attention import AttentionLayer, attention_layers
from analyzer.checkpoints.checkpoint import open_checkpoint

GQA = {"num_key_value_heads": 2, "intermediate_size": 48}
HEAD = {**GQA, "head_dim": 8}
# Older configurations say these elsewhere, or hand-written ones not at all.
LEFT_OUT = (
    "rope_parameters", "layer_types", "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon",
    "norm_eps", "norm_epsilon", "sliding_window", "use_sliding_window", "max_window_layers",
    "_sliding_window_pattern", "query_pre_attn_scalar", "attn_logit_softcapping",
    "attention_multiplier", "scale_attn_weights", "scale_attn_by_inverse_layer_idx", "multi_query",
    "do_layer_norm_before", "layer_norm_elementwise_affine", "window_size", "alibi",
    "new_decoder_architecture", "num_ln_in_parallel_attn", "qk_layernorm", "use_qk_norm",
    "use_bidirectional_attention", "is_decoder", "local_attention", "global_attn_every_n_layers",
    "no_rope_layers", "no_rope_layer_interval", "clip_qkv",
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("Llama", GQA),
        ("Mistral", GQA),
        ("Mixtral", {**GQA, "num_local_experts": 2}),
        ("Qwen2", GQA),
        ("Qwen3", HEAD),
        ("Gemma", HEAD),
        ("Gemma2", {**HEAD, "num_hidden_layers": 3}),
        ("Gemma3Text", {**HEAD, "num_hidden_layers": 7}),
        ("Phi", GQA),
        ("Phi3", GQA),
        ("Persimmon", {"intermediate_size": 48}),
        ("Starcoder2", GQA),
        ("StableLm", {**GQA, "hidden_size": 64}),
        ("Granite", GQA),
        ("Glm", HEAD),
        ("Cohere", GQA),
        ("Cohere2", {**GQA, "num_hidden_layers": 5}),
        ("SmolLM3", {**GQA, "num_hidden_layers": 5}),
        ("Olmo", GQA),
        ("Olmo2", GQA),
        ("Olmoe", {**GQA, "num_experts": 2, "num_experts_per_tok": 1}),
        ("GPT2", {"n_head": 4}),
        ("GPTBigCode", {"n_head": 4}),
        ("GPTNeoX", {"intermediate_size": 48, "hidden_size": 64}),
        ("Falcon", {}),
        ("Bloom", {"n_head": 4}),
        ("OPT", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
        ("Bert", {"intermediate_size": 48}),
        ("Electra", {"intermediate_size": 48}),
        ("ViT", {"intermediate_size": 48}),
        ("Dinov2", {}),
        ("ModernBert", {"intermediate_size": 48, "num_hidden_layers": 4}),
        ("T5", {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}),
    ],
)
def test_left_out_fields(tiny, name, fields):
    _, checkpoint = tiny(f"{name}Model", f"{name}Config", **fields)
    said = attention_layers(checkpoint)
    assert said and all(isinstance(layer, AttentionLayer) for layer in said)
    path = checkpoint.path / "config.json"
    config = json.loads(path.read_text())
    kept = {field: value for field, value in config.items() if field not in LEFT_OUT}
    path.write_text(json.dumps(kept))
    assert attention_layers(open_checkpoint(checkpoint.path)) == said
