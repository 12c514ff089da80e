"""Rows of queries, keys and values in fused matrices, against the modules that use them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as hf
from safetensors.torch import save_file

from analyzer.checkpoints.checkpoint import open_checkpoint
from analyzer.checkpoints.fused import fused_rows


def test_multihead_attention(tmp_path: Path) -> None:
    torch.manual_seed(0)
    attention = torch.nn.MultiheadAttention(8, 1, bias=False, batch_first=True)
    state = {
        f"layers.0.self_attn.{name}": tensor for name, tensor in attention.state_dict().items()
    }
    save_file(state, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path / "model.safetensors")
    (matrix,) = [m for m in checkpoint.matrices() if m.role == "attn_qkv"]
    rows = fused_rows(matrix, {})
    W = checkpoint.read_matrix(matrix)
    asked, given = torch.randn(1, 5, 8), torch.randn(1, 6, 8)
    out, weights = attention(asked, given, given)
    q, k, v = (x @ W[rows[name]].T for x, name in ((asked, "q"), (given, "k"), (given, "v")))
    probabilities = torch.softmax(q @ k.mT / 8**0.5, dim=-1)
    torch.testing.assert_close(weights, probabilities)
    torch.testing.assert_close(out, probabilities @ v @ attention.out_proj.weight.T)


def test_phi3_has_fewer_keys_than_queries(tmp_path: Path) -> None:
    config = hf.Phi3Config(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=40, pad_token_id=0, attn_implementation="eager",
    )  # fmt: skip
    torch.manual_seed(0)
    model = hf.Phi3ForCausalLM(config)
    model.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    (matrix,) = [m for m in checkpoint.matrices() if m.role == "attn_qkv"]
    rows = fused_rows(matrix, checkpoint.config)
    assert {name: part.stop - part.start for name, part in rows.items()} == {
        "q": 32, "k": 16, "v": 16,
    }  # fmt: skip
    # Without values nothing comes out of attention; without queries every weight is the same.
    tokens = torch.randint(1, 40, (1, 6))
    weight = model.model.layers[0].self_attn.qkv_proj.weight
    with torch.no_grad():
        kept = weight.clone()
        weight[rows["q"]] = 0.0
        found = model(tokens, output_attentions=True).attentions[0][0, :, -1]
        torch.testing.assert_close(found, torch.full_like(found, 1 / 6))
        weight.copy_(kept)
        weight[rows["v"]] = 0.0
        seen = []
        module = model.model.layers[0].self_attn.o_proj
        module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        model(tokens)
        assert not seen[0].any()


@pytest.mark.parametrize("kind", ["gpt_neox", "bloom", "falcon"])
def test_heads_that_alternate_are_left_alone(kind: str, tmp_path: Path) -> None:
    name = "gpt_neox.layers.0.attention.query_key_value.weight"
    save_file({name: torch.zeros(24, 8)}, tmp_path / "model.safetensors")
    (matrix,) = open_checkpoint(tmp_path / "model.safetensors").matrices()
    assert fused_rows(matrix, {"model_type": kind, "num_attention_heads": 2}) == {}
