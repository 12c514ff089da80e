"""Base, adapter and merged model as folders on disk, from opening to the tuned matrix."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from analyzer.checkpoints.adapters import match_targets, open_adapter, target_update
from analyzer.checkpoints.checkpoint import open_checkpoint


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=13, n_positions=5))


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
        vocab_size=13, max_position_embeddings=9,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def mixtral() -> nn.Module:
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    config = MixtralConfig(
        hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, vocab_size=13, head_dim=4, num_local_experts=3,
    )  # fmt: skip
    return MixtralForCausalLM(config)


def save(base: Any, config: LoraConfig, folder: Path, *, inner: str | None = None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (getattr(base, inner) if inner else base).save_pretrained(folder / "base")
        tuned = get_peft_model(base, config)
        with torch.no_grad():
            for value in tuned.parameters():
                if value.requires_grad:
                    value.add_(torch.randn(value.shape) * 0.3)
        tuned.save_pretrained(str(folder / "adapter"))
        merged: Any = tuned.merge_and_unload()
        merged.save_pretrained(folder / "merged")


@pytest.mark.parametrize(
    ("build", "inner", "config", "changed"),
    [
        (gpt2, None, {"target_modules": ["c_attn", "c_proj", "wte"], "fan_in_fan_out": True}, 7),
        # The base is the encoder alone: its names lack the prefix `bert.`, and it has no head.
        (bert, "bert", {"target_modules": ["query", "dense"], "modules_to_save": ["classifier"],
                        "exclude_modules": ["pooler.dense"]}, 8),
        # Stacked in memory as mlp.experts, stored apart as block_sparse_moe.experts.<e>.w1 ….
        (mixtral, None, {"target_modules": ["q_proj"], "target_parameters": [
            "mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}, 2 + 2 * 3 * 3),
    ],
)  # fmt: skip
def test_every_changed_matrix_is_reproduced(tmp_path, build, inner, config, changed):
    save(build(), LoraConfig(r=2, lora_alpha=6, **config), tmp_path, inner=inner)
    base, merged = open_checkpoint(tmp_path / "base"), open_checkpoint(tmp_path / "merged")
    adapter = open_adapter(open_checkpoint(tmp_path / "adapter"))
    assert {target.status for target in adapter.targets} == {"ok"}
    prefix = f"{inner}." if inner else ""
    reproduced = 0
    for target, info in match_targets(adapter, base.matrices()):
        if info is None:
            assert target.module.endswith("classifier")
            continue
        W0 = base.read_matrix(info)
        change = target_update(adapter, target, info, W0)
        want = merged.read_matrix(prefix + info.name).numpy()
        got = W0.double().numpy() + change.P @ change.Q.T
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
        reproduced += 1
    assert reproduced == changed
