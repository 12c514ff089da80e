"""Every family against a tiny live model: probabilities, the norm in front, data-free bounds.

The attention probabilities that a model reports are computed anew in float64 from the input of its
query projection and what `attention_layers` says, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from analyzer.checkpoints.attention import AttentionLayer, Norm, attention_layers
from analyzer.checkpoints.checkpoint import Checkpoint
from theory.lora_limits.alibi import alibi, alibi_slopes
from theory.lora_limits.data_free import (
    entry_bounds,
    logit_bound,
    logit_bound_rope,
    qk_norm_entry_bounds,
    qk_norm_logit_bound,
    token_bound,
)
from theory.lora_limits.normed_rows import NormedRows, NormLayer, normed_rows
from theory.lora_limits.rotary import head_normalised, rotary_pairs, rotated

LENGTH = 12
GQA = {"num_key_value_heads": 2}
SMALL = {"intermediate_size": 48}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 10000.0,
}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 10000.0,
}
IMAGE = {"image_size": 16, "patch_size": 4, "num_channels": 3, **SMALL}
SEQ2SEQ = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
    "max_position_embeddings": 32,
}  # fmt: skip
T5 = {"d_model": 32, "d_kv": 4, "d_ff": 48, "num_layers": 2, "num_heads": 4}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32}
OPT = {"ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 32}
BERT = {**SMALL, "max_position_embeddings": 32}

# Model, configuration, the fields that differ from a tiny default, number of attention layers.
CASES: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", {**SMALL, **GQA, "attention_bias": True}, 2),
    "llama3": ("LlamaForCausalLM", "LlamaConfig", {**SMALL, "rope_parameters": LLAMA3}, 2),
    "llama-yarn": ("LlamaForCausalLM", "LlamaConfig", {**SMALL, "rope_parameters": YARN}, 2),
    "llama-wide": ("LlamaForCausalLM", "LlamaConfig", {**SMALL, **GQA, "head_dim": 12}, 2),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**SMALL, **GQA, "sliding_window": 5}, 2),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {**SMALL, **GQA, "num_local_experts": 2}, 2),
    "qwen2": (
        "Qwen2ForCausalLM",
        "Qwen2Config",
        {**SMALL, **GQA, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
        2,
    ),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**SMALL, **GQA, "head_dim": 8}, 2),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", {**SMALL, **GQA, "head_dim": 8}, 2),
    "gemma2": (
        "Gemma2ForCausalLM",
        "Gemma2Config",
        {
            **SMALL, **GQA, "head_dim": 8, "query_pre_attn_scalar": 5,
            "attn_logit_softcapping": 2.0, "sliding_window": 4,
        },
        2,
    ),
    "gemma3": (
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        {
            **SMALL, **GQA, "head_dim": 8, "query_pre_attn_scalar": 5, "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        2,
    ),
    "gemma3-bidirectional": (
        "Gemma3TextModel",
        "Gemma3TextConfig",
        {
            **SMALL, **GQA, "head_dim": 8, "sliding_window": 6, "use_bidirectional_attention": True,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        2,
    ),
    "phi": ("PhiForCausalLM", "PhiConfig", {**SMALL, **GQA}, 2),
    "phi-qk-norm": ("PhiForCausalLM", "PhiConfig", {**SMALL, "qk_layernorm": True}, 2),
    "persimmon": ("PersimmonForCausalLM", "PersimmonConfig", SMALL, 2),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", {**SMALL, **GQA, "sliding_window": 5}, 2),
    "starcoder2": ("Starcoder2ForCausalLM", "Starcoder2Config", {**SMALL, **GQA}, 2),
    "stablelm": ("StableLmForCausalLM", "StableLmConfig", {**SMALL, **GQA}, 2),
    "granite": (
        "GraniteForCausalLM", "GraniteConfig", {**SMALL, **GQA, "attention_multiplier": 0.3}, 2
    ),
    "glm": ("GlmForCausalLM", "GlmConfig", {**SMALL, **GQA, "head_dim": 8}, 2),
    "cohere": ("CohereForCausalLM", "CohereConfig", {**SMALL, **GQA}, 2),
    "cohere2": (
        "Cohere2ForCausalLM",
        "Cohere2Config",
        {**SMALL, **GQA, "sliding_window": 4,
         "layer_types": ["sliding_attention", "full_attention"]},
        2,
    ),
    "smollm3": (
        "SmolLM3ForCausalLM", "SmolLM3Config", {**SMALL, **GQA, "no_rope_layers": [1, 0]}, 2
    ),
    "qwen3-moe": (
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        {**GQA, "head_dim": 8, "num_experts": 2, "num_experts_per_tok": 1,
         "moe_intermediate_size": 16, "use_sliding_window": True, "sliding_window": 4},
        2,
    ),
    "olmo": ("OlmoForCausalLM", "OlmoConfig", {**SMALL, **GQA}, 2),
    "olmo2": ("Olmo2ForCausalLM", "Olmo2Config", {**SMALL, **GQA}, 2),
    "olmoe": ("OlmoeForCausalLM", "OlmoeConfig", {**SMALL, **GQA, "num_experts": 2,
                                                  "num_experts_per_tok": 1}, 2),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2, 2),
    "gpt2-by-layer": (
        "GPT2LMHeadModel", "GPT2Config", {**GPT2, "scale_attn_by_inverse_layer_idx": True}, 2
    ),
    "gpt2-unscaled": ("GPT2Model", "GPT2Config", {**GPT2, "scale_attn_weights": False}, 2),
    "gpt-bigcode": ("GPTBigCodeForCausalLM", "GPTBigCodeConfig", GPT2, 2),
    "gpt-bigcode-multi-head": (
        "GPTBigCodeForCausalLM", "GPTBigCodeConfig", {**GPT2, "multi_query": False}, 2
    ),
    "gpt-neo": (
        "GPTNeoForCausalLM",
        "GPTNeoConfig",
        {
            "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]],
            "window_size": 4, "max_position_embeddings": 32,
        },
        2,
    ),
    "gptj": ("GPTJForCausalLM", "GPTJConfig", {**GPT2, "rotary_dim": 4}, 2),
    "codegen": ("CodeGenForCausalLM", "CodeGenConfig", {**GPT2, "n_head": 8, "rotary_dim": 4}, 2),
    "gpt-neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", {**SMALL, "rotary_pct": 0.5}, 2),
    "falcon-multi-query": (
        "FalconForCausalLM", "FalconConfig", {"multi_query": True, "bias": True}, 2
    ),
    "falcon-new": (
        "FalconForCausalLM",
        "FalconConfig",
        {"new_decoder_architecture": True, "num_kv_heads": 2},
        2,
    ),
    "falcon-rw": (
        "FalconForCausalLM",
        "FalconConfig",
        # its eager attention adds the bias twice
        {"multi_query": False, "alibi": True, "parallel_attn": False, "bias": True,
         "attention": "sdpa"},
        2,
    ),
    "bloom": ("BloomForCausalLM", "BloomConfig", {"n_layer": 2, "n_head": 4}, 2),
    "mpt": (
        "MptForCausalLM",
        "MptConfig",
        {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 32},
        2,
    ),
    "opt": ("OPTForCausalLM", "OPTConfig", OPT, 2),
    "opt-350m": ("OPTForCausalLM", "OPTConfig", {**OPT, "do_layer_norm_before": False}, 2),
    "galactica": ("OPTModel", "OPTConfig", {**OPT, "layer_norm_elementwise_affine": False}, 2),
    "bert": ("BertForMaskedLM", "BertConfig", BERT, 2),
    "bert-bare": ("BertModel", "BertConfig", BERT, 2),
    "bert-cross": (
        "BertLMHeadModel",
        "BertConfig",
        {**BERT, "is_decoder": True, "add_cross_attention": True},
        4,
    ),
    "bert-decoder": ("BertLMHeadModel", "BertConfig", {**BERT, "is_decoder": True}, 2),
    "roberta": ("RobertaForMaskedLM", "RobertaConfig", {**BERT, "pad_token_id": 1}, 2),
    "electra": ("ElectraForMaskedLM", "ElectraConfig", {**BERT, "embedding_size": 32}, 2),
    "electra-narrow": ("ElectraModel", "ElectraConfig", {**BERT, "embedding_size": 16}, 2),
    "distilbert": (
        "DistilBertModel",
        "DistilBertConfig",
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 32},
        2,
    ),
    "modernbert": (
        "ModernBertModel",
        "ModernBertConfig",
        {**SMALL, "local_attention": 6, "global_attn_every_n_layers": 2, "norm_bias": True},
        2,
    ),
    "vit": ("ViTModel", "ViTConfig", IMAGE, 2),
    "deit": ("DeiTModel", "DeiTConfig", IMAGE, 2),
    "dinov2": ("Dinov2Model", "Dinov2Config", IMAGE, 2),
    "clip": (
        "CLIPModel",
        "CLIPConfig",
        {
            "text_config": {**SMALL, "hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 64,
                            "num_attention_heads": 4, "max_position_embeddings": 16},
            "vision_config": {**IMAGE, "hidden_size": 32, "num_hidden_layers": 2,
                              "num_attention_heads": 2},
            "projection_dim": 16,
        },
        4,
    ),
    "t5": ("T5ForConditionalGeneration", "T5Config", T5, 6),
    "bart": ("BartForConditionalGeneration", "BartConfig", SEQ2SEQ, 6),
    "mbart": ("MBartForConditionalGeneration", "MBartConfig", SEQ2SEQ, 6),
    "whisper": (
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {
            **SEQ2SEQ, "num_mel_bins": 8, "max_source_positions": 8, "max_target_positions": 16,
            "decoder_start_token_id": 1,
        },
        6,
    ),
}  # fmt: skip


@dataclass
class Seen:
    """One attention layer in a forward pass."""

    layer: AttentionLayer
    queries_from: np.ndarray  # (L, d) input of the query projection
    keys_from: np.ndarray  # (L_k, d)
    probabilities: np.ndarray | None  # (H, L, L_k)
    added: np.ndarray | None  # (H, L, L_k) relative bias, from the model
    others: list[np.ndarray]  # inputs of all matrices of the model


@pytest.fixture(scope="module", params=CASES)
def case(request, tiny):
    model_class, config_class, fields, count = CASES[request.param]
    model, checkpoint = tiny(model_class, config_class, **fields)
    layers = attention_layers(checkpoint)
    assert all(isinstance(layer, AttentionLayer) for layer in layers), layers
    assert len(layers) == count
    return SimpleNamespace(
        name=request.param,
        checkpoint=checkpoint,
        model=model,
        seen=forward(model, checkpoint, layers),
    )


def test_attention_probabilities(case):
    for seen in case.seen:
        again = probabilities(case.checkpoint, seen)
        if seen.probabilities is None:
            continue
        assert np.abs(again - seen.probabilities).max() < 1e-5, seen.layer.name
        # a uniform softmax would not tell one layout from another
        assert np.abs(again - again.mean(axis=2, keepdims=True)).max() > 0.05


def test_attention_output(case):
    """What the values' rows give under these probabilities goes into some matrix of the model."""
    for seen in case.seen:
        layer = seen.layer
        assert layer.value is not None
        F = probabilities(case.checkpoint, seen)
        v = projected(case.checkpoint, layer.value, seen.keys_from)
        heads = [F[h] @ v[:, layer.value.rows[layer.key_head(h)]] for h in range(layer.n_heads)]
        context = np.concatenate(heads, axis=1)
        errors = [np.abs(context - x).max() for x in seen.others if x.shape == context.shape]
        assert min(errors) < 2e-5, layer.name


def test_norm_in_front(case):
    for seen in case.seen:
        layer = seen.layer
        if layer.norm is None:
            assert layer.norm_detail
        else:
            assert_came_out_of(case.checkpoint, layer.norm, seen.queries_from)
        if layer.cross and layer.key_norm_layer is not None:
            assert_came_out_of(case.checkpoint, layer.key_norm_layer, seen.keys_from)


def test_data_free_bounds(case):
    """No query, key or logit exceeds what the weights alone allow."""
    for seen in case.seen:
        layer = seen.layer
        key_norm = layer.key_norm_layer if layer.cross else layer.norm
        if layer.norm is None or key_norm is None:
            continue
        q, k = queries_and_keys(case.checkpoint, seen)
        rotary = layer.rotary
        pairs = rotary_pairs(rotary.width, rotary.layout) if rotary else None
        factor = rotary.factor if rotary else 1.0
        if layer.query_norm is not None:
            if layer.query_norm.per_head and layer.query_norm.norm.kind == "rmsnorm":
                assert_within_head_norms(case.checkpoint, layer, q, k, pairs)
            continue
        rows_q = rows_of(case.checkpoint, layer.query, layer.norm)
        rows_k = rows_of(case.checkpoint, layer.key, key_norm)
        for head in range(layer.n_heads):
            key_head = layer.key_head(head)
            A, B = rows_q.rows(layer.query.rows[head]), rows_k.rows(layer.key.rows[key_head])
            slack = 1.0 + 1e-5
            assert (np.abs(q[head]) <= slack * factor * entry_bounds(A, pairs)).all()
            assert (np.abs(k[key_head]) <= slack * factor * entry_bounds(B, pairs)).all()
            largest = np.abs(layer.beta * q[head] @ k[key_head].T).max()
            if rotary:
                bound = factor**2 * logit_bound_rope(token_bound(A), token_bound(B), layer.beta)
            else:
                bound = logit_bound(A, B, layer.beta)
            assert largest <= slack * bound


def assert_within_head_norms(
    checkpoint: Checkpoint, layer: AttentionLayer, q: np.ndarray, k: np.ndarray, pairs: Any
) -> None:
    gq, gk = (
        gain(checkpoint, normed.norm, layer.head_width)
        for normed in (layer.query_norm, layer.key_norm)
        if normed
    )
    assert (np.abs(q) <= (1 + 1e-6) * qk_norm_entry_bounds(gq, pairs)).all()
    assert (np.abs(k) <= (1 + 1e-6) * qk_norm_entry_bounds(gk, pairs)).all()
    bound = qk_norm_logit_bound(gq, gk, layer.beta, pairs)
    for head in range(layer.n_heads):
        assert np.abs(layer.beta * q[head] @ k[layer.key_head(head)].T).max() <= bound * (1 + 1e-6)


def assert_came_out_of(checkpoint: Checkpoint, norm: Norm, x: np.ndarray) -> None:
    """x = g ∘ z + b with ‖z‖² = d, up to what eps takes, and Σ z = 0 for LayerNorm."""
    d = x.shape[1]
    bias = vector(checkpoint, norm.bias, d, 0.0)
    z = (x - bias) / gain(checkpoint, norm, d)
    assert np.mean(z**2, axis=1) == pytest.approx(1.0, rel=2e-3)
    if norm.kind == "layernorm":
        assert np.abs(z.mean(axis=1)).max() < 1e-4


def forward(model: Any, checkpoint: Checkpoint, layers: Any) -> list[Seen]:
    """Inputs of the projections and the attention probabilities of one forward pass."""
    inputs: dict[Any, np.ndarray] = {}

    def keep(module: Any, args: Any) -> None:
        if args and args[0].is_floating_point() and args[0].ndim == 3:
            inputs[module] = args[0][0].double().numpy()

    for module in model.modules():
        if isinstance(getattr(module, "weight", None), torch.Tensor) and module.weight.ndim == 2:
            module.register_forward_pre_hook(keep)
    eager = model.config._attn_implementation == "eager"
    with torch.no_grad():
        output = model(**inputs_for(model), output_attentions=eager)
    return [
        Seen(
            layer,
            inputs[live_module(model, checkpoint, layer.query.matrix)],
            inputs[live_module(model, checkpoint, layer.key.matrix)],
            attention_of(output, layer)[0].double().numpy() if eager else None,
            relative_bias(model, layer),
            list(inputs.values()),
        )
        for layer in layers
    ]


def live_module(model: Any, checkpoint: Checkpoint, name: str) -> Any:
    """The module with this very weight: names in files and live models may differ."""
    stored = checkpoint.read(name)
    (module,) = (
        module
        for module in model.modules()
        if isinstance(weight := getattr(module, "weight", None), torch.Tensor)
        and weight.shape == stored.shape
        and torch.equal(weight, stored)
    )
    return module


def inputs_for(model: Any) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn((1, 3, 16, 16), generator=generator)
    tokens = torch.randint(3, 64, (1, LENGTH), generator=generator)
    if isinstance(model, transformers.WhisperForConditionalGeneration):
        sound = torch.randn((1, 8, 16), generator=generator)
        return {"input_features": sound, "decoder_input_ids": tokens}
    if isinstance(model, transformers.CLIPModel):
        return {"pixel_values": image, "input_ids": tokens}
    if model.main_input_name == "pixel_values":
        return {"pixel_values": image}
    if getattr(model.config, "add_cross_attention", False):
        states = torch.randn((1, 7, 32), generator=generator)
        return {"input_ids": tokens, "encoder_hidden_states": states}
    if model.config.is_encoder_decoder:
        return {"input_ids": tokens, "decoder_input_ids": tokens[:, :7]}
    return {"input_ids": tokens}


def attention_of(output: Any, layer: AttentionLayer) -> torch.Tensor:
    if "text_model_output" in output:
        part = output.vision_model_output if layer.stack == "vision" else output.text_model_output
        return part.attentions[layer.layer]
    if layer.cross:
        return output.cross_attentions[layer.layer]
    if "encoder_attentions" in output:
        encoder = layer.stack == "encoder"
        all_layers = output.encoder_attentions if encoder else output.decoder_attentions
        return all_layers[layer.layer]
    return output.attentions[layer.layer]


def relative_bias(model: Any, layer: AttentionLayer) -> np.ndarray | None:
    if layer.logit_bias != "relative":
        return None
    stack, length = (model.encoder, LENGTH) if layer.stack == "encoder" else (model.decoder, 7)
    with torch.no_grad():
        bias = stack.block[0].layer[0].SelfAttention.compute_bias(length, length)
    return bias[0].double().numpy()


def probabilities(checkpoint: Checkpoint, seen: Seen) -> np.ndarray:
    layer = seen.layer
    q, k = queries_and_keys(checkpoint, seen)
    rows, columns = np.arange(q.shape[1]), np.arange(k.shape[1])
    found = []
    for head in range(layer.n_heads):
        S = layer.beta * q[head] @ k[layer.key_head(head)].T
        if layer.softcap is not None:
            S = layer.softcap * np.tanh(S / layer.softcap)
        if layer.logit_bias == "alibi":
            slope = layer.bias_scale * alibi_slopes(layer.n_heads)[head]
            S = S + alibi(slope)(rows, columns)
        if seen.added is not None:
            S = S + seen.added[head]
        behind = rows[:, None] - columns
        hidden = (behind < 0) if layer.causal else np.zeros(S.shape, bool)
        if layer.window is not None and layer.causal:
            hidden |= behind >= layer.window
        elif layer.window is not None:
            hidden |= np.abs(behind) > layer.window // 2
        F = np.exp(np.where(hidden, -np.inf, S - S.max()))
        found.append(F / F.sum(axis=1, keepdims=True))
    return np.stack(found)


def queries_and_keys(checkpoint: Checkpoint, seen: Seen) -> tuple[np.ndarray, np.ndarray]:
    """(H, L, d_h) and (H_kv, L_k, d_h), as they meet."""
    layer = seen.layer
    pairs = (
        (layer.query, layer.query_norm, seen.queries_from),
        (layer.key, layer.key_norm, seen.keys_from),
    )
    found = []
    for projection, normed, x in pairs:
        y = projected(checkpoint, projection, x)
        flat = np.concatenate([y[:, rows] for rows in projection.rows], axis=1)
        if normed is not None and not normed.per_head:
            flat = normalised(checkpoint, normed.norm, flat)
        heads = np.split(flat, len(projection.rows), axis=1)
        if normed is not None and normed.per_head:
            heads = [normalised(checkpoint, normed.norm, head) for head in heads]
        if layer.rotary is not None:
            turn = layer.rotary
            assert turn.frequencies is not None, turn.detail
            heads = [
                rotated(head, np.arange(len(head)), turn.frequencies, turn.layout, turn.factor)
                for head in heads
            ]
        found.append(np.stack(heads))
    return found[0], found[1]


def projected(checkpoint: Checkpoint, projection: Any, x: np.ndarray) -> np.ndarray:
    W = checkpoint.read_matrix(projection.matrix, torch.float64).numpy()
    return x @ W.T + vector(checkpoint, projection.bias, len(W), 0.0)


def normalised(checkpoint: Checkpoint, norm: Norm, values: np.ndarray) -> np.ndarray:
    n = values.shape[1]
    bias = vector(checkpoint, norm.bias, n, 0.0)
    return head_normalised(values, gain(checkpoint, norm, n), norm.kind, norm.eps, bias)


def rows_of(checkpoint: Checkpoint, projection: Any, norm: Norm) -> NormedRows:
    W = checkpoint.read_matrix(projection.matrix, torch.float64).numpy()
    n, d = W.shape
    through = NormLayer(norm.kind, gain(checkpoint, norm, d), vector(checkpoint, norm.bias, d, 0.0))
    return normed_rows(W, through, vector(checkpoint, projection.bias, n, 0.0))


def gain(checkpoint: Checkpoint, norm: Norm, size: int) -> np.ndarray:
    return norm.offset + vector(checkpoint, norm.gain, size, 1.0)


def vector(checkpoint: Checkpoint, name: str | None, size: int, default: float) -> np.ndarray:
    return np.full(size, default) if name is None else checkpoint.read(name).double().numpy()
