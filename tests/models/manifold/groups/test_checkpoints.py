"""Groups of checkpoints on disk: names as stored, tied tensors, experts in files of their own."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from analyzer.checkpoints.checkpoint import open_checkpoint
from analyzer.errors import CheckpointError, ShapeMismatch, UsageError
from analyzer.models.manifold.groups import (
    PermutationGroup,
    Site,
    apply_order,
    apply_orders,
    permutation_groups,
)

from .conftest import GPT, MODELS, TEXT, derangement, outputs, randomise


@pytest.fixture
def folder(tmp_path):
    def save(name: str):
        torch.manual_seed(0)
        model = randomise(MODELS[name]())
        model.save_pretrained(tmp_path / "model")
        return model, tmp_path / "model"

    return save


def rewritten(path, tensors, **config):
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    if config:
        stored = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps(stored | config))
    return open_checkpoint(path)


@pytest.mark.parametrize("name", ["llama tied", "mixtral", "bert mlm", "vit", "gpt2"])
@torch.no_grad()
def test_saved_reordered_and_loaded(folder, name):
    """From file to file: experts stored one by one, ViT's other names, tied weights stored once."""
    model, path = folder(name)
    groups, unmapped = permutation_groups(open_checkpoint(path))
    assert unmapped == ()
    rng = np.random.default_rng(0)
    orders = {group.name: derangement(rng, group.size) for group in groups}
    tensors = apply_orders(load_file(path / "model.safetensors"), groups, orders)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    rewritten(path, tensors)
    attention = model.config._attn_implementation
    loaded = type(model).from_pretrained(path, dtype=torch.float64, attn_implementation=attention)
    if name == "mixtral":
        loaded.config._experts_implementation = "eager"
        stack = next(group for group in groups if group.kind == "experts").stacks
        assert len(stack) == 3 and all(len(names) == 3 for names in stack)
    before, after = outputs(model), outputs(loaded.eval())
    limit = 1e-5 if name in ("llama tied", "mixtral") else 1e-12
    assert (after - before).abs().max() <= limit * before.abs().max()
    assert AutoConfig.from_pretrained(path).model_type == open_checkpoint(path).config["model_type"]


def test_tied_by_storage_and_by_value(folder, tmp_path):
    model, path = folder("llama tied")
    names = ("model.embed_tokens.weight", "lm_head.weight")
    torch.save(model.state_dict(), tmp_path / "model" / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    by_storage = open_checkpoint(path)
    (path / "pytorch_model.bin").rename(tmp_path / "elsewhere")
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    by_value = rewritten(path, tensors)
    for checkpoint in (by_storage, by_value):
        groups, _ = permutation_groups(checkpoint)
        stream = next(group for group in groups if group.name == "res")
        tied = {site.tensor: site.tied_to for site in stream.sites if site.tensor in names}
        assert list(tied.values()).count(None) == 1
        assert set(tied) == set(names) and set(tied.values()) - {None} <= set(names)
        order = [*range(1, stream.size), 0]
        state = apply_order(model.state_dict(), stream, order)
        assert state[names[0]].equal(model.state_dict()[names[0]][:, order])  # once, not twice
        assert state[names[0]].data_ptr() == state[names[1]].data_ptr()
        apart = apply_order(tensors, stream, order)
        assert apart[names[1]].equal(tensors[names[1]][:, order])
    other = {name: tensor + (name == names[1]) for name, tensor in tensors.items()}
    groups, _ = permutation_groups(rewritten(path, other))
    assert not any(site.tied_to for group in groups for site in group.sites)


def test_a_body_without_head_returns_its_stream(tmp_path):
    for number, (model, streams) in enumerate(
        [
            (hf.LlamaModel(hf.LlamaConfig(**TEXT)), False),
            (hf.GPT2Model(hf.GPT2Config(**GPT)), False),
            (hf.BertModel(hf.BertConfig(**TEXT)), False),
            (hf.GPT2LMHeadModel(hf.GPT2Config(**GPT)), True),
        ]
    ):
        path = tmp_path / str(number)
        model.save_pretrained(path)
        groups, unmapped = permutation_groups(open_checkpoint(path))
        assert ("res" in {group.name for group in groups}) is streams
        assert any("no group res" in str(axis) for axis in unmapped) is not streams
        assert not any(group.name == "pooler" for group in groups)
        assert {group.name for group in groups} >= {"mlp_0", "mlp_1", "attn_0", "attn_1"}


def test_an_unknown_tensor_stops_the_groups_it_may_belong_to(folder):
    model, path = folder("llama")
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    inside = own | {"model.layers.1.mlp.gain": torch.ones(20)}
    groups, unmapped = permutation_groups(rewritten(path, inside))
    assert str(unmapped[0]).startswith("unmapped axis of model.layers.1.mlp.gain")
    names = {group.name for group in groups}
    assert {"mlp_0", "attn_0"} <= names and not names & {"mlp_1", "attn_1", "res"}
    outside = own | {"model.extra.weight": torch.ones(24)}
    groups, _ = permutation_groups(rewritten(path, outside))
    assert {group.kind for group in groups} == {"mlp", "heads", "query_heads"}


def test_heads_that_config_does_not_explain(folder):
    model, path = folder("llama")
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for config, message in (
        ({"num_attention_heads": None}, "does not say num_attention_heads"),
        ({"num_attention_heads": 7, "num_key_value_heads": 7}, "cannot be divided among 7 heads"),
        ({"num_attention_heads": 4, "num_key_value_heads": 3}, "4 heads cannot share 3 key heads"),
    ):
        groups, unmapped = permutation_groups(rewritten(path, own, **config))
        assert any(message in str(axis) for axis in unmapped)
        assert {group.name for group in groups} == {"mlp_0", "mlp_1", "res"}
    with pytest.raises(ShapeMismatch, match=r"[qo]_proj.* 4 units of 6.*[kv]_proj.* 4 of 3"):
        permutation_groups(rewritten(path, own, num_attention_heads=4, num_key_value_heads=4))


def test_sizes_that_differ_name_both_tensors(folder):
    model, path = folder("llama")
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    own["model.layers.0.mlp.up_proj.weight"] = torch.ones(19, 24)
    with pytest.raises(ShapeMismatch, match=r"up_proj.*19 units.*(gate|down)_proj.*mlp_0"):
        permutation_groups(rewritten(path, own))


def test_wrappers_keep_their_names(folder):
    model, path = folder("gpt2")
    own = {f"module.{name}": tensor.clone() for name, tensor in model.state_dict().items()}
    own = {name: tensor for name, tensor in own.items() if "lm_head" not in name}
    groups, unmapped = permutation_groups(rewritten(path, own))
    assert unmapped == () and all(set(group.tensors()) <= set(own) for group in groups)


def test_refusals(folder):
    model, path = folder("llama")
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UsageError, match="model_type 'mystery' are not known"):
        permutation_groups(rewritten(path, own, model_type="mystery"))
    group = PermutationGroup("g", "mlp", 3, (Site("a", 0), Site("b", 1)))
    tensors = {"a": torch.arange(3.0), "b": torch.ones(2, 3)}
    for order in ([0, 1], [0, 1, 1], [1, 2, 3], [[0, 1, 2]]):
        with pytest.raises(UsageError, match="no permutation of its 3 units"):
            apply_order(tensors, group, order)
    with pytest.raises(CheckpointError, match="b: there is no such tensor"):
        apply_order({"a": torch.ones(3)}, group, [0, 2, 1])
    with pytest.raises(ShapeMismatch, match="3 units do not fit along axis 1"):
        apply_order(tensors | {"b": torch.ones(2, 2)}, group, [0, 2, 1])
    with pytest.raises(UsageError, match="no group is named 'h'"):
        apply_orders(tensors, [group], {"h": [0, 1, 2]})
    half = {"a": torch.arange(3).to(torch.bfloat16), "b": tensors["b"]}
    moved = apply_order(half, group, [2, 0, 1])
    assert moved["a"].dtype == torch.bfloat16 and moved["a"].tolist() == [2, 0, 1]
    assert half["a"].tolist() == [0, 1, 2]
