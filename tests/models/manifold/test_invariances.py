"""What no legal symmetry of a network may change, and what only permutations leave alone."""

from __future__ import annotations

import pytest
import torch
import transformers as hf

from .groups.conftest import GPT, TEXT, Network, build, randomise
from .symmetries import (
    Tensors,
    flip,
    fold_gains,
    near,
    plain_spectra,
    product_spectra,
    rotary_pairs,
    scale_up,
    spectra,
    tolerance,
    turn_keys,
    turn_values,
)

ROTARY = ("llama", "llama tied", "mistral", "qwen2", "qwen3", "phi3", "mixtral")
LEARNED_POSITIONS = ("gpt2", "bert untied", "bert classes", "vit")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- symmetries of attention that are no permutations


@pytest.mark.parametrize("name", [*ROTARY, *LEARNED_POSITIONS])
def test_values_may_turn_by_any_invertible_matrix(name):
    network = build(name)
    tensors = network.tensors()
    turn_values(network.model, tensors)
    assert network.change(tensors) <= tolerance(network)
    before, after = (product_spectra(network.model, t) for t in (network.tensors(), tensors))
    for one, other in zip(before, after, strict=True):
        assert near(one, other)
    before, after = (plain_spectra(network.model, t) for t in (network.tensors(), tensors))
    assert near(before["q"], after["q"]) and near(before["k"], after["k"])
    assert not near(before["v"], after["v"], 0.05) and not near(before["o"], after["o"], 0.05)


@pytest.mark.parametrize("name", LEARNED_POSITIONS)
def test_queries_and_keys_may_turn_by_any_invertible_matrix_without_rotary_embedding(name):
    network = build(name)
    tensors = network.tensors()
    turn_keys(network.model, tensors)
    assert network.change(tensors) <= tolerance(network)
    before, after = (product_spectra(network.model, t) for t in (network.tensors(), tensors))
    for one, other in zip(before, after, strict=True):
        assert near(one, other)
    before, after = (plain_spectra(network.model, t) for t in (network.tensors(), tensors))
    assert near(before["v"], after["v"]) and near(before["o"], after["o"])
    assert not near(before["q"], after["q"], 0.05) and not near(before["k"], after["k"], 0.05)


@pytest.mark.parametrize("name", [name for name in ROTARY if name != "qwen3"])
def test_a_rotary_embedding_leaves_rotations_and_scales_of_its_pairs(name):
    network = build(name)
    tensors = network.tensors()
    turn_keys(network.model, tensors, rotary_pairs)
    assert network.change(tensors) <= tolerance(network)
    before, after = (product_spectra(network.model, t) for t in (network.tensors(), tensors))
    for one, other in zip(before, after, strict=True):
        assert near(one, other)
    before, after = (plain_spectra(network.model, t) for t in (network.tensors(), tensors))
    assert not near(before["k"], after["k"], 0.05)
    tensors = network.tensors()
    turn_keys(network.model, tensors)  # any other matrix mixes frequencies
    assert network.change(tensors) > 1e-3


def test_norms_of_heads_forbid_even_those():
    network = build("qwen3")
    tensors = network.tensors()
    turn_keys(network.model, tensors, rotary_pairs)
    assert network.change(tensors) > 1e-3


# --- scales of hidden units


@pytest.mark.parametrize("name", ROTARY)
def test_swiglu_units_may_be_scaled_with_either_sign(name):
    network = build(name)
    tensors = network.tensors()
    n = network.model.config.intermediate_size
    generator = torch.Generator().manual_seed(7)
    scale = torch.randn(n, generator=generator, dtype=torch.float64).sign()
    scale = scale * (0.3 + 2 * torch.rand(n, generator=generator, dtype=torch.float64))
    scale_up(tensors, scale)
    changed = [k for k, t in network.tensors().items() if not t.equal(tensors[k])]
    assert any("up_proj" in k for k in changed) and any("down_proj" in k for k in changed)
    assert network.change(tensors) <= tolerance(network)
    for key in changed:
        if tensors[key].ndim == 2:
            assert not near([spectra(network.tensors()[key])], [spectra(tensors[key])], 0.02)


@pytest.mark.parametrize("legal", [True, False])
@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_relu_units_may_be_scaled_by_positive_numbers(family, legal):
    torch.manual_seed(0)
    if family == "gpt2":
        model = hf.GPT2LMHeadModel(hf.GPT2Config(**GPT, activation_function="relu"))
    else:
        model = hf.BertForSequenceClassification(hf.BertConfig(**TEXT, hidden_act="relu"))
    network = Network(randomise(model), (), ())
    tensors = network.tensors()
    scale = 0.3 + 2 * torch.rand(20, generator=torch.Generator().manual_seed(8)).double()
    if not legal:
        scale[3] *= -1
    for name, tensor in tensors.items():
        if name.endswith(("c_fc.weight", "c_fc.bias")):  # (width, n)
            tensor *= scale
        elif name.endswith("mlp.c_proj.weight"):
            tensor /= scale[:, None]
        elif name.endswith(("intermediate.dense.weight", "intermediate.dense.bias")):
            tensor.copy_((tensor.T * scale).T)
        elif name.endswith("output.dense.weight") and "attention" not in name:
            tensor /= scale
    change = network.change(tensors)
    assert change <= 1e-11 if legal else change > 1e-4


# --- norms and the residual stream


@pytest.mark.parametrize("name", ["llama", "mistral", "phi3", "vit"])
def test_gains_of_norms_may_be_folded_into_the_readers(name):
    network = build(name)
    tensors = network.tensors()
    fold_gains(tensors)
    norms = [k for k in tensors if "norm" in k and k.endswith("weight")]
    assert norms and all(tensors[k].eq(1.0).all() for k in norms)
    assert network.change(tensors) <= tolerance(network)


@pytest.mark.parametrize("name", ["llama", "mistral", "phi3"])
def test_behind_folded_rms_norms_the_stream_may_turn_by_any_rotation(name):
    network = build(name)
    tensors = network.tensors()
    Q = torch.linalg.qr(
        torch.randn(24, 24, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    )[0]

    def turn(tensors: Tensors) -> None:
        for key, tensor in tensors.items():
            if key.endswith(("o_proj.weight", "down_proj.weight")) or key.endswith(
                ("o_proj.bias", "down_proj.bias")
            ):
                tensor.copy_(Q @ tensor)
            elif tensor.ndim == 2:  # embeddings and readers: (…, width)
                tensor.copy_(tensor @ Q.T)

    unfolded = network.tensors()
    turn(unfolded)
    assert network.change(unfolded) > 1e-3
    fold_gains(tensors)
    before = {key: spectra(t) for key, t in tensors.items() if t.ndim == 2}
    turn(tensors)
    assert network.change(tensors) <= tolerance(network)
    assert near(before.values(), [spectra(tensors[key]) for key in before])


@pytest.mark.parametrize("name", ["llama", "llama tied", "qwen3", "gpt2", "vit", "bert untied"])
def test_signs_of_the_stream(name):
    """RMSNorm lets each channel flip, LayerNorm, whose mean tells them apart, only all at once."""
    network = build(name)
    each = torch.randn(24, generator=torch.Generator().manual_seed(3)).sign().double()
    rms = any("RMSNorm" in type(module).__name__ for module in network.model.modules())
    assert network.change(flip(network, -torch.ones(24, dtype=torch.float64))) <= tolerance(network)
    if rms:
        assert network.change(flip(network, each)) <= tolerance(network)
    else:
        assert network.change(flip(network, each)) > 1e-3
