"""Frequencies against those of transformers, in the spelling of every version."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from analyzer.checkpoints.attention import attention_layers
from analyzer.checkpoints.attention.fused_layouts import LayoutRefused
from analyzer.checkpoints.attention.rotary_config import RotaryRule, rotary
from analyzer.checkpoints.checkpoint import open_checkpoint

FULL = "full_attention"
SCALINGS = {
    "linear": {"factor": 4.0},
    "llama3": {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 4096},
    "yarn-sharp": {
        "rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 512,
        "beta_fast": 16.0, "beta_slow": 2.0, "truncate": False,
    },
    "yarn-mscale": {
        "rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096,
        "mscale": 1.0, "mscale_all_dim": 0.8,
    },
    "yarn-said": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096,
        "attention_factor": 1.25,
    },
}  # fmt: skip


@pytest.mark.parametrize("theta", [10000.0, 500000.0])
@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("spelling", ["rope_parameters", "rope_scaling", "type"])
def test_scaled_frequencies(name, theta, spelling):
    scaling = {"rope_type": name, **SCALINGS[name]}
    live = transformers.LlamaConfig(
        hidden_size=256,
        num_attention_heads=2,
        max_position_embeddings=16384,
        rope_parameters={**scaling, "rope_theta": theta},
    )
    expected, factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](live, torch.device("cpu"))
    if spelling == "type":
        scaling["type"] = scaling.pop("rope_type")
    config = {"max_position_embeddings": 16384}
    if spelling == "rope_parameters":
        config["rope_parameters"] = {**scaling, "rope_theta": theta}
    else:
        config |= {"rope_scaling": scaling, "rope_theta": theta}
    found = rotary(config, RotaryRule(), 128, FULL)
    assert found.frequencies == pytest.approx(expected.double().numpy(), rel=2e-5)
    assert found.factor == pytest.approx(factor, rel=1e-12)
    assert (found.width, found.layout, found.detail) == (128, "half", None)


def test_plain_frequencies_and_partial_width():
    found = rotary({"partial_rotary_factor": 0.25, "rope_theta": 100.0}, RotaryRule(), 32, FULL)
    assert found.width == 8
    assert found.frequencies == pytest.approx([1.0, 100**-0.25, 0.1, 100**-0.75])
    said = {"rope_parameters": {"partial_rotary_factor": 0.5, "rope_theta": 100.0}}
    assert rotary(said, RotaryRule(share=0.25), 16, FULL).width == 8
    assert rotary({"rotary_pct": 1.0}, RotaryRule(share=0.25), 16, FULL).width == 16


@pytest.mark.parametrize(
    ("scaling", "detail"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, "'dynamic'"),
        ({"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}, "'longrope'"),
        ({"type": "newer"}, "'newer'"),
        ({"type": "linear"}, "does not fully describe the 'linear'"),
        ({"type": "linear", "factor": 0.0}, "does not fully describe the 'linear'"),
        ({"type": "llama3", "factor": 8.0}, "does not fully describe the 'llama3'"),
        ({"type": "yarn", "factor": 2.0}, "does not fully describe the 'yarn'"),
    ],
)
def test_positions_that_stay_open(scaling, detail):
    found = rotary({"rope_scaling": scaling}, RotaryRule(), 8, FULL)
    assert found.frequencies is None and found.width == 8
    assert detail in (found.detail or "")


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        ({"partial_rotary_factor": 0.4}, RotaryRule()),
        ({"partial_rotary_factor": 2.0}, RotaryRule()),
        ({}, RotaryRule(width="rotary_dim")),
        ({"rotary_dim": 32}, RotaryRule(width="rotary_dim")),
        ({"rope_theta": -1.0}, RotaryRule()),
    ],
)
def test_impossible_rotations(config, rule):
    with pytest.raises(LayoutRefused):
        rotary(config, rule, 8, FULL)


def respelt(checkpoint, **fields):
    """The layers when config.json says rotation the way of earlier versions."""
    path = checkpoint.path / "config.json"
    config = json.loads(path.read_text())
    for field in ("rope_parameters", "layer_types"):
        config.pop(field, None)
    path.write_text(json.dumps({**config, **fields}))
    return attention_layers(open_checkpoint(checkpoint.path))


def test_gemma3_with_frequencies_of_its_own_in_local_layers(tiny):
    types = ["sliding_attention", FULL]
    linear = {"rope_type": "linear", "factor": 8.0, "rope_theta": 5000.0}
    local = {"rope_type": "default", "rope_theta": 100.0}
    _, checkpoint = tiny(
        "Gemma3TextModel",
        "Gemma3TextConfig",
        head_dim=8,
        intermediate_size=48,
        num_key_value_heads=2,
        layer_types=types,
        rope_parameters={types[0]: local, FULL: linear},
    )
    new = attention_layers(checkpoint)
    assert new[0].rotary.frequencies == pytest.approx(100.0 ** -np.arange(0, 1, 0.25))
    assert new[1].rotary.frequencies == pytest.approx(5000.0 ** -np.arange(0, 1, 0.25) / 8)
    assert [layer.window for layer in new] == [4096, None]
    old = respelt(
        checkpoint,
        sliding_window_pattern=2,
        rope_theta=5000.0,
        rope_local_base_freq=100.0,
        rope_scaling={"rope_type": "linear", "factor": 8.0},
    )
    assert old == new


def test_gpt_neox_with_its_own_fields(tiny):
    _, checkpoint = tiny(
        "GPTNeoXModel",
        "GPTNeoXConfig",
        intermediate_size=48,
        rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5},
    )
    new = attention_layers(checkpoint)
    assert new[0].rotary.width == 4
    assert respelt(checkpoint, rotary_pct=0.5, rotary_emb_base=500.0) == new


def test_modernbert_with_its_own_fields(tiny):
    _, checkpoint = tiny("ModernBertModel", "ModernBertConfig", intermediate_size=48)
    new = attention_layers(checkpoint)
    fields = {"global_rope_theta": 160000.0, "local_rope_theta": 10000.0}
    old = respelt(checkpoint, **fields, global_attn_every_n_layers=3)
    assert old == new
    assert [layer.window for layer in new] == [None, 129]
