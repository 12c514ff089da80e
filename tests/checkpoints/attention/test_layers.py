"""What is said about layers beyond their logits, and what is refused with which reason."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from analyzer.checkpoints.attention import AttentionLayer, RefusedLayer, attention_layers
from analyzer.checkpoints.checkpoint import open_checkpoint

LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
SMALL = {"intermediate_size": 48}


def llama_tensors(layers: int = 1, prefix: str = "model.") -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for layer in range(layers):
        stem = f"{prefix}layers.{layer}."
        for name, rows in (("q", 16), ("k", 8), ("v", 8)):
            weight = torch.randn(rows, 16, generator=generator)
            tensors[f"{stem}self_attn.{name}_proj.weight"] = weight
        tensors[f"{stem}input_layernorm.weight"] = torch.rand(16, generator=generator) + 0.5
    return tensors


@pytest.fixture
def layers_of(save_model, tmp_path):
    def make(tensors, config=None):
        return attention_layers(save_model(tmp_path / "model", tensors, config))

    return make


def only_reason(layers) -> str:
    assert layers and all(isinstance(layer, RefusedLayer) for layer in layers), layers
    (reason,) = {layer.reason for layer in layers}
    return reason


def without(config, *fields):
    return {key: value for key, value in config.items() if key not in fields}


def test_ordered_by_stack_and_number(layers_of):
    layers = layers_of(llama_tensors(11), LLAMA)
    assert [layer.layer for layer in layers] == list(range(11))
    assert {layer.stack for layer in layers} == {"decoder"}


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.module."])
def test_wrappers_change_nothing_but_the_stored_names(layers_of, tmp_path, save_model, wrapper):
    plain = layers_of(llama_tensors(), LLAMA)
    tensors = {wrapper + name: tensor for name, tensor in llama_tensors().items()}
    (wrapped,) = attention_layers(save_model(tmp_path / "wrapped", tensors, LLAMA))
    assert (wrapped.name, wrapped.query.rows) == (plain[0].name, plain[0].query.rows)
    assert wrapped.query.module == plain[0].query.module == "model.layers.0.self_attn.q_proj"
    assert wrapped.query.matrix == wrapper + plain[0].query.matrix
    assert wrapped.norm.gain == wrapper + plain[0].norm.gain


def test_base_layers_of_an_adapter_beside_them(layers_of):
    """Bases saved with their adapters' factors beside them, as PEFT's model itself saves them."""
    tensors = {}
    for name, tensor in llama_tensors().items():
        renamed = name.replace("q_proj.weight", "q_proj.base_layer.weight")
        tensors[f"base_model.model.{renamed}"] = tensor
    stem = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    tensors[f"{stem}A.default.weight"] = torch.ones(2, 16)
    tensors[f"{stem}B.default.weight"] = torch.ones(16, 2)
    (layer,) = layers_of(tensors, LLAMA)
    assert isinstance(layer, AttentionLayer)
    assert layer.query.module == "model.layers.0.self_attn.q_proj"
    assert layer.query.matrix.endswith("q_proj.base_layer.weight")


def test_adapters_have_no_layers(write_adapter, tmp_path):
    assert attention_layers(open_checkpoint(write_adapter(tmp_path / "adapter"))) == ()


def test_no_data_is_read(save_model, tmp_path, monkeypatch):
    checkpoint = save_model(tmp_path / "model", llama_tensors(), LLAMA)
    monkeypatch.setattr(type(checkpoint), "read", None)
    monkeypatch.setattr(type(checkpoint), "read_matrix", None)
    (tmp_path / "model" / "model.safetensors").unlink()
    assert isinstance(attention_layers(checkpoint)[0], AttentionLayer)


def test_old_names_of_norms(tiny):
    """Checkpoints converted from TensorFlow call gains and biases gamma and beta."""
    _, checkpoint = tiny("BertModel", "BertConfig", **SMALL)
    plain = attention_layers(checkpoint)
    path = checkpoint.path / "model.safetensors"
    renamed = {}
    for name, tensor in load_file(path).items():
        name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        renamed[name.replace("LayerNorm.bias", "LayerNorm.beta")] = tensor
    save_file(renamed, path)
    old = attention_layers(open_checkpoint(checkpoint.path))
    assert [layer.norm.gain for layer in plain] == [
        "embeddings.LayerNorm.weight",
        "encoder.layer.0.output.LayerNorm.weight",
    ]
    assert [layer.norm.gain for layer in old] == [
        "embeddings.LayerNorm.gamma",
        "encoder.layer.0.output.LayerNorm.gamma",
    ]
    assert old[1].norm.bias == "encoder.layer.0.output.LayerNorm.beta"


@pytest.mark.parametrize(
    ("model_class", "config_class", "fields", "missing"),
    [
        ("OPTModel", "OPTConfig", {"do_layer_norm_before": False, "ffn_dim": 48,
                                   "word_embed_proj_dim": 32}, [True, False]),
        ("ElectraModel", "ElectraConfig", {**SMALL, "embedding_size": 16}, [True, False]),
        ("Olmo2Model", "Olmo2Config", SMALL, [True, True]),
        ("BertModel", "BertConfig", SMALL, [False, False]),
    ],
)  # fmt: skip
def test_layers_without_a_norm_in_front_say_why(tiny, model_class, config_class, fields, missing):
    layers = attention_layers(tiny(model_class, config_class, **fields)[1])
    assert [layer.norm is None for layer in layers] == missing
    assert all((layer.norm is None) == bool(layer.norm_detail) for layer in layers)


@pytest.mark.parametrize(
    ("model_class", "config_class", "fields", "contexts"),
    [
        ("LlamaModel", "LlamaConfig", {**SMALL, "max_position_embeddings": 40}, {40}),
        ("GPT2Model", "GPT2Config", {"n_head": 4, "n_positions": 24}, {24}),
        ("MptModel", "MptConfig", {"d_model": 32, "n_heads": 4, "n_layers": 1,
                                   "max_seq_len": 20}, {20}),
        ("BloomModel", "BloomConfig", {"n_head": 4}, {None}),
        ("RobertaModel", "RobertaConfig", {**SMALL, "max_position_embeddings": 34,
                                           "pad_token_id": 1}, {32}),
        ("ViTModel", "ViTConfig", {**SMALL, "image_size": 16, "patch_size": 4}, {17}),
        ("DeiTModel", "DeiTConfig", {**SMALL, "image_size": [16, 8], "patch_size": 4}, {10}),
        ("WhisperModel", "WhisperConfig",
         {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
          "decoder_attention_heads": 4, "max_source_positions": 8, "max_target_positions": 16},
         {8, 16}),
    ],
)  # fmt: skip
def test_context(tiny, model_class, config_class, fields, contexts):
    layers = attention_layers(tiny(model_class, config_class, **fields)[1])
    assert {layer.context for layer in layers} == contexts


def test_cross_attention_names_both_norms(tiny):
    fields = {
        "d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
    }  # fmt: skip
    layers = attention_layers(tiny("BartModel", "BartConfig", **fields)[1])
    (cross,) = (layer for layer in layers if layer.cross)
    assert cross.norm.gain == "decoder.layers.0.self_attn_layer_norm.weight"
    assert cross.key_norm_layer.gain == "encoder.layers.1.final_layer_norm.weight"
    assert not cross.causal and cross.logit_bias is None and cross.rotary is None


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (None, "config.json does not say num_attention_heads"),
        (without(LLAMA, "num_attention_heads"), "config.json does not say num_attention_heads"),
        (without(LLAMA, "model_type"), "config.json does not say model_type"),
        ({**LLAMA, "model_type": "newllm"}, "not known for 'newllm'"),
        ({**LLAMA, "num_attention_heads": 3, "num_key_value_heads": 3}, "16 rows .* 3 heads"),
        (without(LLAMA, "num_key_value_heads"), "8 rows, not the 16 .* num_key_value_heads"),
        ({**LLAMA, "num_attention_heads": 4, "num_key_value_heads": 3}, "4 heads cannot share 3"),
        ({**LLAMA, "head_dim": 8}, "head_dim = 8, the rows say 4"),
        ({**LLAMA, "model_type": "gpt_neox"}, "no attention module of 'gpt_neox'"),
        ({**LLAMA, "model_type": "phi3"}, "separate matrices are not 'phi3'"),
        ({**LLAMA, "model_type": "qwen3"}, "q_norm.weight is not in the checkpoint"),
        (
            {**LLAMA, "model_type": "gemma2", "layer_types": ["chunked"] * 2},
            "layer of type 'chunked'",
        ),
        ({**LLAMA, "model_type": "gemma2", "query_pre_attn_scalar": -1}, "scalar = -1"),
        ({**LLAMA, "rope_theta": "big"}, "rope_theta = 'big'"),
        ({**LLAMA, "partial_rotary_factor": 0.25}, "rotary width of 1"),
        ({"model_type": "llava", "text_config": {"model_type": "llama"}}, "num_attention_heads"),
    ],
)
def test_what_config_json_does_not_say_is_not_guessed(layers_of, config, reason):
    layers = layers_of(llama_tensors(2), config)
    assert len(layers) == 2
    assert layers[1].layer == 1 and layers[1].matrix == "model.layers.1.self_attn.q_proj.weight"
    assert all(re.search(reason, layer.reason) for layer in layers), layers


def test_the_text_part_of_a_configuration_is_for_the_language_model_only(layers_of):
    config = {"model_type": "llava", "text_config": LLAMA, "vision_config": {"model_type": "clip"}}
    tensors = llama_tensors(prefix="language_model.model.")
    tensors |= llama_tensors(prefix="vision_tower.vision_model.encoder.")
    tensors |= llama_tensors(prefix="resampler.")
    by_name = {layer.name.split(".")[0]: layer for layer in layers_of(tensors, config)}
    assert isinstance(by_name["language_model"], AttentionLayer)
    assert "num_attention_heads" in by_name["vision_tower"].reason
    assert "'resampler.'" in by_name["resampler"].reason


def test_norms_of_queries_that_the_family_does_not_have(layers_of):
    tensors = llama_tensors()
    tensors["model.layers.0.self_attn.q_norm.weight"] = torch.ones(4)
    assert "q_norm.weight normalises" in only_reason(layers_of(tensors, LLAMA))


@pytest.mark.parametrize(
    ("name", "rows", "model_type", "reason"),
    [
        ("transformer.layers.0.attention.query_key_value.weight", 48, "chatglm", "'chatglm'"),
        ("transformer.h.0.self_attention.query_key_value.weight", 48, "new", "'new'"),
        ("model.layers.0.self_attn.W_pack.weight", 48, "baichuan", "'baichuan'"),
        ("transformer.h.0.attn.c_attn.weight", 48, "llama", "no attention module of 'llama'"),
        ("h.0.crossattention.c_attn.weight", 32, "gpt2", "no attention module of 'gpt2'"),
        ("gpt_neox.layers.0.attention.query_key_value.weight", 50, "gpt_neox", "50 rows"),
        ("blocks.0.attn.qkv.weight", 48, None, "does not say model_type"),
    ],
)
def test_unknown_fused_layouts(layers_of, name, rows, model_type, reason):
    config = {"num_attention_heads": 4}
    config |= {"model_type": model_type} if model_type else {}
    assert reason in only_reason(layers_of({name: torch.ones(rows, 16)}, config))


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("self_attn.q_proj", "self_attn.kv_a_proj_with_mqa", "self_attn.kv_b_proj"), "MLA"),
        (("self_attn.q_a_proj", "self_attn.q_b_proj", "self_attn.kv_b_proj"), "MLA"),
        (("mixer.in_proj", "mixer.x_proj", "mixer.out_proj", "mixer.A_log"), "recurrent"),
        (("attention.receptance", "attention.key", "attention.time_decay"), "recurrent"),
    ],
)
def test_layers_without_a_softmax_of_queries_and_keys(layers_of, names, reason):
    tensors = {}
    for name in names:
        leaf = "" if name.endswith(("A_log", "time_decay")) else ".weight"
        tensors[f"model.layers.0.{name}{leaf}"] = torch.ones(16, 16)
    (layer,) = layers_of(tensors, {"model_type": "deepseek_v3", "num_attention_heads": 4})
    assert isinstance(layer, RefusedLayer) and reason in layer.reason
    assert layer.name == f"model.layers.0.{names[0].split('.')[0]}" and layer.matrix


@pytest.mark.parametrize(
    ("model_class", "config_class", "fields", "reason"),
    [
        ("StableLmModel", "StableLmConfig", {**SMALL, "qk_layernorm": True}, "qk_layernorm"),
        ("CohereModel", "CohereConfig", {**SMALL, "use_qk_norm": True}, "use_qk_norm"),
        ("OlmoModel", "OlmoConfig", {**SMALL, "clip_qkv": 8.0}, "clip_qkv"),
        ("MptModel", "MptConfig", {"d_model": 32, "n_heads": 4, "n_layers": 1,
                                   "attn_config": {"clip_qkv": 6.0}}, "clip_qkv"),
        ("MptModel", "MptConfig", {"d_model": 32, "n_heads": 4, "n_layers": 1,
                                   "attn_config": {"alibi_bias_max": 16}}, "alibi_bias_max is 16"),
        ("GPT2Model", "GPT2Config", {"n_head": 4, "add_cross_attention": True}, None),
    ],
)  # fmt: skip
def test_what_the_logits_of_a_known_family_do_not_follow(
    tiny, model_class, config_class, fields, reason
):
    layers = attention_layers(tiny(model_class, config_class, **fields)[1])
    if reason:
        assert reason in only_reason(layers)
    else:
        refused = [layer.name for layer in layers if isinstance(layer, RefusedLayer)]
        assert refused and all("crossattention" in name for name in refused)


def test_packed_matrices_are_refused(layers_of):
    tensors = llama_tensors()
    name = "model.layers.0.self_attn.k_proj.weight"
    tensors[name] = torch.ones(8, 2, dtype=torch.uint8)
    assert f"{name}: packed uint8" in only_reason(layers_of(tensors, LLAMA))


def test_torch_attention_needs_heads(save_model, tmp_path):
    encoder = torch.nn.TransformerEncoder(
        torch.nn.TransformerEncoderLayer(16, 4, 32), 2, enable_nested_tensor=False
    ).eval()
    tensors = dict(encoder.state_dict())
    bare = attention_layers(save_model(tmp_path / "bare", tensors))
    assert only_reason(bare) == "config.json does not say num_attention_heads"
    layers = attention_layers(save_model(tmp_path / "said", tensors, {"num_attention_heads": 4}))
    assert [layer.layer for layer in layers] == [0, 1]
    x = torch.randn(6, 1, 16)
    attention = encoder.layers[0].self_attn
    _, expected = attention(x, x, x, average_attn_weights=False)
    layer = layers[0]
    q, k = (x[:, 0] @ tensors[p.matrix].T + tensors[p.bias] for p in (layer.query, layer.key))
    for head in range(4):
        S = layer.beta * q[:, layer.query.rows[head]] @ k[:, layer.key.rows[head]].T
        torch.testing.assert_close(S.softmax(1), expected[0, head])
    assert layer.norm is None and layer.norm_detail


def test_timm_needs_heads_beside_its_architecture(layers_of):
    tensors = {
        "blocks.0.attn.qkv.weight": torch.ones(48, 16),
        "blocks.0.norm1.weight": torch.ones(16),
        "blocks.0.norm1.bias": torch.ones(16),
    }
    config = {"architecture": "vit_tiny_patch16_224"}
    assert only_reason(layers_of(tensors, config)) == (
        "config.json does not say num_attention_heads"
    )
    (layer,) = layers_of(tensors, {**config, "num_heads": 2})
    assert layer.key.rows == (slice(16, 24), slice(24, 32))
    assert layer.norm.gain == "blocks.0.norm1.weight" and not layer.causal
    swapped = {"architecture": "vit_relpos_small_patch16_224", "num_heads": 2}
    assert "vit_relpos" in only_reason(layers_of(tensors, swapped))


@pytest.mark.parametrize(
    ("model_type", "field"),
    [
        ("llama", "num_attention_heads"),
        ("llama", "num_key_value_heads"),
        ("llama", "head_dim"),
        ("llama", "rope_scaling"),
        ("llama", "rope_parameters"),
        ("llama", "rope_theta"),
        ("llama", "partial_rotary_factor"),
        ("llama", "max_position_embeddings"),
        ("llama", "rms_norm_eps"),
        ("gemma2", "query_pre_attn_scalar"),
        ("gemma2", "attn_logit_softcapping"),
        ("gemma2", "layer_types"),
        ("mistral", "sliding_window"),
        ("qwen2", "max_window_layers"),
        ("granite", "attention_multiplier"),
    ],
)
def test_config_written_by_hand(save_model, tmp_path, model_type, field):
    """Whatever stands in config.json, a reason or a usable layer comes out and no exception."""
    values = (None, -1, 0, True, "x", [], ["x"], {}, {"rope_type": 3}, 1e400)
    for number, value in enumerate(values):
        config = {**LLAMA, "model_type": model_type, field: value}
        (layer,) = attention_layers(save_model(tmp_path / str(number), llama_tensors(), config))
        if isinstance(layer, AttentionLayer):
            assert 0.0 < layer.beta < float("inf")
            assert layer.softcap is None or layer.softcap > 0.0
            assert layer.norm is not None and layer.norm.eps >= 0.0
