"""Names of real checkpoints → layer and role."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzer.checkpoints.names import describe, is_block_linear, strip_wrappers

KNOWN = [
    ("transformer.h.3.attn.c_attn.weight", 3, "attn_qkv", None),
    ("h.3.attn.c_proj.weight", 3, "attn_o", None),
    ("transformer.h.3.mlp.c_proj.weight", 3, "mlp_down", None),
    ("transformer.h.3.mlp.c_fc.weight", 3, "mlp_up", None),
    ("base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight", 0, "attn_q", None),
    ("module._orig_mod.model.layers.5.mlp.down_proj.weight", 5, "mlp_down", None),
    ("bert.encoder.layer.2.attention.output.dense.weight", 2, "attn_o", None),
    ("bert.encoder.layer.2.output.dense.weight", 2, "mlp_down", None),
    ("encoder.layer.2.intermediate.dense.weight", 2, "mlp_up", None),
    ("encoder.layer.2.attention.self.query.weight", 2, "attn_q", None),
    ("encoder.layer.2.attention.output.LayerNorm.weight", 2, "norm", None),
    ("embeddings.word_embeddings.weight", None, "embed", None),
    ("embeddings.LayerNorm.weight", None, "norm", None),
    ("encoder.block.1.layer.0.SelfAttention.q.weight", 1, "attn_q", None),
    ("encoder.block.1.layer.0.SelfAttention.o.weight", 1, "attn_o", None),
    ("decoder.block.1.layer.2.DenseReluDense.wi_0.weight", 1, "mlp_gate", None),
    ("decoder.block.1.layer.2.DenseReluDense.wo.weight", 1, "mlp_down", None),
    ("gpt_neox.layers.4.attention.query_key_value.weight", 4, "attn_qkv", None),
    ("gpt_neox.layers.4.attention.dense.weight", 4, "attn_o", None),
    ("gpt_neox.layers.4.mlp.dense_4h_to_h.weight", 4, "mlp_down", None),
    ("gpt_neox.embed_in.weight", None, "embed", None),
    ("embed_out.weight", None, "unembed", None),
    ("model.layers.3.block_sparse_moe.experts.5.w1.weight", 3, "expert_gate", 5),
    ("model.layers.3.block_sparse_moe.experts.5.w2.weight", 3, "expert_down", 5),
    ("model.layers.3.block_sparse_moe.gate.weight", 3, "router", None),
    ("model.layers.3.mlp.gate.weight", 3, "router", None),
    ("model.layers.3.mlp.gate_proj.weight", 3, "mlp_gate", None),
    ("model.layers.3.mlp.experts.7.up_proj.weight", 3, "expert_up", 7),
    ("model.layers.3.mlp.experts.gate_up_proj", 3, "expert_gate_up", None),
    ("layers.9.feed_forward.w3.weight", 9, "mlp_up", None),
    ("layers.9.attention.wo.weight", 9, "attn_o", None),
    ("transformer.h.1.mlp.w1.weight", 1, "mlp_up", None),
    ("transformer.h.1.mlp.w2.weight", 1, "mlp_gate", None),
    ("blk.0.attn_output.weight", 0, "attn_o", None),
    ("blk.0.ffn_down.weight", 0, "mlp_down", None),
    ("blk.0.ffn_gate_inp.weight", 0, "router", None),
    ("blocks.6.attn.proj.weight", 6, "attn_o", None),
    ("blocks.6.mlp.fc1.weight", 6, "mlp_up", None),
    ("model.layers.0.input_layernorm.weight", 0, "norm", None),
    ("model.layers.0.self_attn.q_norm.weight", 0, "norm", None),
    ("model.norm.weight", None, "norm", None),
    ("lm_head.weight", None, "unembed", None),
    ("model.embed_tokens.weight", None, "embed", None),
    ("model.decoder.layers.2.self_attn.out_proj.weight", 2, "attn_o", None),
    ("model.decoder.layers.2.fc2.weight", 2, "mlp_down", None),
    ("transformer.h.0.self_attention.dense.weight", 0, "attn_o", None),
    ("vision_model.encoder.layers.1.mlp.fc1.weight", 1, "mlp_up", None),
    ("distilbert.transformer.layer.0.attention.q_lin.weight", 0, "attn_q", None),
    ("distilbert.transformer.layer.0.ffn.lin2.weight", 0, "mlp_down", None),
    ("layers.0.attn.Wo.weight", 0, "attn_o", None),
    ("layers.0.mlp.Wi.weight", 0, "mlp_gate_up", None),
    ("layers.0.mlp.Wo.weight", 0, "mlp_down", None),
    ("encoder.block.1.layer.1.mlp.experts.expert_3.wo.weight", 1, "expert_down", 3),
    ("encoder.block.1.layer.1.mlp.router.classifier.weight", 1, "router", None),
    ("decoder.block.1.layer.1.EncDecAttention.o.weight", 1, "attn_o", None),
    ("decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", 0, "embed", None),
    ("blk.3.ffn_gate_exps.weight", 3, "expert_gate", None),
    ("blk.3.ffn_down_exps.weight", 3, "expert_down", None),
    ("output.weight", None, "unembed", None),
    ("model.layers.1.mlp.experts.down_proj_blocks", 1, "expert_down", None),
    ("model.layers.1.self_attn.q_proj.qweight", 1, "attn_q", None),
    ("model.layers.0.mlp.shared_expert_gate.weight", 0, "router", None),
    ("model.layers.0.mlp.shared_expert.up_proj.weight", 0, "mlp_up", None),
    ("model.layers.0.self_attn.q_b_proj.weight", 0, "attn_q", None),
    ("model.layers.0.self_attn.kv_b_proj.weight", 0, "attn_qkv", None),
    ("layers.3.attention.wqkv.weight", 3, "attn_qkv", None),
    ("transformer.blocks.2.attn.Wqkv.weight", 2, "attn_qkv", None),
    ("transformer.blocks.2.ffn.experts.mlp.v1", 2, "expert_up", None),
    ("transformer.encoder.layers.4.mlp.dense_4h_to_h.weight", 4, "mlp_down", None),
    ("backbone.layers.5.mixer.in_proj.weight", 5, "other", None),
    ("backbone.layers.5.mixer.out_proj.weight", 5, "other", None),
    ("encoder.layer.0.attention.self.in_proj.weight", 0, "attn_qkv", None),
    ("transformer.resblocks.7.attn.in_proj_weight", 7, "attn_qkv", None),
    ("encoder.layers.0.feed_forward.output_dense.weight", 0, "mlp_down", None),
    ("encoder.layer.0.crossattention.output.dense.weight", 0, "attn_o", None),
    ("transformer.attentions.2.q_lin.weight", 2, "attn_q", None),
    ("rwkv.blocks.0.attention.time_mix_key", 0, "other", None),
    ("rwkv.blocks.0.feed_forward.key.weight", 0, "mlp_up", None),
    ("encoder.albert_layer_groups.0.albert_layers.0.ffn_output.weight", 0, "mlp_down", None),
    ("base_model.model.score.modules_to_save.default.weight", None, "other", None),
    ("something.unheard.of", None, "other", None),
    ("pooler.dense.weight", None, "other", None),
]


@pytest.mark.parametrize(("name", "layer", "role", "expert"), KNOWN)
def test_known_names(name: str, layer: int | None, role: str, expert: int | None) -> None:
    found = describe(name)
    assert (found.layer, found.role, found.expert) == (layer, role, expert)


def test_stacks() -> None:
    assert describe("vision_model.encoder.layers.1.mlp.fc1.weight").stack == "vision"
    assert describe("bert.encoder.layer.2.output.dense.weight").stack == "encoder"
    assert describe("model.decoder.layers.2.fc2.weight").stack == "decoder"


def test_block_linear() -> None:
    assert is_block_linear("attn_q")
    assert not any(map(is_block_linear, ("embed", "unembed", "norm", "router", "other")))


@given(st.text(max_size=80))
def test_any_name_is_described(name: str) -> None:
    assert describe(name).role
    assert strip_wrappers(strip_wrappers(name)) == strip_wrappers(name)
